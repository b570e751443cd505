"""The limits table: how much a request, and a server's clients together, may ask for.

Applied at every door before anything is expanded (R23-R25); operators change entries with `--limits`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from octavo.errors import StartupError

HIGHEST = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """Upper bounds. docs/security.md explains each, and a test compares the two."""

    # of one request
    n: int = 128  # sequences per prompt
    prompts: int = 256  # prompts per HTTP request
    sequences: int = 1024  # n x prompts per HTTP request
    messages: int = 4096  # chat messages
    logprobs: int = 20  # alternatives per token
    stop_strings: int = 16
    stop_chars: int = 256  # per stop string
    stop_token_ids: int = 1024
    stop_regexes: int = 8
    stop_regex_states: int = 512  # of a request's stop patterns together, repetitions counted out
    stop_regex_transitions: int = 20_000  # remembered while searching; a cache, not a bound on answers
    stop_regex_hold: int = 1024  # characters held back at most for a match that may begin there
    bad_words: int = 128
    bad_word_tokens: int = 64  # per bad word
    logit_bias: int = 1024  # entries
    logprob_token_ids: int = 128
    repetition_pattern: int = 1024  # tokens
    beam_width: int = 64
    logits_processors: int = 8
    processor_args_bytes: int = 16 * 2**10  # of all of a request's, as JSON
    documents: int = 1024
    text_chars: int = 2**22  # of a text that is tokenized to be counted or cut; others by the longest context
    tools: int = 1024  # functions a chat offers
    id_chars: int = 128  # request ids, cache salts, user names
    body_bytes: int = 32 * 2**20
    header_bytes: int = 16 * 2**10  # names and values of all headers
    json_depth: int = 64
    grammar_bytes: int = 64 * 2**10  # of a schema, regex, grammar or structural tag (R38)
    grammar_depth: int = 64  # levels of a schema or structural tag, and of groups in a regex or grammar
    choices: int = 4096  # texts of a choice
    whitespace_pattern_chars: int = 256
    begin_marks: int = 8  # texts a constraint may begin after
    inputs: int = 2048  # texts of a request for embeddings or scores
    pooled_values: int = 2**23  # numbers in its answer
    logprob_values: int = 2**22  # n x tokens x (logprobs + 1), answer and prompt together

    # of one body and its head
    url_bytes: int = 8 * 2**10
    headers: int = 100  # header lines
    json_values: int = 2**19  # items and members of a body; eight escaped characters count as one
    json_members: int = 2**16  # members of objects, and containers: they take ten times as long to read as a number

    # of files and batches
    file_bytes: int = 512 * 2**20  # of one uploaded file
    files: int = 10_000  # kept by a server
    files_bytes: int = 16 * 2**30  # of all files kept by a server
    batch_lines: int = 50_000
    batches: int = 10_000  # kept by a server; the oldest that has ended makes place

    # of one connection
    header_s: int = 10  # from a request's first byte to the end of its head
    body_idle_s: int = 30  # without a byte of the body
    body_s: int = 300  # for the whole body
    stall_s: int = 30  # a reader that takes less than 16 KiB in this time is given up
    pipelined: int = 16  # requests on a connection that wait for the one before

    # of all clients together
    connections: int = 16_384
    queued_tokens: int = 2**23  # prompt tokens of requests waiting or running
    queued_bytes: int = 256 * 2**20  # bodies of requests being read, waiting or running

    @classmethod
    def of(cls, given: LimitsLike) -> Limits:
        """The table with changed entries: `name=number` texts (several with commas), JSON files, or a mapping.

        StartupError names an entry that does not exist or cannot have that value.
        """
        if isinstance(given, Limits):
            return given
        if given is None:
            return DEFAULT
        changes: dict[str, object] = {}
        if isinstance(given, Mapping):
            changes.update(given)
        else:
            for text in [given] if isinstance(given, str) else given:
                changes.update(read(text))
        return dataclasses.replace(DEFAULT, **{name: checked(name, value) for name, value in changes.items()})


LimitsLike = Limits | Mapping[str, object] | Iterable[str] | str | None

DEFAULT = Limits()

# Above these the engine itself was not made for more.
MOST = {
    "n": 16_384,
    "sequences": 65_536,
    "prompts": 65_536,
    "logprobs": 10_000,
    "stop_strings": 1024,
    "stop_chars": 65_536,
    "id_chars": 1024,
    "body_bytes": 2**30,
    "json_depth": 150,  # the JSON parser's own is 200
    "grammar_depth": 150,
}
NONE_ALLOWED = frozenset("logprobs stop_strings stop_token_ids bad_words logit_bias pipelined".split())
CEILING = Limits(**{field.name: MOST.get(field.name, HIGHEST) for field in dataclasses.fields(Limits)})


def read(text: str) -> Mapping[str, object]:
    """The entries that `name=number,...` or a JSON file names."""
    if "=" not in text:
        try:
            found: object = json.loads(Path(text).read_text())
        except OSError as error:
            raise StartupError(
                f"cannot read limits from {text}: {error.strerror or error}; give a JSON file or name=number", "limits"
            ) from None
        except ValueError as error:
            raise StartupError(f"{text} is not JSON: {error}", "limits") from None
        if not isinstance(found, dict):
            raise StartupError(f'{text} must hold one object, such as {{"n": 256}}', "limits")
        return cast(Mapping[str, object], found)
    entries: dict[str, object] = {}
    for entry in text.split(","):
        name, _, number = entry.partition("=")
        digits = number.strip().replace("_", "")
        entries[name.strip()] = int(digits) if digits.isascii() and digits.isdigit() else number
    return entries


def checked(name: str, value: object) -> int:
    """The entry's value; StartupError for one it cannot have."""
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KNOWN)}"
        raise StartupError(f"there is no limit {name!r}; {hint}", "limits")
    low, high = int(name not in NONE_ALLOWED), getattr(CEILING, name)
    if type(value) is not int or not low <= value <= high:
        raise StartupError(f"limit {name} must be an integer in [{low}, {high}], got {value!r}", "limits")
    return value


KNOWN = tuple(field.name for field in dataclasses.fields(Limits))
