"""Formats of text in JSON schemas that are enforced."""

from __future__ import annotations

FORMATS = frozenset(("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))  # the library's own

# Ours, because the library lets every year have a 29th of February.
YEAR = r"[0-9]{4}"
LEAP_PART = r"(?:0[48]|[2468][048]|[13579][26])"  # 04 to 96
LEAP_YEAR = rf"(?:[0-9]{{2}}{LEAP_PART}|(?:0[048]|[2468][048]|[13579][26]|00)00)"
DATE = (
    rf"(?:{YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{LEAP_YEAR}-02-29)"
)
TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
OUR_FORMATS = {
    "date": DATE,
    "date-time": rf"{DATE}[tT]{TIME}",
    "time": TIME,  # without leap seconds, which only some minutes of some days have
}
