"""The plan is a pure function: what it decides, and how it refuses."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.config import EngineConfig
from octavo.errors import StartupError
from octavo.plan import Hardware, Measured, ModelFacts, recorded_rows, resolve, resolve_dtype
from octavo.spec import CacheGroup, CacheSpec, group_caches

GIB = 2**30
CPU = Hardware("cpu", "cpu", 16 * GIB, 12 * GIB, 2, ("float32", "bfloat16"))
GPU = Hardware("cuda", "cuda:0", 80 * GIB, 79 * GIB, 8, ("bfloat16", "float16", "float32"))
FULL = CacheSpec(8, 128)


def page_bytes(groups: tuple[CacheGroup, ...], page: int = 16) -> tuple[int, ...]:
    return tuple(len(g.layers) * g.spec.bytes_per_token(2) * page for g in groups)


def with_groups(facts: ModelFacts, *specs: CacheSpec, page: int = 16) -> ModelFacts:
    groups = group_caches(specs)
    return dataclasses.replace(facts, groups=groups, page_bytes=page_bytes(groups, page))


SMALL = with_groups(
    ModelFacts(
        name="small",
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        weights="bfloat16",
        weights_bytes=1_200_000_000,
        kv_dtype="bfloat16",
        page_bytes=(),
        token_bytes=50_000,
        row_bytes=600_000,
        position_bytes=512,
        max_length=32768,
        groups=(),
    ),
    *(FULL,) * 28,
)
HYBRID = with_groups(SMALL, *(FULL, CacheSpec(8, 128, window=1024)) * 14)


def kv_bytes(plan, facts):
    return sum(n * size for n, size in zip(plan.num_pages, page_bytes(facts.groups, plan.page_size), strict=True))


def test_a_default_plan_fits_the_machine():
    for hardware in (CPU, GPU):
        plan = resolve(EngineConfig(), SMALL, hardware)
        assert plan.weights_bytes + plan.kv_bytes <= hardware.free_bytes
        assert plan.kv_bytes == kv_bytes(plan, SMALL)
        assert plan.num_pages[0] * plan.page_size >= plan.max_model_len


def test_the_dtype_follows_the_checkpoint_where_it_is_fast_and_the_user_always():
    assert resolve_dtype("auto", "bfloat16", GPU) == "bfloat16"
    slow = dataclasses.replace(CPU, dtypes=("float32",))
    assert resolve_dtype("auto", "bfloat16", slow) == "float32"
    assert resolve_dtype("half", "bfloat16", slow) == "float16"


def test_the_parts_of_the_memory_line_add_up():
    hardware = dataclasses.replace(CPU, process_bytes=230_000_000)
    plan = resolve(EngineConfig.of(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=1000), SMALL, hardware)
    assert plan.engine_bytes == 230_000_000 + 64 * 50_000 + 8 * 600_000 + 1000 * 512
    line = plan.lines()["memory"]
    assert line.startswith("1.12 GiB weights + ") and line.endswith(" when full, 1.33 GiB at the start")
    total = 1_200_000_000 + plan.kv_bytes + plan.engine_bytes
    assert f"= {total / GIB:.2f} GiB when full" in line


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
    big = dataclasses.replace(SMALL, weights_bytes=140_000_000_000)
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
    )
    facts = dataclasses.replace(facts, page_bytes=page_bytes(facts.groups, page))
    try:
        plan = resolve(config, facts, GPU)
    except StartupError:
        return
    assert 0 < plan.kv_bytes == kv_bytes(plan, facts) <= memory
    assert plan.num_pages[0] * page >= plan.max_model_len >= 1
    assert plan.max_num_seqs <= plan.max_num_batched_tokens


def test_a_model_that_only_looks_back_a_window_keeps_its_whole_context_in_little_memory():
    windowed = dataclasses.replace(SMALL, max_length=131072)
    windowed = with_groups(windowed, *(CacheSpec(8, 128, window=1024),) * 28)
    config = EngineConfig.of(kv_cache_memory_bytes=GIB, max_num_batched_tokens=512)
    assert resolve(config, windowed, CPU).max_model_len == 131072


def test_memory_for_no_token_at_all_is_said_so():
    with pytest.raises(StartupError, match="give more memory") as error:
        resolve(EngineConfig.of(kv_cache_memory_bytes=1000), SMALL, CPU)
    assert "lower max_model_len" not in error.value.message


MEASURED = Measured(weights_bytes=20 * GIB, engine_bytes=3 * GIB)


def test_what_was_measured_takes_the_place_of_estimates():
    plan = resolve(EngineConfig(), SMALL, GPU, MEASURED)
    left = int(80 * GIB * 0.9) - 23 * GIB
    assert left - page_bytes(SMALL.groups)[0] < plan.kv_bytes <= left
    assert (plan.weights_bytes, plan.engine_bytes) == (20 * GIB, 3 * GIB)
    assert plan.idle_bytes == 23 * GIB + plan.kv_bytes  # a GPU's memory is taken at the start
    assert plan.lines()["memory"].endswith(f" + 3.00 GiB engine = {plan.idle_bytes / GIB:.2f} GiB")
    half = resolve(EngineConfig.of(gpu_memory_utilization=0.5), SMALL, GPU, MEASURED)
    assert half.kv_bytes <= 17 * GIB


def test_a_gpu_that_others_use_gives_what_is_free():
    shared = dataclasses.replace(GPU, free_bytes=30 * GIB)
    plan = resolve(EngineConfig(), SMALL, shared, MEASURED)
    assert 6 * GIB < plan.kv_bytes <= 7 * GIB


def test_a_cache_of_an_exact_size_must_fit_beside_everything_else_on_a_gpu():
    config = EngineConfig.of(kv_cache_memory_bytes=56 * GIB)
    assert resolve(config, SMALL, GPU, MEASURED).kv_bytes <= 56 * GIB
    with pytest.raises(StartupError, match=f"ask for at most {56 * GIB}") as error:
        resolve(EngineConfig.of(kv_cache_memory_bytes=57 * GIB), SMALL, GPU, MEASURED)
    assert error.value.field == "kv_cache_memory_bytes"
    with pytest.raises(StartupError, match="use a smaller model or dtype"):
        resolve(config, SMALL, dataclasses.replace(GPU, free_bytes=22 * GIB), MEASURED)


def test_a_trial_that_leaves_nothing_says_what_to_lower():
    with pytest.raises(StartupError, match=r"20\.00 GiB.*3\.00 GiB.*raise gpu_memory_utilization, lower max_num"):
        resolve(EngineConfig.of(gpu_memory_utilization=0.25), SMALL, GPU, MEASURED)


@pytest.mark.parametrize("most", [1, 2, 3, 8, 9, 64, 100, 256, 300, 512, 513, 4096])
def test_decode_steps_are_recorded_on_a_grid_that_ends_with_the_most_rows(most):
    rows = recorded_rows(most)
    assert list(rows) == sorted(set(rows)) and rows[0] == 1 and rows[-1] == min(most, 512)
    assert all(b - a <= max(8, a // 8) or b <= 8 for a, b in itertools.pairwise(rows))


def test_steps_are_recorded_where_they_can_be_and_may_be():
    facts = dataclasses.replace(SMALL, records=True)
    plan = resolve(EngineConfig.of(max_num_seqs=64), facts, GPU)
    assert plan.recorded_rows == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
    assert plan.lines()["decode graphs"] == "of 1, 2, 4, 8, …, 64 rows"
    for config, other in ((EngineConfig.of(enforce_eager=True), facts), (EngineConfig(), SMALL)):
        plan = resolve(config, other, GPU)
        assert plan.recorded_rows == () and "decode graphs" not in plan.lines()


@pytest.mark.parametrize("facts", [SMALL, HYBRID])
def test_swap_space_holds_pages_of_every_group_as_the_device_does(facts):
    assert resolve(EngineConfig(), facts, GPU).host_pages == ()
    plan = resolve(EngineConfig.of(swap_space=2), facts, GPU)
    taken = sum(n * size for n, size in zip(plan.host_pages, plan.page_bytes, strict=True))
    assert 1.9 * GIB < taken <= 2 * GIB and plan.lines()["swap space"].startswith(("1.9", "2.00 GiB"))
    shares = [n / of for n, of in zip(plan.host_pages, plan.num_pages, strict=True)]
    assert max(shares) < 1.01 * min(shares)
    with pytest.raises(StartupError, match="too little for one page of every cache group"):
        resolve(EngineConfig.of(swap_space=1e-6), facts, GPU)


@pytest.mark.parametrize("space", [-1, float("nan"), float("inf"), True])
def test_swap_space_is_a_number_of_gib(space):
    with pytest.raises(StartupError, match="swap_space must be a number of GiB"):
        EngineConfig.of(swap_space=space)
