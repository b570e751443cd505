"""What the core itself asks of a sequence before queuing it: the frontend is another process, not trusted (R25)."""

from __future__ import annotations

from dataclasses import replace

from octavo.errors import InvalidRequest
from octavo.limits import Limits
from octavo.sampling import INT_MAX, MAX_SEED
from octavo.scheduling.sequence import Sequence

MOST_ENDS = 1024  # end-of-sequence ids of a checkpoint
SPELLINGS = 2  # of one bad word: at a text's start and inside one


class Admission:
    """Checks sequences against the operator's limits and the model's vocabulary."""

    def __init__(self, limits: Limits, vocab_size: int) -> None:
        # The frontend's own requests for a beam search ask for a log-probability per beam.
        self.limits = replace(limits, logprobs=max(limits.logprobs, limits.beam_width))
        self.vocab_size = vocab_size

    def check(self, seq: Sequence) -> None:
        """Raise InvalidRequest for what an honest frontend would not have sent."""
        spec, limits = seq.spec, self.limits
        if seq.tokens and (min(seq.tokens) < 0 or max(seq.tokens) >= self.vocab_size):
            raise InvalidRequest(f"prompt has a token id outside the vocabulary [0, {self.vocab_size})", "prompt")
        spec.sampling.check(limits)
        spec.sampling.check_vocabulary(self.vocab_size)
        within("seed", spec.seed, -MAX_SEED - 1, MAX_SEED)
        within("priority", spec.priority, -INT_MAX - 1, INT_MAX)
        within("cache_salt", len(spec.salt), 0, 4 * limits.id_chars)
        within("eos", len(spec.eos), 0, MOST_ENDS)
        for id in spec.eos:
            within("eos", id, 0, INT_MAX)
        within("bad_words", len(spec.bad_words), 0, SPELLINGS * limits.bad_words)
        for word in spec.bad_words:
            within("bad_words", len(word), 1, limits.bad_word_tokens)
            for id in word:
                within("bad_words", id, 0, self.vocab_size - 1)


def within(name: str, value: int, low: int, high: int) -> None:
    """Raise InvalidRequest unless `value`, a number or a count, is in [low, high]."""
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: {value} is not in [{low}, {high}]", name)
