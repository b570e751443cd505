"""Time grows with the length of a text and no faster, whatever the text (R40): stop search, detokenizing, chats."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import octavo
from octavo.frontend.chat import ChatTemplate
from octavo.frontend.detokenizer import Detokenizer, StopStrings
from octavo.frontend.output import OutputProcessor, RequestState
from octavo.frontend.tokenizer import Tokenizer
from octavo.messages import Finish, SequenceSpec, TokenDelta, pack_ids
from octavo.sampling import RequestOutputKind, SamplingParams

DOUBLING = 2.5  # at most, of the time, for twice the text
LENGTHS = [1 << 17, pytest.param(1 << 20, marks=pytest.mark.slow)]  # characters
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>{% endfor %}"


def check_growth(work: Callable[[int], object], longest: int) -> None:
    """Time `work` for a text of `longest` characters and for an eighth of it."""

    def took_s(size: int) -> float:
        times = []
        gc.disable()  # a collection visits all that a test session holds
        try:
            for _ in range(2):
                began_s = time.process_time()
                work(size)
                times.append(time.process_time() - began_s)
        finally:
            gc.enable()
        return min(times)

    short_s, long_s = took_s(longest // 8), took_s(longest)
    print(
        f"{longest >> 10} Ki characters: {long_s * 1000:.0f} ms; for twice the text {(long_s / short_s) ** (1 / 3):.2f}"
    )
    assert long_s / short_s < DOUBLING**3


@pytest.fixture(scope="module")
def pocket() -> Tokenizer:
    return Tokenizer.load(Path(octavo.__file__).parent / "pocket")


STOPS = {
    "almost": ["a" * 255 + "b", *("a" * i + "c" for i in range(100, 115))],
    "overlapping": [("ab" * 128)[i:] + "!" for i in range(16)],
    "short": ["\n\n", "</s>", "User:", "b"],
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("piece", [1 << 20, 4])
def test_stop_search_is_linear(name: str, piece: int, length: int) -> None:
    def work(size: int) -> None:
        stops = StopStrings(STOPS[name])
        text = ("ab" if name == "overlapping" else "a") * (size // (2 if name == "overlapping" else 1))
        shown = sum(len(stops.push(text[at : at + piece])[0]) for at in range(0, len(text), piece))
        assert shown + len(stops.flush()) == len(text)

    check_growth(work, length)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["text", "broken characters", "characters in bytes", "special tokens"])
def test_detokenizing_is_linear(kind: str, length: int, pocket: Tokenizer) -> None:
    spelled = {
        "text": "the quick brown fox ",
        "characters in bytes": "\U0001f600\u4e16\u754c",
        "special tokens": "<|im_end|>",
    }
    if kind in spelled:
        unit = pocket.encode(spelled[kind] * 8, add_special_tokens=False)
    else:
        unit = [id for id in range(pocket.vocab_size) if pocket.token_bytes(id)[:1] >= b"\xc0"][:8]

    def work(size: int) -> None:
        detokenizer = Detokenizer(pocket, [5] * 8, skip_special_tokens=kind != "special tokens")
        for id in unit * (size // 4 // len(unit)):
            detokenizer.push([id])
        detokenizer.finish()

    check_growth(work, length)


def test_a_streamed_answer_is_linear(pocket: Tokenizer) -> None:
    ids = pocket.encode("the quick brown fox ", add_special_tokens=False) * 16

    def work(size: int) -> None:
        params = SamplingParams(max_tokens=None, stop=["q" * 200, "fox jumps"], output_kind=RequestOutputKind.DELTA)
        request = RequestState("r", None, [5], params, pocket)
        outputs = OutputProcessor(pocket)
        outputs.open(request, [SequenceSpec(0, pack_ids([5]), params, size, 0)])
        for _ in range(size // 4 // len(ids)):
            for id in ids:
                outputs.push([TokenDelta(0, [id])])
                request.output({0})
        outputs.push([TokenDelta(0, [5], finish=Finish("length"))])
        assert request.output({0}).finished

    check_growth(work, 1 << 17)


@pytest.mark.parametrize("unit", ["<|im_end|>", "a", "<|im_", "\n ", "<", "</think>"])
def test_a_chat_is_linear(unit: str, pocket: Tokenizer) -> None:
    template = ChatTemplate(TURN, control=pocket.control_tokens)
    spinning = ChatTemplate(
        TURN.replace("m.content | trim", "m.content.split('</think>')[-1].strip()"), control=["<|im_end|>"]
    )

    def work(size: int) -> None:
        messages = [{"role": "user", "content": unit * (size // len(unit))}]
        rendered = template.render(messages)
        spinning.render(messages)
        pocket.encode_chat(rendered.text, rendered.spelled)

    check_growth(work, 1 << 17)


@pytest.mark.parametrize("unit", ["a", " ", "\U0001f600", "<|im_end|>", "!", "\n"])
def test_tokenizing_is_linear(unit: str, pocket: Tokenizer) -> None:
    check_growth(lambda size: pocket.encode(unit * (size // len(unit))), 1 << 17)
