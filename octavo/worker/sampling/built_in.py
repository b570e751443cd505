"""Logits processors that come with octavo, asked for by name like an operator's own."""

from __future__ import annotations

from torch import Tensor

from octavo.errors import InvalidRequest

MINUS_INF = float("-inf")


def integer(name: str, value: object, low: int, high: int) -> int:
    """`value` if it is an integer in [low, high]; InvalidRequest otherwise."""
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest(f"{name} must be an integer in [{low}, {high}], got {value!r}"[:200], "logits_processors")
    return value


def number(name: str, value: object, low: float, high: float) -> float:
    """`value` if it is a number in [low, high]; InvalidRequest otherwise."""
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        raise InvalidRequest(f"{name} must be a number in [{low}, {high}], got {value!r}"[:200], "logits_processors")
    return float(value)  # type: ignore[arg-type]


class NoRepeatNgram:
    """no_repeat_ngram: no run of `size` tokens comes twice in prompt and output (Transformers' parameter)."""

    def __init__(self, prompt_ids: list[int], size: int) -> None:
        self._size = integer("size", size, 1, 1024)
        self._prompt = len(prompt_ids)
        self._ids = list(prompt_ids)
        self._counted = 0  # runs of size - 1 whose next token is known
        self._next: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, past_ids: list[int], logits: Tensor) -> Tensor:
        self._ids += past_ids[len(self._ids) - self._prompt :]
        ids, before = self._ids, self._size - 1
        for at in range(self._counted, len(ids) - before):
            self._next.setdefault(tuple(ids[at : at + before]), []).append(ids[at + before])
        self._counted = max(self._counted, len(ids) - before)
        if len(ids) >= before:
            banned = self._next.get(tuple(ids[len(ids) - before :]), [])
            if banned:
                logits[banned] = MINUS_INF
        return logits


class Dry:
    """dry ("don't repeat yourself", p-e-w 2024): a token that would continue a repetition of `length` >= allowed_length
    tokens loses multiplier * base ** (length - allowed_length). `breakers` are ids that no repetition crosses.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        multiplier: float = 0.8,
        base: float = 1.75,
        allowed_length: int = 2,
        breakers: list[int] | None = None,
        window: int = 2048,
    ) -> None:
        self._multiplier = number("multiplier", multiplier, 0, 100)
        self._base = number("base", base, 1, 8)
        self._allowed = integer("allowed_length", allowed_length, 1, 1024)
        self._window = integer("window", window, 1, 65_536)
        ids = breakers if breakers is not None else []
        if not isinstance(ids, list) or len(ids) > 1024 or not all(type(id) is int for id in ids):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest("breakers must be a list of at most 1024 token ids", "logits_processors")
        self._breakers = frozenset(ids)
        self._prompt = prompt_ids[-self._window :]

    def __call__(self, past_ids: list[int], logits: Tensor) -> Tensor:
        ids = (self._prompt + past_ids[-self._window :])[-self._window :]
        if not ids or ids[-1] in self._breakers:
            return logits
        lengths: dict[int, int] = {}  # token -> longest repetition it would continue
        for end, length in repeated_ends(ids, self._breakers):
            if length >= self._allowed:
                follower = ids[end + 1]
                lengths[follower] = max(lengths.get(follower, 0), length)
        for token, length in lengths.items():
            exponent = min(length - self._allowed, 200)
            logits[token] -= min(self._multiplier * self._base**exponent, 1e6)
        return logits


def repeated_ends(ids: list[int], breakers: frozenset[int]) -> list[tuple[int, int]]:
    """(place, length) for every earlier place whose last `length` tokens are also the last of `ids`.

    The Z-function of the reversed ids: linear in their number.
    """
    back = ids[::-1]
    count = len(back)
    most = next((i for i, id in enumerate(back) if id in breakers), count)
    lengths = [0] * count
    left = right = 0
    for i in range(1, count):
        length = min(right - i, lengths[i - left]) if i < right else 0
        while i + length < count and back[length] == back[i + length]:
            length += 1
        lengths[i] = length
        if i + length > right:
            left, right = i, i + length
    return [(count - 1 - i, min(lengths[i], most)) for i in range(1, count) if lengths[i]]
