"""How much a JSON body holds, counted in its bytes before anything is built of it (R22, R23)."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.errors import InvalidRequest
from octavo.limits import Limits

SLICE = 2**18  # bytes scanned without a break, so that other threads get their turn
ESCAPES = 8  # escaped characters that take as long to read as one value
KEPT = b'",:[]{}'
DROPPED = bytes(sorted(set(range(256)) - set(KEPT)))
ALIKE = bytes.maketrans(b"{}", b"[]")


def check_structure(body: bytes, limits: Limits) -> None:
    """Raise InvalidRequest for a body with too many values or members, or nested too deeply."""
    escapes = body.count(b"\\")
    values = body.count(b",") + escapes // ESCAPES
    containers = body.count(b"[") + body.count(b"{")
    members = body.count(b":") + containers
    # What stands inside of strings was counted, too: only a body that seems too large deserves a closer look.
    if values <= limits.json_values and members <= limits.json_members and containers <= limits.json_depth:
        return
    values, members = escapes // ESCAPES, 0
    brackets: list[bytes] = []
    for outside in outside_strings(body):
        values += outside.count(b",")
        members += outside.count(b":") + outside.count(b"[") + outside.count(b"{")
        if values > limits.json_values:
            raise InvalidRequest(f"the body holds over {limits.json_values} values; send several requests")
        if members > limits.json_members:
            raise InvalidRequest(f"the body holds over {limits.json_members} members and containers; send less at once")
        brackets.append(outside.translate(ALIKE, b",:"))
    check_depth(b"".join(brackets), limits.json_depth)


def check_depth(brackets: bytes, limit: int) -> None:
    """Raise InvalidRequest when brackets nest deeper than `limit`. What does not match is the parser's to find."""
    for _ in range(limit):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise InvalidRequest(f"the body is nested deeper than {limit} levels")


def outside_strings(body: bytes) -> Iterator[bytes]:
    """The commas, colons and brackets of a body that are not in strings, slice by slice."""
    inside, rest = False, b""
    for start in range(0, len(body), SLICE):
        data = rest + body[start : start + SLICE]
        cut = len(data) - (len(data) - len(data.rstrip(b"\\"))) % 2  # an odd backslash belongs to what follows
        data, rest = data[:cut], data[cut:]
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, DROPPED)
        pieces = data.split(b'"')
        yield b"".join(pieces[inside::2])
        inside ^= len(pieces) % 2 == 0
