"""resolve(config, spec, hardware) -> Plan: every decision, made once, printable, frozen. A pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo.config import EngineConfig
from octavo.errors import StartupError
from octavo.spec import CacheGroup

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ALIASES = {"float": "float32", "half": "float16"}
DEFAULT_KV_BYTES_CPU = 4 * 2**30  # a laptop's RAM is shared; ask for a share explicitly to get more
DEFAULT_SHARE = 0.9


@dataclass(frozen=True)
class Hardware:
    """What the platform reports: bytes this process may use, in all and right now, and the formats it is fast at."""

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    threads: int
    dtypes: tuple[str, ...]  # fast ones, best first; the first stands in for a checkpoint's that is not among them
    process_bytes: int = 0  # what this process holds on the device before it has a model


@dataclass(frozen=True)
class ModelFacts:
    """What the plan must know of a checkpoint, as this device will hold it in the number formats already resolved."""

    name: str
    architecture: str
    dtype: str
    weights: str  # what they are held as, for people
    weights_bytes: int
    kv_dtype: str
    page_bytes: tuple[int, ...]  # KV bytes of one page in all layers of each cache group
    token_bytes: int  # activations of one token of a step
    row_bytes: int  # logits of one sequence of a step
    position_bytes: int  # tables for one position of the longest context
    max_length: int
    groups: tuple[CacheGroup, ...]
    whole_prompts: bool = False  # a prompt must be computed in one step, and nothing of it is kept
    records: bool = False  # steps that decode one token per row can be recorded, one recording for so many rows


@dataclass(frozen=True)
class Plan:
    """The resolved engine. Nothing changes it afterwards."""

    model: str
    architecture: str
    device: str
    dtype: str
    threads: int
    weights: str
    weights_bytes: int
    kv_dtype: str
    engine_bytes: int  # everything else, once used to the full: the process, activations, logits
    idle_bytes: int  # all that is taken before the first request; the rest is taken as it is used
    max_model_len: int
    page_size: int
    num_pages: tuple[int, ...]  # per cache group
    kv_bytes: int
    max_num_seqs: int
    max_num_batched_tokens: int
    steps_in_flight: int
    policy: str
    prefix_caching: bool
    seed: int
    whole_prompts: bool = False
    recorded_rows: tuple[int, ...] = ()  # numbers of rows that decode steps are recorded for
    page_bytes: tuple[int, ...] = ()  # per cache group
    host_pages: tuple[int, ...] = ()  # per cache group, that can be swapped to host memory; none: no swapping

    def lines(self) -> dict[str, str]:
        """The plan for people, one decision a line."""
        pages = " + ".join(str(n) for n in self.num_pages)
        recorded = {"decode graphs": f"of {listed(self.recorded_rows)} rows"} if self.recorded_rows else {}
        swap_bytes = sum(n * b for n, b in zip(self.host_pages, self.page_bytes, strict=False))
        swap_pages = " + ".join(str(n) for n in self.host_pages)
        swapping = {"swap space": f"{size(swap_bytes)} of host memory: {swap_pages} pages"} if self.host_pages else {}
        total = self.weights_bytes + self.kv_bytes + self.engine_bytes
        return {
            "model": f"{self.model} ({self.architecture})",
            "device": f"{self.device}, {self.threads} thread{'s' * (self.threads != 1)}",
            "dtype": self.dtype,
            "weights": f"{size(self.weights_bytes)}: {self.weights}",
            "KV cache": f"{size(self.kv_bytes)}: {pages} pages of {self.page_size} tokens, {self.kv_dtype}"
            if self.kv_bytes
            else "none",
            **swapping,
            "memory": f"{size(self.weights_bytes)} weights + {size(self.kv_bytes)} KV cache + "
            f"{size(self.engine_bytes)} engine = {size(total)}"
            + (f" when full, {size(self.idle_bytes)} at the start" if self.idle_bytes < total else ""),
            "longest context": f"{self.max_model_len} tokens",
            "per step": f"up to {self.max_num_batched_tokens} tokens of {self.max_num_seqs} sequences",
            **recorded,
            "scheduling": f"{self.policy}, {self.steps_in_flight} step{'s' * (self.steps_in_flight != 1)} in flight",
            "prefix caching": "on" if self.prefix_caching else "off",
        }


@dataclass(frozen=True)
class Measured:
    """Bytes that a trial found needed: for weights, and for all else but the KV cache, once used to the full."""

    weights_bytes: int
    engine_bytes: int


def resolve(config: EngineConfig, facts: ModelFacts, hardware: Hardware, measured: Measured | None = None) -> Plan:
    """Decide everything the user left open; StartupError when the wish cannot be met here.

    What was `measured` takes the place of estimates.
    """
    on_cpu = hardware.device == "cpu"
    wanted = config.model.max_model_len
    if wanted is not None and wanted > facts.max_length:
        raise StartupError(
            f"max_model_len={wanted} is more than {facts.name} was made for ({facts.max_length} tokens); "
            "use at most that",
            "max_model_len",
        )
    max_model_len = wanted or facts.max_length
    max_num_seqs = config.scheduling.max_num_seqs or (128 if on_cpu else 256)
    batched = config.scheduling.max_num_batched_tokens or max(max_num_seqs, 512 if on_cpu else 8192)
    if facts.whole_prompts and batched < max_model_len:
        if config.scheduling.max_num_batched_tokens is not None:
            raise StartupError(
                f"max_num_batched_tokens={batched} is less than max_model_len={max_model_len}, but every prompt of "
                f"{facts.architecture} is computed in one step; lower max_model_len, or leave the other out",
                "max_num_batched_tokens",
            )
        batched = max_model_len
    max_num_seqs = min(max_num_seqs, batched)
    step_bytes = batched * facts.token_bytes + max_num_seqs * facts.row_bytes
    needs = measured or Measured(facts.weights_bytes, step_bytes + max_model_len * facts.position_bytes)
    budget = kv_budget(config, hardware, needs)
    page, page_bytes = config.cache.block_size, facts.page_bytes
    fits = longest(max_model_len, budget, page_bytes, facts.groups, page, batched)
    if fits < max_model_len:
        if wanted is not None or fits < 16:
            need = size(bytes_for(max_model_len, page_bytes, facts.groups, page, batched))
            hint = f"lower max_model_len to {fits} or give more memory" if fits else "give more memory"
            raise StartupError(
                f"a context of {max_model_len} tokens needs {need} of KV cache but {size(budget)} are there; {hint}",
                "max_model_len",
            )
        max_model_len = fits
    idle_bytes = hardware.process_bytes + max_model_len * facts.position_bytes
    num_pages = divide(budget, page_bytes, facts.groups, page, batched, max_num_seqs, max_model_len)
    kv_bytes = sum(n * b for n, b in zip(num_pages, page_bytes, strict=True))
    engine_bytes = idle_bytes + step_bytes if measured is None else measured.engine_bytes
    return Plan(
        model=facts.name,
        architecture=facts.architecture,
        device=hardware.name,
        dtype=facts.dtype,
        threads=hardware.threads,
        weights=facts.weights,
        weights_bytes=needs.weights_bytes,
        kv_dtype=facts.kv_dtype,
        engine_bytes=engine_bytes,
        # A GPU's memory is taken at once; a CPU's as it is used.
        idle_bytes=needs.weights_bytes + (idle_bytes if on_cpu else kv_bytes + engine_bytes),
        max_model_len=max_model_len,
        page_size=page,
        num_pages=num_pages,
        kv_bytes=kv_bytes,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=batched,
        steps_in_flight=config.scheduling.steps_in_flight or (1 if on_cpu else 2),
        policy=config.scheduling.scheduling_policy,
        prefix_caching=config.cache.enable_prefix_caching and not facts.whole_prompts,
        seed=config.model.seed,
        whole_prompts=facts.whole_prompts,
        recorded_rows=recorded_rows(max_num_seqs) if facts.records and not config.model.enforce_eager else (),
        page_bytes=tuple(page_bytes),
        host_pages=() if facts.whole_prompts else swappable(config.cache.swap_space, num_pages, page_bytes),
    )


def swappable(gib: float, num_pages: Sequence[int], page_bytes: Sequence[int]) -> tuple[int, ...]:
    """Pages per group that so much host memory holds, in the proportion of the device's; none for no memory."""
    if not gib:
        return ()
    share = gib * 2**30 / sum(n * b for n, b in zip(num_pages, page_bytes, strict=True))
    pages = tuple(int(n * share) for n in num_pages)
    if not min(pages):
        raise StartupError(
            f"swap_space={gib} is too little for one page of every cache group ({size(sum(page_bytes))}); "
            "give more, or 0 for none",
            "swap_space",
        )
    return pages


def recorded_rows(most: int) -> tuple[int, ...]:
    """The numbers of rows, up to `most`, that decode steps are recorded for; a step of more than 512 rows hides the
    host's work anyway.
    """
    grid = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 32))
    below = [rows for rows in grid if rows < most]
    return (*below, most) if most <= grid[-1] else grid


def listed(numbers: Sequence[int]) -> str:
    """Ascending numbers for people, in few words."""
    told = [str(n) for n in numbers]
    return ", ".join(told if len(told) <= 6 else (*told[:4], "…", told[-1]))


def resolve_dtype(wanted: str, stored: str, hardware: Hardware) -> str:
    """The format that dense weights are held in, and activations where they are not float32."""
    if wanted != "auto":
        return ALIASES.get(wanted, wanted)
    return stored if stored in hardware.dtypes else hardware.dtypes[0]


def kv_budget(config: EngineConfig, hardware: Hardware, needs: Measured) -> int:
    """Bytes the KV cache may take beside what else is needed."""
    weights_bytes, work_bytes = needs.weights_bytes, needs.engine_bytes
    wanted = config.cache.kv_cache_memory_bytes
    if wanted is not None:
        # What a CPU's weights are read from may leave memory again; a GPU's stays.
        left = hardware.free_bytes - (0 if hardware.device == "cpu" else weights_bytes + work_bytes)
        if wanted > left:
            raise StartupError(
                f"kv_cache_memory_bytes={wanted} is more than the {size(max(0, left))} free on {hardware.name}"
                f"{'' if hardware.device == 'cpu' else ' beside weights and the largest step'}; "
                f"{f'ask for at most {left}' if left > 0 else 'use a smaller model or dtype'}",
                "kv_cache_memory_bytes",
            )
        return wanted
    share = config.cache.gpu_memory_utilization
    allowed = min(int(hardware.total_bytes * (share or DEFAULT_SHARE)), hardware.free_bytes)
    left = allowed - weights_bytes - work_bytes
    if left <= 0:
        raise StartupError(
            f"the weights need {size(weights_bytes)} and a step {size(work_bytes)}, but the engine may use "
            f"{size(allowed)} on {hardware.name}; raise gpu_memory_utilization, lower max_num_batched_tokens and "
            "max_num_seqs, or use a smaller model or dtype",
            "gpu_memory_utilization",
        )
    return min(left, DEFAULT_KV_BYTES_CPU) if hardware.device == "cpu" and share is None else left


def pages_for(length: int, group: CacheGroup, page: int, batched: int) -> int:
    """Pages one sequence of `length` tokens holds in `group` at most, while a chunk of `batched` tokens is computed."""
    window = group.spec.window
    held = length if window is None else min(length, window + batched)
    return -(-held // page) + (0 if window is None else 1)


def bytes_for(length: int, page_bytes: Sequence[int], groups: Sequence[CacheGroup], page: int, batched: int) -> int:
    """KV bytes of one sequence of `length` tokens."""
    return sum(b * pages_for(length, g, page, batched) for b, g in zip(page_bytes, groups, strict=True))


def longest(
    most: int, budget: int, page_bytes: Sequence[int], groups: Sequence[CacheGroup], page: int, batched: int
) -> int:
    """The longest sequence of at most `most` tokens whose KV fits `budget` bytes, in tokens."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_for(middle, page_bytes, groups, page, batched) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def divide(
    budget: int,
    page_bytes: Sequence[int],
    groups: Sequence[CacheGroup],
    page: int,
    batched: int,
    max_num_seqs: int,
    max_model_len: int,
) -> tuple[int, ...]:
    """Pages per group: what `rows` sequences of the longest context need, for as many rows as fit the budget.

    Groups with a window need a bounded number per row, the others the rest; every group has enough for one sequence.
    """
    one = [pages_for(max_model_len, g, page, batched) for g in groups]
    most = [n * max_num_seqs for n in one]
    if sum(m * b for m, b in zip(most, page_bytes, strict=True)) <= budget:
        return tuple(most)
    share = budget / sum(m * b for m, b in zip(most, page_bytes, strict=True))
    pages = [max(n, int(m * share)) for n, m in zip(one, most, strict=True)]
    while sum(n * b for n, b in zip(pages, page_bytes, strict=True)) > budget:
        slack = [n - least for n, least in zip(pages, one, strict=True)]
        i = max(range(len(pages)), key=lambda k: slack[k] * page_bytes[k])
        pages[i] -= max(
            1, min(slack[i], (sum(n * b for n, b in zip(pages, page_bytes, strict=True)) - budget) // page_bytes[i])
        )
    return tuple(pages)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
