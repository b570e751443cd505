"""Negative controls: each planted fault must be seen by the simulator's checks, or those checks prove nothing."""

from __future__ import annotations

import pytest

from octavo.messages import RowWork, StepResult, TokenDelta
from octavo.scheduling import cache as cache_module
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.pages import PagePool
from octavo.scheduling.scheduler import Batch, Scheduler
from octavo.scheduling.sequence import Sequence

from ..simulator import TIGHT, WINDOWED, Machine, play_some


@pytest.mark.parametrize("machine", [TIGHT, WINDOWED])
def test_without_a_fault_nothing_is_seen(machine: Machine) -> None:
    play_some(machine)


def test_a_pool_that_forgets_a_release_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    release = PagePool.release
    monkeypatch.setattr(PagePool, "release", lambda self, pages: release(self, pages[:-1]))
    with pytest.raises(AssertionError):
        play_some()


def test_a_pool_that_shares_without_counting_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PagePool, "share", lambda self, pages: None)
    with pytest.raises((AssertionError, KeyError)):
        play_some()


def test_a_pool_that_hands_out_a_page_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    take = PagePool.take

    def take_stale(self: PagePool, num_pages: int) -> list[int]:
        pages = take(self, num_pages)
        return [0, *pages[1:]] if pages else pages

    monkeypatch.setattr(PagePool, "take", take_stale)
    with pytest.raises(AssertionError):
        play_some()


def test_a_cache_that_forgets_the_parent_of_a_page_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    encode_page = cache_module.encode_page
    monkeypatch.setattr(cache_module, "encode_page", lambda parent, tokens: encode_page(b"", list(tokens)[:1]))
    with pytest.raises(AssertionError):
        play_some()


def test_a_cache_that_publishes_unfinished_pages_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    admit = CacheManager.admit

    def publish_early(self: CacheManager, seq: Sequence, chunk: int, alone: bool) -> bool:
        admitted = admit(self, seq, chunk, alone)
        if admitted:
            for page, key in zip(seq.pages[0], self._keys(seq, len(seq.tokens) // self.page_size), strict=False):
                self.pools[0].publish(page, key)
        return admitted

    monkeypatch.setattr(CacheManager, "admit", publish_early)
    with pytest.raises(AssertionError):
        play_some()


def test_a_window_that_releases_one_page_too_many_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    first_visible = CacheManager._first_visible
    monkeypatch.setattr(CacheManager, "_first_visible", lambda self, p, window: first_visible(self, p + 2, window))
    with pytest.raises(AssertionError):
        play_some(WINDOWED)


def test_a_scheduler_that_skips_a_position_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Scheduler._start

    def skip(self: Scheduler, seq: Sequence, now: float) -> None:
        start(self, seq, now)
        if seq.computed + 1 < len(seq.tokens):
            seq.computed += 1
            seq.reached += 1

    monkeypatch.setattr(Scheduler, "_start", skip)
    with pytest.raises(AssertionError):
        play_some()


def test_a_preemption_that_keeps_its_epoch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    restart = Sequence.restart

    def keep_epoch(self: Sequence) -> None:
        restart(self)
        self.epoch -= 1

    monkeypatch.setattr(Sequence, "restart", keep_epoch)
    with pytest.raises((AssertionError, ValueError)):
        play_some()


def test_a_scheduler_that_never_tells_who_is_gone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Scheduler.schedule

    def keep_rows(self: Scheduler, now: float) -> Batch | None:
        batch = schedule(self, now)
        if batch:
            batch.gone = []
        return batch

    monkeypatch.setattr(Scheduler, "schedule", keep_rows)
    with pytest.raises(AssertionError):
        play_some()


@pytest.mark.parametrize("harm", ["lose a token", "double a token", "swap two rows"])
def test_a_scheduler_that_mixes_up_results_is_seen(monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    update = Scheduler.update

    def mix_up(self: Scheduler, batch: Batch, result: StepResult, now: float) -> list[TokenDelta]:
        deltas = update(self, batch, result, now)
        if harm == "lose a token" and self.counts.generated_tokens % 7 == 0:
            return deltas[1:]
        if harm == "double a token" and deltas and deltas[0].finish is None:
            return [deltas[0], *deltas]
        if harm == "swap two rows" and len(deltas) > 1:
            deltas[0].tokens, deltas[1].tokens = deltas[1].tokens, deltas[0].tokens
        return deltas

    monkeypatch.setattr(Scheduler, "update", mix_up)
    with pytest.raises((AssertionError, KeyError)):
        play_some()


def test_a_page_table_that_reaches_the_worker_in_another_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(*fields: object) -> RowWork:
        id, epoch, num_tokens, emit, pages, *new = fields
        return RowWork(id, epoch, num_tokens, emit, [table[::-1] for table in pages], *new)  # type: ignore[arg-type]

    monkeypatch.setattr("octavo.scheduling.scheduler.RowWork", swapped)
    with pytest.raises(AssertionError):
        play_some()
