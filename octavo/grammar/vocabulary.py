"""Vocabulary: what the tokens of a model spell, as grammars need it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from llguidance import LLParserLimits, LLTokenizer, TokenizerWrapper

# What building and asking a matcher may cost. The fuel of a step is about 15 ms, a lexer state 1 to 2 kB.
LIMITS = LLParserLimits(
    max_items_in_row=2000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)

WORD = 32  # bits of a word of a mask


class Spelling:
    """The tokens in the form the library asks for."""

    def __init__(
        self, tokens: Sequence[bytes], special: Iterable[int], eos: Sequence[int], encode: Callable[[str], list[int]]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = sorted({*special, *eos})
        self.eos_token_id = eos[0]
        self.bos_token_id = None
        self._encode = encode
        self._special = frozenset(self.special_token_ids)

    def __call__(self, text: bytes) -> list[int]:
        """The tokens that a model would say `text` with, exactly: the library lets no others where a text is certain.

        Some tokenizers put a space before whatever they are given: then a line end is what it comes before.
        """
        words = text.decode("utf-8", "replace")
        for before in ("", "\n"):
            ids = self._encode(before + words)
            found = self._behind(ids, before.encode(), text)
            if found is not None:
                return found
        return self._greedy(text)

    def _behind(self, ids: list[int], before: bytes, text: bytes) -> list[int] | None:
        """The last of `ids`, if those before spell `before` (or a space and it) and they spell `text`."""
        said, at = b"", 0
        while at < len(ids) and said.lstrip(b" ") != before:
            said += self.tokens[ids[at]]
            at += 1
        if at < len(ids) and before and said.lstrip(b" ") != before:
            return None
        rest = ids[at:]
        exact = b"".join(self.tokens[id] for id in rest) == text
        return rest if exact and self._special.isdisjoint(rest) else None

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {token: id for id, token in enumerate(self.tokens) if token and id not in self._special}

    def _greedy(self, text: bytes) -> list[int]:
        """The longest token, again and again; what no token spells is left out."""
        found: list[int] = []
        at = 0
        while at < len(text):
            end = next((end for end in range(min(len(text), at + 64), at, -1) if text[at:end] in self._ids), at)
            found += [self._ids[text[at:end]]] if end > at else []
            at = max(end, at + 1)
        return found


class Vocabulary:
    """The tokens of one model by id: bytes, which are special, which end an answer. Building one takes a moment.

    `tokens` may be fewer than `vocab_size`, the model's rows of logits; those without bytes are never allowed. Special
    ones never match text, only their name in a grammar. `encode` turns text into ids without adding any.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Iterable[int],
        eos: Sequence[int],
        vocab_size: int,
        encode: Callable[[str], list[int]],
    ) -> None:
        self.vocab_size = vocab_size
        self.num_words = -(-vocab_size // WORD)
        self.eos = tuple(id for id in eos if 0 <= id < vocab_size)
        self.tokens = [*tokens[:vocab_size], *(b"" for _ in range(vocab_size - len(tokens)))]
        self.special = frozenset(id for id in special if id < vocab_size) | frozenset(self.eos)
        # A model without an end-of-sequence gets one here that no mask has room for.
        ends = self.eos or (vocab_size,)
        padding = () if self.eos else (b"",)
        spelling = Spelling([*self.tokens, *padding], self.special, ends, encode)
        self.ll = LLTokenizer(TokenizerWrapper(spelling), n_vocab=vocab_size + len(padding), eos_token=list(ends))
        self.num_bytes = 4 * -(-(vocab_size + len(padding)) // WORD)

    def spelled(self, id: int) -> bytes:
        """What a token adds to the text; nothing for an id there is none of."""
        return self.tokens[id] if 0 <= id < self.vocab_size else b""

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((token, id) for id, token in enumerate(self.tokens) if token)

    def beginning(self, text: bytes) -> Iterator[tuple[bytes, int]]:
        """The tokens that begin with `text`, and their ids."""
        ordered = self._sorted
        for at in range(bisect_left(ordered, (text, -1)), len(ordered)):
            if not ordered[at][0].startswith(text):
                return
            yield ordered[at]
