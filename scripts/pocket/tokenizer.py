"""The tokenizer of octavo-pocket: byte-level BPE trained on the corpus and the project's documentation."""

from __future__ import annotations

import random
from collections.abc import Iterator

import corpus
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 7680
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# The pre-tokenizer that llama.cpp and others know as "qwen2": each digit is a token of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NUM_TEXTS = 40_000


def train(seed: int) -> Tokenizer:
    """A tokenizer of VOCABULARY entries, merged as the corpus and the documentation suggest."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, IM_START, IM_END)]
    marks = [AddedToken(text, special=False, normalized=False) for text in MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(marks),
        min_frequency=2,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    tokenizer.add_tokens(marks)
    return tokenizer


def _texts(seed: int) -> Iterator[str]:
    yield from corpus.plain_texts()
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(NUM_TEXTS):
        drawn = corpus.exchange(rng)
        yield f"{drawn.question}\n{drawn.thought}\n{drawn.answer}"
