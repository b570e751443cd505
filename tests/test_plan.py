"""The plan is a pure function: what it decides, and how it refuses."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.config import EngineConfig
from octavo.errors import StartupError
from octavo.plan import Hardware, ModelFacts, resolve
from octavo.spec import CacheSpec, group_caches

GIB = 2**30
CPU = Hardware("cpu", "cpu", 16 * GIB, 12 * GIB, 2, ("float32", "bfloat16"))
GPU = Hardware("cuda", "cuda:0", 80 * GIB, 79 * GIB, 8, ("bfloat16", "float16", "float32"))
FULL = CacheSpec(8, 128)
SMALL = ModelFacts("small", "LlamaForCausalLM", "bfloat16", 600_000_000, 1024, 32768, group_caches((FULL,) * 28))
HYBRID = dataclasses.replace(SMALL, groups=group_caches((FULL, CacheSpec(8, 128, window=1024)) * 14))


def kv_bytes(plan, facts):
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
    return sum(
        n * plan.page_size * len(g.layers) * g.spec.bytes_per_token(sizes[plan.dtype])
        for n, g in zip(plan.num_pages, facts.groups, strict=True)
    )


def test_a_default_plan_fits_the_machine():
    for hardware in (CPU, GPU):
        plan = resolve(EngineConfig(), SMALL, hardware)
        assert plan.weights_bytes + plan.kv_bytes <= hardware.free_bytes
        assert plan.kv_bytes == kv_bytes(plan, SMALL)
        assert plan.num_pages[0] * plan.page_size >= plan.max_model_len


def test_the_dtype_follows_the_checkpoint_where_it_is_fast_and_the_user_always():
    assert resolve(EngineConfig(), SMALL, GPU).dtype == "bfloat16"
    slow = dataclasses.replace(CPU, dtypes=("float32",))
    assert resolve(EngineConfig(), SMALL, slow).dtype == "float32"
    assert resolve(EngineConfig.of(dtype="half"), SMALL, slow).dtype == "float16"


def test_a_context_that_cannot_fit_is_shortened_unless_it_was_asked_for():
    config = EngineConfig.of(kv_cache_memory_bytes=GIB)
    plan = resolve(config, SMALL, CPU)
    assert plan.max_model_len < SMALL.max_length and plan.kv_bytes <= GIB
    with pytest.raises(StartupError, match=f"lower max_model_len to {plan.max_model_len}"):
        resolve(EngineConfig.of(kv_cache_memory_bytes=GIB, max_model_len=32768), SMALL, CPU)


def test_a_context_longer_than_the_model_is_refused():
    with pytest.raises(StartupError, match="32768"):
        resolve(EngineConfig.of(max_model_len=32769), SMALL, GPU)


def test_weights_that_do_not_fit_are_refused_with_the_numbers():
    big = dataclasses.replace(SMALL, parameters=70_000_000_000)
    with pytest.raises(StartupError, match=r"GiB.*gpu_memory_utilization"):
        resolve(EngineConfig(), big, CPU)


def test_layers_with_a_window_hold_no_more_than_rows_need():
    plan = resolve(EngineConfig.of(max_num_seqs=4), HYBRID, GPU)
    full, window = plan.num_pages
    assert window < full and window * plan.page_size >= 4 * 1024


@given(
    memory=st.integers(2**20, 2**36), batched=st.integers(1, 8192), seqs=st.integers(1, 512), page=st.integers(1, 256),
    facts=st.sampled_from([SMALL, HYBRID]),
)  # fmt: skip
def test_any_plan_keeps_its_budget_and_holds_one_whole_sequence(memory, batched, seqs, page, facts):
    config = EngineConfig.of(
        kv_cache_memory_bytes=memory,
        max_num_batched_tokens=batched,
        max_num_seqs=seqs,
        block_size=page,
        dtype="bfloat16",
    )
    try:
        plan = resolve(config, facts, GPU)
    except StartupError:
        return
    assert 0 < plan.kv_bytes == kv_bytes(plan, facts) <= memory
    assert plan.num_pages[0] * page >= plan.max_model_len >= 1
    assert plan.max_num_seqs <= plan.max_num_batched_tokens


def test_a_model_that_only_looks_back_a_window_keeps_its_whole_context_in_little_memory():
    windowed = dataclasses.replace(
        SMALL, max_length=131072, groups=group_caches((CacheSpec(8, 128, window=1024),) * 28)
    )
    config = EngineConfig.of(kv_cache_memory_bytes=GIB, max_num_batched_tokens=512)
    assert resolve(config, windowed, CPU).max_model_len == 131072


def test_memory_for_no_token_at_all_is_said_so():
    with pytest.raises(StartupError, match="give more memory") as error:
        resolve(EngineConfig.of(kv_cache_memory_bytes=1000), SMALL, CPU)
    assert "lower max_model_len" not in error.value.message
