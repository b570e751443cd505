"""Journal: what became of the requests of one engine client, those that run and the last ones that ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from types import NoneType

from octavo.frontend.output import RequestState, RequestTimes
from octavo.messages import SequenceSpec
from octavo.sampling import SamplingParams

KEPT = 1024


@dataclass(slots=True, eq=False)
class Entry:
    """One request to the engine: counts and times, but no text and no token ids.

    `ids` are its sequences in the core. `request` is there while it runs. `reasons` holds each sequence's finish reason
    once it has ended: stop, length, abort, error. Without `params` and `max_tokens` its prompts are pooled only.
    """

    request_id: str
    ids: list[int]
    params: SamplingParams | None
    prompt_tokens: int
    max_tokens: int
    began: float = field(default_factory=time.monotonic)
    has_grammar: bool = False
    request: RequestState | None = None
    ended: float | None = None
    generated: list[int] = field(default_factory=list)  # tokens, per sequence
    reasons: list[str] = field(default_factory=list)
    cached: int = 0
    times: RequestTimes = field(default_factory=RequestTimes)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far, over its sequences."""
        if self.request is not None:
            return sum(len(sequence.token_ids) for sequence in self.request.sequences)
        return sum(self.generated)

    def close(self, otherwise: str) -> None:
        """Keep the counts of the request and let go of its text. `otherwise` is why what had not ended did."""
        request = self.request
        self.ended = time.monotonic()
        if self.params is not None:
            self.params = numbers_of(self.params)
        if request is None:
            self.reasons = [otherwise] * len(self.ids)
            self.generated = [0] * len(self.ids)
            self.times = RequestTimes(total_s=self.ended - self.began)
            return
        self.generated = [len(sequence.token_ids) for sequence in request.sequences]
        self.reasons = [sequence.finish_reason or otherwise for sequence in request.sequences]
        self.cached = request.cached
        self.times = request.times(self.ended)
        self.request = None


class Journal:
    """Entries by request id. `on_end` is told of each request that ended, however it ended."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.running: dict[str, Entry] = {}
        self.ended: dict[str, Entry] = {}
        self._families: dict[str, list[Entry]] = {}
        self.on_end: Callable[[Entry], None] | None = None
        self.on_first_token: Callable[[float], None] | None = None

    def open(self, request: RequestState, specs: list[SequenceSpec]) -> Entry:
        """Begin an entry."""
        entry = Entry(
            request.request_id,
            [spec.id for spec in specs],
            request.params,
            len(request.prompt_ids),
            specs[0].max_tokens,
            request.arrived,
            request.params.structured_outputs is not None,
            request,
        )
        request.on_first_token = self.on_first_token
        return self._begin(entry)

    def open_pooled(self, request_id: str, specs: list[SequenceSpec], prompt_tokens: int) -> Entry:
        """Begin an entry of prompts that are pooled."""
        return self._begin(Entry(request_id, [spec.id for spec in specs], None, prompt_tokens, 0))

    def _begin(self, entry: Entry) -> Entry:
        self.running[entry.request_id] = entry
        self._families.setdefault(family(entry.request_id), []).append(entry)
        return entry

    def close(self, request_id: str, otherwise: str) -> None:
        """End an entry, if there is one; the oldest beyond `kept` is forgotten. `otherwise`: see Entry.close."""
        entry = self.running.pop(request_id, None)
        if entry is None:
            return
        entry.close(otherwise)
        self.ended[request_id] = entry
        if len(self.ended) > self.kept:
            self._forget(self.ended.pop(next(iter(self.ended))))
        if self.on_end is not None:
            self.on_end(entry)

    def _forget(self, entry: Entry) -> None:
        name = family(entry.request_id)
        self._families[name].remove(entry)
        if not self._families[name]:
            del self._families[name]

    def find(self, name: str) -> list[Entry]:
        """The entries of a request that may have been several to the engine: `name` itself, `name-0`, `name-1`, …"""
        return list(self._families.get(name, ()))


def numbers_of(params: SamplingParams) -> SamplingParams:
    """The parameters without lists and texts, such as a grammar's: many of them are kept."""
    kept = copy(params)
    for name in params.__struct_fields__:
        if not isinstance(getattr(params, name), (int, float, NoneType)):
            setattr(kept, name, None)
    return kept


def family(request_id: str) -> str:
    """What the ids of one request to several prompts have in common."""
    return request_id.partition("-")[0]
