"""What crosses a process border: typed msgpack structs, never pickle. Ids travel as int32 little-endian bytes.

Frontend to core: `Add`, `Abort`, `Control`, `AskTimelines`, `AskStats`, `ResetCache`, `Stop`. Core to frontend:
`Ready`, `Loading`, `Deltas`, `Tick`, `StatsReply`, `Timelines`, `Failed`.
Core to worker: `BatchMessage`. Worker to core: `StepResult`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

from octavo.pooling import Abilities, PoolingWork
from octavo.sampling import SamplingParams
from octavo.thinking import ThinkingBudget

PROTOCOL = 2  # raised when a struct changes its meaning

FinishReason = Literal["stop", "length", "abort", "error"]


def pack_ids(ids: Iterable[int]) -> bytes:
    """Token ids as int32 bytes."""
    return array("i", ids).tobytes()


def unpack_ids(data: bytes) -> list[int]:
    """Token ids from int32 bytes."""
    ids = array("i")
    ids.frombytes(data)
    return ids.tolist()


class Grammar(Struct, frozen=True, array_like=True):
    """What an output must match, validated and in the grammar library's form; `num_bytes` is about what it takes built.

    It holds behind the first of `begin_after` in the output; see StructuredOutputsParams. The text is empty in
    followers, whose leader in the same message has it.
    """

    digest: bytes
    text: str
    num_bytes: int
    begin_after: tuple[str, ...] = ()
    opening: str | None = None


class SequenceSpec(Struct, frozen=True, array_like=True):
    """One stream of tokens for the core to extend. Everything textual stays in the frontend.

    `tokens` is the prompt; `max_tokens` the resolved output bound; `seed` keys its random numbers; `eos` ends it
    silently (empty under ignore_eos), `bad_words` are token sequences that must not appear. `salt` separates cached
    prefixes (R50). `leader` is the id of the sequence whose identical prompt this one shares (n > 1).
    """

    id: int
    tokens: bytes
    sampling: SamplingParams
    max_tokens: int
    seed: int
    eos: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    priority: int = 0
    salt: bytes = b""
    leader: int | None = None
    pooling: PoolingWork | None = None  # what to make of the prompt instead of continuing it
    grammar: Grammar | None = None
    thinking: ThinkingBudget | None = None


class Logprobs(Struct, array_like=True):
    """Log-probabilities of some consecutive tokens: for each, the token itself first, then the likeliest in order.

    `ids[i]`, `values[i]` are parallel; `ranks[i]` is the rank of the token itself (1 is the likeliest). The last
    `named` of each were asked for by their ids.
    """

    ids: list[list[int]]
    values: list[list[float]]
    ranks: list[int]
    named: int = 0

    def extend(self, other: Logprobs) -> None:
        """Append `other`'s tokens."""
        self.ids += other.ids
        self.values += other.values
        self.ranks += other.ranks


class Finish(Struct, array_like=True, frozen=True):
    """Why a sequence ended. `stop` is the stop token that did it (None: end-of-sequence); `message` an error's line.

    `is_whole`: it ended without a token that says so, because its grammar was at its end.
    """

    reason: FinishReason
    stop: int | None = None
    message: str | None = None
    field: str | None = None
    is_whole: bool = False


class Timing(Struct, array_like=True, frozen=True):
    """When things happened to a sequence, in seconds of the core's clock; told with its first and last delta."""

    arrived: float
    admitted: float
    first_token: float
    preemptions: int = 0


class TokenDelta(Struct, array_like=True):
    """What one step added to a sequence. `cached` prompt tokens needed no computing (first delta)."""

    id: int
    tokens: list[int]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    finish: Finish | None = None
    cached: int = 0
    timing: Timing | None = None
    pooled: bytes | None = None  # float32, of a sequence that is pooled, with its finish


# core to worker


class NewRow(Struct, array_like=True, frozen=True):
    """A sequence the worker has no row for: `tokens` are prompt and output so far; `computed` of them are cached."""

    spec: SequenceSpec
    tokens: bytes
    computed: int


class RowWork(Struct, array_like=True, frozen=True):
    """One row's share of a step: compute `num_tokens` more positions, and sample if `emit`.

    `new_pages[g]` extends the row's page table of cache group g; -1 stands for a page that the group's window has
    passed, which is never read. A result's `prompt_logprobs` are those of the positions its step computed. Results
    carry `epoch` back, so that those of a preempted life are dropped. No positions and no token values: the worker
    owns those.
    """

    id: int
    epoch: int
    num_tokens: int
    emit: bool
    new_pages: list[list[int]]
    new: NewRow | None = None


Copies = list[tuple[int, int]]  # a page of the device, and one of the host


class Moves(Struct, array_like=True, frozen=True):
    """Pages to copy per cache group: first those of `out` to the host, then those of `back` to the device."""

    out: list[Copies]
    back: list[Copies]


class BatchMessage(Struct, array_like=True, frozen=True):
    """One step for the workers: the rows that compute, and ids whose rows may be dropped first.

    `moves` begin before it and may end after it; a row that is given a page of them in `new_pages` waits for its copy.
    """

    rows: list[RowWork]
    gone: list[int]
    moves: Moves | None = None

    @property
    def num_tokens(self) -> int:
        """T, the tokens computed in this step."""
        return sum(row.num_tokens for row in self.rows)


class RowResult(Struct, array_like=True):
    """What a step produced for a row: sampled tokens (none while its prompt is unfinished), or an error of its own."""

    id: int
    epoch: int
    tokens: list[int]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    error: str | None = None
    field: str | None = None  # of the request, when the error is its fault
    pooled: bytes | None = None  # float32, once the prompt of a row that is pooled has been computed


class Moved(Struct, array_like=True, frozen=True):
    """Copies of pages that have ended: bytes to the host and back, and the seconds they took."""

    out_bytes: int = 0
    out_s: float = 0.0
    back_bytes: int = 0
    back_s: float = 0.0


class StepResult(Struct, array_like=True):
    """One result per row of the batch, in its order; `moved` since the result before."""

    rows: list[RowResult]
    moved: Moved | None = None


# frontend to core


class Add(Struct, tag="add", array_like=True):
    """Queue these sequences, in order."""

    specs: list[SequenceSpec]


class Abort(Struct, tag="abort", array_like=True):
    """Forget these sequences at whatever phase they are; unknown ids are ignored (R11)."""

    ids: list[int]


class AskTimelines(Struct, tag="ask_timelines", array_like=True):
    """Ask for `Timelines` of that number: what is known of these sequences."""

    number: int
    ids: list[int]


class Control(Struct, tag="control", array_like=True):
    """Change running sequences between two steps, then answer with `Timelines` of that number.

    `cancel` ends them as "abort"; `max_tokens` is their new bound, `thinking` that of their reasoning. Changes that
    cannot be are refused as a whole.
    """

    number: int
    ids: list[int]
    cancel: bool = False
    max_tokens: int | None = None
    thinking: ThinkingBudget | None = None


class AskStats(Struct, tag="ask_stats", array_like=True):
    """Ask for a StatsReply of that number."""

    number: int = 0


class ResetCache(Struct, tag="reset_cache", array_like=True):
    """Forget every cached prefix that nobody holds, then answer with `CacheReset` of that number."""

    number: int


class Stop(Struct, tag="stop", array_like=True):
    """End the engine process now."""


ToCore = Add | Abort | Control | AskTimelines | AskStats | ResetCache | Stop


# core to frontend


class EngineInfo(Struct, array_like=True, frozen=True):
    """What the frontend must know of the engine to turn requests into sequences."""

    max_model_len: int
    vocab_size: int
    max_num_seqs: int
    num_pages: int
    page_size: int
    plan: dict[str, str]  # the resolved plan, line by line, for people
    abilities: Abilities = Abilities()
    step_tokens: int = 0  # that one step computes at most


EventKind = Literal[
    "queued",
    "held",
    "admitted",
    "chunk",
    "preempted",
    "swapped_out",
    "not_swapped",
    "swapped_in",
    "first_token",
    "failed_step",
    "control",
    "ended",
]


class Event(Struct, array_like=True, frozen=True):
    """Something that happened to a sequence, at `at` seconds of the core's clock, before step number `step` or in it.

    `tokens`: found in the cache (admitted), computed (chunk), given up (preempted), copied to the host (swapped_out) or
    not (not_swapped) and back (swapped_in), generated (first_token, ended).
    `ahead`: more urgent sequences that waited (queued), others admitted since (admitted). `reason`: leader, retry
    (held); pages, priority (preempted); what it costs, in words (swapped_out, not_swapped,
    swapped_in); a finish reason (ended); what changed (control). `waits`: seconds that the
    head of the queue could not be admitted, by reason (admitted).
    """

    at: float
    kind: EventKind
    step: int = 0
    tokens: int = 0
    ahead: int = 0
    reason: str = ""
    waits: dict[str, float] | None = None


class Timeline(Struct, array_like=True):
    """A sequence's story. `state` is waiting, held, running or ended; `stalled` counts steps without a share for it."""

    id: int
    state: str
    prompt_tokens: int
    generated_tokens: int
    max_tokens: int
    events: list[Event]
    stalled: int = 0
    ahead: int = 0  # now, while it waits


STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)  # bounds of Stats.step_tokens
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
GAP_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80
)  # fmt: skip


class Tally(Struct, array_like=True):
    """A histogram before it has bounds: `counts[i]` values at most bound i and above bound i - 1, and their sum."""

    counts: list[int] = field(default_factory=list)
    total: float = 0.0


class Stats(Struct, array_like=True, frozen=True):
    """Counters (since start) and gauges (now) of one engine core."""

    running: int = 0
    waiting: int = 0
    pages_total: int = 0
    pages_free: int = 0  # never used or evictable
    pages_cached: int = 0  # evictable but findable
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0
    errors: int = 0
    late: int = 0  # results or aborts for unknown ids, ignored
    books_wrong: int = 0  # idle moments at which the page books did not balance (R12)
    preempted: int = 0  # of those waiting, sequences that ran before
    held: int = 0  # of those waiting, sequences that wait for another one's prompt or trial
    frames_dropped: int = 0  # frames from the frontend that did not decode
    step_tokens: Tally = field(default_factory=Tally)  # tokens per step
    step_seconds: Tally = field(default_factory=Tally)  # seconds per step, from launch or the landing before it
    gap_seconds: Tally = field(default_factory=Tally)  # seconds between a sequence's consecutive tokens
    swaps: int = 0  # of the preemptions, those whose pages were copied to the host
    swapped_out_pages: int = 0
    swapped_in_pages: int = 0
    swapped_out_bytes: int = 0
    swapped_in_bytes: int = 0
    host_pages_total: int = 0
    host_pages_held: int = 0  # for sequences that wait, or by copies under way


GAUGES = frozenset(
    "running waiting pages_total pages_free pages_cached preempted held host_pages_total host_pages_held".split()
)


def total(past: Stats, now: Stats) -> Stats:
    """The gauges of `now`, and the counters of both lives of an engine."""

    def both(name: str) -> object:
        a, b = getattr(past, name), getattr(now, name)
        if not isinstance(b, Tally):
            return b if name in GAUGES else a + b
        counts = [x + y for x, y in zip(a.counts, b.counts, strict=True)] if a.counts and b.counts else None
        return Tally(counts or a.counts or b.counts, a.total + b.total)

    return Stats(*(both(name) for name in Stats.__struct_fields__))  # type: ignore[arg-type]


class Loading(Struct, tag="loading", array_like=True):
    """Start-up progress: what is being done, and how much of it (bytes or items)."""

    what: str
    done: int
    total: int


class Ready(Struct, tag="ready", array_like=True):
    """The engine takes sequences from now on."""

    info: EngineInfo
    protocol: int = PROTOCOL


class Deltas(Struct, tag="deltas", array_like=True):
    """The outcome of one turn."""

    deltas: list[TokenDelta]


class Tick(Struct, tag="tick", array_like=True):
    """The engine loop is alive; it may be silent for `busy_s` seconds more than usual from now on (a long step)."""

    busy_s: float = 0.0


class StatsReply(Struct, tag="stats", array_like=True):
    """The answer to AskStats of that number; 0 when it comes unasked, about once a second."""

    stats: Stats
    number: int = 0


class Timelines(Struct, tag="timelines", array_like=True):
    """The answer to AskTimelines or Control of that number; sequences that nobody remembers are left out.

    `refused` says why a change was not made, and `field` what is wrong with it.
    """

    number: int
    timelines: list[Timeline]
    refused: str | None = None
    field: str | None = None


class Failed(Struct, tag="failed", array_like=True):
    """The engine cannot start or go on; one line for a person. The process ends after it."""

    message: str
    field: str | None = None


class CacheReset(Struct, tag="cache_reset", array_like=True):
    """The answer to ResetCache of that number: how many pages can be found no more."""

    number: int
    pages: int


ToFrontend = Loading | Ready | Deltas | Tick | StatsReply | Timelines | CacheReset | Failed
