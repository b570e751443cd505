"""A minimal worker: pages, page tables and ForwardBatches for arbitrary mixes of rows, on memory poisoned with NaN."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from octavo.forward import ForwardBatch, GroupInputs
from octavo.models.decoder import DecoderModel


@dataclass
class HarnessRow:
    """A sequence's length so far and its pages per group; -1 for a page its window has left behind."""

    length: int = 0
    pages: list[list[int]] = field(default_factory=list)


class Harness:
    """Runs a model step by step. Every page starts as NaN, and becomes NaN again when a window leaves it."""

    def __init__(self, model: DecoderModel, dtype: torch.dtype, num_pages: int = 96, page_size: int = 4) -> None:
        self.model = model
        self.page_size = page_size
        self.rows: dict[int, HarnessRow] = {}
        self.free = [list(range(num_pages)) for _ in model.groups]
        for pages in self.free:
            random.Random(0).shuffle(pages)
        self.caches = [
            torch.full(model.backend.cache_shape(spec, num_pages, page_size, dtype), float("nan"), dtype=dtype)
            for spec in model.spec.caches
        ]

    def step(self, work: dict[int, list[int]]) -> dict[int, Tensor]:
        """Compute the given tokens of each row (created when new); returns logits [n, V] for all of them."""
        for row, tokens in work.items():
            self._grow(self.rows.setdefault(row, HarnessRow(pages=[[] for _ in self.model.groups])), len(tokens))
        batch = self._batch(work)
        logits = self.model.logits(self.model.forward(batch)[batch.logit_rows])
        for row in work:
            self._leave(self.rows[row])
        sizes = [len(tokens) for tokens in work.values()]
        return dict(zip(work, logits.split(sizes), strict=True))

    def _grow(self, row: HarnessRow, count: int) -> None:
        row.length += count
        for group, pages in enumerate(row.pages):
            while len(pages) * self.page_size < row.length:
                pages.append(self.free[group].pop())

    def _leave(self, row: HarnessRow) -> None:
        """Free the pages that no later token of the row can see."""
        for index, group in enumerate(self.model.groups):
            if group.spec.window is None:
                continue
            for i in range((row.length - group.spec.window + 1) // self.page_size):
                page = row.pages[index][i]
                if page >= 0:
                    row.pages[index][i] = -1
                    self.free[index].insert(0, page)
                    for layer in group.layers:
                        self.caches[layer][:, page] = float("nan")

    def _batch(self, work: dict[int, list[int]]) -> ForwardBatch:
        tokens: list[int] = []
        positions: list[int] = []
        starts, lengths = [0], []
        for row, new in work.items():
            length = self.rows[row].length
            tokens += new
            positions += range(length - len(new), length)
            starts.append(len(tokens))
            lengths.append(length)
        groups = [self._group(index, work) for index in range(len(self.model.groups))]
        return ForwardBatch(
            tokens=torch.tensor(tokens, dtype=torch.int32),
            positions=torch.tensor(positions, dtype=torch.int32),
            starts=torch.tensor(starts, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            groups=groups,
            caches=self.caches,
            logit_rows=torch.arange(len(tokens)),
            host_starts=starts,
            host_lengths=lengths,
        )

    def _group(self, index: int, work: dict[int, list[int]]) -> GroupInputs:
        tables = [self.rows[row].pages[index] for row in work]
        width = max(map(len, tables)) + 1
        table = torch.tensor([pages + [-1] * (width - len(pages)) for pages in tables], dtype=torch.int32)
        slots: list[int] = []
        for (row, new), pages in zip(work.items(), tables, strict=True):
            length = self.rows[row].length
            for position in range(length - len(new), length):
                slots.append(pages[position // self.page_size] * self.page_size + position % self.page_size)
        return GroupInputs(table, torch.tensor(slots), self.page_size)


def decode(
    harness: Harness, prompts: dict[int, list[int]], count: int
) -> tuple[dict[int, list[int]], dict[int, Tensor]]:
    """Greedy ids of `count` steps for all prompts together, and the logits [len(prompt) + count - 1, V] on the way."""
    logits = {row: [out] for row, out in harness.step(prompts).items()}
    ids = {row: [int(outs[-1][-1].argmax())] for row, outs in logits.items()}
    for _ in range(count - 1):
        for row, out in harness.step({row: chosen[-1:] for row, chosen in ids.items()}).items():
            logits[row].append(out)
            ids[row].append(int(out[-1].argmax()))
    return ids, {row: torch.cat(outs) for row, outs in logits.items()}
