"""Fill in the middle: each family's marks are found in its vocabulary and put where its models learned to see them."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from octavo.errors import InvalidRequest
from octavo.frontend.infill import Infill, infill
from octavo.frontend.tokenizer import Tokenizer


def made(marks, bos=False):
    """A byte-level tokenizer that knows these marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>", *marks])
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"}, {})


MARKS = {
    "qwen": ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    "starcoder": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    "santacoder": ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    "seed": ["<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"],
    "codellama": ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    "deepseek": ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    "codestral": ["[SUFFIX]", "[PREFIX]"],
}
PROMPTS = {
    "qwen": "<|fim_prefix|>def f(x):\n    <|fim_suffix|>\nreturn y<|fim_middle|>",
    "starcoder": "<fim_prefix>def f(x):\n    <fim_suffix>\nreturn y<fim_middle>",
    "santacoder": "<fim-prefix>def f(x):\n    <fim-suffix>\nreturn y<fim-middle>",
    "seed": "<[fim-suffix]>\nreturn y<[fim-prefix]>def f(x):\n    <[fim-middle]>",
    "codellama": "▁<PRE>def f(x):\n    ▁<SUF>\nreturn y▁<MID>",
    "deepseek": "<｜fim▁begin｜>def f(x):\n    <｜fim▁hole｜>\nreturn y<｜fim▁end｜>",
    "codestral": "[SUFFIX]\nreturn y[PREFIX]def f(x):\n    ",
}


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("family", PROMPTS)
def test_the_prompt_is_what_the_model_was_trained_on(family, bos):
    tokenizer = made(MARKS[family], bos)
    ids = infill(tokenizer).prompt("def f(x):\n    ", "\nreturn y", add_special_tokens=True)
    expected = tokenizer.encode(PROMPTS[family], add_special_tokens=False)
    assert ids == [tokenizer.bos_id] * bos + expected
    given = tokenizer.encode("def f(x):\n    ", add_special_tokens=False)
    assert infill(tokenizer).prompt(given, "\nreturn y", add_special_tokens=False) == expected


@pytest.mark.parametrize("family", PROMPTS)
def test_the_marks_end_the_middle_and_a_text_cannot_spell_them(family):
    tokenizer = made([*MARKS[family], "<|endoftext|>", "▁<EOT>"])
    how = infill(tokenizer)
    marks = {tokenizer.backend.token_to_id(mark) for mark in MARKS[family]}
    assert marks <= set(how.ends)
    ids = how.prompt("".join(MARKS[family]), MARKS[family][0], add_special_tokens=True)
    assert sum(id in marks for id in ids) == len(marks)


def test_a_model_without_marks_refuses_in_one_line():
    tokenizer = made(["<|fim_prefix|>", "<|fim_suffix|>"])
    assert Infill.find(tokenizer) is None
    with pytest.raises(InvalidRequest) as error:
        infill(tokenizer)
    assert error.value.field == "suffix"
