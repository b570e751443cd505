"""CacheManager: hides the kinds of memory a model needs (one page pool per cache group) and names pages by content."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from itertools import takewhile

from octavo.errors import InvalidRequest, StartupError
from octavo.scheduling.pages import NO_PAGE, Find, PagePool, match
from octavo.scheduling.sequence import Sequence
from octavo.scheduling.swapping import Swapping, Verdict
from octavo.spec import CacheGroup

ON_HOST = -2  # in a table that is being made: page h of the host is ON_HOST - h


def encode(domain: bytes, *fields: bytes) -> bytes:
    """One byte string per distinct (domain, fields): each part follows its length, the whole follows their number."""
    parts = [len(fields).to_bytes(8, "little")]
    for part in (domain, *fields):
        parts += (len(part).to_bytes(8, "little"), part)
    return b"".join(parts)


def optional(value: bytes | None) -> bytes:
    """A field that may be absent; absent and empty differ."""
    return encode(b"absent") if value is None else encode(b"present", value)


def encode_root(
    identity: bytes,
    salt: bytes = b"",
    family: int | None = None,
    adapter: bytes | None = None,
    media: Seq[bytes] = (),
) -> bytes:
    """What every page of a sequence depends on besides its tokens (R49).

    `identity` is the model's, KV dtype included; `salt` separates tenants; `family` confines pages to one leader's
    siblings; `adapter` and `media` are content digests.
    """
    member = optional(None if family is None else family.to_bytes(16, "little", signed=True))
    return encode(b"octavo.root", identity, salt, member, optional(adapter), encode(b"media", *media))


def encode_page(parent: bytes, tokens: Iterable[int]) -> bytes:
    """A page's content: the key of what comes before it, and its own token ids."""
    return encode(b"octavo.page", parent, array("i", tokens).tobytes())


def stays(pool: PagePool, page: int, key: bytes) -> bool:
    """Whether somebody else holds this page of a sequence, or one with the same content."""
    found = pool.index.get(key)
    return pool.holders[page] > 1 or (found is not None and found != page and pool.holders[found] > 0)


def digest(encoded: bytes) -> bytes:
    """The SHA-256 of an encoding, 32 bytes: the key of a page."""
    return hashlib.sha256(encoded).digest()


class CacheManager:
    """Pages for sequences, in every cache group: `groups[g]` has `num_pages[g]` pages of `page_size` positions.

    Pages that the window of a group has passed are released as the sequence advances; a prefix is reused in such a
    group if the pages of its last `window` tokens are found. For no sequence to be preempted on account of a windowed
    group it needs pages for every row's window and for all tokens in flight; with fewer, rows take turns.
    """

    def __init__(
        self,
        groups: Seq[CacheGroup],
        num_pages: Seq[int],
        page_size: int,
        enable_prefix_caching: bool,
        identity: bytes,
    ) -> None:
        if len(groups) != len(num_pages) or not groups:
            raise StartupError(f"{len(groups)} cache groups but {len(num_pages)} page counts; give one each")
        self.page_size = page_size
        self.windows = [group.spec.window for group in groups]
        self.has_windows = any(window is not None for window in self.windows)
        self.pools = [PagePool(n) for n in num_pages]
        self.enable_prefix_caching = enable_prefix_caching
        self.identity = identity
        self.no_pages: list[list[int]] = [[] for _ in groups]
        self.watermark = [max(1, n // 100) for n in num_pages]  # left to running rows by admissions
        self.max_chunk = self._longest_chunk()
        self.swapping: Swapping | None = None  # when there is memory on the host for it

    def _longest_chunk(self) -> int:
        """Tokens a lone sequence can compute in one step in every windowed group, whatever its alignment to pages."""
        longest = 2**31 - 1
        for window, pool in zip(self.windows, self.pools, strict=True):
            if window is not None:
                longest = min(longest, (pool.num_pages - 2) * self.page_size - window + 1)
        if longest < 1:
            raise StartupError(
                f"the cache has {[pool.num_pages for pool in self.pools]} pages of {self.page_size} tokens per group, "
                f"too few for windows {self.windows}; give it more memory"
            )
        return longest

    def check_fits(self, seq: Sequence) -> None:
        """Raise InvalidRequest if the sequence could not even run alone."""
        need = self._pages(seq.limit - 1)
        for window, pool in zip(self.windows, self.pools, strict=True):
            if window is None and need > pool.num_pages:
                room = pool.num_pages * self.page_size + 1
                raise InvalidRequest(
                    f"{seq.prompt_len} prompt tokens and up to {seq.limit - seq.prompt_len} new ones need {need} cache "
                    f"pages but there are {pool.num_pages}; together they must be at most {room} tokens",
                    "max_tokens" if seq.prompt_len < room else "prompt",
                )

    def admit(self, seq: Sequence, chunk: int, alone: bool) -> bool:
        """Give a sequence what the cache knows of it, and pages for all its tokens (in windowed groups for `chunk`).

        Sets its pages and `computed`; False, and nothing changes, if that does not fit. At least one token is left to
        compute, because its logits are needed. `alone`: no other sequence will need pages.
        """
        found = self._match(seq)
        num_found = len(found[0])
        computed = num_found * self.page_size
        needs = []
        for g, pool in enumerate(self.pools):
            upto = len(seq.tokens)
            if self.windows[g] is not None:
                upto = min(upto, computed + chunk)
            loads = sum(1 for page in found[g] if page <= ON_HOST)
            needs.append(self._pages(upto) - num_found + loads)
            revived = sum(1 for page in found[g] if page >= 0 and not pool.holders[page])
            if needs[g] + revived + (0 if alone else self.watermark[g]) > len(pool.free):
                return False
        for g, pool in enumerate(self.pools):
            pool.share(page for page in found[g] if page >= 0)
            taken = pool.take(needs[g])
            loads = self._load(seq, g, found[g], taken)
            found[g] += taken[loads:]
            seq.is_arriving |= loads > 0
        if self.swapping is not None:
            self.swapping.forget(seq)
        seq.pages = found
        seq.behind = [0] * len(found)
        seq.computed = seq.reached = computed
        seq.published = num_found
        seq.commit_at = computed + self.page_size
        seq.capacity = min(map(len, found)) * self.page_size
        return True

    def reserve(self, seq: Sequence, upto: int) -> list[list[int]] | None:
        """Pages that extend the sequence's tables to position `upto`, per group; None, and nothing changes: no room."""
        need = self._pages(upto)
        for pages, pool in zip(seq.pages, self.pools, strict=True):
            if need - len(pages) > len(pool.free):
                return None
        new = [pool.take(max(0, need - len(pages))) for pages, pool in zip(seq.pages, self.pools, strict=True)]
        for pages, more in zip(seq.pages, new, strict=True):
            pages += more
        seq.capacity = min(map(len, seq.pages)) * self.page_size
        return new

    def commit(self, seq: Sequence) -> None:
        """Publish the pages that became full and final, and release those that a window has passed."""
        full = seq.computed // self.page_size
        if self._findable(seq):
            keys = self._keys(seq, full)
            for pages, pool in zip(seq.pages, self.pools, strict=True):
                for i in range(seq.published, full):
                    if pages[i] != NO_PAGE:
                        pool.publish(pages[i], keys[i])
            seq.published = full
        seq.commit_at = (full + 1) * self.page_size
        for g, window in enumerate(self.windows):
            if window is not None:
                self._pass_window(seq, g, window)

    def swap_out(self, seq: Sequence) -> Verdict | None:
        """Decide whether the host keeps what a sequence that is about to release its pages has computed.

        None: there is nothing to decide. Only full pages can be kept. Those that others hold stay on the device.
        """
        swapping, full = self.swapping, seq.computed // self.page_size
        if swapping is None or not full or seq.needs_every_position:
            return None
        keys = self._keys(seq, full)[:full]
        first = (
            0 if self.has_windows else min(map(self._count_staying, self.pools, seq.pages, [keys] * len(self.pools)))
        )
        if first == full:
            return None
        here: list[list[int]] = []
        leaving: list[list[tuple[int, bytes]]] = []
        for pages, pool, host in zip(seq.pages, self.pools, swapping.pools, strict=True):
            own = [(page, key) for page, key in zip(pages[first:], keys[first:], strict=False) if page != NO_PAGE]
            here.append([host.index[key] for _, key in own if key in host.index])
            leaving.append([(page, key) for page, key in own if key not in host.index and not stays(pool, page, key)])
        return swapping.keep(seq, (full - first) * self.page_size, here, leaving)

    def forget(self) -> int:
        """Nobody finds the pages any more that nobody holds; returns how many of the device could be found."""
        if self.swapping is not None:
            self.swapping.reset()
        return sum(pool.forget() for pool in self.pools)

    def release(self, seq: Sequence) -> None:
        """Take back all pages; what was published of them can still be found."""
        for pages, pool in zip(seq.pages, self.pools, strict=False):  # none before admission
            pool.release([page for page in pages if page != NO_PAGE] if NO_PAGE in pages else pages)
        seq.pages = []

    def discard(self, seq: Sequence) -> None:
        """Release, and make unfindable whatever a failed step may have half written (R10)."""
        for pages, pool in zip(seq.pages, self.pools, strict=False):
            for page in pages[seq.computed // self.page_size :]:
                if page != NO_PAGE:
                    pool.unpublish(page)
        self.release(seq)

    def check(self, live: Seq[Sequence]) -> list[str]:
        """What is wrong with the books, given every sequence that may hold pages."""
        wrong = [
            f"cache group {g}: {line}"
            for g, pool in enumerate(self.pools)
            for line in pool.check(seq.pages[g] for seq in live if seq.pages)
        ]
        return wrong if self.swapping is None else wrong + self.swapping.check(live)

    def _pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def _findable(self, seq: Sequence) -> bool:
        return self.enable_prefix_caching or seq.family is not None

    def _keys(self, seq: Sequence, count: int) -> list[bytes]:
        """The keys of the sequence's first `count` pages."""
        keys = seq.keys
        if len(keys) < count:
            family = None
            if not self.enable_prefix_caching:  # a leader's family has its id, too
                family = seq.id if seq.family is None else seq.family
            parent = keys[-1] if keys else digest(encode_root(self.identity, seq.spec.salt, family))
            for i in range(len(keys), count):
                tokens = seq.tokens[i * self.page_size : (i + 1) * self.page_size]
                parent = digest(encode_page(parent, tokens))
                keys.append(parent)
        return keys

    def _match(self, seq: Sequence) -> list[list[int]]:
        """Per group, the pages of the longest prefix that every group can continue from (NO_PAGE behind a window)."""
        is_findable = self._findable(seq)
        if not (is_findable or seq.swapped) or seq.needs_every_position:
            return [[] for _ in self.pools]
        count = (len(seq.tokens) - 1) // self.page_size
        keys = self._keys(seq, count)[:count]
        found = self._tables(keys, [pool.index.get for pool in self.pools])
        if self.swapping is None:
            return found
        further = self._tables(keys, [self._finder(g) for g in range(len(self.pools))])
        more = (len(further[0]) - len(found[0])) * self.page_size
        loads = [sum(1 for page in table if page <= ON_HOST) for table in further]
        return further if more and self.swapping.is_worth(more, loads) else found

    def _count_staying(self, pool: PagePool, pages: list[int], keys: list[bytes]) -> int:
        """How many pages from the first on stay on the device when a sequence gives up its own."""
        own = zip(pages, keys, strict=False)
        return sum(1 for _ in takewhile(lambda each: stays(pool, *each), own))

    def _finder(self, g: int) -> Find:
        """Where the page of a key is: on the device, on the host (ON_HOST - its number), or nowhere."""
        assert self.swapping is not None
        here, there = self.pools[g].index, self.swapping.pools[g].index

        def find(key: bytes) -> int | None:
            page = here.get(key)
            if page is None and (page := there.get(key)) is not None:
                return ON_HOST - page
            return page

        return find

    def _load(self, seq: Sequence, g: int, table: list[int], taken: list[int]) -> int:
        """Put the first of the pages `taken` in the place of those on the host; returns how many that were."""
        at = [i for i, page in enumerate(table) if page <= ON_HOST]
        for i, page in zip(at, taken, strict=False):
            assert self.swapping is not None
            self.swapping.load(g, page, ON_HOST - table[i])
            table[i] = page
            if self._findable(seq):
                self.pools[g].publish(page, seq.keys[i])
        return len(at)

    def _tables(self, keys: list[bytes], finds: list[Find]) -> list[list[int]]:
        """Per group, what `finds[g]` knows of the longest prefix that every group can continue from."""
        for window, find in zip(self.windows, finds, strict=True):
            if window is None:
                keys = keys[: len(match(keys, find))]
        count = self._shortest_run(keys, finds) if self.has_windows else len(keys)
        tables: list[list[int]] = []
        for window, find in zip(self.windows, finds, strict=True):
            first = 0 if window is None else self._first_visible(count * self.page_size, window)
            tables.append([NO_PAGE] * first + [page for key in keys[first:count] if (page := find(key)) is not None])
        return tables

    def _shortest_run(self, keys: list[bytes], finds: list[Find]) -> int:
        """The most pages after which every windowed group has all it can see."""
        best = 0
        runs = [0] * len(self.pools)  # findable pages in a row, up to here
        for count, key in enumerate(keys, 1):
            continues = True
            for g, window in enumerate(self.windows):
                if window is not None:
                    runs[g] = runs[g] + 1 if finds[g](key) is not None else 0
                    continues &= runs[g] >= count - self._first_visible(count * self.page_size, window)
            if continues:
                best = count
        return best

    def _first_visible(self, position: int, window: int) -> int:
        """The first page that a query at `position` sees."""
        return max(0, position - window + 1) // self.page_size

    def _pass_window(self, seq: Sequence, g: int, window: int) -> None:
        first = self._first_visible(seq.computed, window)
        pages = seq.pages[g]
        passed = [pages[i] for i in range(seq.behind[g], first) if pages[i] != NO_PAGE]
        pages[seq.behind[g] : first] = [NO_PAGE] * (first - seq.behind[g])
        seq.behind[g] = max(seq.behind[g], first)
        self.pools[g].release(passed[::-1])
