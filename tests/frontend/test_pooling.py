"""Prompts to be pooled: cutting as `tokenizers` cuts, pairs, and what is refused before anything is queued."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from octavo.checkpoint import POCKET
from octavo.embedder import Embedder
from octavo.errors import InvalidRequest
from octavo.frontend.inputs import InputProcessor
from octavo.frontend.pooling import Pair, PoolingInputs, check_texts, encode, pairs, shortened
from octavo.frontend.tokenizer import Tokenizer
from octavo.limits import Limits
from octavo.pooling import Abilities, PoolingParams, PoolingWork

from ..embedded import VOCAB_SIZE

WORDS = ["[CLS]", "[SEP]", "[UNK]", *"abcdefgh"]
TEXT = st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join)


def tokenizer(limit: int | None = None) -> tokenizers.Tokenizer:
    """Words, and BERT's special tokens; with a limit, one that cuts by itself."""
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(WORDS[:3])
    backend.post_processor = processors.TemplateProcessing(
        "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", [("[CLS]", 0), ("[SEP]", 1)]
    )
    if limit is not None:
        backend.enable_truncation(limit)
    return backend


OURS = Tokenizer(tokenizer(), {}, {})


@settings(max_examples=150, deadline=None)
@given(first=TEXT, second=TEXT, limit=st.integers(5, 30), is_pair=st.booleans())
def test_texts_and_pairs_are_cut_as_tokenizers_cuts_them(first: str, second: str, limit: int, is_pair: bool) -> None:
    theirs = tokenizer(limit).encode(first, second) if is_pair else tokenizer(limit).encode(first)
    ours = encode(OURS, [(first, second) if is_pair else first], limit)[0]
    assert ours.ids == theirs.ids
    assert [int(is_pair and i >= ours.second_from) for i in range(len(ours.ids))] == theirs.type_ids


def inputs(able: Abilities, limits: Limits | None = None, embedder: Embedder | None = None) -> PoolingInputs:
    processor = InputProcessor(Tokenizer.load(POCKET), (), 64, VOCAB_SIZE, 0, limits or Limits())
    return PoolingInputs(processor, able, embedder or Embedder())


EMBEDS = Abilities(("embed", "token_embed"), "last", 16)


def test_only_what_needs_every_position_keeps_from_the_cache() -> None:
    for able, task, params, needs in (
        (EMBEDS, "embed", {}, False),
        (EMBEDS, "token_embed", {}, True),
        (EMBEDS, "embed", {"skip_reading_prefix_cache": True}, True),
        (Abilities(("embed",), "mean", 16), "embed", {}, True),
    ):
        _, specs = inputs(able).build("a", task, [[1, 2]], PoolingParams(**params))
        assert specs[0].pooling == PoolingWork(task, True, 0, needs)


def test_a_prompt_of_the_checkpoint_goes_before_texts() -> None:
    embedder = Embedder(prompts={"query": "find: ", "document": ""}, default_prompt="query")
    made = inputs(EMBEDS, embedder=embedder)
    tokens = Tokenizer.load(POCKET)
    for name, text in ((None, "find: cats"), ("query", "find: cats"), ("document", "cats")):
        state, _ = made.build("a", "embed", ["cats"], PoolingParams(prompt_name=name))
        assert state.prompts == [tokens.encode(text)]
    with pytest.raises(InvalidRequest, match="it has query, document"):
        made.build("a", "embed", ["cats"], PoolingParams(prompt_name="title"))
    with pytest.raises(InvalidRequest, match="token ids are taken as they are"):
        made.build("a", "embed", [[1, 2]], PoolingParams(prompt_name="query"))


def test_answers_are_bounded_before_they_are_computed() -> None:
    made = inputs(EMBEDS, Limits(pooled_values=40))
    made.build("a", "embed", [[1]] * 2, PoolingParams())
    made.build("a", "embed", [[1]] * 10, PoolingParams(dimensions=4))
    for prompts, task in (([[1]] * 3, "embed"), ([[1, 2, 3]], "token_embed")):
        with pytest.raises(InvalidRequest, match="the answer would hold 48 numbers"):
            made.build("a", task, prompts, PoolingParams())


def test_pairs_are_one_against_many_or_text_by_text() -> None:
    assert pairs("a", ["b", "c"], ("x", "y")) == [Pair("a", "b"), Pair("a", "c")]
    assert pairs(["a", "b"], ["c", "d"], ("x", "y")) == [Pair("a", "c"), Pair("b", "d")]
    for first, second in ((["a", "b"], ["c"]), ([], "a"), ("a", None), ("a", {"b": 1}), ("a", ["b", 1])):
        with pytest.raises(InvalidRequest):
            pairs(first, second, ("x", "y"))
    assert check_texts(("a",), "x") == ["a"]


def test_a_document_is_shortened_by_whole_tokens() -> None:
    assert shortened(OURS, "a b  c d", 3) == "a b  c"
    assert shortened(OURS, "a b", 3) == "a b"
    with pytest.raises(InvalidRequest, match="surrogate"):
        shortened(OURS, "a\ud800", 3)
    with pytest.raises(InvalidRequest, match="surrogate"):
        encode(OURS, [("a", "\ud800")], None)
