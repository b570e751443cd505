"""Log-probabilities in the shapes of OpenAI's chat, OpenAI's completions, and vLLM's prompt_logprobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from octavo.frontend.output import Logprob, PositionLogprobs, RequestOutput
from octavo.frontend.tokenizer import Tokenizer

LOWEST = -9999.0  # what JSON readers get instead of minus infinity


def finite(value: float) -> float:
    """A log-probability that JSON can spell."""
    return value if value > LOWEST else LOWEST


def likeliest(position: PositionLogprobs, count: int) -> list[tuple[int, Logprob]]:
    """The `count` likeliest of a position, best first. In `position` the chosen token is first, whatever its rank."""
    ranked = [item for item in position.items() if item[1].rank is not None and item[1].rank <= count]
    return sorted(ranked, key=lambda item: item[1].rank or 0)


class TokenNames:
    """How tokens are spelled in log-probabilities: their text, or token_id:N when `by_id`."""

    def __init__(self, tokenizer: Tokenizer, by_id: bool, named: Sequence[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.by_id = by_id
        self.named = tuple(named or ())  # ids that are told at every position, whatever their rank

    def top(self, position: PositionLogprobs, count: int) -> list[tuple[int, Logprob]]:
        """The `count` likeliest of a position, best first, and those asked for by their ids."""
        found = likeliest(position, count)
        if not self.named:
            return found
        have = {id for id, _ in found}
        return found + [(id, position[id]) for id in dict.fromkeys(self.named) if id in position and id not in have]

    def name(self, id: int) -> str:
        """The token's spelling."""
        return f"token_id:{id}" if self.by_id else self.tokenizer.token_text(id)

    def entry(self, id: int, logprob: Logprob) -> dict[str, object]:
        """One token as chat shows it; `bytes` are exact where the text is part of a character."""
        return {
            "token": self.name(id),
            "logprob": finite(logprob.logprob),
            "bytes": list(self.tokenizer.token_bytes(id)),
        }

    def entries(self, positions: Sequence[PositionLogprobs], count: int) -> Iterator[dict[str, object]]:
        """One token after the other as chat shows it."""
        for position in positions:
            id, logprob = next(iter(position.items()))
            top = [self.entry(*item) for item in self.top(position, count)]
            yield self.entry(id, logprob) | {"top_logprobs": top}

    def chat(self, positions: Sequence[PositionLogprobs], count: int) -> dict[str, object]:
        """`choices[].logprobs` of chat completions."""
        return {"content": list(self.entries(positions, count)), "refusal": None}

    def completion(
        self, ids: Sequence[int], positions: Sequence[PositionLogprobs | None], count: int, offset: int
    ) -> dict[str, object]:
        """`choices[].logprobs` of completions for tokens `ids`; None where nothing predicted one.

        offset is where in the text the first token begins, in characters.
        """
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for id, position in zip(ids, positions, strict=True):
            offsets.append(offset)
            offset += len(self.tokenizer.token_text(id))
            values.append(None if position is None else finite(position[id].logprob))
            # The token itself is always among the top ones, as clients that score text expect.
            top = [] if position is None else [(id, position[id]), *self.top(position, count)]
            tops.append({self.name(k): finite(v.logprob) for k, v in top} or None)
        return {
            "tokens": [self.name(id) for id in ids],
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def num_logprobs(output: RequestOutput) -> int:
    """How many log-probabilities a request's output holds, those of its prompt included."""
    answers = (position for one in output.outputs for position in one.logprobs or ())
    return sum(map(len, answers)) + sum(len(position) for position in output.prompt_logprobs or () if position)


def prompt_logprobs(positions: Sequence[PositionLogprobs | None] | None) -> list[object] | None:
    """vLLM's `prompt_logprobs`: per prompt token a map of token id to its numbers; None for the first."""
    if positions is None:
        return None
    return [
        None
        if position is None
        else {
            str(id): {"logprob": finite(p.logprob), "rank": p.rank, "decoded_token": p.decoded_token}
            for id, p in position.items()
        }
        for position in positions
    ]
