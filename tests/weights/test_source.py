"""WeightSource: names, slices, the book of what was read, and which of a folder's files are opened."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from octavo.checkpoint import Checkpoint
from octavo.errors import StartupError
from octavo.weights import torch_bin
from octavo.weights.safetensors import SafetensorsFile
from octavo.weights.source import TensorSource, WeightSource, open_source

STORIES = Path(__file__).parents[3] / "shared" / "data" / "models" / "stories260K"


def tensors() -> dict[str, Tensor]:
    """A few tensors of several formats, an empty one and a scalar among them."""
    draw = torch.Generator().manual_seed(0)
    return {
        "model.embed.weight": torch.randn(5, 4, generator=draw),
        "model.layers.0.q.weight": torch.randn(6, 4, generator=draw).bfloat16(),
        "model.layers.0.k.weight": torch.randn(2, 4, generator=draw).half(),
        "model.layers.0.scale": torch.tensor(2.5),
        "model.layers.1.q.weight": torch.randn(6, 4, generator=draw).to(torch.float8_e4m3fn),
        "model.layers.10.mask": torch.tensor([True, False]),
        "model.none": torch.empty(0, 3),
        "head.codes": torch.arange(7, dtype=torch.uint8),
    }


def equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.double(), b.double())


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint("test", folder, {}, {})


def refusal(folder: Path) -> str:
    with pytest.raises(StartupError) as caught:
        open_source(checkpoint(folder))
    assert "\n" not in caught.value.message
    return caught.value.message


def save_sharded(folder: Path, suffix: str, index: bool = True) -> None:
    """The tensors in two shards, split by name, with or without an index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = [f"{stem}-{i:05}-of-00002{suffix}" for i in (1, 2)]
    where = {name: names[i % 2] for i, name in enumerate(tensors())}
    for file in names:
        part = {name: tensor for name, tensor in tensors().items() if where[name] == file}
        save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
        save(part, folder / file)
    if index:
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def save_one(folder: Path) -> None:
    safetensors.torch.save_file(tensors(), folder / "model.safetensors")


LAYOUTS = {
    "safetensors": save_one,
    "shards": lambda folder: save_sharded(folder, ".safetensors"),
    "shards without an index": lambda folder: save_sharded(folder, ".safetensors", index=False),
    "bin": lambda folder: torch.save(tensors(), folder / "pytorch_model.bin"),
    "bin shards": lambda folder: save_sharded(folder, ".bin"),
}


@pytest.fixture(params=LAYOUTS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> WeightSource:
    LAYOUTS[request.param](tmp_path)
    return open_source(checkpoint(tmp_path))


def test_every_layout_gives_the_same_tensors_and_slices(source: WeightSource) -> None:
    assert source.unread() == sorted(tensors())
    assert source.total_bytes == sum(tensor.nbytes for tensor in tensors().values())
    for name, tensor in tensors().items():
        assert source.has(name)
        assert source.shape(name) == tuple(tensor.shape)
        assert equal(source.read(name), tensor)
        if tensor.dim() == 2:
            assert equal(source.read(name, slice(1, 3)), tensor[1:3])
            assert equal(source.read(name, columns=slice(0, 2)), tensor[:, :2])
            assert equal(source.read(name, slice(1, None), slice(1, 3)), tensor[1:, 1:3])
    assert source.unread() == []


def test_views_share_one_book_of_what_was_read(source: WeightSource) -> None:
    layers = source.at("model").at("layers")
    layers.at("0.q").read("weight")
    assert "model.layers.0.q.weight" not in source.unread()
    assert layers.at("1").unread() == ["q.weight"]  # and not layer 10's
    assert source.at("").unread() == source.unread()
    assert not layers.at("0").has("q")
    layers.at("10").shape("mask")
    assert layers.at("10").unread() == ["mask"]


def test_a_missing_tensor_is_named_with_its_file_and_near_names(source: WeightSource) -> None:
    for ask in (source.at("model.layers.0").read, source.at("model.layers.0").shape):
        with pytest.raises(StartupError) as caught:
            ask("qq.weight")
        assert "tensor model.layers.0.qq.weight is missing from" in caught.value.message
        assert "model.layers.0.q.weight" in caught.value.message.split("near it are")[1]
        assert "model" in caught.value.message.split("missing from ")[1].split(";")[0]


def test_a_source_over_tensors_in_memory_is_a_weight_source() -> None:
    source: WeightSource = TensorSource({"a.b": torch.ones(2, 2)})
    assert source.at("a").read("b", columns=slice(1)).shape == (2, 1)
    assert (source.total_bytes, source.unread()) == (16, [])


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs real test data in ../shared/data beside the checkout")
def test_a_real_checkpoint_reads_as_its_own_library_reads_it() -> None:
    source = open_source(Checkpoint.resolve(str(STORIES)))
    expected = safetensors.torch.load_file(STORIES / "model.safetensors")
    assert source.unread() == sorted(expected)
    assert all(equal(source.read(name), tensor) for name, tensor in expected.items())


def test_reading_one_slice_reads_only_its_part_of_the_file(tmp_path: Path) -> None:
    rows = 64 * 2**20 // 4096
    safetensors.torch.save_file({"w": torch.zeros(rows, 1024)}, tmp_path / "model.safetensors")
    before = resident_bytes()
    source = open_source(checkpoint(tmp_path))
    assert source.read("w", slice(8, 24)).sum() == 0
    assert resident_bytes() - before < 16 * 2**20


def resident_bytes() -> int:
    """This process's resident memory, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    save_one(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    open_source(checkpoint(tmp_path)).read("head.codes").zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_tensor_outlives_its_source(tmp_path: Path) -> None:
    save_one(tmp_path)
    tensor = open_source(checkpoint(tmp_path)).read("model.embed.weight")
    (tmp_path / "model.safetensors").unlink()
    assert equal(tensor, tensors()["model.embed.weight"])


def test_unaligned_data_is_read_right(tmp_path: Path) -> None:
    expected = torch.randn(3, 4)
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode()
    header += b" " * ((3 - len(header)) % 8)  # data then begins at 8 n + 3
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + expected.numpy().tobytes())
    assert equal(SafetensorsFile(path)["w"], expected)


def test_safetensors_are_preferred_and_a_bin_beside_them_is_not_opened(tmp_path: Path) -> None:
    save_one(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a zip")
    (tmp_path / "pytorch_model.bin.index.json").write_bytes(b"{")
    assert open_source(checkpoint(tmp_path)).has("head.codes")


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    assert "has no weights: it is empty" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "it holds config.json; it needs model.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("index", [True, False])
def test_a_missing_or_truncated_shard_is_named(tmp_path: Path, suffix: str, index: bool) -> None:
    save_sharded(tmp_path, suffix, index)
    shard = sorted(tmp_path.glob(f"*-00002-of-*{suffix}"))[0]
    content = shard.read_bytes()
    for keep in (0, 4, 100, len(content) // 2, len(content) - 1):
        shard.write_bytes(content[:keep])
        assert str(shard) in refusal(tmp_path)
    shard.unlink()
    assert f"{shard} is missing" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_tensor_the_index_puts_in_the_wrong_shard_is_named(tmp_path: Path, suffix: str) -> None:
    save_sharded(tmp_path, suffix)
    path = next(tmp_path.glob("*.index.json"))
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.none"] = files[1 - files.index(index["weight_map"]["model.none"])]
    path.write_text(json.dumps(index))
    assert "has no tensor model.none, which the index puts there" in refusal(tmp_path)


def test_a_tensor_the_index_forgets_is_reported_as_unread(tmp_path: Path) -> None:
    save_sharded(tmp_path, ".safetensors")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["head.codes"]
    path.write_text(json.dumps(index))
    assert "head.codes" in open_source(checkpoint(tmp_path)).unread()


OUTSIDE = [
    "../{}",
    "/{}",
    "x/{}",
    "x\\{}",
    "C:{}",
    "..\\{}",
    ".{}",
    "{}\0.safetensors",
    "{}\n.safetensors",
    "",
    3,
    None,
    "x" * 300,
]
OUTSIDE += [["model.safetensors"], {"a": 1}, "/etc/passwd"]


@pytest.mark.parametrize("name", OUTSIDE, ids=range(len(OUTSIDE)))
def test_an_index_never_leads_out_of_its_folder(tmp_path: Path, name: object) -> None:
    inside = tmp_path / "inside"
    (inside / "x").mkdir(parents=True)
    for folder in (tmp_path, inside / "x"):
        safetensors.torch.save_file({"w": torch.ones(1)}, folder / "w.safetensors")
    if isinstance(name, str):
        name = name.format("w.safetensors")
    (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    assert "model.safetensors.index.json: weight_map names" in refusal(inside)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{", "\xff"])
def test_a_malformed_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="latin-1")
    assert "model.safetensors.index.json" in refusal(tmp_path)


class Canary:
    """An object whose pickle touches a file when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda canary: canary,
        lambda canary: {"w": canary},
        lambda canary: {"w": torch.ones(1), "optimizer": {"state": [canary]}},
        lambda canary: [torch.ones(1), canary],
        lambda canary: {"adapter": {"lora_A": {"default": canary}}},
    ],
)
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, wrap) -> None:
    canary = tmp_path / "canary"
    torch.save(wrap(Canary(canary)), tmp_path / "pytorch_model.bin")
    message = refusal(tmp_path)
    assert f"{tmp_path / 'pytorch_model.bin'} is damaged or holds more than tensors" in message
    assert "weights_only" not in message  # torch's advice to turn the guard off is not passed on
    assert not canary.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)  # the canary would have sung
    assert canary.exists()


def test_a_legacy_or_compressed_or_overflowing_bin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    canary = tmp_path / "canary"
    torch.save({"w": Canary(canary)}, path, _use_new_zipfile_serialization=False)
    assert "is not torch's zip format" in refusal(tmp_path)
    assert not canary.exists()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10**6)
    assert "claims more data than its" in refusal(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/weights.pkl", b"")
    assert "must hold one data.pkl" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"w": 1}, {1: torch.ones(1)}, {"w": {"a": torch.ones(1)}}, torch.ones(1)]
)
def test_a_bin_that_is_no_map_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert "convert it to safetensors" in refusal(tmp_path)


def test_sparse_and_meta_tensors_are_refused(tmp_path: Path) -> None:
    for tensor in (torch.eye(2).to_sparse(), torch.empty(2, device="meta")):
        torch.save({"w": tensor}, tmp_path / "pytorch_model.bin")
        assert "not a dense one" in refusal(tmp_path)


def test_a_bin_with_random_damage_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(4), "v": torch.nn.Parameter(torch.ones(2, 2))}, path)
    content = path.read_bytes()
    draw = torch.Generator().manual_seed(1)
    for _ in range(300):
        damaged = bytearray(content)
        for at in torch.randint(len(content), (4,), generator=draw).tolist():
            damaged[at] = int(torch.randint(256, (1,), generator=draw))
        path.write_bytes(damaged)
        with contextlib.suppress(StartupError):  # anything else fails the test
            open_source(checkpoint(tmp_path))


def test_an_old_torch_is_refused_before_the_file_is_opened() -> None:
    for version in ("2.5.1", "1.13.0+cpu", "2.0.0a0"):
        with pytest.raises(StartupError, match=r"install torch 2\.6 or newer"):
            torch_bin.check_torch(version)
    for version in ("2.6.0", "2.13.0+cpu", "3.0.1", "2.10.0.dev20260101+cpu"):
        torch_bin.check_torch(version)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_released_pages_are_no_longer_resident_and_are_read_again(tmp_path: Path) -> None:
    values = torch.arange(2**22, dtype=torch.int32)
    safetensors.torch.save_file({"weight": values}, tmp_path / "model.safetensors")
    source = TensorSource(SafetensorsFile(tmp_path / "model.safetensors"))
    assert torch.equal(source.read("weight"), values)
    before = resident_file_bytes()
    source.release()
    assert before - resident_file_bytes() > 0.9 * values.nbytes
    assert torch.equal(source.read("weight"), values) and source.bytes_read == values.nbytes


def resident_file_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))
