"""The process in which grammars are tried out before an engine sees them (`python -m octavo.engine.compiling`).

Whatever a schema or grammar does to a parser written elsewhere, it does here: bounded in time and memory, and alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec import msgpack

from octavo.bounded import serve
from octavo.engine.trial import Setup, Verdict
from octavo.engine.vocabulary import vocabulary_of
from octavo.errors import InvalidRequest, OctavoError
from octavo.frontend.tokenizer import Tokenizer
from octavo.grammar.matcher import GrammarError, GrammarMatcher
from octavo.grammar.translate import translate
from octavo.grammar.vocabulary import Vocabulary
from octavo.limits import Limits
from octavo.structured import FIELD, StructuredOutputsParams

TRIAL_TOKENS = 48  # a random answer of this length shows what building alone does not: masks that cost too much
ENTRY_BYTES = 4096  # what a grammar takes at least


def open_trial(setup: bytes) -> Callable[[bytes], bytes]:
    """What answers calls: StructuredOutputsParams in, Verdict out."""
    told = msgpack.decode(setup, type=Setup)
    tokenizer = Tokenizer.load(Path(told.folder))
    vocabulary = vocabulary_of(tokenizer, told.eos_ids, told.vocab_size)
    special = {vocabulary.tokens[id].decode("utf-8", "replace"): id for id in vocabulary.special}
    special.pop("", None)

    def judge(request: bytes) -> bytes:
        try:
            wanted = msgpack.decode(request, type=StructuredOutputsParams)
            return msgpack.encode(verdict(wanted, vocabulary, special, told.limits))
        except OctavoError as error:
            return msgpack.encode(Verdict(message=error.message))

    return judge


def verdict(
    wanted: StructuredOutputsParams, vocabulary: Vocabulary, special: dict[str, int], limits: Limits
) -> Verdict:
    """The grammar, after it was built and tried; InvalidRequest when it is refused."""
    text = translate(wanted, special, limits)
    before = resident_bytes()
    try:
        matcher = GrammarMatcher.build(vocabulary, text)
        try_out(matcher, vocabulary)
    except GrammarError as error:
        raise InvalidRequest(f"the grammar library says: {error.message}", FIELD) from None
    return Verdict(text, ENTRY_BYTES + 2 * len(text) + max(0, resident_bytes() - before))


def try_out(matcher: GrammarMatcher, vocabulary: Vocabulary) -> None:
    """Answer at random; GrammarError when a mask costs too much, or when nothing may come next."""
    chance = random.Random(0)
    row = np.zeros(vocabulary.num_words, np.int32)
    for _ in range(TRIAL_TOKENS):
        if matcher.is_finished:
            return
        matcher.fill(row)
        allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), count=vocabulary.vocab_size, bitorder="little"))
        if not len(allowed):
            raise GrammarError("no token may come next in some place; it can never be matched")
        token = int(allowed[chance.randrange(len(allowed))])
        if token in vocabulary.eos:
            return
        if not matcher.accept(token):
            raise GrammarError("it is too entangled to be followed")


def resident_bytes() -> int:
    """What this process takes of the machine's memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    serve(open_trial)
