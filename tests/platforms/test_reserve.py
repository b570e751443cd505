"""Memory touched ahead by a thread: what is taken is nobody else's, zero, and not written to again."""

from __future__ import annotations

import itertools
import mmap
import random

import pytest

from octavo.platforms import host, reserve

MIB = 2**20


def test_without_a_reserve_nothing_is_taken() -> None:
    assert reserve.take(100) is None
    with reserve.kept(0), reserve.still() as num_bytes:
        assert num_bytes == 0
        assert reserve.take(100) is None


def test_what_does_not_fit_any_more_is_refused_and_smaller_parts_still_fit() -> None:
    with reserve.kept(4 * MIB):
        assert reserve.take(5 * MIB) is None
        assert reserve.take(3 * MIB) is not None
        assert reserve.take(2 * MIB) is None
        assert reserve.take(MIB) is not None
        assert reserve.take(1) is None


def test_the_thread_never_writes_to_a_part_that_was_taken() -> None:
    draw = random.Random(5)
    sizes = [draw.choice((1, 4095, 4097, 300_000, 3 * MIB, 20 * MIB)) for _ in range(40)]
    with reserve.kept(sum(sizes) + 4096 * len(sizes)):
        parts: list[tuple[mmap.mmap, int, int, int]] = []
        for value, size in enumerate(sizes, 1):
            taken = reserve.take(size)
            assert taken is not None
            memory, start = taken
            assert start % 4096 == 0
            assert not any(memory[start : start + size])
            memory[start : start + size] = bytes([value]) * size
            parts.append((memory, start, size, value))
    for memory, start, size, value in parts:
        assert memory[start : start + size] == bytes([value]) * size
    for (_, start, size, _), (_, after, _, _) in itertools.pairwise(parts):
        assert start + size <= after


def test_all_of_it_is_touched_ahead_and_what_is_left_is_given_back() -> None:
    kept = 64 * MIB
    before = host.resident_bytes()
    if not before:
        pytest.skip("this system does not say what is resident")
    with reserve.kept(kept):
        taken = reserve.take(MIB)
        assert taken is not None
        while True:  # at the end of the reserve the thread ends
            assert reserve._current is not None
            if reserve._current._touched >= reserve._current._stop:
                break
        assert host.resident_bytes() - before > 0.9 * kept
    assert host.resident_bytes() - before < 0.3 * kept


def test_while_it_is_still_the_process_does_not_grow() -> None:
    with reserve.kept(512 * MIB):
        with reserve.still() as num_bytes:
            resident = host.resident_bytes()
            assert 0 <= num_bytes <= 512 * MIB
            assert sum(range(1_000_000)) and host.resident_bytes() - resident < 8 * MIB
        assert reserve.take(512 * MIB) is not None


def test_a_reserve_nobody_can_have_is_none() -> None:
    with reserve.kept(2**60):
        assert reserve.take(1) is None


SMAPS = """\
1000-2000 r-xp 00000000 fe:00 123 /lib/a b.so
Rss: 4 kB
Anonymous: 0 kB
VmFlags: rd ex
2000-3000 r-xp 00000000 fe:00 123 /lib/patched.so
Anonymous: 4 kB
3000-4000 r--p 00000000 fe:00 123 /lib/a b.so
Anonymous: 0 kB
4000-5000 rw-p 00000000 00:00 0
Anonymous: 0 kB
5000-6000 r-xp 00000000 00:00 0 [vdso]
Anonymous: 0 kB
"""


def test_only_code_of_files_that_nobody_wrote_to_is_let_go() -> None:
    assert list(host.unchanged_code(SMAPS)) == [(0x1000, 0x2000)]


def test_libraries_work_after_their_code_was_let_go() -> None:
    import torch

    before = host.resident_bytes()
    host.release_code()
    assert host.resident_bytes() < before or not before
    assert torch.ones(3).sum().item() == 3
