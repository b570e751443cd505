"""A whole engine as on a GPU, without one: Triton's kernels interpreted, decode steps recorded, two in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from octavo import LLM, SamplingParams
from octavo.engine.executors import device
from octavo.errors import StartupError
from octavo.ops import registry
from octavo.platforms.accelerator import Usage
from octavo.platforms.cuda import CudaPlatform
from octavo.platforms.host import Memory

from ..worker.fake_cuda import FakeCuda
from .test_encoders import checkpoint

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled where there is a GPU")

GIB = 2**30
PROMPTS = ["The capital of", "one two three four five six seven", "octavo"]


class Again:
    """Work that is done again by its own code: what is recorded of interpreted kernels."""

    def __init__(self, gpu: FakeGpu, work: Callable[[], None]) -> None:
        self._gpu = gpu
        self._work = work

    def replay(self) -> None:
        self._gpu.num_replays += 1
        self._work()


class FakeGpu(CudaPlatform):
    """Says what a GPU says, and computes on the CPU."""

    def __init__(self, triton: bool = True) -> None:
        self.device = torch.device("cpu")
        self.name = "a GPU that is none"
        self.num_threads = 1
        self.capability = (9, 0)
        self.ops = ("triton", "reference") if triton else ("reference",)
        self.attention = ("triton", "reference") if triton else ("sdpa", "reference")
        self.graphs = "cuda" if triton else None
        self.fake = FakeCuda()
        self.num_replays = 0

    def memory(self) -> Memory:
        return Memory(8 * GIB, 8 * GIB)

    def pin(self, rank: int) -> None:
        pass

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        return self.fake.pinned(count, dtype)

    def upload(self, source: Tensor, target: Tensor) -> None:
        self.fake.upload(source, target)

    def send(self, array: np.ndarray) -> Tensor:
        return self.fake.send(array)

    def mark(self) -> object:
        return self.fake.mark()

    def fetch(self, tensors: Sequence[Tensor]) -> object:
        return self.fake.fetch(tensors)

    def pool(self) -> object:
        return None

    def record(self, work: Callable[[], None], pool: object) -> Again:
        return Again(self, work)

    def usage(self, is_new: bool = False) -> Usage:
        return Usage(GIB, GIB, 6 * GIB)


@pytest.fixture
def open_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FakeGpu], FakeGpu]]:
    """Lets engines compute on a GPU until the test is over or undoes it."""

    def opened(gpu: FakeGpu) -> FakeGpu:
        monkeypatch.setattr(device, "select", lambda name: gpu)
        return gpu

    yield opened
    registry.bind(("reference",))


SMALL = {"max_model_len": 64, "max_num_seqs": 3, "max_num_batched_tokens": 16, "kv_cache_memory_bytes": 2**22}


def answers(params: SamplingParams, **options: object) -> list[object]:
    with LLM(dtype="float32", use_tqdm_on_load=False, **(SMALL | options)) as llm:
        return [output.outputs[0] for output in llm.generate(PROMPTS, params, use_tqdm=False)]


def check_same(found: list[object], expected: list[object]) -> None:
    for there, here in zip(found, expected, strict=True):
        assert there.token_ids == here.token_ids
        for one, other in zip(there.logprobs, here.logprobs, strict=True):
            assert {id: each.logprob for id, each in one.items()} == pytest.approx(
                {id: each.logprob for id, each in other.items()}, abs=1e-4
            )


@pytest.mark.slow
def test_an_engine_on_a_gpu_answers_as_one_on_a_cpu(
    open_gpu: Callable[[FakeGpu], FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = open_gpu(FakeGpu())
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=1, ignore_eos=True)
    found = answers(params, steps_in_flight=2)
    assert gpu.num_replays >= 5
    monkeypatch.undo()
    check_same(found, answers(params, device="cpu"))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3, "frequency_penalty": 0.5}])
def test_a_gpu_without_tritons_kernels_answers_too(
    open_gpu: Callable[[FakeGpu], FakeGpu], monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    gpu = open_gpu(FakeGpu(triton=False))
    params = SamplingParams(**({"temperature": 0} | options), max_tokens=12, logprobs=1, ignore_eos=True)  # type: ignore[arg-type]
    tight = {"block_size": 4, "max_num_seqs": 2, "max_num_batched_tokens": 3, "max_model_len": 40}
    found = answers(params, steps_in_flight=2, **tight)
    assert gpu.num_replays == 0
    monkeypatch.undo()
    check_same(found, answers(params, device="cpu"))


def test_the_formats_of_a_cache_are_those_its_device_has() -> None:
    half = torch.bfloat16
    assert device.cache_dtype("auto", half, "cuda", True) == device.cache_dtype("bfloat16", half, "cuda") == half
    for name in ("fp8", "fp8_e4m3"):
        assert device.cache_dtype(name, half, "cuda", True) == torch.float8_e4m3fn
    with pytest.raises(
        StartupError, match="kv_cache_dtype=fp8 is not possible here: .* 8.9 .* takes bfloat16, or auto"
    ):
        device.cache_dtype("fp8", half, "cuda")
    with pytest.raises(StartupError, match="takes float32, bfloat16, int8, or auto"):
        device.cache_dtype("fp8", half, "tape")


@pytest.mark.slow
def test_a_cache_of_eight_bit_floats_answers_nearly_the_same(
    open_gpu: Callable[[FakeGpu], FakeGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_gpu(FakeGpu())
    params = SamplingParams(temperature=0, max_tokens=2, logprobs=0, prompt_logprobs=0)
    found = answers(params, kv_cache_dtype="fp8")
    monkeypatch.undo()
    for there, here in zip(found, answers(params, device="cpu"), strict=True):
        assert abs(there.cumulative_logprob - here.cumulative_logprob) < 0.5


@pytest.mark.parametrize("family", ["a decoder", "BertModel"])
def test_texts_are_pooled_on_a_gpu_as_on_a_cpu(
    open_gpu: Callable[[FakeGpu], FakeGpu], monkeypatch: pytest.MonkeyPatch, family: str, tmp_path: Path
) -> None:
    open_gpu(FakeGpu(triton=False))
    sizes: dict[str, object] = dict(SMALL)
    if family == "BertModel":
        checkpoint(tmp_path, family)
        sizes = {"model": str(tmp_path), "max_num_seqs": 2}

    def vectors(**options: object) -> list[list[float]]:
        with LLM(dtype="float32", use_tqdm_on_load=False, **(sizes | options)) as llm:
            return [output.outputs.embedding for output in llm.embed(PROMPTS, use_tqdm=False)]

    found = vectors(steps_in_flight=2)
    monkeypatch.undo()
    for there, here in zip(found, vectors(device="cpu"), strict=True):
        assert there == pytest.approx(here, abs=1e-4)
