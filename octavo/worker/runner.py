"""The runner: a step message in, a step result out. Everything it does is done by its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.forward import ForwardBatch
from octavo.layers.pooling import Heads
from octavo.messages import BatchMessage, Logprobs, RowResult, StepResult
from octavo.platforms.accelerator import Fetched
from octavo.worker.gpu import Gpu, OnGpu
from octavo.worker.graphs.tape import LOGIT_ROWS
from octavo.worker.inputs import Inputs, StepInputs
from octavo.worker.pooling import PoolingRows
from octavo.worker.resident_inputs import ResidentInputs
from octavo.worker.rows import IntArray, RowFields, Rows, Sizes
from octavo.worker.sampling.custom import CustomProcessors
from octavo.worker.sampling.logprobs import NamedIds, TopLogprobs, top_logprobs
from octavo.worker.sampling.parameters import NO_LOGPROBS, Parameters
from octavo.worker.sampling.processors import pipeline
from octavo.worker.sampling.sampler import NOT_FINITE, PROBLEMS, Sampled, Sampler
from octavo.worker.swapping import PageMover


class Model(Protocol):
    """What the runner needs of a model."""

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H] of the step's tokens; writes their KV."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[L, H] -> [L, V] float32."""
        ...


@dataclass
class PromptLogprobs:
    """Log-probabilities of one row's prompt tokens in this step, `count` alternatives each; `finite` [] bool says of
    each part whether the model's logits were.
    """

    count: int
    parts: list[TopLogprobs] = field(default_factory=list)
    finite: list[Tensor] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        """Everything of it that is on the device."""
        several = zip(self.parts, self.finite, strict=True)
        return [tensor for part, finite in several for tensor in (part.ids, part.values, part.ranks, finite)]

    def on_host(self, tensors: Iterator[Tensor]) -> PromptLogprobs:
        """The same with the host's copies of its `tensors`, which are taken from the front."""
        taken = [[next(tensors) for _ in range(4)] for _ in self.parts]
        parts = [TopLogprobs(ids, values, ranks) for ids, values, ranks, _ in taken]
        return PromptLogprobs(self.count, parts, [finite for *_, finite in taken])

    def message(self) -> Logprobs:
        """As it crosses to the core."""
        whole = Logprobs([], [], [])
        for part in self.parts:
            whole.extend(part.message(0, len(part.ranks), self.count))
        return whole


@dataclass
class Pending:
    """A launched step: what its sampling and its result need.

    `step` is without the rows that are pooled, whose results are in `pooled`, by index. `lives` [E] are the owners of
    its emitting rows' slots, `errors` and `fields` those of its rows' admissions, by index. `masked` [E] are its
    emitting rows among all that the core asked tokens of; None: they are the same. `hidden` [E, H] are their hidden
    states, and `logits` those of as many as the runner computes at once; `sampled` has a part for each so many. What a
    GPU sampled, pooled and tells of prompts is on its way to the host as `fetched`, `fetched_pooled`, `fetched_prompt`.
    """

    batch: BatchMessage
    step: StepInputs
    lives: IntArray
    errors: dict[int, str]
    prompt: dict[int, PromptLogprobs]
    hidden: Tensor | None
    logits: Tensor | None
    pooled: dict[int, Tensor] | None = None
    masked: IntArray | None = None
    num_masked: int = 0
    fields: dict[int, str | None] = field(default_factory=dict)
    sampled: list[Sampled] = field(default_factory=list)
    ids: IntArray | None = None
    fetched: Fetched | None = None
    fetched_pooled: Fetched | None = None
    fetched_prompt: Fetched | None = None


class ModelRunner:
    """Runs steps in the order of their launch; a step may be launched before the earlier one's result is asked for.

    `on_gpu` None: the model reads what it needs in the host's memory.
    """

    def __init__(
        self,
        model: Model,
        caches: list[Tensor],
        num_groups: int,
        sizes: Sizes,
        device: torch.device,
        poison: bool = False,
        heads: Heads | None = None,
        registered: Mapping[str, Callable[..., object]] | None = None,
        on_gpu: OnGpu | None = None,
    ) -> None:
        fields = RowFields(sizes.max_num_seqs, poison)
        self.device = device
        self.rows = Rows(sizes, num_groups, fields)
        self.parameters = Parameters(fields)
        self.gpu: Gpu | None = None
        self.model: Model
        self.inputs: Inputs | ResidentInputs
        if on_gpu is None:
            self.model = model
            self.inputs = Inputs(self.rows, device, caches)
        else:
            self.gpu = Gpu(on_gpu, model, caches, num_groups, sizes, self.parameters)
            self.model = self.gpu.model
            self.inputs = ResidentInputs(self.rows, self.gpu.resident, caches, on_gpu.buckets)
        processors = pipeline(self.rows)
        custom = CustomProcessors(self.rows, registered or {})
        named = NamedIds(self.rows)
        self.sampler = Sampler(self.rows, self.parameters, processors, custom=custom, named=named)
        self.pooling = PoolingRows(sizes.max_num_seqs, heads, device)
        on_device = () if self.gpu is None else (self.gpu.parameters,)
        self.rows.states = (
            self.pooling, self.parameters, *on_device, *processors, custom, named, self.sampler
        )  # fmt: skip
        self._inference = torch.inference_mode()
        self.settles_at_once = on_gpu is None  # ids need no waiting for where they are computed
        self.logits_at_once = LOGIT_ROWS if self.settles_at_once else sizes.max_num_seqs
        self.mover: PageMover | None = None  # when there is memory on the host to swap pages to
        self._unsettled: list[Pending] = []

    def launch(self, batch: BatchMessage) -> Pending:
        """Queue the forward pass of a step; on a CPU it is done on return.

        When it raises, the step's rows are undefined: the core must admit their sequences anew (epoch and `new`).
        """
        if self.mover is not None:
            self.mover.take(batch)
        rows = self.rows.apply(batch)
        wants_prompt = self.parameters.prompt_logprobs[rows] != NO_LOGPROBS
        with self._inference:
            step = self.inputs.build(batch, rows, wants_prompt)
            whole, pooled = step, None
            if self.pooling.is_asked:
                step, hidden, pooled = self.pooling.run(self.model, step)
            else:
                hidden = self.model.forward(step.forward)
            prompt = self._prompt_logprobs(step, hidden) if len(step.prompt_tokens) else {}
            # Last: a recorded model's logits live until it computes others.
            emitting = self._of_emitting(step, hidden) if len(step.emitting) else None
            logits = self.model.logits(emitting[: self.logits_at_once]) if emitting is not None else None
        errors, fields = {}, {}
        if self.rows.errors:
            failed = {i: self.rows.errors[row] for i, row in enumerate(rows.tolist()) if row in self.rows.errors}
            errors = {i: error.message for i, error in failed.items()}
            fields = {i: error.field for i, error in failed.items()}
        pending = Pending(batch, step, self.rows.life[step.emit_rows], errors, prompt, emitting, logits, pooled)
        pending.fields = fields
        if self.gpu is not None and prompt:
            pending.fetched_prompt = self.gpu.accelerator.fetch(
                [each for told in prompt.values() for each in told.tensors]
            )
        pending.num_masked = len(whole.emitting)
        if pooled is not None:
            pending.masked = np.flatnonzero(np.isin(whole.emitting, step.emitting))
            if self.gpu is not None and pooled:
                pending.fetched_pooled = self.gpu.accelerator.fetch(list(pooled.values()))
        return pending

    def sample(self, pending: Pending, mask: NDArray[np.int32] | None = None) -> None:
        """Queue the sampling of the latest step; mask [E, ceil(V / 32)] as in Sampler, of the emitting rows."""
        if pending.logits is None:
            return
        step = pending.step
        if mask is not None and pending.masked is not None:
            mask = mask[pending.masked]
        with self._inference:
            if self.sampler.reads_history(step.emit_rows):
                self._settle()
            if isinstance(self.inputs, ResidentInputs):
                self._sample_on_gpu(pending, mask)
            else:
                pending.sampled = self._sample_parts(pending, mask)
            pending.hidden = pending.logits = None
            self._unsettled.append(pending)
            if self.settles_at_once:
                self._settle()
            elif isinstance(self.inputs, Inputs):
                self.inputs.last[self._on_device(step.emit_rows)] = sampled_ids(pending).to(torch.int32)

    def _sample_on_gpu(self, pending: Pending, mask: NDArray[np.int32] | None) -> None:
        """Sample the emitting rows and start bringing the result to the host; no waiting but where rows ask for it."""
        assert self.gpu is not None and pending.logits is not None
        rows, sampled = pending.step.emit_rows, None
        if mask is None and pending.masked is None and not self.sampler.needs_host(rows):
            sampled = self.gpu.sample(pending.logits, rows)
        if sampled is None:
            (sampled,) = self._sample_parts(pending, mask)
            self.gpu.keep_last(sampled.ids, rows)
        pending.sampled = [sampled]
        pending.fetched = self.gpu.fetch(sampled)

    def _sample_parts(self, pending: Pending, mask: NDArray[np.int32] | None) -> list[Sampled]:
        """Sample the emitting rows, as many at a time as there may be logits; the first ones' are computed."""
        step, hidden, logits = pending.step, pending.hidden, pending.logits
        assert hidden is not None and logits is not None
        parts: list[Sampled] = []
        for first in range(0, len(step.emitting), self.logits_at_once):
            part = slice(first, first + self.logits_at_once)
            if first:
                logits = self.model.logits(hidden[part])
            allowed = None if mask is None else mask[part]
            parts.append(self.sampler(logits, step.emit_rows[part], step.positions[part], allowed))
        return parts

    def result(self, pending: Pending) -> StepResult:
        """Wait for a sampled step and return what it produced, one result per row of its batch."""
        if pending.sampled and pending.ids is None:
            self._settle()
        results = [RowResult(work.id, work.epoch, []) for work in pending.batch.rows]
        if pending.ids is not None:
            first = 0
            for sampled in pending.sampled:
                last = first + len(sampled.ids)
                self._tell(pending.step.emitting[first:last], pending.ids[first:last], sampled, results)
                first = last
        errors = pending.errors
        pooled = pending.pooled or {}
        values = pooled.values() if pending.fetched_pooled is None else pending.fetched_pooled.wait()
        for i, vector in zip(pooled, values, strict=True):
            told = vector.numpy()
            if np.isfinite(told).all():
                results[i].pooled = np.ascontiguousarray(told, "<f4").tobytes()
            else:
                errors = {i: PROBLEMS[NOT_FINITE], **errors}
        fetched = iter(()) if pending.fetched_prompt is None else iter(pending.fetched_prompt.wait())
        for i, prompt in pending.prompt.items():
            if pending.fetched_prompt is not None:
                prompt = prompt.on_host(fetched)
            if all(map(bool, prompt.finite)):
                results[i].prompt_logprobs = prompt.message()
            else:
                errors = {i: PROBLEMS[NOT_FINITE], **errors}
        for i, error in errors.items():
            field = pending.fields.get(i)
            results[i] = RowResult(results[i].id, results[i].epoch, [], error=error, field=field)
        return StepResult(results, None if self.mover is None else self.mover.told())

    def _tell(self, emitting: IntArray, ids: IntArray, sampled: Sampled, results: list[RowResult]) -> None:
        told = emitting.tolist()
        for i, id in zip(told, ids.tolist(), strict=True):
            results[i].tokens = [id]
        if sampled.logprobs is not None:
            for j, (e, count) in enumerate(zip(sampled.told.tolist(), sampled.counts.tolist(), strict=True)):
                results[told[e]].logprobs = sampled.logprobs.message(j, j + 1, count)
            for j, (named, values) in sampled.named.items():
                logprobs = results[told[int(sampled.told[j])]].logprobs
                assert logprobs is not None
                logprobs.ids[0] += named
                logprobs.values[0] += values.tolist()
                logprobs.named = len(named)
        problems = sampled.problems.numpy()
        for e in np.flatnonzero(problems).tolist():
            result = results[told[e]]
            results[told[e]] = RowResult(result.id, result.epoch, [], error=PROBLEMS[problems[e]])
        for e, error in sampled.errors.items():
            result = results[told[e]]
            results[told[e]] = RowResult(result.id, result.epoch, [], error=error)

    def _settle(self) -> None:
        """Wait for the sampled ids of every step so far, and write them to the rows' histories."""
        for pending in self._unsettled:
            step = pending.step
            if pending.fetched is not None:
                pending.sampled = [pending.sampled[0].on_host(pending.fetched.wait())]
            pending.ids = sampled_ids(pending).numpy()
            self.rows.settle(step.emit_rows, pending.lives, step.positions, pending.ids)
        self._unsettled.clear()

    def _of_emitting(self, step: StepInputs, hidden: Tensor) -> Tensor:
        """The hidden states [E, H] of the tokens that a token is sampled after."""
        is_all = len(step.emit_tokens) == hidden.shape[0]
        return hidden if is_all else hidden[self._on_device(step.emit_tokens)]

    def _prompt_logprobs(self, step: StepInputs, hidden: Tensor) -> dict[int, PromptLogprobs]:
        """Log-probabilities of the prompt tokens whose predecessors this step computed, by row of the step."""
        found: dict[int, PromptLogprobs] = {}
        for i in np.unique(step.prompt_rows).tolist():
            row = step.rows[i]
            mine = np.flatnonzero(step.prompt_rows == i)
            told = found[i] = PromptLogprobs(int(self.parameters.prompt_logprobs[row]))
            for first in range(0, len(mine), LOGIT_ROWS):
                part = mine[first : first + LOGIT_ROWS]
                logits = self.model.logits(hidden[self._on_device(step.prompt_tokens[part])])
                logits = logits[:, : self.rows.sizes.vocab_size]
                tokens = self._on_device(self.rows.tokens[row, step.prompt_targets[part]])
                told.finite.append(torch.isfinite(logits.amax(-1)).all())
                told.parts.append(top_logprobs(logits, tokens, told.count))
        return found

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array) if self.gpu is None else self.gpu.accelerator.send(array)


def sampled_ids(pending: Pending) -> Tensor:
    """The ids [E] of a sampled step."""
    parts = [sampled.ids for sampled in pending.sampled]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
