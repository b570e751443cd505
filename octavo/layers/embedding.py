"""Token and position embeddings, and the head that turns hidden states into logits."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops
from octavo.errors import StartupError
from octavo.layers.layer import Layer, Placement
from octavo.layers.linear import Linear, pack
from octavo.weights.source import WeightSource
from octavo.weights.weight import Weight


class Embedding(Layer):
    """ids [T] int32 -> rows of a table [V, H]."""

    def __init__(self, num_rows: int, size: int, place: Placement) -> None:
        self.shape = (num_rows, size)
        self.place = place

    def load(self, source: WeightSource) -> None:
        stored = self._read(source)
        self.table = stored.dequantize(self.place.dtype).to(self.place.device, copy=True)

    def __call__(self, ids: Tensor) -> Tensor:
        return ops.embed(self.table, ids)

    def _read(self, source: WeightSource) -> Weight:
        stored = self.place.format.read(source, "")
        if stored.shape != self.shape:
            raise StartupError(
                f"weight has shape {list(stored.shape)}; the config asks for {list(self.shape)}", "model"
            )
        return stored


class TiedEmbedding(Embedding):
    """An embedding whose table is also the head's weight: it is held once, as the head's product likes it."""

    def load(self, source: WeightSource) -> None:
        self.packed = pack([self._read(source)], self.place)

    def __call__(self, ids: Tensor) -> Tensor:
        return self.packed.embed(ids)


class TiedHead(Layer):
    """hidden [L, H] -> logits [L, V], with the embedding's table as weight."""

    def __init__(self, embedding: TiedEmbedding) -> None:
        self.embedding = embedding

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.embedding.packed.run(hidden, None)


def embedding_and_head(
    vocab_size: int, hidden_size: int, tied: bool, bias: bool, place: Placement
) -> tuple[Embedding, TiedHead | Linear]:
    """Token ids to hidden states, and hidden states to logits; only an untied head has weights of its own."""
    if tied:
        embedding = TiedEmbedding(vocab_size, hidden_size, place)
        return embedding, TiedHead(embedding)
    return Embedding(vocab_size, hidden_size, place), Linear({"": vocab_size}, hidden_size, bias, place)


def rounded(value: float, dtype: torch.dtype) -> float:
    """`value` as `dtype` holds it."""
    return float(torch.tensor(value, dtype=dtype))
