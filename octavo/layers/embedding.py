"""Token and position embeddings, and the head that turns hidden states into logits."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops
from octavo.layers.layer import Layer, Placement, read_exactly
from octavo.layers.linear import Linear
from octavo.weights.source import WeightSource


class Embedding(Layer):
    """ids [T] int32 -> rows of a table [V, H]."""

    def __init__(self, num_rows: int, size: int, place: Placement) -> None:
        self.shape = (num_rows, size)
        self.place = place

    def load(self, source: WeightSource) -> None:
        stored = read_exactly(source, "weight", self.shape)
        self.table = stored.to(self.place.device, self.place.dtype, copy=True)

    def __call__(self, ids: Tensor) -> Tensor:
        return ops.embed(self.table, ids)


class TiedHead(Layer):
    """hidden [L, H] -> logits [L, V], with the embedding's table as weight."""

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding

    def __call__(self, hidden: Tensor) -> Tensor:
        return ops.linear(hidden, self.embedding.table, None)


def head(embedding: Embedding, tied: bool, bias: bool, place: Placement) -> TiedHead | Linear:
    """The layer that maps hidden [L, H] to logits [L, V]; only an untied one has weights of its own."""
    vocab_size, hidden_size = embedding.shape
    return TiedHead(embedding) if tied else Linear({"": vocab_size}, hidden_size, bias, place)


def rounded(value: float, dtype: torch.dtype) -> float:
    """`value` as `dtype` holds it."""
    return float(torch.tensor(value, dtype=dtype))
