"""The encoder: the forward pass of models in which every token sees every other token of its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from octavo import ops, spec
from octavo.attention.backend import AttentionBackend
from octavo.errors import StartupError
from octavo.forward import ForwardBatch
from octavo.layers.attention import Attention
from octavo.layers.embedding import Embedding
from octavo.layers.layer import Layer, Placement, read_exactly
from octavo.layers.mlp import MLP
from octavo.layers.norm import Stream, build_norm
from octavo.layers.pooling import Classifier
from octavo.layers.rope import RotaryTable
from octavo.models.loading import Progress, load
from octavo.weights.source import WeightSource
from octavo.weights.weight import StoredFormat, WeightFormat


class EncoderBlock(Layer):
    """x [T, H] -> [T, H]."""

    def __init__(self, block: spec.EncoderBlock, hidden_size: int, place: Placement, mixer: Attention) -> None:
        self.mixer = mixer
        self.ffn = MLP(block.ffn, hidden_size, place)
        self.mixer_norm = None if block.bare else build_norm(block.norm, hidden_size, place)
        self.ffn_norm = build_norm(block.norm, hidden_size, place)
        norms: list[tuple[str, Layer]] = [("ffn_norm", self.ffn_norm)]
        if self.mixer_norm is not None:
            norms.append(("mixer_norm", self.mixer_norm))
        self.children = (("self_attn", self.mixer), ("mlp", self.ffn), *norms)
        self.is_after = block.residual == "after"

    def __call__(self, stream: Stream, angles: Tensor | None, batch: ForwardBatch) -> Stream:
        x, mixed = self.mixer(stream, None if self.is_after else self.mixer_norm, angles, batch)
        if not self.is_after:
            return Stream(*self.ffn(Stream(x, mixed), self.ffn_norm))
        _, x = Stream(x, mixed).read(self.mixer_norm)
        _, x = Stream(*self.ffn(Stream(x), None)).read(self.ffn_norm)
        return Stream(x)


class PlaceEmbedding(Layer):
    """places [T] int32 -> [T, H]: what position and token type add to a token. Place = type · positions + position."""

    def __init__(self, model: spec.Encoder, place: Placement) -> None:
        assert model.positions is not None
        self.rows = (model.positions, model.num_types)
        self.first = model.first_position
        self.size = model.hidden_size
        self.place = place

    def load(self, source: WeightSource) -> None:
        positions, types = self.rows
        table = read_exactly(source, "embed_positions.weight", (positions, self.size)).float()[self.first :]
        if types:
            kinds = read_exactly(source, "embed_types.weight", (types, self.size)).float()
            table = (kinds[:, None] + table).flatten(0, 1)
        self.table = table.to(self.place.device, self.place.dtype, copy=True)

    def __call__(self, places: Tensor) -> Tensor:
        return ops.embed(self.table, places)


class EncoderModel:
    """An encoder built from its spec: hidden states of texts that each step computes whole, and keeps nothing of."""

    def __init__(
        self,
        model: spec.Encoder,
        dtype: torch.dtype,
        device: torch.device,
        backend: AttentionBackend,
        max_length: int,
        ops_backends: tuple[str, ...] = ("reference",),
        format: WeightFormat | None = None,
    ) -> None:
        place = Placement(dtype, device, format or StoredFormat(), ops_backends)
        self.spec = model
        self.backend = backend
        self.groups = spec.group_caches(model.caches)
        for block in model.blocks:
            reason = backend.refuses(block.mixer, dtype)
            if reason is not None:
                raise StartupError(f"attention backend {type(backend).__name__} cannot run this model: {reason}")
        self.embedding = Embedding(model.vocab_size, model.hidden_size, place)
        self.places = None if model.positions is None else PlaceEmbedding(model, place)
        self.embed_norm = build_norm(model.embed_norm, model.hidden_size, place)
        ropes = tuple(dict.fromkeys(block.mixer.rope for block in model.blocks if block.mixer.rope is not None))
        self.tables = tuple(RotaryTable(rope, max_length, place) for rope in ropes)
        self.table_of = tuple(None if b.mixer.rope is None else ropes.index(b.mixer.rope) for b in model.blocks)
        self.blocks = tuple(
            EncoderBlock(
                block,
                model.hidden_size,
                place,
                Attention(block.mixer, model.hidden_size, place, backend, index, 0),
            )
            for index, block in enumerate(model.blocks)
        )
        self.norm = None if model.norm is None else build_norm(model.norm, model.hidden_size, place)
        self.classifier: Classifier | None = None
        if model.classifier is not None:
            exact = replace(place, dtype=torch.float32, format=StoredFormat())
            self.classifier = Classifier(model.classifier, model.hidden_size, exact)

    def walk(self) -> Iterator[tuple[str, Layer]]:
        """Every layer with the path its tensors are found at."""
        children: list[tuple[str, Layer | None]] = [
            ("model.embed_tokens", self.embedding),
            ("model", self.places),
            ("model.embed_norm", self.embed_norm),
            *((f"model.layers.{index}", block) for index, block in enumerate(self.blocks)),
            ("model.norm", self.norm),
            ("model", self.classifier),
        ]
        for name, child in children:
            if child is not None:
                yield from child.walk(name)

    def load(self, source: WeightSource, progress: Progress | None = None) -> list[str]:
        """As models.loading.load."""
        return load(self.walk(), self.spec, source, progress)

    def plan(self, batch: ForwardBatch) -> None:
        """Let the attention backend prepare this step."""
        batch.groups[0].plan = self.backend.plan(batch, 0, self.groups[0])

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] of the step's tokens; the batch's positions are places where those are learned."""
        if batch.groups[0].plan is None:
            self.plan(batch)
        places = None if self.places is None else self.places(batch.positions)
        stream = Stream(Stream(self.embedding(batch.tokens), places).read(self.embed_norm)[1])
        angles = tuple(table(batch.positions) for table in self.tables)
        for block, table in zip(self.blocks, self.table_of, strict=True):
            stream = block(stream, None if table is None else angles[table], batch)
        return stream.read(self.norm)[1]

    def logits(self, hidden: Tensor) -> Tensor:
        """Never asked for."""
        raise AssertionError("an encoder predicts no tokens")
