"""Swapping: pages of preempted sequences on the host, where copying them there and back is cheaper than computing."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from octavo.messages import Moved, Moves
from octavo.scheduling.cost import StepCost
from octavo.scheduling.pages import PagePool
from octavo.scheduling.sequence import Sequence

LINK_BYTES_S = 12e9  # each way, before a copy was timed: what PCIe 3 with 16 lanes gives pinned memory
MEMORY = 0.9  # weight of the past per report: the last ten or so count


class Link:
    """Measured bytes per second between device and host, each way."""

    def __init__(self) -> None:
        self._bytes = [LINK_BYTES_S, LINK_BYTES_S]
        self._seconds = [1.0, 1.0]
        self._is_start = [True, True]

    def learn(self, moved: Moved) -> None:
        """Take in copies that have ended."""
        for way, (count, seconds) in enumerate(((moved.out_bytes, moved.out_s), (moved.back_bytes, moved.back_s))):
            if count and seconds > 0:
                past = 0.0 if self._is_start[way] else MEMORY
                self._bytes[way] = past * self._bytes[way] + count
                self._seconds[way] = past * self._seconds[way] + seconds
                self._is_start[way] = False

    def out_s(self, num_bytes: int) -> float:
        """Seconds to copy so much to the host."""
        return num_bytes * self._seconds[0] / self._bytes[0]

    def back_s(self, num_bytes: int) -> float:
        """Seconds to copy so much to the device."""
        return num_bytes * self._seconds[1] / self._bytes[1]


@dataclass(frozen=True)
class Verdict:
    """Whether a sequence's `tokens` are kept on the host, and why, in words."""

    is_kept: bool
    tokens: int
    reason: str


class Swapping:
    """The host's page pools, one per cache group, what is copied with the next step, and what copying costs.

    A host page's content is named by its key as a device page's is, so that one copy serves every sequence with that
    prefix. `out[g]` maps host pages to the device pages they are copied from, `back[g]` device pages to host pages. The
    host pages of copies that fly are held, so that what they carry can be found again if their step fails.
    """

    def __init__(self, num_pages: Seq[int], page_bytes: Seq[int], cost: StepCost) -> None:
        self.pools = [PagePool(n) for n in num_pages]
        self.page_bytes = page_bytes
        self.cost = cost  # of steps, learned by the engine core
        self.link = Link()
        self.flying: list[Moves] = []
        self.out: list[dict[int, int]] = [{} for _ in num_pages]
        self.back: list[dict[int, int]] = [{} for _ in num_pages]
        self.swaps = 0
        self.moved = [0, 0]  # pages asked to be copied out and back
        self.moved_bytes = [0, 0]

    def keep(
        self, seq: Sequence, tokens: int, here: list[list[int]], leaving: list[list[tuple[int, bytes]]]
    ) -> Verdict:
        """Decide whether a preempted sequence's `tokens` are kept, and if so queue the copies.

        `here[g]` are its pages that the host has; `leaving[g]` those it has not, with their keys.
        """
        out_bytes = self._bytes(map(len, leaving))
        copy_s = self.link.out_s(out_bytes) + self.link.back_s(out_bytes + self._bytes(map(len, here)))
        compute_s = self.cost.token_s * tokens
        costs = f"{milliseconds(copy_s)} to copy against {milliseconds(compute_s)} to compute them again"
        if copy_s >= compute_s:
            return Verdict(False, tokens, costs)
        for pool, pages in zip(self.pools, here, strict=True):
            pool.share(pages)
        if any(len(pages) > len(pool.free) for pool, pages in zip(self.pools, leaving, strict=True)):
            for pool, pages in zip(self.pools, here, strict=True):
                pool.release(pages)
            return Verdict(False, tokens, "no room for them on the host")
        seq.swapped = here
        for g, pool in enumerate(self.pools):
            targets = pool.take(len(leaving[g]))
            for target, (page, key) in zip(targets, leaving[g], strict=True):
                pool.publish(target, key)
                self.out[g][target] = page
            pool.share(targets)  # by the copy
            seq.swapped[g] += targets
        self.swaps += 1
        return Verdict(True, tokens, costs)

    def forget(self, seq: Sequence) -> None:
        """Keep nothing for this sequence any longer; what is on the host can be found until its memory is needed."""
        for pool, pages in zip(self.pools, seq.swapped, strict=False):
            pool.release(pages)
        seq.swapped = []

    def is_worth(self, tokens: int, num_pages: Seq[int]) -> bool:
        """Whether copying so many pages of each group to the device is cheaper than computing their tokens."""
        return self.link.back_s(self._bytes(num_pages)) < self.cost.token_s * tokens

    def load(self, group: int, page: int, host_page: int) -> None:
        """Queue the copy of a host page to a device page."""
        before = self.back[group].pop(page, None)  # whoever wanted that has given the page up
        if before is not None:
            self.pools[group].release([before])
        self.pools[group].share([host_page])
        self.back[group][page] = host_page

    def take(self) -> Moves | None:
        """What is to be copied with the step that is being made."""
        if not any(self.out) and not any(self.back):
            return None
        moves = Moves(
            [[(page, host_page) for host_page, page in copies.items()] for copies in self.out],
            [list(copies.items()) for copies in self.back],
        )
        for way, copies in enumerate((moves.out, moves.back)):
            counts = list(map(len, copies))
            self.moved[way] += sum(counts)
            self.moved_bytes[way] += self._bytes(counts)
        for copies in (*self.out, *self.back):
            copies.clear()
        self.flying.append(moves)
        return moves

    def land(self, moves: Moves) -> None:
        """The step that these were sent with has ended."""
        if not any(each is moves for each in self.flying):
            return  # lost meanwhile
        self.flying = [each for each in self.flying if each is not moves]
        for pool, copies in zip(self.pools, zip(moves.out, moves.back, strict=True), strict=True):
            for pairs in copies:
                pool.release([host_page for _, host_page in pairs])

    def lose(self, live: Iterable[Sequence]) -> list[set[int]]:
        """The oldest step whose copies fly has failed: nothing that was copied since counts.

        Returns the device pages of each group that may not hold what was to be copied to them.
        """
        self.take()
        poisoned = [{page for moves in self.flying for page, _ in moves.back[g]} for g in range(len(self.pools))]
        for g, pool in enumerate(self.pools):
            lost = {host_page for moves in self.flying for _, host_page in moves.out[g]}
            for page in lost:
                pool.unpublish(page)
            for seq in live:
                if seq.swapped and not lost.isdisjoint(seq.swapped[g]):
                    pool.release([page for page in seq.swapped[g] if page in lost])
                    seq.swapped[g] = [page for page in seq.swapped[g] if page not in lost]
        for moves in self.flying:
            self.land(moves)
        return poisoned

    def reset(self) -> int:
        """Nobody finds the pages that are kept for nobody; returns how many could be found."""
        return sum(pool.forget() for pool in self.pools)

    def check(self, live: Iterable[Sequence]) -> list[str]:
        """What is wrong with the books, given every live sequence."""
        swapped = [seq for seq in live if seq.swapped]
        wrong = []
        for g, pool in enumerate(self.pools):
            tables = [seq.swapped[g] for seq in swapped]
            tables += [[host_page] for host_page in (*self.out[g], *self.back[g].values())]
            for moves in self.flying:
                tables += [[host_page] for _, host_page in (*moves.out[g], *moves.back[g])]
            wrong += [f"host pages of cache group {g}: {line}" for line in pool.check(tables)]
        return wrong

    @property
    def counts(self) -> dict[str, int]:
        """What happened since the start, and what is there now; the names are those of messages.Stats."""
        return {
            "swaps": self.swaps,
            "swapped_out_pages": self.moved[0],
            "swapped_in_pages": self.moved[1],
            "swapped_out_bytes": self.moved_bytes[0],
            "swapped_in_bytes": self.moved_bytes[1],
            "host_pages_total": sum(pool.num_pages for pool in self.pools),
            "host_pages_held": sum(pool.num_pages - len(pool.free) for pool in self.pools),
        }

    def _bytes(self, counts: Iterable[int]) -> int:
        return sum(count * each for count, each in zip(counts, self.page_bytes, strict=True))


def milliseconds(seconds: float) -> str:
    """A short time for people."""
    return f"{seconds * 1e3:.3g} ms"
