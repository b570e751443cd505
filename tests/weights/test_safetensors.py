"""The safetensors header checker, with the format's own library as oracle (R55)."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
from collections.abc import Callable

import pytest
import safetensors
import torch

from octavo.weights.safetensors import BITS, DTYPES, Malformed, read_header

# Where we refuse on purpose what the library lets pass. Anything else must agree.
STRICTER = ("comes twice", "must have exactly the fields", "has the unknown dtype {", "is too large")


def build(header: bytes | str, data: int = 0, length: int | None = None) -> bytes:
    """A file with this header and `data` bytes behind it; `length` overrides what the file says of its header."""
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


def ours(file: bytes) -> tuple[dict[str, object] | None, str]:
    """The entries with offsets counted from the data, or None and the reason."""
    try:
        entries = read_header(io.BytesIO(file), len(file))
    except Malformed as error:
        return None, str(error)
    return {name: (entry.dtype, list(entry.shape), entry.stop - entry.start) for name, entry in entries.items()}, ""


def theirs(file: bytes) -> dict[str, object] | None:
    try:
        return {name: (t["dtype"], list(t["shape"]), len(t["data"])) for name, t in safetensors.deserialize(file)}
    except safetensors.SafetensorError:
        return None


def tensor(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = tensor()


REFUSED = [
    (b"", "a header length takes 8"),
    (b"1234567", "a header length takes 8"),
    (build("{}", length=3), "header claims 3 bytes, but the file has 10"),
    (build("{}", length=100_000_001), "at most 100000000 are allowed"),
    (build("{}", length=2**64 - 1), "at most 100000000 are allowed"),
    (build(b'{"\xff":1}'), "not UTF-8"),
    (build("{"), "not JSON"),
    (build("{} x"), "not JSON"),
    (build("[]"), "not a JSON object"),
    (build("[" * 10**5), "nested too deeply"),
    (build('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "has the shape [nan]"),
    (build('{"a":{"dtype":"U8","shape":[0.0],"data_offsets":[0,0]}}'), "has the shape [nan]"),
    (build('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'), "has the shape [nan]"),
    (build('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,1e400]}}'), "has the data_offsets [0, nan]"),
    (build('{"a":' + "9" * 10**5 + "}"), "exactly the fields"),
    (build('{"\\ud800":1}'), "half a surrogate pair"),
    (build('{"__metadata__":{"a":1}}'), "must map strings to strings"),
    (build('{"__metadata__":[]}'), "must map strings to strings"),
    (build(f'{{"a":{json.dumps(GOOD)},"a":{json.dumps(GOOD)}}}', 4), "'a' comes twice"),
    (build('{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', 4), "'dtype' comes twice"),
    (build(json.dumps({"a": GOOD | {"strides": [1]}}), 4), "exactly the fields"),
    (build('{"a":["U8",[4],[0,4]]}', 4), "exactly the fields"),
    (build(json.dumps({"a": tensor("C128", [1], [0, 16])}), 16), "unknown dtype 'C128'"),
    (build(json.dumps({"a": tensor(shape=[4, None])}), 4), "has the shape"),
    (build(json.dumps({"a": tensor(shape=[True] * 4)}), 4), "has the shape"),
    (build(json.dumps({"a": tensor(offsets=[0, 4, 4])}), 4), "has the data_offsets"),
    (build(json.dumps({"a": tensor(offsets=[4, 0])}), 4), "needs 4 bytes and has [4, 0)"),
    (build(json.dumps({"a": tensor("F32")}), 4), "needs 16 bytes and has [0, 4)"),
    (build(json.dumps({"a": tensor("F4", [3], [0, 1])}), 1), "needs 1.5 bytes"),
    (build(json.dumps({"a": tensor(shape=[2**32, 2**32, 2**62], offsets=[0, 0])})), "is too large"),
    (build(json.dumps({"a": tensor(shape=[2**32, 2**32], offsets=[0, 0])})), "is too large"),
    (build(json.dumps({"a": GOOD, "b": GOOD}), 4), "begins at byte"),
    (build(json.dumps({"a": GOOD, "b": tensor(offsets=[2, 6])}), 6), "begins at byte"),
    (build(json.dumps({"a": tensor(offsets=[1, 5])}), 5), "begins at byte"),
    (build(json.dumps({"a": GOOD, "b": tensor(offsets=[5, 9])}), 9), "begins at byte"),
    (build(json.dumps({"a": GOOD}), 5), "(too long)"),
    (build(json.dumps({"a": GOOD}), 3), "(truncated)"),
]


@pytest.mark.parametrize(("file", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_a_bad_header_is_refused_for_its_reason(file: bytes, reason: str) -> None:
    found, why = ours(file)
    assert found is None
    assert reason in why
    assert "\n" not in why


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_of_the_format_is_known_and_has_its_size(dtype: str) -> None:
    file = build(json.dumps({"a": tensor(dtype, [2, 4], [0, BITS[dtype]])}), BITS[dtype])
    assert ours(file)[0] == {"a": (dtype, [2, 4], BITS[dtype])}
    if dtype in DTYPES and hasattr(torch, DTYPES[dtype]):
        assert getattr(torch, DTYPES[dtype]).itemsize * 8 == BITS[dtype]
    else:
        assert dtype in ("F4", "F6_E2M3", "F6_E3M2")


def test_header_order_spaces_metadata_and_empty_tensors_are_fine() -> None:
    header = {"b": tensor(offsets=[4, 8]), "__metadata__": {"format": "pt"}, "z": tensor(shape=[0, 9], offsets=[4, 4])}
    file = build(" \n" + json.dumps(header | {"a": GOOD, "s": tensor(shape=[], offsets=[8, 9])}) + "   ", 9)
    assert ours(file)[0] == theirs(file)
    assert len(ours(file)[0] or ()) == 4


def sample(draw: random.Random) -> tuple[dict[str, object], int]:
    """A valid header as data, and how many bytes of data it describes."""
    header: dict[str, object] = {}
    end = 0
    for i in range(draw.randrange(5)):
        dtype = draw.choice(list(BITS))
        shape = [draw.choice((0, 1, 2, 3, 8)) for _ in range(draw.randrange(4))]
        shape += [4] if BITS[dtype] < 8 else []
        size = BITS[dtype]
        for each in shape:
            size *= each
        header[draw.choice("abcdefgh") + "é." * draw.randrange(2) + str(i)] = tensor(
            dtype, shape, [end, end + size // 8]
        )
        end += size // 8
    if draw.random() < 0.3:
        header["__metadata__"] = draw.choice(({}, {"format": "pt"}, None, {"a": "b", "c": "é"}))
    names = list(header)
    draw.shuffle(names)
    return {name: header[name] for name in names}, end


NUMBERS = [0, 1, 2, 3, 4, 7, 8, -1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**65]
VALUES = [
    *NUMBERS,
    -0.0,
    1.5,
    1e400,
    None,
    True,
    "",
    "U8",
    "F32",
    "f32",
    [],
    {},
    [0],
    [0, 0],
    [0, 4],
    {"U8": None},
    "\ud800",
]


def odd(draw: random.Random) -> object:
    """A value some field does not take, fresh: the next mutation may change it."""
    return copy.deepcopy(draw.choice(VALUES))


def mutate_structure(header: dict[str, object], draw: random.Random) -> dict[str, object]:
    """Change one or two values somewhere in the header, drop a field, or add one."""
    for _ in range(draw.choice((1, 1, 2))):
        names = [name for name in header if isinstance(header[name], dict)]
        if not names or draw.random() < 0.1:
            header[draw.choice(("x", "__metadata__", "", "\ud800"))] = odd(draw)
            continue
        fields = header[draw.choice(names)]
        assert isinstance(fields, dict)
        key = draw.choice([*fields, "extra"])
        old = fields.get(key)
        if isinstance(old, list) and old and draw.random() < 0.7:
            old = list(old)
            old[draw.randrange(len(old))] = draw.choice(NUMBERS) if draw.random() < 0.7 else odd(draw)
            fields[key] = old
        elif draw.random() < 0.2:
            fields.pop(key, None)
        else:
            fields[key] = draw.choice(list(BITS)) if key == "dtype" and draw.random() < 0.5 else odd(draw)
    return header


TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"0",
    b"-",
    b"1e3",
    b".5",
    b"null",
    b" ",
    b"\n",
    b"\x00",
    b"\xff",
    b"\xc3",
]
TOKENS += [
    b"\\u0041",
    b"\\ud83d",
    b"\\",
    b"\xef\xbb\xbf",
    b"NaN",
    b"Infinity",
    b"//",
    b"\t",
    b"'",
    b"01",
    b"+1",
    b'"a":',
]


def mutate_bytes(header: bytes, draw: random.Random) -> bytes:
    """Insert, delete, overwrite or double a few bytes of the header's text."""
    text = bytearray(header)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(text) + 1)
        stop = min(len(text), at + draw.choice((1, 1, 2, 8)))
        text[at : draw.choice((at, stop))] = draw.choice(
            (b"", draw.choice(TOKENS), bytes([draw.randrange(256)]), text[at:stop] * 2)
        )
    return bytes(text)


def mutant(draw: random.Random) -> bytes:
    """A safetensors file that is valid, or was before something happened to it."""
    header, size = sample(draw)
    how = draw.random()
    if how < 0.45:
        header = mutate_structure(header, draw)
    text = json.dumps(header, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    if how > 0.55:
        text = mutate_bytes(text, draw)
    size = max(0, size + draw.choice((0, 0, 0, 0, 0, 1, -1, 8)))
    file = bytearray(build(text, min(size, 10**6)))
    if draw.random() < 0.1:
        file[draw.randrange(8)] = draw.randrange(256)
    return bytes(file[: draw.randrange(len(file) + 1)] if draw.random() < 0.03 else file)


def disagreement(file: bytes) -> str | None:
    """What the two say when they disagree and it is not one of the reasons we are stricter for."""
    mine, why = ours(file)
    oracle = theirs(file)
    if mine == oracle or (mine is None and any(reason in why for reason in STRICTER)):
        return None
    return f"{file!r}: ours {mine} ({why}), theirs {oracle}"


def fuzz(rounds: int, seed: int, make: Callable[[random.Random], bytes] = mutant) -> tuple[int, int]:
    """Run `rounds` mutants through both; how many both accept, and how many only the library does."""
    draw = random.Random(seed)
    accepted = stricter = 0
    for _ in range(rounds):
        file = make(draw)
        assert (problem := disagreement(file)) is None, problem
        mine = ours(file)[0]
        accepted += mine is not None
        stricter += mine is None and theirs(file) is not None
    return accepted, stricter


def test_the_checker_agrees_with_the_library_on_mutants() -> None:
    accepted, stricter = fuzz(5_000, seed=0)
    assert accepted > 500  # the mutants are not all hopeless
    assert stricter < 250


@pytest.mark.slow
def test_the_checker_agrees_with_the_library_on_many_mutants() -> None:
    fuzz(100_000, seed=1)


def test_a_header_bomb_is_refused_in_little_memory_and_time() -> None:
    for header in (b'{"a":1,' * 10**5, b'{"a":' * 10**5, b'"' + b"a" * 10**6 + b'"', b"[" + b"[]," * 10**5):
        assert ours(build(header))[0] is None
    names = b",".join(b'"%d":1' % i for i in range(100_000))
    assert "comes twice" in ours(build(b'{"x":1,' + names + b',"x":1}'))[1]
