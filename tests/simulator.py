"""An engine core over the fake device, whose books are checked after every turn, and random work for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from octavo.engine.core import EngineCore
from octavo.engine.executors.fake import FakeExecutor, FakeOptions, reference
from octavo.messages import Finish, Logprobs, SequenceSpec, TokenDelta, pack_ids, unpack_ids
from octavo.sampling import SamplingParams
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.cost import StepCost
from octavo.scheduling.pages import NO_PAGE
from octavo.scheduling.policy import FCFS, Policy
from octavo.scheduling.scheduler import Scheduler
from octavo.scheduling.swapping import Swapping
from octavo.spec import CacheGroup, CacheSpec


@dataclass(frozen=True)
class Machine:
    """How steps are cut: everything that must not change tokens. `windows` has one entry per cache group."""

    num_pages: tuple[int, ...] = (256,)
    page_size: int = 4
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 64
    steps_in_flight: int = 1
    prefix_caching: bool = True
    windows: tuple[int | None, ...] = (None,)
    policy: type[Policy] = FCFS
    max_model_len: int = 48
    vocab_size: int = 40
    options: FakeOptions = field(default_factory=FakeOptions)
    host_pages: tuple[int, ...] = ()  # per cache group, of memory to swap to
    token_s: float = 1.0  # what computing a token is taken to cost


class Simulator:
    """Runs sequences on a machine turn by turn. Any disagreement between the parts raises AssertionError."""

    cache_class = CacheManager
    scheduler_class = Scheduler
    executor_class = FakeExecutor

    def __init__(self, machine: Machine) -> None:
        groups = [CacheGroup(CacheSpec(1, 1, window), (g,)) for g, window in enumerate(machine.windows)]
        self.machine = machine
        self.executor = self.executor_class(
            machine.num_pages, machine.page_size, groups, machine.vocab_size, machine.options
        )
        self.cache = self.cache_class(
            groups, machine.num_pages, machine.page_size, machine.prefix_caching, b"fake model, int64"
        )
        if machine.host_pages:
            # A cost of its own, which learns nothing: what a decision rests on is the test's to say.
            cost = StepCost(token_s=machine.token_s)
            self.cache.swapping = Swapping(machine.host_pages, [2**20] * len(groups), cost)
        self.scheduler = self.scheduler_class(
            self.cache, machine.policy(), machine.max_num_seqs, machine.max_num_batched_tokens, machine.max_model_len
        )
        self.core = EngineCore(self.scheduler, self.executor, machine.steps_in_flight, clock=lambda: float(self.turns))
        self.turns = 0
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, Logprobs] = {}
        self.first: dict[int, TokenDelta] = {}
        self.finished: dict[int, Finish] = {}
        self.aborted: set[int] = set()

    def add(self, *specs: SequenceSpec) -> None:
        """Queue sequences."""
        self.core.add(specs)

    def abort(self, *ids: int) -> None:
        """Forget sequences."""
        self.aborted.update(id for id in ids if id in self.scheduler.live)
        self.core.abort(ids)

    def turn(self) -> list[TokenDelta]:
        """One turn of the core, then every check."""
        deltas = self.core.turn()
        self.turns += 1
        for delta in deltas:
            self.take(delta)
        self.check()
        return deltas

    def run(self, most_turns: int = 5000) -> Simulator:
        """Turn until nothing is left to do."""
        for _ in range(most_turns):
            if not self.core.has_work:
                return self
            self.turn()
        raise AssertionError(f"work is left after {most_turns} turns: {self.core.stats()}")

    def take(self, delta: TokenDelta) -> None:
        """Record a delta; none may follow a sequence's end."""
        assert delta.id not in self.finished, f"sequence {delta.id} goes on after its end"
        assert delta.id not in self.aborted, f"sequence {delta.id} goes on after its abort"
        if delta.id not in self.tokens:
            self.first[delta.id] = delta
        self.tokens.setdefault(delta.id, []).extend(delta.tokens)
        if delta.logprobs is not None:
            self.logprobs.setdefault(delta.id, Logprobs([], [], [])).extend(delta.logprobs)
        if delta.finish is not None:
            assert delta.timing is not None or delta.finish.reason == "error"
            self.finished[delta.id] = delta.finish

    def check(self) -> None:
        """Pages balance, the worker has no row too many, and both sides know the same page tables."""
        wrong = self.core.check_books()
        assert not wrong, wrong
        assert len(self.executor.rows) <= self.machine.max_num_seqs + len(self.scheduler.gone)
        if self.core.flying:
            return
        for id, seq in self.scheduler.running.items():
            if seq.is_arriving:
                continue
            for mine, theirs in zip(seq.pages, self.executor.rows[id].tables, strict=True):
                assert len(mine) == len(theirs)
                assert all(m in (NO_PAGE, t) for m, t in zip(mine, theirs, strict=True))

    def check_idle(self) -> None:
        """Everything is free again."""
        assert not self.core.has_work
        for pool in (
            self.cache.pools if self.cache.swapping is None else (*self.cache.pools, *self.cache.swapping.pools)
        ):
            assert len(pool.free) == pool.num_pages

    def expected(self, spec: SequenceSpec) -> list[int]:
        """The oracle's tokens for a sequence."""
        machine = self.machine
        return reference(spec, machine.vocab_size, machine.windows, machine.options, machine.max_model_len)


@dataclass
class Event:
    """What arrives before a turn."""

    turn: int
    add: list[SequenceSpec] = field(default_factory=list)
    abort: list[int] = field(default_factory=list)


def random_machine(random: Random, **fixed: object) -> Machine:
    """A machine that is as tight as it may be, half of the time."""
    page_size = random.choice((1, 2, 3, 4, 8, 16))
    windows = random.choice(((None,), (None,), (None,), (5,), (None, 4), (None, 1, 9)))
    longest = Machine.max_model_len
    slack = random.choice((0, 0, 1, 2, 8, 200))
    num_pages = tuple(
        (-(-longest // page_size) if window is None else -(-window // page_size) + 2 + random.randrange(3)) + slack
        for window in windows
    )
    choices: dict[str, object] = {
        "num_pages": num_pages,
        "page_size": page_size,
        "windows": windows,
        "max_num_seqs": random.choice((1, 2, 3, 8, 50)),
        "max_num_batched_tokens": random.choice((1, 2, 5, 16, 64, 1000)),
        "steps_in_flight": random.choice((1, 1, 2, 2, 3)),
        "prefix_caching": random.random() < 0.7,
    }
    return Machine(**choices | fixed)  # type: ignore[arg-type]


def random_specs(random: Random, count: int, first_id: int = 0, **sampling: object) -> list[SequenceSpec]:
    """Sequences whose prompts share prefixes, some of them siblings of one prompt."""
    stems = [[random.randrange(3, 40) for _ in range(30)] for _ in range(2)]
    specs: list[SequenceSpec] = []
    while len(specs) < count:
        stem = random.choice(stems)
        prompt = stem[: random.randrange(1, 30)] + [random.randrange(3, 40) for _ in range(random.randrange(4))]
        max_tokens = random.randrange(1, 25)
        siblings = random.choice((1, 1, 1, 2, 4))
        params = {
            "temperature": 1.0 if siblings > 1 else random.choice((0.0, 1.0)),
            "stop_token_ids": random.choice((None, None, [7, 8, 9])),
            "min_tokens": random.choice((0, 0, min(3, max_tokens))),
            "logprobs": random.choice((None, None, 2)),
            "prompt_logprobs": random.choice((None, None, None, 1)),
        } | sampling
        leader = first_id + len(specs)
        for i in range(min(siblings, count - len(specs))):
            spec = SequenceSpec(
                id=leader + i,
                tokens=pack_ids(prompt),
                sampling=SamplingParams(**params),
                max_tokens=max_tokens,
                seed=random.randrange(1000) + i,
                eos=random.choice(((), (2,))),
                priority=random.randrange(3),
                salt=random.choice((b"", b"", b"tenant")) if i == 0 else specs[-1].salt,
                leader=leader if i else None,
            )
            specs.append(spec)
    return specs


def random_events(random: Random, specs: Sequence[SequenceSpec], aborts: int = 0) -> list[Event]:
    """The sequences in groups at random times, and aborts of some at random phases."""
    events: list[Event] = []
    at, rest = 0, list(specs)
    while rest:
        several = random.randrange(1, 1 + len(rest))
        events.append(Event(at, add=rest[:several]))
        rest = rest[several:]
        at += random.randrange(12)
    for _ in range(aborts):
        events.append(Event(random.randrange(at + 20), abort=[random.choice(specs).id]))
    return sorted(events, key=lambda event: event.turn)


def play(simulator: Simulator, events: Iterable[Event]) -> Simulator:
    """Let events happen at their turns, then run to the end."""
    for event in events:
        while simulator.turns < event.turn:
            simulator.turn()
        simulator.add(*event.add)
        simulator.abort(*(id for id in event.abort if id not in simulator.finished))
    return simulator.run()


def check_tokens(simulator: Simulator, specs: Iterable[SequenceSpec]) -> None:
    """Every sequence got the oracle's tokens; an aborted one got the beginning of them."""
    for spec in specs:
        expected = simulator.expected(spec)
        tokens = simulator.tokens.get(spec.id, [])
        if spec.id in simulator.aborted and spec.id not in simulator.finished:
            assert tokens == expected[: len(tokens)]
            continue
        finish = simulator.finished[spec.id]
        assert finish.reason in ("stop", "length"), finish
        assert tokens == expected, f"sequence {spec.id} of {len(unpack_ids(spec.tokens))} prompt tokens"


TIGHT = Machine(num_pages=(13,), page_size=4, steps_in_flight=2, max_num_batched_tokens=20)
WINDOWED = Machine(num_pages=(30, 8), page_size=2, windows=(None, 4), max_num_batched_tokens=20)


def play_some(machine: Machine = TIGHT, rounds: int = 12) -> int:
    """Random work, all of it checked; how many pages came back from the host meanwhile."""
    back = 0
    for seed in range(rounds):
        random = Random(seed)
        specs = random_specs(random, 12, prompt_logprobs=None)
        simulator = play(Simulator(machine), random_events(random, specs, aborts=2))
        check_tokens(simulator, specs)
        simulator.check_idle()
        assert not simulator.scheduler.counts.errors
        back += simulator.core.stats().swapped_in_pages
    return back
