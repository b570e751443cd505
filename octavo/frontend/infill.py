"""Fill in the middle: a prompt and a suffix as the model was trained to see them, found from its vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from octavo.errors import InvalidRequest
from octavo.frontend.tokenizer import Tokenizer


@dataclass(frozen=True)
class Convention:
    """How a family marks prefix, suffix and middle; `order` is P, S and M as the prompt is put together.

    `ends` are further tokens after which nothing of the middle comes.
    """

    prefix: str
    suffix: str
    middle: str | None
    order: str = "PSM"
    ends: tuple[str, ...] = ()


CONVENTIONS = (
    # Qwen-Coder, CodeGemma
    Convention(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ends=("<|fim_pad|>", "<|file_sep|>", "<|file_separator|>", "<|repo_name|>", "<|endoftext|>"),
    ),
    # StarCoder, Granite
    Convention("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ends=("<fim_pad>", "<file_sep>", "<|endoftext|>")),
    # SantaCoder
    Convention("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<fim-pad>", "<|endoftext|>")),
    # Seed-Coder
    Convention("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", order="SPM"),
    # CodeLlama
    Convention("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",)),
    # DeepSeek-Coder: the hole stands where the suffix begins, the end where the middle does
    Convention("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ends=("<|EOT|>",)),
    # Codestral: the middle follows the prefix without a mark
    Convention("[PREFIX]", "[SUFFIX]", None, order="SPM"),
)


class Infill:
    """The first convention whose marks are all tokens of `tokenizer`; `find` returns None when none is."""

    def __init__(self, tokenizer: Tokenizer, convention: Convention, ids: dict[str, list[int]]) -> None:
        self._tokenizer = tokenizer
        self._convention = convention
        self._ids = ids
        marks = [id for mark in ids.values() for id in mark]
        self.ends = sorted({*marks, *filter_ids(tokenizer, convention.ends)})

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> Infill | None:
        """How this tokenizer's model fills in, if its vocabulary tells."""
        for convention in CONVENTIONS:
            marks = {"P": convention.prefix, "S": convention.suffix, "M": convention.middle}
            ids = {part: filter_ids(tokenizer, [mark] if mark else []) for part, mark in marks.items()}
            if all(len(ids[part]) == (mark is not None) for part, mark in marks.items()):
                return cls(tokenizer, convention, ids)
        return None

    def prompt(self, prefix: str | list[int], suffix: str, add_special_tokens: bool) -> list[int]:
        """The ids that ask for what stands between `prefix` and `suffix`."""
        text = prefix if isinstance(prefix, list) else self._plain(prefix)
        parts = {"P": text, "S": self._plain(suffix), "M": []}
        begin = self._tokenizer.encode("", add_special_tokens)
        if begin and begin[-1] == self._tokenizer.eos_id:
            begin = begin[:-1]
        return [*begin, *(id for part in self._convention.order for id in (*self._ids[part], *parts[part]))]

    def _plain(self, text: str) -> list[int]:
        # What a client's text spells must not become a mark.
        return self._tokenizer.encode(text, add_special_tokens=False, allow_special=False) if text else []


def filter_ids(tokenizer: Tokenizer, tokens: Iterable[str]) -> list[int]:
    """The ids of those `tokens` that are in the vocabulary."""
    found = (tokenizer.backend.token_to_id(token) for token in tokens)
    return [id for id in found if id is not None]


def infill(tokenizer: Tokenizer) -> Infill:
    """How the model fills in; InvalidRequest when its vocabulary has no marks for it."""
    found = Infill.find(tokenizer)
    if found is None:
        raise InvalidRequest(
            "suffix is not possible with this model: its vocabulary has no tokens to fill in the middle with; leave it "
            "out, or serve a model that has them (Qwen-Coder, StarCoder, CodeLlama, DeepSeek-Coder, Codestral …)",
            "suffix",
        )
    return found
