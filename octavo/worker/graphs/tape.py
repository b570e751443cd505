"""A model as recorded steps: its forward pass and its head are native programs, recorded once from its own code."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from octavo import env
from octavo.attention.bidirectional import BidirectionalAttention
from octavo.attention.cpu import describe_step
from octavo.forward import ForwardBatch, GroupInputs
from octavo.models.encoder import EncoderModel
from octavo.ops.tape import Program, Recorder, fill
from octavo.platforms import native
from octavo.spec import CacheGroup, Decoder
from octavo.worker.record_check import RecordCheck
from octavo.worker.rows import Sizes
from octavo.worker.trace import Trace

NOTHING = torch.empty(0, dtype=torch.int32)
LOGIT_ROWS = 64  # rows whose logits exist at once on a CPU: with a vocabulary of 150 k they are 39 MB


class Recordable(Protocol):
    """A model whose code can run on symbolic values."""

    spec: Decoder
    groups: tuple[CacheGroup, ...]

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] of the step's tokens."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[L, H] -> [L, V]."""
        ...


class TapeModel:
    """Runs a model's steps as one native call each. What it returns is overwritten by the next call."""

    def __init__(self, model: Recordable, caches: list[Tensor], sizes: Sizes) -> None:
        self.groups = model.groups
        recorder = Recorder(sizes.max_num_batched_tokens, sizes.max_num_seqs, sizes.max_pages)
        groups = [GroupInputs(NOTHING, NOTHING, sizes.page_size) for _ in model.groups]
        batch = ForwardBatch(
            tokens=recorder.tokens,  # type: ignore[arg-type]
            positions=recorder.positions,  # type: ignore[arg-type]
            starts=NOTHING,
            lengths=NOTHING,
            groups=groups,
            caches=caches,
            logit_rows=NOTHING,
        )
        fuse = not env.record_check()  # what is fused has no single reference
        hidden = model.forward(batch)
        self.body: Program = recorder.compile((hidden,), fuse)  # type: ignore[arg-type]
        head = Recorder(LOGIT_ROWS)
        head_input = head.external(model.spec.hidden_size)
        logits = model.logits(head_input)  # type: ignore[arg-type]
        self.head: Program = head.compile((logits,), fuse)  # type: ignore[arg-type]
        # Steps of as many rows as the one before are the rule, and a view takes microseconds to make.
        self._hidden = lru_cache(4)(hidden.tensor)  # type: ignore[arg-type]
        self._head_input = lru_cache(4)(head_input.tensor)
        self._logits = lru_cache(4)(logits.tensor)  # type: ignore[arg-type]
        self._described: ForwardBatch | None = None  # the batch whose addresses are in `_step`
        self._step = native.load().Step()
        self._head_step = native.load().Step()
        path = env.profile()
        self._trace = None if path is None else Trace(path)
        self._checks = None if fuse else (RecordCheck(self.body), RecordCheck(self.head))

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] float32 of the step's tokens; writes their KV."""
        if batch is not self._described:
            describe_step(self._step, batch)
            self._described = batch
        if self._checks is not None:
            self._checks[0].run(self._step, batch)
        elif self._trace is not None:
            self._trace.run(self.body, self._step)
        else:
            self.body.run(self._step)
        return self._hidden(batch.tokens.shape[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """[L, H] -> [L, V] float32."""
        rows = hidden.shape[0]
        self._head_input(rows).copy_(hidden)
        self._head_step.num_tokens = rows
        if self._checks is not None:
            self._checks[1].run(self._head_step, None)
        elif self._trace is not None:
            self._trace.run(self.head, self._head_step)
            self._trace.end_step()
        else:
            self.head.run(self._head_step)
        return self._logits(rows)


class TapeEncoder:
    """Runs an encoder's steps as native calls around its attention. What it returns is overwritten by the next call."""

    def __init__(self, model: EncoderModel, caches: list[Tensor], sizes: Sizes) -> None:
        assert isinstance(model.backend, BidirectionalAttention), type(model.backend)
        self.groups = model.groups
        recorder = Recorder(sizes.max_num_batched_tokens)
        batch = ForwardBatch(
            tokens=recorder.tokens,  # type: ignore[arg-type]
            positions=recorder.positions,  # type: ignore[arg-type]
            starts=NOTHING,
            lengths=NOTHING,
            groups=[GroupInputs(NOTHING, NOTHING, sizes.page_size)],
            caches=caches,
            logit_rows=NOTHING,
        )
        fuse = not env.record_check()
        hidden = model.forward(batch)
        self.body: Program = recorder.compile((hidden,), fuse)  # type: ignore[arg-type]
        self._hidden = lru_cache(4)(hidden.tensor)  # type: ignore[arg-type]
        self._texts = model.backend.texts
        self._step = native.load().Step()
        self._check = None if fuse else RecordCheck(self.body)

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] float32 of the step's tokens."""
        num_tokens = batch.tokens.shape[0]
        self._texts.starts = batch.host_starts
        fill(
            self._step,
            num_tokens=num_tokens,
            num_rows=batch.num_rows,
            tokens=batch.tokens.data_ptr(),
            positions=batch.positions.data_ptr(),
        )
        if self._check is not None:
            self._check.run(self._step, None)
        else:
            self.body.run(self._step)
        return self._hidden(num_tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """Never asked for."""
        raise AssertionError("an encoder predicts no tokens")
