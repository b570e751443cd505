"""KV memory: the bytes of a page are those of the tensors that hold it."""

import torch

from octavo.spec import CacheGroup, CacheSpec
from octavo.worker.memory import allocate_caches, page_bytes, pages_that_fit, poison_caches

GROUPS = (CacheGroup(CacheSpec(4, 16), (0, 2, 3)), CacheGroup(CacheSpec(2, 8, 32), (1,)))


class Layout:
    def cache_shape(self, cache: CacheSpec, num_pages: int, page_size: int) -> tuple[int, ...]:
        return num_pages, page_size, 2, cache.num_kv_heads, cache.head_dim


def test_allocated_bytes_are_the_planned_ones():
    for dtype in (torch.float32, torch.bfloat16):
        caches = allocate_caches(GROUPS, (5, 7), 8, Layout(), dtype, torch.device("cpu"))
        used = sum(cache.numel() * cache.element_size() for cache in caches)
        assert used == 5 * page_bytes(GROUPS[0], 8, dtype) + 7 * page_bytes(GROUPS[1], 8, dtype)
        assert [cache.shape[0] for cache in caches] == [5, 7, 5, 5]
        assert not any(cache.any() for cache in caches)


def test_as_many_pages_are_counted_as_fit():
    count = pages_that_fit(GROUPS, 8, torch.float32, 10**6)
    both = sum(page_bytes(group, 8, torch.float32) for group in GROUPS)
    assert count * both <= 10**6 < (count + 1) * both


def test_poisoned_caches_hold_no_number():
    caches = allocate_caches(GROUPS, (2, 2), 8, Layout(), torch.bfloat16, torch.device("cpu"))
    poison_caches(caches)
    assert all(cache.isnan().all() for cache in caches)
