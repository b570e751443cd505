"""Random weights in the place of a checkpoint's: a model of real shapes from its config.json alone, for measuring."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from octavo import spec
from octavo.weights.source import TensorSource

NAMES = "llama"  # the naming scheme of these tensors, whatever the family's own is
STD = 0.02

Shape = tuple[int, ...]


def dummy_source(model: spec.Model, dtype: torch.dtype, device: torch.device, seed: int = 0) -> TensorSource:
    """Every tensor of `model` in the naming scheme NAMES; matrices are normal with deviation STD, norms do nothing."""
    tensors = DummyTensors(model, dtype, device, seed)
    return TensorSource(tensors, "the dummy weights", sizes=tensors.sizes)


class DummyTensors(Mapping[str, Tensor]):
    """Tensors by name, each made on the device when it is asked for; the same seed and device make the same ones.

    `sizes` is the bytes and elements of all.
    """

    def __init__(self, model: spec.Model, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        self._shapes = dict(_tensors(model))
        self._norms = dict(_norms(model))
        self._dtype = dtype
        self._device = device
        self._seed = seed
        self._latest: tuple[str, Tensor] | None = None  # what reads a matrix asks first what it is
        count = sum(math.prod(shape) for shape in self._shapes.values())
        self.sizes = count * dtype.itemsize, count

    def __getitem__(self, name: str) -> Tensor:
        if self._latest is None or self._latest[0] != name:
            self._latest = name, self._make(name)
        return self._latest[1]

    def release(self) -> None:
        """Let go of the latest tensor."""
        self._latest = None

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def _make(self, name: str) -> Tensor:
        values = torch.empty(self._shapes[name], dtype=self._dtype, device=self._device)
        if name.endswith(".bias"):
            return values.zero_()
        if name in self._norms:
            return values.fill_(1.0 - self._norms[name])
        seed = zlib.crc32(f"{self._seed} {name}".encode())
        return values.normal_(0.0, STD, generator=torch.Generator(self._device).manual_seed(seed))


def _norms(model: spec.Model) -> Iterator[tuple[str, float]]:
    """The name of every norm's weight, and what is added to it when it is loaded."""
    for name, norm, _ in _every_norm(model):
        yield f"{name}.weight", norm.offset


def _tensors(model: spec.Model) -> Iterator[tuple[str, Shape]]:
    """The name and shape of every tensor of the model."""
    hidden = model.hidden_size
    yield from _matrix("model.embed_tokens", (model.vocab_size, hidden))
    if model.positions is not None:
        yield from _matrix("model.embed_positions", (model.positions, hidden))
    if isinstance(model, spec.Encoder) and model.positions is not None and model.num_types:
        yield from _matrix("model.embed_types", (model.num_types, hidden))
    if isinstance(model, spec.Decoder) and not model.tied:
        yield from _matrix("lm_head", (model.vocab_size, hidden), model.head_bias)
    for index, block in enumerate(model.blocks):
        layer, mixer, ffn = f"model.layers.{index}", block.mixer, block.ffn
        q_size, kv_size = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
        for part, rows in (("q", q_size), ("k", kv_size), ("v", kv_size)):
            yield from _matrix(f"{layer}.self_attn.{part}_proj", (rows, hidden), mixer.bias)
        yield from _matrix(f"{layer}.self_attn.o_proj", (hidden, q_size), mixer.out_bias)
        if isinstance(ffn, spec.MLP):
            yield from _mlp(f"{layer}.mlp", ffn.size, hidden, ffn.gated, ffn.bias)
        else:
            yield from _matrix(f"{layer}.mlp.gate", (ffn.num_experts, hidden))
            for expert in range(ffn.num_experts):
                yield from _mlp(f"{layer}.mlp.experts.{expert}", ffn.size, hidden)
    for name, norm, size in _every_norm(model):
        yield f"{name}.weight", (size,)
        if norm.bias:
            yield f"{name}.bias", (size,)
    if model.classifier is not None:
        if model.classifier.dense:
            yield from _matrix("model.score_dense", (hidden, hidden), model.classifier.dense_bias)
        yield from _matrix("model.score", (len(model.classifier.labels), hidden), model.classifier.bias)


def _matrix(name: str, shape: Shape, bias: bool = False) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _mlp(name: str, size: int, hidden: int, gated: bool = True, bias: bool = False) -> Iterator[tuple[str, Shape]]:
    for part in ("gate_proj", "up_proj") if gated else ("up_proj",):
        yield from _matrix(f"{name}.{part}", (size, hidden), bias)
    yield from _matrix(f"{name}.down_proj", (hidden, size), bias)


def _every_norm(model: spec.Model) -> Iterator[tuple[str, spec.Norm, int]]:
    """The name of every norm, its spec and its size."""
    if isinstance(model, spec.Encoder):
        yield "model.embed_norm", model.embed_norm, model.hidden_size
    if model.norm is not None:
        yield "model.norm", model.norm, model.hidden_size
    for index, block in enumerate(model.blocks):
        layer, mixer = f"model.layers.{index}", block.mixer
        for name in _block_norms(block):
            yield f"{layer}.{name}", block.norm, model.hidden_size
        if mixer.qk_norm is not None:
            for name, heads in (("q_norm", mixer.num_heads), ("k_norm", mixer.num_kv_heads)):
                size = mixer.head_dim * (heads if mixer.qk_norm_span == "all" else 1)
                yield f"{layer}.self_attn.{name}", mixer.qk_norm, size
    if model.classifier is not None and model.classifier.norm is not None:
        yield "model.score_norm", model.classifier.norm, model.hidden_size


def _block_norms(block: spec.Block | spec.EncoderBlock) -> tuple[str, ...]:
    if isinstance(block, spec.EncoderBlock):
        return ("ffn_norm",) if block.bare else ("mixer_norm", "ffn_norm")
    match block.residual:
        case "pre" | "parallel":
            return "input_layernorm", "post_attention_layernorm"
        case "post":
            return "post_attention_layernorm", "post_feedforward_layernorm"
        case "sandwich":
            first = ("input_layernorm", "post_attention_layernorm")
            return *first, "pre_feedforward_layernorm", "post_feedforward_layernorm"
