"""PageMover: pages of all layers of a cache group, to the host and back, beside the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from octavo.messages import BatchMessage, Copies, Moved
from octavo.platforms.lane import Lane, Ticket
from octavo.spec import CacheGroup

STAGING_BYTES = 64 * 2**20  # what is gathered on the device for one copy
WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)
CacheShape = Callable[[CacheGroup, int], tuple[int, ...]]  # of one layer of a group, for so many pages


@dataclass(frozen=True)
class GroupPages:
    """One cache group's memory as words: `layers` [pages, ...] on the device, `host` [host pages, words].

    A page of the host holds that page of every layer, one behind the other, so that one long copy moves it.
    """

    layers: Sequence[Tensor]
    host: Tensor
    staging: Tensor  # [pages at once, words], on the device

    @property
    def page_bytes(self) -> int:
        """Bytes of a page in all layers."""
        return self.host.shape[1] * self.host.element_size()

    def copy_out(self, copies: Copies, numbers: Callable[[Sequence[int]], Tensor]) -> None:
        """Queue copies to the host."""
        for part in self._parts(copies):
            pages = numbers([page for page, _ in part])
            for place, layer in zip(self._places(len(part)), self.layers, strict=True):
                place.copy_(layer.index_select(0, pages).flatten(1))
            for at, first, count in runs([host_page for _, host_page in part]):
                self.host[first : first + count].copy_(self.staging[at : at + count], non_blocking=True)

    def copy_back(self, copies: Copies, numbers: Callable[[Sequence[int]], Tensor]) -> None:
        """Queue copies to the device."""
        for part in self._parts(copies):
            for at, first, count in runs([host_page for _, host_page in part]):
                self.staging[at : at + count].copy_(self.host[first : first + count], non_blocking=True)
            pages = numbers([page for page, _ in part])
            for place, layer in zip(self._places(len(part)), self.layers, strict=True):
                layer.index_copy_(0, pages, place.reshape(len(part), *layer.shape[1:]))

    def _parts(self, copies: Copies) -> Iterator[Copies]:
        """As many copies at once as there is staging memory for, the host's pages ascending."""
        ordered, room = sorted(copies, key=lambda pair: pair[1]), len(self.staging)
        return (ordered[first : first + room] for first in range(0, len(ordered), room))

    def _places(self, count: int) -> Iterator[Tensor]:
        """Where the first so many pages of each layer are staged [count, words of a layer]."""
        return iter(self.staging[:count].chunk(len(self.layers), dim=1))


@dataclass
class Flight:
    """Copies of one direction on their way: the device pages of each group they touch."""

    pages: list[set[int]]
    num_bytes: int
    is_out: bool
    ticket: Ticket
    is_held: bool = False


class PageMover:
    """Copies pages as step messages say, in the order of their launch.

    A step waits for copies only when it is given one of their pages: then it begins behind them.
    """

    def __init__(self, groups: Sequence[GroupPages], lane: Lane) -> None:
        self.groups = groups
        self.lane = lane
        self._flights: list[Flight] = []

    @torch.inference_mode()
    def take(self, batch: BatchMessage) -> None:
        """Begin the copies of a step that is launched next, which waits for those that it must."""
        if batch.moves is not None:
            self._begin(batch.moves.out, is_out=True)
            self._begin(batch.moves.back, is_out=False)
        for flight in self._flights:
            if not flight.is_held and any(gives(work.new_pages, flight.pages) for work in batch.rows):
                flight.ticket.hold()
                flight.is_held = True

    def told(self) -> Moved | None:
        """What has ended since the last call; never waits."""
        ended = [(flight, took_s) for flight in self._flights if (took_s := flight.ticket.seconds()) is not None]
        if not ended:
            return None
        self._flights = [flight for flight in self._flights if all(flight is not each for each, _ in ended)]
        sums = {True: [0, 0.0], False: [0, 0.0]}
        for flight, took_s in ended:
            sums[flight.is_out][0] += flight.num_bytes
            sums[flight.is_out][1] += took_s
        (out_bytes, out_s), (back_bytes, back_s) = sums[True], sums[False]
        return Moved(int(out_bytes), out_s, int(back_bytes), back_s)

    def _begin(self, copies: list[Copies], is_out: bool) -> None:
        if not any(copies):
            return

        def work() -> None:
            for group, mine in zip(self.groups, copies, strict=True):
                copy = group.copy_out if is_out else group.copy_back
                copy(mine, self.lane.numbers)

        num_bytes = sum(len(mine) * group.page_bytes for mine, group in zip(copies, self.groups, strict=True))
        pages = [{page for page, _ in mine} for mine in copies]
        self._flights.append(Flight(pages, num_bytes, is_out, self.lane.run(work)))


def gives(new_pages: Sequence[Sequence[int]], touched: Sequence[set[int]]) -> bool:
    """Whether pages given to a row are among those that copies touch."""
    return any(pages and not mine.isdisjoint(pages) for pages, mine in zip(new_pages, touched, strict=True))


def runs(pages: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of consecutive ascending pages: index of the first, the first, how many."""
    for _, run in groupby(enumerate(pages), key=lambda pair: pair[1] - pair[0]):
        members = list(run)
        yield members[0][0], members[0][1], len(members)


def make_mover(
    caches: Sequence[Tensor],
    groups: Sequence[CacheGroup],
    host_pages: Sequence[int],
    cache_shape: CacheShape,
    lane: Lane,
) -> PageMover:
    """A mover between the layers' caches and memory on the host for so many pages of each group."""
    return PageMover(
        [
            group_pages([caches[layer] for layer in group.layers], count, partial(cache_shape, group), lane)
            for group, count in zip(groups, host_pages, strict=True)
        ],
        lane,
    )


def group_pages(
    caches: Sequence[Tensor], host_pages: int, shape: Callable[[int], tuple[int, ...]], lane: Lane
) -> GroupPages:
    """The caches of one group's layers, and the host's memory for as many of its pages."""
    one, two = shape(1), shape(2)
    axis = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)  # the backend's choice
    row_bytes = caches[0].shape[-1] * caches[0].element_size()
    word = next(each for each in WORDS if row_bytes % each.itemsize == 0)
    layers = [cache.view(word).movedim(axis, 0) for cache in caches]
    words = sum(layer[0].numel() for layer in layers)
    at_once = max(1, min(host_pages, STAGING_BYTES // (words * word.itemsize)))
    staging = torch.empty((at_once, words), dtype=word, device=caches[0].device)
    return GroupPages(layers, lane.host_memory((host_pages, words), word), staging)
