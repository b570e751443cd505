"""PagePool and the names of pages: who is found, who is evicted first, and that no two contents share a name (R49)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import StartupError
from octavo.scheduling.cache import CacheManager, digest, encode, encode_page, encode_root, optional
from octavo.scheduling.pages import OutOfPages, PagePool, match
from octavo.spec import CacheGroup, CacheSpec


def published(pool: PagePool, keys: list[bytes]) -> list[int]:
    pages = pool.take(len(keys))
    for page, key in zip(pages, keys, strict=True):
        pool.publish(page, key)
    return pages


def test_a_released_page_is_found_again_until_it_is_taken() -> None:
    pool = PagePool(3)
    pages = published(pool, [b"a", b"b"])
    pool.release(pages)
    assert match([b"a", b"b", b"c"], pool.index.get) == pages
    assert pool.num_cached == 2
    pool.take(3)
    assert match([b"a"], pool.index.get) == []
    assert pool.num_cached == 0


def test_a_released_prefix_outlives_its_extensions() -> None:
    pool = PagePool(4)
    pages = published(pool, [b"a", b"b", b"c", b"d"])
    pool.release(pages)
    pool.take(2)
    assert match([b"a", b"b", b"c"], pool.index.get) == pages[:2]


def test_the_least_recently_released_page_is_evicted_first() -> None:
    pool = PagePool(3)
    first, second, third = (published(pool, [key]) for key in (b"a", b"b", b"c"))
    pool.release(second)
    pool.release(third)
    pool.release(first)
    assert pool.take(1) == second
    assert pool.take(1) == third


def test_pages_that_cannot_be_found_are_taken_before_those_that_can() -> None:
    pool = PagePool(3)
    findable = published(pool, [b"a"])
    blank = pool.take(2)
    pool.release(findable)
    pool.release(blank)
    assert set(pool.take(2)) == set(blank)
    assert match([b"a"], pool.index.get) == findable


def test_a_shared_page_is_free_when_its_last_holder_lets_go() -> None:
    pool = PagePool(2)
    pages = published(pool, [b"a"])
    pool.share(pages)
    pool.release(pages)
    assert len(pool.free) == 1
    pool.release(pages)
    assert len(pool.free) == 2
    pool.share(pages)  # revived
    assert len(pool.free) == 1
    assert pool.check([pages]) == []


def test_equal_content_keeps_the_name_of_the_first_page() -> None:
    pool = PagePool(2)
    first = published(pool, [b"a"])
    second = published(pool, [b"a"])
    pool.release(second)
    assert match([b"a"], pool.index.get) == first
    assert pool.check([first]) == []


def test_more_pages_than_there_are_cannot_be_taken_and_nothing_changes() -> None:
    pool = PagePool(2)
    with pytest.raises(OutOfPages, match="3 pages wanted, 2 of 2 free"):
        pool.take(3)
    assert len(pool.free) == 2


def test_an_unpublished_page_is_not_found() -> None:
    pool = PagePool(2)
    pages = published(pool, [b"a"])
    pool.unpublish(pages[0])
    pool.release(pages)
    assert match([b"a"], pool.index.get) == []
    assert pool.check([]) == []


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_the_books_balance_after_any_use(seed: int) -> None:
    random = Random(seed)
    pool = PagePool(random.randrange(1, 12))
    tables: list[list[int]] = []
    names = 0
    for _ in range(60):
        match random.randrange(4):
            case 0 if pool.free:
                tables.append(pool.take(random.randrange(len(pool.free)) + 1))
            case 1 if tables:
                for page in random.choice(tables):
                    names += 1
                    pool.publish(page, b"%d" % (names % 9))
            case 2 if tables:
                pool.release(tables.pop(random.randrange(len(tables))))
            case 3:
                found = match([b"%d" % random.randrange(9)], pool.index.get)
                pool.share(found)
                tables.append(found)
        assert pool.check(tables) == []


def test_the_check_names_what_is_wrong() -> None:
    pool = PagePool(4)
    pages = pool.take(2)
    assert "counts 1 holders but stands in 2 tables" in pool.check([pages, pages[:1]])[0]
    assert "references counted" in pool.check([])[0]
    assert "stands twice" in pool.check([[*pages, pages[0]]])[0]
    pool.free[pages[0]] = None
    assert any("is free but stands in a table" in line for line in pool.check([pages]))


FIELDS = st.lists(st.binary(max_size=6), max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4), FIELDS, st.binary(max_size=4), FIELDS)
def test_distinct_fields_have_distinct_encodings(a: bytes, xs: list[bytes], b: bytes, ys: list[bytes]) -> None:
    assert (encode(a, *xs) == encode(b, *ys)) == ((a, xs) == (b, ys))


PIECES = st.sampled_from([b"", b"a", b"aa", b"b", encode(b"present", b"a"), encode(b"media"), b"\0" * 8])
ROOTS = st.tuples(
    PIECES,
    PIECES,
    st.sampled_from([None, 0, 1, -1, 2**40]),
    st.none() | PIECES,
    st.lists(PIECES, max_size=2).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(ROOTS, ROOTS)
def test_roots_of_distinct_identities_differ(a: tuple, b: tuple) -> None:
    assert (encode_root(*a) == encode_root(*b)) == (a == b)


def test_crafted_roots_that_look_alike_differ() -> None:
    roots = [
        encode_root(b"m", b"x"),
        encode_root(b"mx", b""),
        encode_root(b"m", b"", adapter=b"x"),
        encode_root(b"m", b"", adapter=b""),
        encode_root(b"m", b"", media=[b"x"]),
        encode_root(b"m", b"", media=[b"", b"x"]),
        encode_root(b"m", b"", media=[b"x", b""]),
        encode_root(b"m", b""),
        encode_root(b"m", b"", family=0),
        encode_page(b"m", []),
        encode_page(b"m", [1]),
        encode_page(b"", [1, 1]),
        optional(None),
        optional(b""),
    ]
    assert len(set(roots)) == len(roots)


def test_many_random_pages_have_distinct_keys() -> None:
    random = Random(0)
    seen: dict[bytes, tuple[bytes, tuple[int, ...]]] = {}
    for _ in range(20_000):
        parent = random.choice((b"", digest(b"p"), digest(b"q")))
        tokens = tuple(random.randrange(3) for _ in range(random.randrange(9)))
        key = digest(encode_page(parent, tokens))
        assert seen.setdefault(key, (parent, tokens)) == (parent, tokens)


def test_a_cache_too_small_for_its_windows_is_refused() -> None:
    groups = [CacheGroup(CacheSpec(1, 1, 64), (0,))]
    with pytest.raises(StartupError, match="too few for windows"):
        CacheManager(groups, [5], 16, True, b"")
    assert CacheManager(groups, [7], 16, True, b"").max_chunk == 17
