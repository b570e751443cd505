"""A request's story in words and numbers: what happened when, and why it waited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from octavo.frontend.journal import Entry
from octavo.messages import EngineInfo, Event, Timeline
from octavo.serve.records import Record

WHY = {
    "pages": "too few pages of the KV cache were free",
    "budget": "other requests used the whole token budget of the steps",
    "pause": "a request that had lost its place to another could not be put back yet",
    "step": "a step that had begun had to end",
}
HELD = {
    "leader": "held until the prompt that it shares is computed",
    "retry": "held until it is its turn to be tried alone",
}
PREEMPTED = {
    "pages": "the KV cache was full and a more urgent request needed pages",
    "priority": "a more urgent request took its place",
}
ENDED = {
    "stop": "a stop token or stop string",
    "length": "max_tokens or the end of the context",
    "abort": "cancelled, or the client went away",
    "error": "an error",
}
NUMBERED = frozenset("admitted chunk preempted swapped_out not_swapped swapped_in ended".split())  # of some tokens
LEAST_S = 0.0005  # shorter waits need no reason


@dataclass(frozen=True)
class Story:
    """What is known of one request: its record, its entries in the journal, and what the core remembers, by id."""

    record: Record
    entries: Sequence[Entry]
    cores: Mapping[int, Timeline]
    info: EngineInfo | None
    now: float  # seconds, by the monotonic clock that everything here is told by

    @property
    def state(self) -> str:
        """preparing, waiting, running or ended."""
        if all(entry.ended is not None for entry in self.entries):
            return "ended" if self.record.ended is not None else "answering" if self.entries else "preparing"
        states = {core.state for core in self.cores.values()} - {"ended"}
        return "running" if "running" in states or not states else "waiting"

    @property
    def ended(self) -> float | None:
        """When the last part of it ended."""
        ends = [self.record.ended, *(entry.ended for entry in self.entries)]
        return None if None in ends else max(end for end in ends if end is not None)

    def at_ms(self, at: float) -> float:
        """Milliseconds since the request came."""
        return round((at - self.record.began) * 1e3, 3)

    def row(self) -> dict[str, object]:
        """The request in a list of requests."""
        return {
            "id": self.record.id,
            "object": "request",
            "names": self.record.names,
            "created": int(self.record.created),
            "endpoint": self.record.path,
            "state": self.state,
            "age_ms": self.at_ms(self.ended or self.now),
            "ahead": max((core.ahead for core in self.cores.values()), default=0),
            "prompt_tokens": sum(entry.prompt_tokens for entry in self.entries),
            "generated_tokens": sum(entry.num_generated for entry in self.entries),
            "max_tokens": sum(entry.max_tokens * len(entry.ids) for entry in self.entries),
            "sequences": sum(len(entry.ids) for entry in self.entries),
        }

    def whole(self) -> dict[str, object]:
        """The request with everything that happened to it."""
        sequences = [
            self._sequence(prompt, entry, index)
            for prompt, entry in enumerate(self.entries)
            for index in range(len(entry.ids))
        ]
        return {
            **self.row(),
            "object": "request.timeline",
            "summary": self._summary(),
            "error": self.record.error,
            "events": list(self._arrival()),
            "timelines": sequences,
        }

    def _arrival(self) -> Iterable[dict[str, object]]:
        """What this process did before the engine heard of it, and after."""
        record = self.record
        yield said(0.0, "received", f"the request came to {record.path}")
        if record.body_at is not None:
            yield said(self.at_ms(record.body_at), "read", "its body was there")
        if self.entries and record.body_at is not None:
            first, last = self.entries[0], self.entries[-1]
            tokens = sum(entry.prompt_tokens for entry in self.entries)
            work = "tokenizer" if record.path == "/v1/completions" else "template and tokenizer"
            if first.has_grammar:
                work += " and grammar"
            took = span(last.began - record.body_at)
            yield said(self.at_ms(last.began), "prepared", f"{count(tokens, 'prompt token')} after {took} ({work})")
        if record.ended is not None:
            text = "the answer was sent" if record.error is None else f"it ended with {record.error}"
            yield said(self.at_ms(record.ended), "answered", text)

    def _sequence(self, prompt: int, entry: Entry, index: int) -> dict[str, object]:
        core = self.cores.get(entry.ids[index])
        told: dict[str, object] = {
            "prompt": prompt,
            "index": index,
            "prompt_tokens": entry.prompt_tokens,
            "finish_reason": entry.reasons[index] if entry.reasons else None,
            "events": [],
        }
        if core is None:
            if entry.ended is None:
                return told | {"state": "unknown", "note": "the engine has not heard of it yet, or does not answer"}
            note = "the engine does not remember it: it was restarted, or too much has happened since"
            return told | {"state": "ended", "note": note}
        return told | {
            "state": core.state,
            "generated_tokens": core.generated_tokens,
            "max_tokens": core.max_tokens,
            "stalled_steps": core.stalled,
            "events": [self._event(event, core) for event in core.events],
        }

    def _event(self, event: Event, core: Timeline) -> dict[str, object]:
        numbers: dict[str, object] = {"step": event.step}
        if event.kind in NUMBERED:
            numbers["tokens"] = event.tokens
        if event.waits:
            numbers["waits_ms"] = {reason: round(s * 1e3, 3) for reason, s in event.waits.items()}
        return said(self.at_ms(event.at), event.kind, self._words(event, core)) | numbers

    def _words(self, event: Event, core: Timeline) -> str:
        if event.kind == "queued":
            return f"queued behind {count(event.ahead, 'request')}" if event.ahead else "queued, first in line"
        if event.kind == "held":
            return HELD.get(event.reason, event.reason)
        if event.kind == "admitted":
            found = f"{event.tokens} of {count(core.prompt_tokens, 'prompt token')} were cached"
            return f"admitted {self.wait(event)}; {found}" if event.tokens else f"admitted {self.wait(event)}"
        if event.kind == "chunk":
            return f"{count(event.tokens, 'token')} of the prompt were computed in step {event.step}"
        if event.kind == "preempted":
            return (
                f"preempted with {count(event.tokens, 'token')} computed: {PREEMPTED.get(event.reason, event.reason)}"
            )
        if event.kind == "swapped_out":
            return f"swapped out {count(event.tokens, 'token')}: {event.reason}"
        if event.kind == "not_swapped":
            return f"not swapped out, {count(event.tokens, 'token')}: {event.reason}"
        if event.kind == "swapped_in":
            return f"its pages came back from the host: {count(event.tokens, 'token')} need no computing"
        if event.kind == "first_token":
            return "the first token was generated"
        if event.kind == "failed_step":
            return "a step that it was in failed; it is tried again"
        if event.kind == "control":
            changes = {"max_tokens": f"max_tokens was changed to {event.tokens}"}
            return changes.get(event.reason, "reasoning was told to end; what had been computed is read from the cache")
        return f"ended after {count(event.tokens, 'token')}: {ENDED.get(event.reason, event.reason)}"

    def wait(self, event: Event) -> str:
        """Why an admission took as long as it did."""
        waits = sorted((event.waits or {}).items(), key=lambda item: -item[1])
        total_s = sum(s for _, s in waits)
        if total_s < LEAST_S:
            return "at once"
        rows = f"all {count(self.info.max_num_seqs, 'row')} were taken" if self.info else "every row was taken"
        reasons = [(({"rows": rows} | WHY)[reason], s) for reason, s in waits if s >= 0.05 * total_s]
        told = [why if len(reasons) == 1 else f"{why} ({span(s)})" for why, s in reasons]
        ahead = f"; {count(event.ahead, 'other')} went first" if event.ahead else ""
        return f"after waiting {span(total_s)}: {', '.join(told)}{ahead}"

    def _summary(self) -> str:
        """The story in a sentence."""
        events = [event for core in self.cores.values() for event in core.events]
        admitted = [event for event in events if event.kind == "admitted"]
        parts = [f"{self.state} after {span((self.ended or self.now) - self.record.began)}"]
        if admitted:
            slowest = max(admitted, key=lambda event: sum((event.waits or {}).values()))
            parts.append(f"admitted {self.wait(slowest)}")
        elif waiting := [core for core in self.cores.values() if core.state == "waiting"]:
            parts.append(f"{count(max(core.ahead for core in waiting), 'request')} ahead of it")
        preemptions = sum(event.kind == "preempted" for event in events)
        if preemptions:
            parts.append(f"preempted {count(preemptions, 'time')}")
        firsts = [event.at for event in events if event.kind == "first_token"]
        if firsts:
            parts.append(f"first token after {span(min(firsts) - self.record.began)}")
        parts.append(f"{count(sum(entry.num_generated for entry in self.entries), 'token')} generated")
        return "; ".join(parts)


def said(at_ms: float, event: str, text: str) -> dict[str, object]:
    """One event."""
    return {"at_ms": at_ms, "event": event, "text": text}


def count(number: int, what: str) -> str:
    """A number and what it counts, in the plural if there are several."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def span(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
