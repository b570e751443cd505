"""Platforms: choosing one, and what each says of itself."""

from __future__ import annotations

import importlib.util
import os
import re

import numpy as np
import pytest
import torch

from octavo.errors import StartupError
from octavo.platforms import native
from octavo.platforms.cpu import CpuPlatform
from octavo.platforms.cuda import CudaPlatform
from octavo.platforms.platform import select


def test_the_cpu_is_always_there() -> None:
    platform = select("cpu")
    assert platform.device == torch.device("cpu")
    assert platform.name
    assert platform.ops[-1] == "reference"
    assert platform.num_threads >= 1
    memory = platform.memory()
    assert 0 < memory.free_bytes <= memory.total_bytes


def test_auto_takes_a_gpu_when_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert {select(device).device.type for device in ("auto", None, "")} == {expected}


@pytest.mark.parametrize("device", ["tpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "CPU", "cuda:1\n", "cuda:9999"])
def test_an_unknown_device_names_the_choices(device: str) -> None:
    with pytest.raises(StartupError, match=r"use auto, cpu, cuda or cuda:<index>") as caught:
        select(device)
    assert "\n" not in caught.value.message
    assert caught.value.field == "device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_what_to_use() -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(StartupError, match=re.escape("use device=cpu")):
            select(device)


def test_stored_formats_are_kept_where_there_are_native_kernels() -> None:
    platform = CpuPlatform()
    assert platform.graphs == (None if native.library is None else "tape")
    if native.library is not None:
        assert [platform.preferred_dtype(stored) for stored in ("float32", "bfloat16", "float16")] == [
            "float32", "bfloat16", "float16",
        ]  # fmt: skip


def test_torch_gets_half_precision_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", None)
    plain = CpuPlatform(features=frozenset({"avx2", "avx512f"}))
    assert {plain.preferred_dtype(stored) for stored in ("float32", "bfloat16", "float16")} == {"float32"}
    for feature in ("avx512_bf16", "amx_bf16"):
        fast = CpuPlatform(features=frozenset({feature}))
        assert [fast.preferred_dtype(stored) for stored in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_pinning_sets_torchs_threads() -> None:
    before = torch.get_num_threads()
    platform = CpuPlatform()
    try:
        torch.set_num_threads(platform.num_threads + 1)
        platform.pin(0)
        assert torch.get_num_threads() == platform.num_threads
    finally:
        torch.set_num_threads(before)


def gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int], triton: bool = True) -> None:
    """Let torch see GPUs of these compute capabilities, whatever is in this machine."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU number {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if triton else None)


def test_a_gpu_is_chosen_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, (9, 0), (8, 0))
    for device, index in (("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)):
        platform = select(device)
        assert isinstance(platform, CudaPlatform)
        assert (platform.device, platform.name) == (torch.device("cuda", index), f"GPU number {index}")
        assert platform.ops == ("triton", "reference") and platform.graphs == "cuda"
        assert platform.attention == ("triton", "sdpa", "reference")
        assert platform.takes_float8 == (index == 0)


def test_a_gpu_that_is_not_there_is_refused_with_what_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, (9, 0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(StartupError, match=r"^device cuda:1: torch sees 1 GPU; use device=cpu$"):
        select("cuda:1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(StartupError, match="torch sees 1 GPU, with CUDA_VISIBLE_DEVICES='3'"):
        select("cuda:1")
    gpus(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(StartupError, match=r"sees no GPU \(is the driver installed\?\), with CUDA_VISIBLE_DEVICES=''"):
        select("cuda")


@pytest.mark.parametrize(("capability", "triton"), [((7, 5), True), ((9, 0), False)])
def test_a_gpu_without_tritons_kernels_runs_torchs(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], triton: bool
) -> None:
    gpus(monkeypatch, capability, triton=triton)
    platform = select("cuda")
    assert platform.ops == ("reference",) and platform.attention == ("sdpa", "reference") and platform.graphs is None
    assert platform.preferred_dtype("bfloat16") == ("bfloat16" if capability >= (8, 0) else "float16")
    assert {platform.preferred_dtype(stored) for stored in ("float32", "float16")} == {"float32", "float16"}


def test_products_on_a_gpu_are_float32s_and_the_same_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, (9, 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        select("cuda").pin(0)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.gpu
def test_what_goes_to_a_gpu_and_comes_back_is_the_same() -> None:
    platform = CudaPlatform()
    memory = platform.memory()
    assert 0 < memory.free_bytes <= memory.total_bytes
    platform.pin(0)
    source = platform.pinned(1000, torch.int32)
    source[:] = torch.arange(1000)
    there = torch.zeros(1000, dtype=torch.int32, device=platform.device)
    platform.upload(source, there)
    mark = platform.mark()
    fetched = platform.fetch([there, platform.send(np.arange(7.0))])
    fetched.release()
    there += 1
    mark.wait()
    back = fetched.wait()
    assert torch.equal(back[0], source) and back[1].tolist() == list(range(7))


@pytest.mark.gpu
def test_recorded_work_reads_and_writes_the_same_addresses_again() -> None:
    platform = CudaPlatform()
    platform.pin(0)
    x, y = torch.ones(5, device=platform.device), torch.zeros(5, device=platform.device)

    def work() -> None:
        y.copy_(x * 2 + y)

    work()
    recording = platform.record(work)
    assert y.tolist() == [2.0] * 5
    x.fill_(10)
    recording.replay()
    recording.replay()
    assert y.tolist() == [42.0] * 5
