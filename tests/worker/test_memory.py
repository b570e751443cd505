"""KV memory: the bytes of a page are those of the tensors that hold it."""

import torch

from octavo.spec import CacheGroup, CacheSpec
from octavo.worker.memory import allocate_caches, poison_caches

GROUPS = (CacheGroup(CacheSpec(4, 16), (0, 2, 3)), CacheGroup(CacheSpec(2, 8, 32), (1,)))


class Layout:
    def cache_shape(self, cache: CacheSpec, num_pages: int, page_size: int, dtype: torch.dtype) -> tuple[int, ...]:
        return num_pages, page_size, 2, cache.num_kv_heads, cache.head_dim


def test_allocated_caches_are_zero_and_as_large_as_asked():
    for dtype in (torch.float32, torch.bfloat16):
        caches = allocate_caches(GROUPS, (5, 7), 8, Layout(), dtype, torch.device("cpu"))
        sizes = [group.spec.bytes_per_token(dtype.itemsize) * 8 for group in GROUPS]
        assert [cache.nbytes for cache in caches] == [5 * sizes[0], 7 * sizes[1], 5 * sizes[0], 5 * sizes[0]]
        assert [cache.shape[0] for cache in caches] == [5, 7, 5, 5]
        assert not any(cache.any() for cache in caches)


def test_cache_memory_is_taken_only_as_it_is_written():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    group = CacheGroup(CacheSpec(4, 16), (0,))
    (cache,) = allocate_caches([group], (2**15,), 8, Layout(), torch.float32, torch.device("cpu"))
    assert cache.nbytes == 2**27
    assert resident() - before < 2**26


def test_poisoned_caches_hold_no_number():
    caches = allocate_caches(GROUPS, (2, 2), 8, Layout(), torch.bfloat16, torch.device("cpu"))
    poison_caches(caches)
    assert all(cache.isnan().all() for cache in caches)
