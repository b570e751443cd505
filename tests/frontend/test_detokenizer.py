"""Streams of tokens against one decode, at every split and after every prompt; stop strings likewise."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.errors import InvalidRequest
from octavo.frontend.detokenizer import Detokenizer, StopStrings
from octavo.frontend.tokenizer import Tokenizer

NAMES = ["byte_level", "byte_fallback", "llama2", "gpt2", "stories"]
WIDE = "é日本語😀👍🏽 ñ ᚠ"
REPEATED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream(tokenizer: Tokenizer, prompt: Sequence[int], chunks: Sequence[Sequence[int]], **options: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt, **options)
    return [*(detokenizer.push(chunk) for chunk in chunks), detokenizer.finish()]


def cut(items: Sequence, rng: random.Random) -> list[Sequence]:
    """Return `items` as consecutive runs, some of them empty."""
    chunks = []
    while items:
        size = rng.choice((0, 1, 1, 1, 2, 3, 9))
        chunks.append(items[:size])
        items = items[size:]
    return chunks


@functools.cache
def byte_tokens(tokenizer: Tokenizer) -> dict[int, int]:
    """Return the ids of the 256 tokens that stand for one byte, by byte."""
    if tokenizer.pieces.byte_fallback:
        return {byte: tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256)}
    singles = {tokenizer.token_bytes(id): id for id in range(tokenizer.vocab_size)}
    return {byte: singles[bytes((byte,))] for byte in range(256)}


def characters(data: bytes, per_byte: bool) -> list[tuple[str, int]]:
    """Return the characters of `data` and where each ends, found by trying; U+FFFD for what is malformed."""
    found: list[tuple[str, int]] = []
    at = 0
    while at < len(data):
        for size in (1, 2, 3, 4):
            char = data[at : at + size].decode(errors="ignore")
            if char and char.encode() == data[at : at + size]:
                break
        else:
            char = "\ufffd"
            size = 1 if per_byte else max(n for n in (1, 2, 3) if n == 1 or is_beginning(data[at : at + n], n))
        found.append((char, at + size))
        at += size
    return found


def is_beginning(data: bytes, size: int) -> bool:
    """Tell whether some character begins with these `size` bytes and goes on."""
    fills = [bytes((first,)) + b"\x80" * rest for first in (0x80, 0x90, 0xA0) for rest in (0, 1, 2)]
    return len(data) == size and any(
        len((data + fill).decode(errors="ignore")) == 1 and is_valid(data + fill) for fill in fills
    )


def is_valid(data: bytes) -> bool:
    return data.decode(errors="ignore").encode() == data


def continuation(tokenizer: Tokenizer, prompt: list[int], output: list[int], skip: bool) -> str:
    """Return the characters of one decode of everything whose last byte is the output's."""
    kept = [id for id in prompt if not (skip and id in tokenizer.special_ids)]
    everything = [id for id in prompt + output if not (skip and id in tokenizer.special_ids)]
    data = b"".join(tokenizer.token_bytes(id) for id in everything)
    size = sum(len(tokenizer.token_bytes(id)) for id in kept)
    if tokenizer.pieces.leading_spaces and data.startswith(b" "):
        data = data[1:]
        size -= 1
    found = characters(data, per_byte=not tokenizer.pieces.byte_level)
    assert "".join(char for char, _ in found) == tokenizer.decode(prompt + output, skip)
    return "".join(char for char, end in found if end > size)


@pytest.mark.parametrize("name", NAMES)
@REPEATED
@given(data=st.data())
def test_pieces_join_to_one_decode_for_any_ids_and_any_split(
    name: str, request: pytest.FixtureRequest, data: st.DataObject
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    singles = list(byte_tokens(tokenizer).values())
    ids = [
        rng.choice(
            (rng.randrange(tokenizer.vocab_size + 2), rng.choice(singles), rng.choice(sorted(tokenizer.special_ids)))
        )
        for _ in range(rng.randrange(40))
    ]
    skip = rng.random() < 0.5
    assert "".join(stream(tokenizer, [], cut(ids, rng), skip_special_tokens=skip)) == tokenizer.decode(ids, skip)


@pytest.mark.parametrize("name", NAMES)
@REPEATED
@given(data=st.data())
def test_whole_characters_come_out_of_any_text(name: str, request: pytest.FixtureRequest, data: st.DataObject) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    text = data.draw(st.text(st.sampled_from("ab the" + WIDE)))
    ids = tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.unk_id in ids:
        return
    pieces = stream(tokenizer, [], [[id] for id in ids])
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_cut_at_any_byte_neither_leaks_nor_loses_a_character(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    single = byte_tokens(tokenizer)
    start = [*tokenizer.encode("the "), *(single[byte] for byte in b"x")]
    data = WIDE.encode()
    for at in range(len(data) + 1):
        prompt = start + [single[byte] for byte in data[:at]]
        output = [single[byte] for byte in data[at:]]
        finished = data[:at].decode(errors="ignore")
        assert "".join(stream(tokenizer, prompt, [[id] for id in output])) == WIDE[len(finished) :]
        assert "".join(stream(tokenizer, prompt, [output])) == WIDE[len(finished) :]


@pytest.mark.parametrize("name", NAMES)
@REPEATED
@given(data=st.data())
def test_any_output_continues_any_prompt(name: str, request: pytest.FixtureRequest, data: st.DataObject) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    single = byte_tokens(tokenizer)
    text = WIDE.encode()
    cut_text = text[: rng.randrange(len(text) + 1)]
    prompt = tokenizer.encode(rng.choice(("", "the ", " ", "hello"))) + [single[byte] for byte in cut_text]
    prompt += rng.choice(([], [tokenizer.bos_id]))
    output = [rng.choice((rng.randrange(tokenizer.vocab_size), single[rng.randrange(256)])) for _ in range(8)]
    for skip in (True, False):
        got = "".join(stream(tokenizer, prompt, cut(output, rng), skip_special_tokens=skip))
        assert got == continuation(tokenizer, prompt, output, skip)


def test_a_character_that_the_prompt_began_and_nobody_ended_stays_with_the_prompt(llama2: Tokenizer) -> None:
    face = [llama2.backend.token_to_id(f"<0x{byte:02X}>") for byte in "😀".encode()]
    hello = llama2.encode("Hello", add_special_tokens=False)
    assert stream(llama2, face[:2], [hello]) == [" Hello", ""]
    assert stream(llama2, face[:2], [face[2:3], hello]) == ["", "\ufffd Hello", ""]
    assert stream(llama2, face[:2], [face[2:3]]) == ["", "\ufffd"]
    assert stream(llama2, face[:2], []) == [""]
    assert stream(llama2, face[:2], [face[2:]]) == ["😀", ""]


def test_the_space_in_front_is_dropped_only_at_the_start_of_a_text(llama2: Tokenizer) -> None:
    hello = llama2.encode("Hello", add_special_tokens=False)
    assert stream(llama2, [], [hello]) == ["Hello", ""]
    assert stream(llama2, [llama2.bos_id], [hello]) == ["Hello", ""]
    assert stream(llama2, [llama2.bos_id], [hello], skip_special_tokens=False) == [" Hello", ""]
    assert stream(llama2, llama2.encode("Say"), [hello]) == [" Hello", ""]


def test_special_tokens_are_shown_on_request(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a<|eos|>b")
    assert stream(byte_level, [], [ids]) == ["ab", ""]
    assert stream(byte_level, [], [ids], skip_special_tokens=False) == ["a<|eos|>b", ""]


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_length_does_not_matter(name: str, request: pytest.FixtureRequest) -> None:
    """Counts the tokens looked at: of a long prompt, only a few at its ends."""
    tokenizer: Tokenizer = request.getfixturevalue(name)

    class Counting(list):
        looks = 0

        def __getitem__(self, key: int | slice) -> int | list[int]:
            self.looks += len(range(len(self))[key]) if isinstance(key, slice) else 1
            return super().__getitem__(key)

    prompt = Counting(tokenizer.encode("the hello world " * 500))
    Detokenizer(tokenizer, prompt)
    assert prompt.looks < 40 < len(prompt)


# Stop strings


def shown(stop: Sequence[str], chunks: Sequence[str], include: bool = False) -> tuple[list[str], str | None]:
    cutter = StopStrings(stop, include)
    pieces = [cutter.push(chunk)[0] for chunk in chunks]
    return [*pieces, cutter.flush()], cutter.matched


def first_match(stop: Sequence[str], text: str) -> tuple[int, str] | None:
    """Return the end and the spelling of the match that ends first, the longest of them."""
    for end in range(len(text) + 1):
        ending = [word for word in stop if text.endswith(word, 0, end)]
        if ending:
            return end, max(ending, key=len)
    return None


STOPS = st.lists(st.text("ab\n😀", min_size=1, max_size=5), max_size=4)


@settings(max_examples=400, deadline=None)
@given(stop=STOPS, text=st.text("ab\n😀", max_size=40), include=st.booleans(), seed=st.integers(0, 1 << 32))
def test_any_split_shows_the_text_up_to_the_first_stop_string(
    stop: list[str], text: str, include: bool, seed: int
) -> None:
    pieces, matched = shown(stop, cut(text, random.Random(seed)), include)
    found = first_match(stop, text)
    if found is None:
        assert ("".join(pieces), matched) == (text, None)
    else:
        end, word = found
        assert ("".join(pieces), matched) == (text[: end if include else end - len(word)], word)


@settings(max_examples=300, deadline=None)
@given(stop=STOPS, text=st.text("ab\n", max_size=30))
def test_what_is_held_back_is_exactly_what_may_become_a_stop_string(stop: list[str], text: str) -> None:
    cutter = StopStrings(stop)
    seen = ""
    for at, char in enumerate(text):
        piece, matched = cutter.push(char)
        seen += piece
        if matched:
            return
        sofar = text[: at + 1]
        held = max((n for word in stop for n in range(len(word)) if sofar.endswith(word[:n])), default=0)
        assert seen == sofar[: len(sofar) - held]


def test_nothing_comes_after_a_match() -> None:
    cutter = StopStrings(["END"])
    assert cutter.push("a E") == ("a ", None)
    assert cutter.push("ND b") == ("", "END")
    assert cutter.push("c") == ("", "END")
    assert cutter.flush() == ""


def test_text_held_back_comes_out_at_the_end() -> None:
    assert shown(["###", "\n\n"], ["a#", "#b\n"]) == (["a", "##b", "\n"], None)
    assert shown([], ["a#"]) == (["a#", ""], None)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty") as error:
        StopStrings(["a", ""])
    assert error.value.field == "stop"


def test_work_grows_with_the_text_and_not_with_its_product_with_the_stop_strings() -> None:
    """Counts automaton steps on the worst input: long near matches of long stop strings."""

    class Counting(StopStrings):
        steps = 0

        def _next(self, state: int, char: str) -> int:
            self.steps += 1
            while state and char not in self._goto[state]:
                self.steps += 1
                state = self._fail[state]
            return self._goto[state].get(char, 0)

    counts = []
    for size in (2_000, 4_000):
        cutter = Counting(["a" * 200 + "b", "a" * 100 + "c"])
        cutter.steps = 0
        for _ in range(size // 100):
            cutter.push("a" * 99 + "d")
        counts.append(cutter.steps)
    assert counts[1] <= 2.1 * counts[0] <= 2.1 * 2 * 2_000
