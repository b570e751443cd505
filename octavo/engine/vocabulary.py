"""The grammars' view of a checkpoint's tokenizer: where frontend/ and grammar/ meet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from octavo.frontend.tokenizer import Tokenizer
from octavo.grammar.masks import Grammars
from octavo.grammar.vocabulary import Vocabulary


def open_grammars(folder: Path, eos_ids: Sequence[int], vocab_size: int) -> Grammars:
    """What builds constraints for the model whose tokenizer is in `folder` (or that GGUF file)."""
    return Grammars(lambda: vocabulary_of(Tokenizer.load(folder), eos_ids, vocab_size))


def vocabulary_of(tokenizer: Tokenizer, eos_ids: Sequence[int], vocab_size: int) -> Vocabulary:
    """The tokens of a model with `vocab_size` rows of logits."""
    size = min(vocab_size, tokenizer.vocab_size)
    tokens = [tokenizer.token_bytes(id) for id in range(size)]
    ends = eos_ids or ((tokenizer.eos_id,) if tokenizer.eos_id is not None else ())
    return Vocabulary(
        tokens, tokenizer.special_ids, ends, vocab_size, lambda text: tokenizer.encode(text, add_special_tokens=False)
    )
