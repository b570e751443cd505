"""Matrix products with a weight, and the seam through which a kind of weight brings its own kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo import log, ops, spec
from octavo.errors import StartupError
from octavo.ops.activation import GATED, GATES
from octavo.ops.norm import add_rms_norm
from octavo.ops.quantized import Activations, Quantized
from octavo.ops.registry import REFERENCE, Case, draw, op, shapes, size
from octavo.weights.weight import Weight

logger = log.get(__name__)


def _inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    rows, columns = size(case, "O"), size(case, "I")
    bias = draw((rows,), case, generator) if case["bias"] else None
    return draw((size(case, "T"), columns), case, generator), draw((rows, columns), case, generator, 0.1), bias


@op(
    shapes(T=(1, 7, 64), O=(8, 100), I=(16, 200), bias=(False, True), dtype=(torch.float32, torch.bfloat16)),
    _inputs,
    {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3},
)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, I] times weight [O, I] transposed, plus bias [O]; returns [T, O]. Sums in float32."""
    return F.linear(x, weight, bias)


def _added_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    rows, columns, activation = size(case, "O"), size(case, "I"), case["activation"]
    x, y = draw((size(case, "T"), columns), case, generator), draw((size(case, "T"), columns), case, generator)
    stored = rows if activation is None else 2 * rows
    bias = draw((stored,), case, generator) if case["bias"] else None
    weight = draw((stored, columns), case, generator, 0.1)
    return x, y, torch.rand(columns, generator=generator) + 0.5, 1e-5, weight, bias, activation


@op(
    shapes(
        T=(1,), O=(20,), I=(40, 600), activation=(None, "silu"), bias=(False, True),
        dtype=(torch.float32, torch.bfloat16),
    ),
    _added_inputs,
    {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2},
)  # fmt: skip
def add_rms_norm_linear(
    x: Tensor,
    y: Tensor,
    norm: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    activation: spec.Activation | None,
) -> tuple[Tensor, Tensor]:
    """total = x + y, both [T, I], and rms_norm(total, norm) times weight [O, I] transposed plus bias [O].

    With an activation the product is gate | up, and activation(gate) · up [T, O / 2] takes its place. What rounds on
    the way is the kernel's.
    """
    total, normed = add_rms_norm(x, y, norm, eps)
    product = linear(normed, weight, bias)
    return total, product if activation is None else GATES[activation](product)


class Packed(Protocol):
    """A weight in the layout of the kernel that multiplies with it.

    One that `takes` int8 or float8 multiplies activations which whoever makes them has rounded to that already, and
    rounds those that come as a tensor itself. The others are only given tensors.
    """

    @property
    def takes(self) -> torch.dtype | None:
        """The format of Quantized activations that it is best given; None: tensors."""
        ...

    def run(self, x: Activations, bias: Tensor | None) -> Tensor:
        """x [T, I] -> [T, O], plus bias [O]."""
        ...

    def gated(
        self, x: Activations, bias: Tensor | None, activation: spec.Activation, takes: torch.dtype | None = None
    ) -> Activations:
        """x [T, I] -> activation(gate) · up [T, O / 2], where gate | up are the halves of the product plus bias.

        `takes` is what the next product would be given best.
        """
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the weight at ids [T] int32; returns [T, I]."""
        ...


def gate(product: Tensor, activation: spec.Activation, takes: torch.dtype | None = None) -> Activations:
    """activation(gate) · up for a product gate | up [T, 2 I], quantized where the next product `takes` it so."""
    if takes is not None:
        return ops.gate_quantized(product, activation, takes)
    gated: Tensor = getattr(ops, GATED[activation])(product)
    return gated


class ByProduct:
    """The products of a Packed whose kernel can gate on the way."""

    __slots__ = ()

    def run(self, x: Activations, bias: Tensor | None) -> Tensor:
        return self._product(x, bias, None)

    def gated(
        self, x: Activations, bias: Tensor | None, activation: spec.Activation, takes: torch.dtype | None = None
    ) -> Activations:
        if takes is not None or not self._gates(x):
            return gate(self._product(x, bias, None), activation, takes)
        return self._product(x, bias, activation)

    def _product(self, x: Activations, bias: Tensor | None, activation: spec.Activation | None) -> Tensor:
        """x [T, I] -> [T, O], plus bias [O]; with an activation, as `gated`."""
        raise NotImplementedError

    def _gates(self, x: Activations) -> bool:
        """Whether so many tokens gain by a product that gates."""
        return True


class LinearKernel(Protocol):
    """How a device likes a kind of Weight: `pack` once at load, then the `Packed` in every step."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        """Why this kernel cannot multiply activations of `dtype` with `weight`; None when it can."""
        ...

    def pack(self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False) -> Packed:
        """The rows of all parts, which are of one kind, in the kernel's own layout; `gated` weights are gate | up."""
        ...


@dataclass(frozen=True, slots=True)
class DensePacked:
    """weight [O, I] as `ops.linear` takes it."""

    weight: Tensor

    @property
    def takes(self) -> torch.dtype | None:
        return None

    def run(self, x: Activations, bias: Tensor | None) -> Tensor:
        assert not isinstance(x, Quantized), "dense weights take no quantized activations"
        return ops.linear(x, self.weight, bias)

    def gated(
        self, x: Activations, bias: Tensor | None, activation: spec.Activation, takes: torch.dtype | None = None
    ) -> Activations:
        return gate(self.run(x, bias), activation, takes)

    def embed(self, ids: Tensor) -> Tensor:
        return ops.embed(self.weight, ids)


class DenseKernel:
    """Takes every kind of weight: dense as it is, quantized ones dequantized once at load."""

    def refuses(self, weight: Weight, dtype: torch.dtype) -> str | None:
        return None

    def pack(
        self, parts: Sequence[Weight], dtype: torch.dtype, device: torch.device, gated: bool = False
    ) -> DensePacked:
        # A copy of its own: a dense weight may be a view of a file, which others can change or truncate.
        values = [part.dequantize(dtype).to(device) for part in parts]
        whole = torch.cat(values) if len(values) > 1 else torch.clone(values[0], memory_format=torch.contiguous_format)
        return DensePacked(whole)


_KERNELS: dict[str, list[LinearKernel]] = {REFERENCE: [DenseKernel()]}


def linear_kernel(backend: str, kernel: LinearKernel) -> None:
    """Register a kernel of a backend; among a backend's kernels, the first registered that does not refuse wins."""
    _KERNELS.setdefault(backend, []).append(kernel)


def choose_kernel(weight: Weight, dtype: torch.dtype, backends: tuple[str, ...] = ()) -> LinearKernel:
    """The first kernel, in order of `backends` and then the reference, that takes this weight."""
    for backend in (*(b for b in backends if b != REFERENCE), REFERENCE):
        for kernel in _KERNELS.get(backend, []):
            reason = kernel.refuses(weight, dtype)
            if reason is None:
                return kernel
            logger.debug("linear kernel %s of %s: %s", type(kernel).__name__, backend, reason)
    raise StartupError(f"no linear kernel takes {type(weight).__name__} with {dtype}")
