"""GGUF headers: what a whole file says, the one line a broken one gets, and mutants of small files by the thousand."""

from __future__ import annotations

import random
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from octavo.errors import StartupError
from octavo.gguf.config import config_of, generation_of
from octavo.gguf.file import GGUF, KINDS, Malformed, parse

from .gguf_bytes import ALIGNMENT, ARRAY, STRING, file, info, pair, small, string, strings, text, u32


def write(folder: Path, data: bytes, name: str = "m.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        GGUF(path)
    assert str(path.parent) in caught.value.message and "\n" not in caught.value.message
    return caught.value.message


def test_the_table_of_types_is_the_formats() -> None:
    known = {kind.name: (kind.elements, kind.size) for kind in KINDS.values()}
    theirs = {type.name: size for type, size in gguf.GGML_QUANT_SIZES.items() if int(type) in KINDS}
    assert known == theirs
    assert all(gguf.GGMLQuantizationType(number).name == kind.name for number, kind in KINDS.items())


def test_every_type_of_metadata_is_read(tmp_path: Path) -> None:
    metadata = GGUF(write(tmp_path, small())).metadata
    assert [metadata[f"s{type}"] for type in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12)] == [1] * 11
    assert metadata["s7"] is True and metadata["a7"] == [True, False, True]
    assert all(metadata[f"a{type}"] == [1, 0, 1] for type in (0, 1, 2, 3, 4, 5, 6, 10, 11, 12))
    assert (metadata["name"], metadata["words"]) == ("größe", ["", "a", "日本"])


def test_tensors_have_their_shape_outermost_first_and_their_place(tmp_path: Path) -> None:
    model = GGUF(write(tmp_path, small()))
    a, b, c, d = model.tensors.values()
    assert [entry.shape for entry in (a, b, c, d)] == [(3, 4), (2, 32), (256,), (2, 2, 2)]
    assert [entry.kind.name for entry in (a, b, c, d)] == ["F32", "Q8_0", "Q4_K", "F16"]
    base = a.start
    assert base % ALIGNMENT == 0
    assert [(e.start - base, e.stop - e.start) for e in (a, b, c, d)] == [(0, 48), (64, 68), (160, 144), (320, 16)]
    assert model.maps[0][a.start : a.stop] == bytes(range(48))


def test_what_the_formats_own_writer_writes_is_read_as_its_own_reader_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "w.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_array("x.array", [1.5, -2.0])
    writer.add_array("x.words", ["one", "two"])
    writer.add_bool("x.flag", True)
    writer.add_int64("x.long", -(2**40))
    writer.add_tensor("t", np.arange(6, dtype=np.float16).reshape(2, 3))
    writer.add_tensor("q", np.zeros((4, 2 * 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model, reader = GGUF(path), gguf.GGUFReader(path)
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert dict(model.metadata) == theirs
    for tensor in reader.tensors:
        entry = model.tensors[tensor.name]
        assert (entry.start, entry.stop - entry.start) == (tensor.data_offset, tensor.n_bytes)
        assert entry.shape == tuple(int(size) for size in tensor.shape[::-1])


@pytest.mark.parametrize("kind", ["name", "number", "flag", "array", "strings", "missing"])
def test_metadata_of_another_type_is_named(tmp_path: Path, kind: str) -> None:
    metadata = GGUF(write(tmp_path, file([string("name", "x"), strings("words", ["x"]), u32("n", 1)]))).metadata
    wrong = {
        "name": lambda: metadata.string("n"),
        "number": lambda: metadata.number("name"),
        "flag": lambda: metadata.flag("n"),
        "array": lambda: metadata.array("words"),
        "strings": lambda: metadata.strings("name"),
        "missing": lambda: metadata.integer("no.such"),
    }
    with pytest.raises(StartupError, match=r"'\w+' must be|its metadata lacks no\.such"):
        wrong[kind]()


ONE = info("t", (32, 2), 8, 0)
BROKEN = {
    "empty": (b"", "it is empty"),
    "magic": (file(magic=b"GGML"), "begins with b'GGML'"),
    "old": (file(version=1), "it has version 1; octavo reads versions 2 and 3"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(16), "big-endian"),
    "cut": (file()[:15], "ends inside a tensor count"),
    "many tensors": (file(num_tensors=2**63), "claims 9223372036854775808 tensors"),
    "many keys": (file(num_pairs=2**63), "claims 0 tensors and 9223372036854775808 keys"),
    "more tensors than there are": (file([], [ONE], bytes(68), num_tensors=9), "ends inside a|has|comes twice"),
    "empty key": (file([u32("", 1)]), "a key at byte 32 has 0 bytes"),
    "long key": (file([struct.pack("<Q", 2**60)]), "a key at byte 32 has 1152921504606846976 bytes"),
    "key not UTF-8": (file([pair(b"\xff", 4, bytes(4))]), "is not UTF-8"),
    "key twice": (file([u32("a", 1), u32("a", 2)]), "key 'a' comes twice"),
    "value type": (file([pair("a", 13, bytes(8))]), "value of 'a' has the unknown type 13"),
    "long string": (file([pair("a", STRING, struct.pack("<Q", 2**62))]), "ends inside a value of 'a'"),
    "long array": (file([pair("a", ARRAY, struct.pack("<IQ", 4, 2**62))]), "ends inside a value of 'a'"),
    "many strings": (file([pair("a", ARRAY, struct.pack("<IQ", STRING, 2**50))]), "claims 1125899906842624 strings"),
    "string in an array": (
        file([pair("a", ARRAY, struct.pack("<IQQ", STRING, 1, 2**40) + bytes(64))]), "ends inside a value of 'a'",
    ),
    "nested array": (file([pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "array of type 9"),
    "alignment": (file([u32("general.alignment", 24)]), "general.alignment is 24"),
    "no alignment": (file([u32("general.alignment", 0)]), "general.alignment is 0"),
    "tensor twice": (file([], [ONE, info("t", (32,), 8, 96)], bytes(160)), "tensor 't' comes twice"),
    "no axes": (file([], [info("t", (), 0, 0)], bytes(32)), "has 0 axes"),
    "five axes": (file([], [info("t", (1,) * 5, 0, 0)], bytes(32)), "has 5 axes"),
    "zero": (file([], [info("t", (4, 0), 0, 0)], bytes(32)), r"impossible shape \[0, 4\]"),
    "overflow": (file([], [info("t", (2**40, 2**40), 0, 0)], bytes(32)), "impossible shape"),
    "wraps to zero": (file([], [info("t", (2**32, 2**32), 0, 0)], bytes(32)), "impossible shape"),
    "part of a block": (file([], [info("t", (33, 2), 8, 0)], bytes(160)), "rows of 33; Q8_0 needs multiples of 32"),
    "unknown type": (file([], [info("t", (32,), 99, 0)], bytes(64)), "unknown type 99"),
    "withdrawn type": (file([], [info("t", (32,), 4, 0)], bytes(64)), "unknown type 4"),
    "crooked": (file([], [info("t", (4,), 0, 4)], bytes(64)), "begins at 4, which is no multiple"),
    "overlap": (file([], [ONE, info("u", (4,), 0, 64)], bytes(160)), "tensors 't' and 'u' overlap"),
    "same place": (file([], [ONE, info("u", (32, 2), 8, 0)], bytes(160)), "overlap"),
    "outside": (file([], [info("t", (4,), 0, 2**40)], bytes(64)), r"ends at byte 1099511627\d+ and the file at"),
    "truncated": (file([], [ONE], bytes(67)), r"truncated"),
    "no data at all": (file([], [ONE])[:-1], "ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_header_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    data, reason = BROKEN[case]
    message = refusal(write(tmp_path, data))
    assert "m.gguf is no valid GGUF file: " in message
    assert re.search(reason, message), message


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "x.gguf")
    (tmp_path / "d.gguf").mkdir()
    assert "is not a regular file" in refusal(tmp_path / "d.gguf")


def split(folder: Path, count: int, total: int | None = None) -> list[Path]:
    """Parts as llama.cpp splits them: metadata in the first, two tensors in each."""
    paths = []
    for index in range(count):
        pairs = [pair("split.no", 2, struct.pack("<H", index)), pair("split.count", 2, struct.pack("<H", count))]
        pairs += [pair("split.tensors.count", 5, struct.pack("<i", 2 * count if total is None else total))]
        infos = [info(f"t{index}.{i}", (4,), 0, 32 * i) for i in range(2)]
        data = file([string("general.name", "x"), *pairs] if index == 0 else pairs, infos, bytes([index]) * 64)
        paths.append(write(folder, data, f"big-{index + 1:05}-of-{count:05}.gguf"))
    return paths


@pytest.mark.parametrize("given", [0, 2])
def test_any_part_of_a_split_model_opens_it_whole(tmp_path: Path, given: int) -> None:
    model = GGUF(split(tmp_path, 3)[given])
    assert list(model.tensors) == ["t0.0", "t0.1", "t1.0", "t1.1", "t2.0", "t2.1"]
    assert model.metadata["general.name"] == "x"
    for entry in model.tensors.values():
        assert model.maps[entry.part][entry.start : entry.stop] == bytes([entry.part]) * 16
    assert model.numbers("t0.0") == (0.0,) * 4


def test_a_split_model_with_a_part_missing_or_wrong_is_named(tmp_path: Path) -> None:
    first, second, third = split(tmp_path, 3)
    content = second.read_bytes()
    second.unlink()
    assert f"{second} is missing; a split model needs all its 3 parts" in refusal(first)
    second.write_bytes(third.read_bytes())
    assert "it is part 3 of 3 by its metadata and another by its name" in refusal(first)
    second.write_bytes(content)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(content)
    assert "alone.gguf is part 2 of 3; name the parts" in refusal(alone)
    second.write_bytes(content.replace(b"t1.0", b"t0.0"))
    assert "tensor 't0.0' is in another part already" in refusal(third)
    assert "split.tensors.count says 7" in refusal(split(tmp_path, 2, total=7)[0])
    nothing = write(tmp_path, small(), "none-00001-of-00000.gguf")
    assert "part of a model of no parts" in refusal(nothing)


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies of a file with bytes flipped, cut, doubled, or a length, count or offset replaced by an unlikely one."""
    rng = random.Random(seed)
    numbers = range(len(data) - 8)
    unlikely = (0, 1, 2, 7, 8, 31, 32, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**62, 2**63 - 1, 2**64 - 1)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            kind, at = rng.randrange(6), rng.randrange(max(1, len(mutant)))
            if kind == 0 and mutant:
                mutant[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and mutant:
                mutant[at] = rng.randrange(256)
            elif kind == 2:
                del mutant[at:]
            elif kind == 3:
                del mutant[at : at + rng.choice((1, 4, 8, 40))]
            elif kind == 4:
                mutant[at:at] = mutant[at : at + rng.choice((1, 8, 64))]
            else:
                width, at = rng.choice(("<I", "<Q")), rng.choice(numbers)
                value = rng.choice(unlikely) + rng.choice((-1, 0, 1))
                raw = struct.pack("<Q", value & 2**64 - 1)[: struct.calcsize(width)]
                mutant[at : at + len(raw)] = raw
        yield bytes(mutant)


def outcome(path: Path) -> str | None:
    """Open a file and decode all of it; returns the refusal's message. Any other error is the test's."""
    try:
        model = GGUF(path)
        for key in model.metadata:
            model.metadata[key]
        generation_of(model)
        config_of(model)
    except StartupError as error:
        return error.message
    return None


def fuzz(data: bytes, count: int, seed: int, folder: Path) -> int:
    """Open mutants; returns how many are refused."""
    refused = 0
    for mutant in mutants(data, count, seed):
        try:
            parse(mutant)
        except Malformed:
            refused += 1
            continue
        message = outcome(write(folder, mutant))
        assert message is None or "\n" not in message
        refused += message is not None
    return refused


def tiny_model() -> bytes:
    """A file whose metadata is a whole Llama configuration with a vocabulary."""
    numbers = {"embedding_length": 8, "block_count": 1, "attention.head_count": 2, "feed_forward_length": 8}
    pairs = [string("general.architecture", "llama"), *(u32(f"llama.{k}", v) for k, v in numbers.items())]
    pairs += [
        u32("llama.context_length", 64),
        pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
    ]
    pairs += [strings("tokenizer.ggml.tokens", ["<s>", "</s>", "a", "b"]), u32("tokenizer.ggml.eos_token_id", 1)]
    pairs += [pair("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ4i", 5, 4, 3, 3, 1, 1))]
    infos = [info("token_embd.weight", (8, 4), 0, 0), info("rope_freqs.weight", (2,), 0, 128)]
    return file(pairs, infos, np.ones(34, np.float32).tobytes() + bytes(24))


def test_the_files_that_are_mutated_are_valid(tmp_path: Path) -> None:
    model = GGUF(write(tmp_path, tiny_model()))
    assert config_of(model)["vocab_size"] == 4 and generation_of(model)["eos_token_id"] == [1]


def test_two_thousand_mutants_are_read_or_refused(tmp_path: Path) -> None:
    start = time.monotonic()
    assert fuzz(small(), 1_000, 0, tmp_path) > 500
    assert 500 < fuzz(tiny_model(), 1_000, 0, tmp_path) < 1_000
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_hundred_thousand_mutants_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    assert fuzz(small(), 10_000, seed, tmp_path) > 5_000
    assert fuzz(tiny_model(), 10_000, seed + 100, tmp_path) > 5_000


def test_mutants_of_a_real_vocabulary_are_read_or_refused(shared_data: Path, tmp_path: Path) -> None:
    data = (shared_data / "tokenizers" / "ggml-vocab-llama-spm.gguf").read_bytes()
    head = data[:4096]  # where the lengths are that matter; the arrays follow
    for mutant in mutants(head, 60, 3):
        message = outcome(write(tmp_path, mutant + data[4096:]))
        assert message is not None and "\n" not in message


def test_unlikely_keys_are_shown_on_one_line(tmp_path: Path) -> None:
    data = file([text("a\nb" * 500) + struct.pack("<I", 99)])
    assert len(refusal(write(tmp_path, data))) < 300 + len(str(tmp_path))
