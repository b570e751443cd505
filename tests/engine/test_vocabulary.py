"""Every kind of tokenizer under a grammar: bytes, special tokens, and texts said in the tokenizer's own way."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np

from octavo.checkpoint import Checkpoint
from octavo.engine.vocabulary import vocabulary_of
from octavo.frontend.tokenizer import Tokenizer
from octavo.grammar.matcher import GrammarMatcher
from octavo.grammar.translate import translate
from octavo.grammar.vocabulary import Vocabulary
from octavo.structured import StructuredOutputsParams

TEXTS = ['{"name": "Zoë", "tags": [1, 2.5]}', " leading space\n\ttabs", "日本語 😀 ok", "a  b   c", "<s> [INST]"]


def paths(shared_data: Path) -> list[Path]:
    """A byte-level tokenizer, a SentencePiece one as JSON and as GGUF, and whatever else is there."""
    found = [Checkpoint.resolve(None).path]
    models = shared_data / "models" / "stories260K"
    found += [models, *models.glob("*.gguf")]
    folder = shared_data / "tokenizers"
    found += [*sorted(folder.glob("*.gguf")), *sorted(path.parent for path in folder.rglob("tokenizer.json"))]
    return found


def allowed(matcher: GrammarMatcher, vocabulary: Vocabulary) -> list[int]:
    row = np.zeros(vocabulary.num_words, np.int32)
    matcher.fill(row)
    return np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()


def said(tokenizer: Tokenizer, vocabulary: Vocabulary, text: str, chance: Random | None) -> list[int]:
    """The tokens of an answer that must be `text`; where several may come, the longest or any."""
    wanted = StructuredOutputsParams(choice=[text, text + "!"])
    matcher = GrammarMatcher.build(vocabulary, translate(wanted))
    tokens: list[int] = []
    while not matcher.may_stop:
        found = allowed(matcher, vocabulary)
        assert found, (text, tokens)
        assert not set(found) & vocabulary.special
        pick = chance.choice(found) if chance else max(found, key=lambda id: len(tokenizer.token_bytes(id)))
        tokens.append(pick)
        assert matcher.accept(pick)
    return tokens


def test_every_tokenizer_says_a_certain_text_exactly(shared_data):
    seen = 0
    for path in paths(shared_data):
        tokenizer = Tokenizer.load(path)
        eos = (tokenizer.eos_id,) if tokenizer.eos_id is not None else ()
        vocabulary = vocabulary_of(tokenizer, eos, tokenizer.vocab_size + 7)
        assert tokenizer.special_ids <= vocabulary.special
        for text in TEXTS:
            for chance in (None, Random(1)):
                tokens = said(tokenizer, vocabulary, text, chance)
                assert b"".join(tokenizer.token_bytes(id) for id in tokens).removesuffix(b"!") == text.encode(), path
        seen += 1
    assert seen >= 3


def test_certain_texts_are_cut_as_the_tokenizer_would_cut_them():
    tokenizer = Tokenizer.load(Checkpoint.resolve(None).path)
    vocabulary = vocabulary_of(tokenizer, (tokenizer.eos_id or 0,), tokenizer.vocab_size)
    text = "The opposite of hot is cold, and Paris is in France."
    wanted = StructuredOutputsParams(choice=[text])
    matcher = GrammarMatcher.build(vocabulary, translate(wanted))
    tokens = []
    while not matcher.is_finished:
        found = allowed(matcher, vocabulary)
        tokens.append(found[0])
        assert len(found) == 1
        assert matcher.accept(found[0])
    assert tokens == tokenizer.encode(text, add_special_tokens=False)
