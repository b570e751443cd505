"""Server-sent events with everything constant encoded once: an event of one delta costs a few microseconds."""

from __future__ import annotations

import msgspec

from octavo.frontend.output import RequestOutput, RequestTimes
from octavo.serve.tenants import Tenant

DONE = b"data: [DONE]\n\n"

encode = msgspec.json.Encoder().encode


class Events:
    """The events of one streamed answer. `before` and `after` wrap a text: `"delta":{"content":` and `}` for chat."""

    def __init__(self, head: dict[str, object], before: bytes, after: bytes, with_usage: bool) -> None:
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['
        self._before = before
        self._after = after
        self._nothing = b',"usage":null}\n\n' if with_usage else b"}\n\n"
        self._plain = after + b',"logprobs":null,"finish_reason":null}]' + self._nothing
        self._starts: list[bytes] = []

    def start(self, index: int) -> bytes:
        """An event up to the text of choice `index`."""
        while len(self._starts) <= index:
            self._starts.append(self._head + b'{"index":%d,' % len(self._starts) + self._before)
        return self._starts[index]

    def text(self, index: int, text: str) -> bytes:
        """An event that carries nothing but text."""
        return self.start(index) + encode(text) + self._plain

    def full(self, index: int, text: str, fields: dict[str, object], usage: dict[str, object] | None = None) -> bytes:
        """An event of text and further fields of its choice, `logprobs` and `finish_reason` among them."""
        end = b',"usage":' + encode(usage) + b"}\n\n" if usage else self._nothing
        return self.start(index) + encode(text) + self._after + b"," + encode(fields)[1:-1] + b"}]" + end

    def raw(self, index: int, choice: dict[str, object], usage: dict[str, object] | None = None) -> bytes:
        """An event whose choice is given whole, except for its index."""
        end = b',"usage":' + encode(usage) + b"}\n\n" if usage else self._nothing
        return self._head + b'{"index":%d,' % index + encode(choice)[1:-1] + b"}]" + end

    def last(self, fields: dict[str, object]) -> bytes:
        """The event without choices that carries the usage and other totals."""
        return self._head + b"]," + encode(fields)[1:-1] + b"}\n\n"


class Account:
    """What an HTTP request used, over its prompts and continuations, and how long it took.

    `timed_n` is how many continuations each prompt has if their times are to be told, else 0.
    """

    def __init__(self, with_details: bool, tenant: Tenant | None = None, timed_n: int = 0) -> None:
        self._tenant = tenant
        self._with_details = with_details
        self._timed_n = timed_n
        self._times: list[RequestTimes] = []
        self._prompts: dict[int, int] = {}  # length of each prompt seen
        self._generated: dict[int, int] = {}
        self._cached = 0
        self._reasoning: dict[tuple[int, int], int] = {}  # tokens of each continuation's reasoning

    def add(self, prompt: int, output: RequestOutput) -> None:
        """Count what this output of prompt number `prompt` adds; outputs hold only what is new."""
        if prompt not in self._prompts:
            self._prompts[prompt] = len(output.prompt_token_ids)
            self._generated[prompt] = 0
            self._cached += output.num_cached_tokens
            if self._tenant is not None:
                self._tenant.spend(self._prompts[prompt], 0, output.num_cached_tokens)
        new = output.num_unseen_tokens + sum(len(one.token_ids) for one in output.outputs)
        self._generated[prompt] += new
        for one in output.outputs:
            if one.events is not None:
                self._reasoning[prompt, one.index] = one.reasoning_tokens
        if output.finished:
            self._times.append(output.times)
        if self._tenant is not None:
            self._tenant.spend(0, new)

    def usage(self) -> dict[str, object]:
        """OpenAI's usage object."""
        asked, generated = sum(self._prompts.values()), sum(self._generated.values())
        counts: dict[str, object] = {
            "prompt_tokens": asked,
            "completion_tokens": generated,
            "total_tokens": asked + generated,
        }
        if self._with_details:
            counts["prompt_tokens_details"] = {"cached_tokens": self._cached}
        if self._reasoning:
            counts["completion_tokens_details"] = {"reasoning_tokens": sum(self._reasoning.values())}
        return counts

    def totals(self, with_usage: bool = True) -> dict[str, object]:
        """What a reply or a stream's last event tells of the whole request."""
        found: dict[str, object] = {"usage": self.usage()} if with_usage else {}
        if self._timed_n:
            found["metrics"] = self._timings()
        return found

    def _timings(self) -> dict[str, object]:
        """vLLM's per-request metrics; of several prompts the first token, and the longest of everything else."""
        times, generated = self._times, sum(self._generated.values())
        queued = [time.queued_s for time in times if time.queued_s is not None]
        prefill = [time.prefill_s for time in times if time.prefill_s is not None]
        firsts = [time.first_token_s for time in times if time.first_token_s is not None]
        decode_s = max((time.decode_s for time in times if time.decode_s is not None), default=None)
        total_s = max((time.total_s for time in times if time.total_s is not None), default=None)
        gaps = generated / max(1, len(times) * self._timed_n) - 1  # per continuation
        return {
            "queue_time_ms": milliseconds(max(queued, default=None)),
            "prefill_time_ms": milliseconds(max(prefill, default=None)),
            "time_to_first_token_ms": milliseconds(min(firsts, default=None)),
            "generation_time_ms": milliseconds(decode_s),
            "total_time_ms": milliseconds(total_s),
            "mean_itl_ms": milliseconds(decode_s / gaps if decode_s is not None and gaps > 0 else None),
            "tokens_per_second": round(generated / total_s, 2) if total_s else None,
        }


def milliseconds(seconds: float | None) -> float | None:
    """Seconds as milliseconds, to the microsecond."""
    return None if seconds is None else round(seconds * 1e3, 3)
