"""PagePool: who holds which page of KV memory, and which free pages can still be found by their content."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence

NO_PAGE = -1  # in a page table: a page the window has passed; never read
Find = Callable[[bytes], int | None]  # the page of a key


def match(keys: Iterable[bytes], find: Find) -> list[int]:
    """The pages of the longest run of keys, from the first on, that `find` has pages for. Does not take them."""
    pages: list[int] = []
    for key in keys:
        page = find(key)
        if page is None:
            break
        pages.append(page)
    return pages


class OutOfPages(Exception):
    """More pages were asked for than are free."""


class PagePool:
    """Reference-counted pages, which are ints in [0, num_pages).

    A free page keeps its content and key until it is taken again, least recently released first; free pages without a
    key go first. A page is in `free` exactly when nobody holds it.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.holders = [0] * num_pages
        self.keys: list[bytes | None] = [None] * num_pages
        self.index: dict[bytes, int] = {}
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_pages))
        self.num_cached = 0  # free pages that are findable

    def share(self, pages: Iterable[int]) -> None:
        """One more holder of each page."""
        for page in pages:
            if not self.holders[page]:
                del self.free[page]
                self.num_cached -= self.keys[page] is not None
            self.holders[page] += 1

    def take(self, num_pages: int) -> list[int]:
        """Pages nobody else holds, least recently released first; raises OutOfPages."""
        if num_pages > len(self.free):
            raise OutOfPages(f"{num_pages} pages wanted, {len(self.free)} of {self.num_pages} free")
        pages = []
        for _ in range(num_pages):
            page, _nothing = self.free.popitem(last=False)
            key = self.keys[page]
            if key is not None:
                self.num_cached -= 1
                self.keys[page] = None
                del self.index[key]
            self.holders[page] = 1
            pages.append(page)
        return pages

    def publish(self, page: int, key: bytes) -> None:
        """Make a held, full and final page findable, unless an equal one already is."""
        if key not in self.index and self.keys[page] is None:
            self.index[key] = page
            self.keys[page] = key

    def unpublish(self, page: int) -> None:
        """Nobody finds this page from now on."""
        key = self.keys[page]
        if key is not None:
            self.num_cached -= not self.holders[page]
            self.keys[page] = None
            del self.index[key]

    def forget(self) -> int:
        """Nobody finds the free pages any more; returns how many could be found. Held ones stay as they are."""
        forgotten = self.num_cached
        for page in self.free:
            key = self.keys[page]
            if key is not None:
                self.keys[page] = None
                del self.index[key]
        self.num_cached = 0
        return forgotten

    def release(self, pages: Sequence[int]) -> None:
        """One holder less of each page of a table, in order of position."""
        # Tail first: a released prefix must outlive its extensions, because match() walks from the front.
        for page in reversed(pages):
            holders = self.holders[page] - 1
            assert holders >= 0, f"page {page} is released but nobody holds it"
            self.holders[page] = holders
            if holders:
                continue
            self.free[page] = None
            if self.keys[page] is None:
                self.free.move_to_end(page, last=False)
            else:
                self.num_cached += 1

    def check(self, tables: Iterable[Sequence[int]]) -> list[str]:
        """What is wrong with the books, given every live page table (R12)."""
        wrong = []
        held: Counter[int] = Counter()
        for table in tables:
            pages = [page for page in table if page != NO_PAGE]
            if len(set(pages)) != len(pages):
                wrong.append(f"a page stands twice in the table {pages}")
            held.update(pages)
        for page, count in held.items():
            if self.holders[page] != count:
                wrong.append(f"page {page} counts {self.holders[page]} holders but stands in {count} tables")
            if page in self.free:
                wrong.append(f"page {page} is free but stands in a table")
            if count > 1 and self.keys[page] is None:
                wrong.append(f"page {page} stands in {count} tables but was never published")
        if sum(self.holders) != sum(held.values()):
            wrong.append(f"{sum(self.holders)} references counted, {sum(held.values())} in tables")
        if len(self.free) != self.holders.count(0):
            wrong.append(f"{len(self.free)} pages are listed free, {self.holders.count(0)} have no holder")
        cached = len(self.free) - list(map(self.keys.__getitem__, self.free)).count(None)
        if self.num_cached != cached:
            wrong.append(f"{self.num_cached} cached pages counted, {cached} found")
        if len(self.index) != self.num_pages - self.keys.count(None):
            wrong.append(f"{len(self.index)} keys are indexed, {self.num_pages - self.keys.count(None)} pages have one")
        if list(map(self.keys.__getitem__, self.index.values())) != list(self.index):
            wrong.append("a key leads to a page that does not carry it")
        return wrong
