"""A toy decoder over paged caches: its logits depend on every visible token and position, whatever the steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from octavo.forward import ForwardBatch
from octavo.messages import BatchMessage, NewRow, RowWork, SequenceSpec, StepResult, pack_ids
from octavo.sampling import SamplingParams
from octavo.spec import CacheGroup, CacheSpec
from octavo.worker.rows import Sizes
from octavo.worker.runner import ModelRunner

WIDTH = 8
CPU = torch.device("cpu")


class ToyModel:
    """Each layer caches a token's embedding; hidden states are decayed sums over what the layers' windows see."""

    def __init__(self, vocab_size: int, windows: Sequence[int | None] = (None,)) -> None:
        generator = torch.Generator().manual_seed(11)
        self.embedding = torch.randn(vocab_size, WIDTH, generator=generator)
        self.head = torch.randn(WIDTH, vocab_size, generator=generator)
        self.windows = windows
        self.groups = tuple(CacheGroup(CacheSpec(1, WIDTH, window), (i,)) for i, window in enumerate(windows))
        self.nan_token: int | None = None  # seeing it makes the logits NaN

    def forward(self, batch: ForwardBatch) -> Tensor:
        hidden = torch.zeros(len(batch.tokens), WIDTH)
        for group, cache, window in zip(batch.groups, batch.caches, self.windows, strict=True):
            page_size = cache.shape[1]
            cells = cache.view(-1, WIDTH)
            cells[group.slots] = self.embedding[batch.tokens]
            for s in range(batch.num_rows):
                for t in range(batch.host_starts[s], batch.host_starts[s + 1]):
                    last = int(batch.positions[t])
                    seen = torch.arange(0 if window is None else max(0, last - window + 1), last + 1)
                    slots = group.page_table[s, seen // page_size].long() * page_size + seen % page_size
                    weights = torch.cos(0.7 * seen) * 0.9 ** (last - seen)
                    hidden[t] += (cells[slots] * weights[:, None]).sum(0)
        if self.nan_token is not None:
            hidden[batch.tokens == self.nan_token] = float("nan")
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        # Row by row: a product over more rows may round differently.
        return torch.stack([row @ self.head for row in hidden]) if len(hidden) else torch.zeros(0, self.head.shape[1])


class ToyBackend:
    """A cache of [pages, page_size, WIDTH]."""

    def cache_shape(self, cache: CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        return num_pages, page_size, WIDTH


def make_sizes(rows: int = 8, tokens: int = 256, length: int = 128, page: int = 4, vocab: int = 50) -> Sizes:
    return Sizes(rows, tokens, length, page, vocab)


def make_runner(model: ToyModel, sizes: Sizes, num_pages: int = 400, poison: bool = True) -> ModelRunner:
    caches = [torch.full((num_pages, sizes.page_size, WIDTH), float("nan")) for _ in model.groups]
    return ModelRunner(model, caches, len(model.groups), sizes, CPU, poison)


def make_spec(id: int, prompt: Iterable[int], seed: int = 0, **fields: object) -> SequenceSpec:
    """A spec; `eos` and `bad_words` are its own fields, everything else is a SamplingParams field."""
    own = {name: fields.pop(name) for name in ("eos", "bad_words") if name in fields}
    fields.setdefault("max_tokens", 10**6)
    return SequenceSpec(id, pack_ids(prompt), SamplingParams(**fields), 10**6, seed, **own)  # type: ignore[arg-type]


class Driver:
    """A minimal core: gives pages, never reuses one, and keeps each sequence's tokens and results."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.page_size = runner.rows.sizes.page_size
        self.num_groups = len(runner.rows.pages)
        self.next_page = 0
        self.tokens: dict[int, list[int]] = {}
        self.specs: dict[int, SequenceSpec] = {}
        self.computed: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.gone: list[int] = []
        self.new: set[int] = set()
        self.results: dict[int, list] = {}

    def add(self, spec: SequenceSpec) -> int:
        self.specs[spec.id] = spec
        self.tokens[spec.id] = torch.frombuffer(bytearray(spec.tokens), dtype=torch.int32).tolist()
        self.results[spec.id] = []
        self.restart(spec.id)
        return spec.id

    def restart(self, id: int) -> None:
        """As after a preemption: everything known is computed again, in other pages."""
        if id in self.computed and id not in self.new:
            self.gone.append(id)
        self.computed[id] = self.held[id] = 0
        self.new.add(id)

    def end(self, id: int) -> None:
        del self.specs[id], self.tokens[id], self.computed[id], self.held[id]
        if id in self.new:
            self.new.discard(id)
        else:
            self.gone.append(id)

    def work(self, id: int, num_tokens: int) -> RowWork:
        tokens, computed = self.tokens[id], self.computed[id]
        num_tokens = min(num_tokens, len(tokens) - computed)
        self.computed[id] = computed + num_tokens
        more = -(-self.computed[id] // self.page_size) - self.held[id]
        pages = [list(range(self.next_page, self.next_page + more)) for _ in range(self.num_groups)]
        self.next_page += more
        self.held[id] += more
        new = NewRow(self.specs[id], pack_ids(tokens), computed) if id in self.new else None
        self.new.discard(id)
        return RowWork(id, 0, num_tokens, self.computed[id] == len(tokens), pages, new)

    def step(self, shares: dict[int, int], mask: object = None) -> StepResult:
        """Compute up to so many tokens of each sequence, in that order."""
        message = BatchMessage([self.work(id, n) for id, n in shares.items()], self.gone)
        self.gone = []
        pending = self.runner.launch(message)
        self.runner.sample(pending, mask)  # type: ignore[arg-type]
        result = self.runner.result(pending)
        for row in result.rows:
            self.results[row.id].append(row)
            self.tokens[row.id] += row.tokens
        return result

    def generate(self, spec: SequenceSpec, count: int, chunk: int = 10**6) -> list[int]:
        """The first `count` tokens of one sequence, alone."""
        id = self.add(spec)
        prompt = len(self.tokens[id])
        while len(self.tokens[id]) < prompt + count:
            before = len(self.results[id])
            self.step({id: chunk})
            assert self.results[id][before].error is None, self.results[id][before].error
        return self.tokens[id][prompt:]
