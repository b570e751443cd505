"""The decoder: the one forward pass that every family's spec goes through."""

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
from octavo.layers.embedding import Embedding, embedding_and_head, rounded
from octavo.layers.layer import Layer, Placement
from octavo.layers.mlp import MLP
from octavo.layers.moe import MoE
from octavo.layers.norm import Stream, build_norm
from octavo.layers.pooling import Classifier
from octavo.layers.rope import RotaryTable
from octavo.models.loading import Progress, load
from octavo.weights.source import WeightSource
from octavo.weights.weight import StoredFormat, WeightFormat

# The norms of a block by where they act: before and after the mixer, before and after the ffn.
NORM_NAMES: dict[spec.Residual, tuple[str | None, str | None, str | None, str | None]] = {
    "pre": ("input_layernorm", None, "post_attention_layernorm", None),
    "post": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "sandwich": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    "parallel": ("input_layernorm", None, "post_attention_layernorm", None),
}


class Block(Layer):
    """A mixer and an ffn around the residual stream, norms placed by the spec's residual kind."""

    def __init__(self, block: spec.Block, hidden_size: int, place: Placement, mixer: Attention) -> None:
        self.mixer = mixer
        ffn = block.ffn
        self.ffn = MLP(ffn, hidden_size, place) if isinstance(ffn, spec.MLP) else MoE(ffn, hidden_size, place)
        names = NORM_NAMES[block.residual]
        norms = {name: build_norm(block.norm, hidden_size, place) for name in names if name is not None}
        self.children = (("self_attn", self.mixer), ("mlp", self.ffn), *norms.items())
        before_mixer, after_mixer, before_ffn, after_ffn = (norms[name] if name else None for name in names)
        self.before_mixer, self.after_mixer = before_mixer, after_mixer
        self.before_ffn, self.after_ffn = before_ffn, after_ffn
        self.is_parallel = block.residual == "parallel"

    def __call__(self, stream: Stream, angles: Tensor | None, batch: ForwardBatch) -> Stream:
        x, mixed = self.mixer(stream, self.before_mixer, angles, batch)
        if self.is_parallel:
            _, y = self.ffn(Stream(x), self.before_ffn)
            return Stream(ops.add(x, mixed), y)
        x, y = self.ffn(Stream(x, mixed, self.after_mixer), self.before_ffn)
        return Stream(x, y, self.after_ffn)


class DecoderModel:
    """A causal language model built from its spec. `max_length` is the longest context in tokens it will be given."""

    def __init__(
        self,
        model: spec.Decoder,
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
        _check(model, dtype, backend, max_length)
        group_of = {layer: index for index, group in enumerate(self.groups) for layer in group.layers}
        self.embedding, self.head = embedding_and_head(
            model.vocab_size, model.hidden_size, model.tied, model.head_bias, place
        )
        self.embed_scale = rounded(model.embed_scale, place.dtype)
        self.positions: Embedding | None = None
        if model.positions is not None:
            self.positions = Embedding(model.positions, model.hidden_size, place)
        ropes = tuple(dict.fromkeys(block.mixer.rope for block in model.blocks if block.mixer.rope is not None))
        self.tables = tuple(RotaryTable(rope, max_length, place) for rope in ropes)
        self.blocks = tuple(
            Block(block, model.hidden_size, place, self._attention(block.mixer, place, index, group_of[index]))
            for index, block in enumerate(model.blocks)
        )
        self.table_of = tuple(None if b.mixer.rope is None else ropes.index(b.mixer.rope) for b in model.blocks)
        self.norm = build_norm(model.norm, model.hidden_size, place)
        positions = () if self.positions is None else (("model.embed_positions", self.positions),)
        self.classifier: Classifier | None = None
        if model.classifier is not None:
            exact = replace(place, dtype=torch.float32, format=StoredFormat())
            self.classifier = Classifier(model.classifier, model.hidden_size, exact)
        classifier = () if self.classifier is None else (("model", self.classifier),)
        self.children: tuple[tuple[str, Layer], ...] = (
            ("model.embed_tokens", self.embedding),
            *positions,
            *((f"model.layers.{index}", block) for index, block in enumerate(self.blocks)),
            ("model.norm", self.norm),
            ("lm_head", self.head),
            *classifier,
        )

    def _attention(self, mixer: spec.Attention, place: Placement, index: int, group: int) -> Attention:
        return Attention(mixer, self.spec.hidden_size, place, self.backend, index, group)

    def walk(self) -> Iterator[tuple[str, Layer]]:
        """Every layer with the path its tensors are found at."""
        for name, child in self.children:
            yield from child.walk(name)

    def load(self, source: WeightSource, progress: Progress | None = None) -> list[str]:
        """As models.loading.load."""
        return load(self.walk(), self.spec, source, progress)

    def plan(self, batch: ForwardBatch) -> None:
        """Let the attention backend prepare this step, once per cache group."""
        for index, group in enumerate(self.groups):
            batch.groups[index].plan = self.backend.plan(batch, index, group)

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] of the step's tokens, after the last norm. Plans the step unless that is done."""
        if batch.groups[0].plan is None:
            self.plan(batch)
        x = self.embedding(batch.tokens)
        if self.embed_scale != 1.0:
            x = ops.scale(x, self.embed_scale)
        stream = Stream(x, None if self.positions is None else self.positions(batch.positions))
        angles = tuple(table(batch.positions) for table in self.tables)
        for block, table in zip(self.blocks, self.table_of, strict=True):
            stream = block(stream, None if table is None else angles[table], batch)
        return stream.read(self.norm)[1]

    def logits(self, hidden: Tensor) -> Tensor:
        """[L, H] -> [L, V] float32."""
        logits = self.head(hidden).float()
        return logits if self.spec.logit_softcap is None else ops.softcap(logits, self.spec.logit_softcap)


def _check(model: spec.Decoder, dtype: torch.dtype, backend: AttentionBackend, max_length: int) -> None:
    if model.positions is not None and max_length > model.positions:
        raise StartupError(
            f"max_model_len={max_length} exceeds the model's {model.positions} learned positions", "max_model_len"
        )
    for index, block in enumerate(model.blocks):
        reason = backend.refuses(block.mixer, dtype)
        if reason is not None:
            raise StartupError(f"attention backend {type(backend).__name__} cannot run layer {index}: {reason}")
