"""The store of responses: what it keeps, what it drops first, and what it finds again in its file."""

from __future__ import annotations

import asyncio
import random
import sqlite3

import pytest

from octavo.errors import StartupError
from octavo.serve.responses.store import Bounds, Store, Stored

PLENTY = Bounds(10_000, 2**30, 1e9)


def one(id: str, owner: str = "", status: str = "completed", size: int = 100, **fields) -> Stored:
    return Stored(id, owner, status, fields.get("previous"), b"x" * size, b"[]", fields.get("events"))


def run(work):
    return asyncio.run(work)


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_a_file_is_found_again_with_everything_in_it(tmp_path):
    async def fill() -> None:
        store = Store(tmp_path / "r", PLENTY)
        await store.put(one("a", "me", events=b"event: 1\n\n" * 1000), [("i1", b"1"), ("i2", b"2")])
        await store.put(one("b", "me", "queued", previous="a"), [("i3", b"3")])
        await store.put(one("b", "me", "in_progress", previous="a"), [("i4", b"4")])
        store.close()

    run(fill())

    async def read() -> None:
        store = Store(tmp_path / "r", PLENTY)
        assert await store.get("me", "a") == one("a", "me", events=b"event: 1\n\n" * 1000)
        assert [found.id for found in store.interrupted()] == ["b"]
        assert [found.id for found in await store.chain("me", "b", 9)] == ["a", "b"]
        assert [found.id for found in await store.chain("me", "b", 1)] == ["b"]
        assert await store.items("me", ["i1", "i3", "i4", "none"]) == {"i1": b"1", "i3": b"3", "i4": b"4"}
        assert await store.get("you", "a") is None
        assert await store.chain("you", "b", 9) == []
        assert await store.items("you", ["i1"]) == {}
        assert not await store.delete("you", "a")
        assert await store.delete("me", "a")
        assert await store.items("me", ["i1"]) == {}
        assert [found.id for found in await store.chain("me", "b", 9)] == ["b"]
        store.close()

    run(read())


def test_the_least_recently_used_goes_first_from_the_owner_who_has_most():
    async def work() -> None:
        store = Store(None, Bounds(6, 10_000, 1e9), Clock())
        await store.put(one("quiet", "you"), [])
        for i in range(8):
            await store.put(one(f"loud{i}", "me"), [])
            await store.chain("me", "loud0", 9)
        kept = [f"loud{i}" for i in range(8) if await store.get("me", f"loud{i}")]
        assert kept == ["loud0", "loud4", "loud5", "loud6", "loud7"]
        assert await store.get("you", "quiet")
        store.close()

    run(work())


def test_bytes_are_bounded_and_running_responses_stay():
    async def work() -> None:
        store = Store(None, Bounds(100, 1000, 1e9), Clock())
        await store.put(one("running", status="in_progress", size=600), [])
        for i in range(5):
            await store.put(one(f"r{i}", size=150), [(f"i{i}", b"y" * 20)])
        assert await store.get("", "running")
        assert [i for i in range(5) if await store.get("", f"r{i}")] == [3, 4]
        assert await store.items("", [f"i{i}" for i in range(5)]) == {"i3": b"y" * 20, "i4": b"y" * 20}
        await store.put(one("running", status="completed", size=900), [])
        assert await store.get("", "r3") is None
        store.close()

    run(work())


def test_what_is_not_used_for_long_is_gone():
    async def work() -> None:
        clock = Clock()
        store = Store(None, Bounds(100, 10_000, 60), clock)
        await store.put(one("a"), [])
        await store.put(one("b", previous="a"), [])
        await store.put(one("c"), [])
        clock.now += 50
        await store.chain("", "b", 9)  # a and b are in use, c is not
        clock.now += 50
        assert await store.get("", "c") is None
        assert [found.id for found in await store.chain("", "b", 9)] == ["a", "b"]
        store.close()

    run(work())


@pytest.mark.parametrize("seed", range(5))
def test_the_books_balance_whatever_is_done(tmp_path, seed):
    """Count and size, which are kept in memory, are those of the file after any sequence of changes."""

    async def work() -> None:
        chance = random.Random(seed)
        store = Store(tmp_path / "r", Bounds(12, 4000, 30), clock := Clock())
        for _ in range(300):
            id, owner = f"r{chance.randrange(20)}", chance.choice("ab")
            known = await store.get("a", id) or await store.get("b", id)
            owner = known.owner if known else owner  # an id has one owner
            what = chance.random()
            if what < 0.6:
                status = chance.choice(("queued", "completed", "completed", "failed"))
                items = [(f"i{chance.randrange(40)}", b"z" * chance.randrange(50)) for _ in range(3)]
                await store.put(one(id, owner, status, chance.randrange(500)), items)
            elif what < 0.7:
                await store.delete(owner, id)
            elif what < 0.8:
                await store.chain(owner, id, 9)
            else:
                clock.now += chance.random() * 5
        count, size = store._count, store._size
        store.close()
        with sqlite3.connect(tmp_path / "r") as db:
            assert db.execute("SELECT count(*), coalesce(sum(size), 0) FROM responses").fetchone() == (count, size)
            assert not db.execute("SELECT 1 FROM items WHERE response NOT IN (SELECT id FROM responses)").fetchall()
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        again = Store(tmp_path / "r", PLENTY)
        assert (again._count, again._size) == (count, size)
        again.close()

    run(work())


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    other = tmp_path / "r"
    other.write_bytes(b"this is no database, and it is somebody's\n" * 100)
    with pytest.raises(StartupError, match="not a database"):
        Store(other, PLENTY)
    assert other.read_bytes().startswith(b"this is no database")
    later = tmp_path / "later"
    with sqlite3.connect(later) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StartupError, match="version 99"):
        Store(later, PLENTY)
