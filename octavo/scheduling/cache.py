"""CacheManager: hides the kinds of memory a model needs (one page pool per cache group) and names pages by content."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from octavo.errors import InvalidRequest, StartupError
from octavo.scheduling.pages import NO_PAGE, PagePool
from octavo.scheduling.sequence import Sequence
from octavo.spec import CacheGroup


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
            needs.append(self._pages(upto) - num_found)
            revived = sum(1 for page in found[g] if page != NO_PAGE and not pool.holders[page])
            if needs[g] + revived + (0 if alone else self.watermark[g]) > len(pool.free):
                return False
        for g, pool in enumerate(self.pools):
            pool.share(page for page in found[g] if page != NO_PAGE)
            found[g] += pool.take(needs[g])
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
        return [
            f"cache group {g}: {line}"
            for g, pool in enumerate(self.pools)
            for line in pool.check(seq.pages[g] for seq in live if seq.pages)
        ]

    def _pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def _findable(self, seq: Sequence) -> bool:
        return self.enable_prefix_caching or seq.family is not None

    def _keys(self, seq: Sequence, count: int) -> list[bytes]:
        """The keys of the sequence's first `count` pages."""
        keys = seq.keys
        if len(keys) < count:
            family = None if self.enable_prefix_caching else seq.family
            parent = keys[-1] if keys else digest(encode_root(self.identity, seq.spec.salt, family))
            for i in range(len(keys), count):
                tokens = seq.tokens[i * self.page_size : (i + 1) * self.page_size]
                parent = digest(encode_page(parent, tokens))
                keys.append(parent)
        return keys

    def _match(self, seq: Sequence) -> list[list[int]]:
        """Per group, the pages of the longest prefix that every group can continue from (NO_PAGE behind a window)."""
        if not self._findable(seq) or seq.needs_every_position:
            return [[] for _ in self.pools]
        count = (len(seq.tokens) - 1) // self.page_size
        keys = self._keys(seq, count)[:count]
        if len(self.windows) == 1 and not self.has_windows:
            return [self.pools[0].match(keys)]
        for window, pool in zip(self.windows, self.pools, strict=True):
            if window is None:
                keys = keys[: len(pool.match(keys))]
        count = self._shortest_run(keys)
        return [
            [NO_PAGE] * first + [pool.index[key] for key in keys[first:count]]
            for window, pool in zip(self.windows, self.pools, strict=True)
            for first in (0 if window is None else self._first_visible(count * self.page_size, window),)
        ]

    def _shortest_run(self, keys: list[bytes]) -> int:
        """The most pages after which every windowed group has all it can see."""
        best = 0
        runs = [0] * len(self.pools)  # findable pages in a row, up to here
        for count, key in enumerate(keys, 1):
            continues = True
            for g, window in enumerate(self.windows):
                if window is not None:
                    runs[g] = runs[g] + 1 if key in self.pools[g].index else 0
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
