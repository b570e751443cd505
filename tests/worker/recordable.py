"""The toy decoder as a GPU would compute it: shapes follow from the step's size alone, everything else from tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.forward import ForwardBatch
from octavo.platforms.accelerator import Accelerator
from octavo.worker.gpu import OnGpu
from octavo.worker.graphs.buckets import Buckets
from octavo.worker.rows import Sizes
from octavo.worker.runner import ModelRunner
from octavo.worker.sampling.resident import ResidentParameters, Samplers, TorchResidentSampler, take_likeliest
from octavo.worker.sampling.torch_logits import TorchLogits

from .fake_cuda import FakeCuda
from .toy import CPU, WIDTH, ToyModel


class RecordableToy(ToyModel):
    """Caches have one page more than are given out, where padding writes. Sums in float64: no order shows."""

    def to(self, device: torch.device) -> RecordableToy:
        self.embedding, self.head = self.embedding.to(device), self.head.to(device)
        return self

    def forward(self, batch: ForwardBatch) -> Tensor:
        tokens, positions, device = batch.tokens.long(), batch.positions.long(), batch.tokens.device
        at = torch.arange(len(tokens), device=device)
        owner = torch.searchsorted(batch.starts[1:], at.int(), right=True)
        hidden = torch.zeros(len(tokens), WIDTH, dtype=torch.float64, device=device)
        for group, cache, window in zip(batch.groups, batch.caches, self.windows, strict=True):
            page_size, cells = cache.shape[1], cache.view(-1, WIDTH)
            scratch = len(cells) - 1
            cells.index_copy_(0, group.slots.where(group.slots >= 0, scratch), self.embedding[tokens])
            seen = torch.arange(group.page_table.shape[1] * page_size, device=device)
            age = positions[:, None] - seen
            visible = (age >= 0) & (batch.lengths > 0)[owner][:, None]
            if window is not None:
                visible = visible & (age < window)
            slots = group.page_table.long()[owner][:, seen // page_size] * page_size + seen % page_size
            weights = torch.cos(0.7 * seen) * 0.9 ** age.clamp(min=0)
            shares = cells[slots.where(visible, scratch).clamp(min=0)].double() * weights.double()[:, :, None]
            hidden += shares.where(visible[:, :, None], 0).sum(1)
        if self.nan_token is not None:
            hidden = hidden.masked_fill((tokens == self.nan_token)[:, None], float("nan"))
        return hidden.float()

    def logits(self, hidden: Tensor) -> Tensor:
        return (hidden.double()[:, :, None] * self.head.double()).sum(1).float()


def caches_of(model: ToyModel, sizes: Sizes, num_pages: int) -> list[Tensor]:
    shape, device = (num_pages + 1, sizes.page_size, WIDTH), model.embedding.device
    return [torch.full(shape, float("nan"), device=device) for _ in model.groups]


def torch_samplers(parameters: ResidentParameters) -> Samplers:
    return Samplers(take_likeliest, TorchResidentSampler(parameters))


def plain_runner(model: ToyModel, sizes: Sizes, num_pages: int = 400, **more: object) -> ModelRunner:
    """Host inputs, no recordings."""
    runner = ModelRunner(model, caches_of(model, sizes, num_pages), len(model.groups), sizes, CPU, True, **more)  # type: ignore[arg-type]
    runner.sampler._step_logits = TorchLogits
    return runner


def gpu_runner(
    model: ToyModel,
    sizes: Sizes,
    num_pages: int = 400,
    buckets: tuple[int, ...] = (1, 2, 4, 8),
    samplers: object = torch_samplers,
    gpu: Accelerator | None = None,
) -> tuple[ModelRunner, Accelerator]:
    """The same on a GPU, a fake one if no other is given, with its steps recorded."""
    gpu = gpu or FakeCuda()
    on_gpu = OnGpu(gpu, Buckets(tuple(n for n in buckets if n <= sizes.max_num_seqs)), samplers)  # type: ignore[arg-type]
    caches = caches_of(model, sizes, num_pages)
    runner = ModelRunner(model, caches, len(model.groups), sizes, gpu.device, True, on_gpu=on_gpu)
    runner.sampler._step_logits = TorchLogits
    assert runner.gpu is not None
    runner.gpu.record()
    return runner, gpu
