"""bench/compare.py without peers: the work it gives, the order of the runs and what it computes from them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

import octavo.checkpoint

BENCH = Path(__file__).parents[2] / "bench"
# A bench is run from its folder's path, as people run it: its neighbors must be found.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def load(name: str) -> ModuleType:
    """A module of the benches, as `python bench/compare.py` finds it."""
    __import__(name)
    return sys.modules[name]


def test_the_same_seed_is_the_same_work_and_another_shares_no_beginning() -> None:
    for work in load("comparison.workloads").WORKS.values():
        first, again, other = (work.batches(seed, 10_000) for seed in ("0", "0", "1"))
        assert first == again
        lengths = [[(len(ids), count) for ids, count in batch] for batch in first]
        assert lengths == [[(len(ids), count) for ids, count in batch] for batch in other]
        mine = {tuple(ids[:16]) for batch in first for ids, _ in batch}
        assert not mine & {tuple(ids[:16]) for batch in other for ids, _ in batch}


def test_no_batch_of_a_difference_finds_the_prompts_of_the_other() -> None:
    short, long = load("comparison.workloads").WORKS["decode"].batches("0", 10_000)
    assert short[0][0][:16] != long[0][0][:16]


def test_works_are_as_large_as_the_documents_say() -> None:
    works = load("comparison.workloads").WORKS
    (mixed,) = works["mixed"].batches("0", 150_000)
    assert (len(mixed), sum(len(ids) for ids, _ in mixed), sum(count for _, count in mixed)) == (64, 15_694, 8_606)
    assert all(16 <= len(ids) <= 512 and 16 <= count <= 256 for ids, count in mixed)
    (shared,) = works["shared-prefix"].batches("0", 150_000)
    assert {tuple(ids[:1024]) for ids, _ in shared} == {tuple(shared[0][0][:1024])}
    assert len({tuple(ids[1024:]) for ids, _ in shared}) == 32
    assert [[count for _, count in batch] for batch in works["batch-4"].batches("0", 10_000)] == [[1] * 4, [65] * 4]


def test_decode_is_timed_by_the_difference_of_two_runs() -> None:
    works = load("comparison.workloads").WORKS
    assert works["decode"].seconds([0.5, 4.5]) == 4.0
    assert works["prefill-512"].seconds([0.5]) == 0.5


def test_runs_go_a_b_b_a() -> None:
    assert load("comparison.pairs").interleave(3) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_the_ratio_is_the_median_over_pairs_in_which_memory_kept_its_speed() -> None:
    pairs, works = load("comparison.pairs"), load("comparison.workloads").WORKS

    def runs(*values: tuple[float, float]) -> list[object]:
        return [pairs.Run(seconds, speed, 0.0) for seconds, speed in values]

    ours = runs((1, 40), (1, 40), (2, 40), (1, 40))
    theirs = runs((2, 42), (3, 38), (2, 43), (90, 80))
    summary = pairs.summarize(works["decode"], ours, theirs, 20 * 10**9, 0.1)
    assert summary["pairs_used"] == [0, 1, 2] and summary["ratios"] == [2, 3, 1] and summary["ratio"] == 2
    low, high = summary["interval"]
    assert 1 <= low <= 2 <= high <= 3
    assert summary["ours_tokens_per_s"] == 128 and summary["theirs_seconds"] == 2.5
    assert summary["share_of_bandwidth"] == pytest.approx(20 * 128 / 40)


def test_all_pairs_count_when_fewer_than_three_are_steady() -> None:
    pairs = load("comparison.pairs")
    ours = [pairs.Run(1.0, 40.0, 0.0)] * 3
    assert pairs.steady_pairs(ours, [pairs.Run(1.0, 80.0, 0.0)] * 3, 0.1) == [0, 1, 2]


def test_options_are_json_where_they_can_be_and_text_else() -> None:
    compare = load("compare")
    variant = compare.read_variant("octavo:int8:quantization=int8,max_num_seqs=8,enable_prefix_caching=false")
    assert variant.options == {"quantization": "int8", "max_num_seqs": 8, "enable_prefix_caching": False}
    assert variant.model == "{shape}"
    assert compare.read_variant("vllm:w8a8:").model == "{shape}-w8a8"
    assert compare.read_variant("vllm:w8a8:model=other").model == "other"


def test_every_row_names_works_and_variants_that_exist() -> None:
    rows, works = load("comparison.rows"), load("comparison.workloads").WORKS
    for cells in rows.ROWS.values():
        for cell in cells:
            assert cell.work in works and cell.ours in rows.VARIANTS and (cell.theirs or cell.ours) in rows.VARIANTS


def test_a_mistyped_row_and_a_missing_peer_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "qwen3-0.6b").mkdir()
    (tmp_path / "qwen3-0.6b" / "config.json").write_text(json.dumps({"vocab_size": 1000}))

    def ask(*arguments: str) -> str:
        program = [sys.executable, str(BENCH / "compare.py"), "--models", str(tmp_path), *arguments]
        done = subprocess.run(program, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return done.stderr

    assert "did you mean 'decode-bf16'" in ask("decode-bf1")
    assert "there is no llama-bench in it" in ask("decode-gguf", "--llama-cpp", str(tmp_path))
    assert "give --vllm for vllm" in ask("mixed")


def test_the_worker_answers_the_driver(tmp_path: Path) -> None:
    engines, rows = load("comparison.engines"), load("comparison.rows")
    pool = engines.EnginePool({}, tmp_path, lambda _: None)
    variant = rows.Variant("octavo", "pocket", "", {"max_model_len": 256, "kv_cache_memory_bytes": 2**24})
    try:
        worker = pool.get(variant, octavo.checkpoint.POCKET, [])
        assert worker.about["weight_bytes"] > 0
        assert all(seconds > 0 for seconds in worker.run("decode", [[([40, 41], 1)], [([42, 43], 5), ([44], 2)]]))
        assert pool.get(variant, octavo.checkpoint.POCKET, []) is worker
        with pytest.raises(engines.EngineFailed, match="octavo:pocket ended"):
            worker.run("decode", [[([10**9], 1)]])
    finally:
        pool.close()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_no_engine_outlives_the_driver(tmp_path: Path, ending: signal.Signals) -> None:
    shutil.copytree(octavo.checkpoint.POCKET, tmp_path / "pocket")
    options = ["--models", str(tmp_path), "--shape", "pocket", "--octavo", "bf16:max_model_len=256"]
    program = [sys.executable, str(BENCH / "compare.py"), *options, "--pairs", "10000", "decode,octavo:bf16"]
    driver = psutil.Popen(program, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        while not (workers := driver.children()):
            assert driver.poll() is None
            time.sleep(0.05)
        time.sleep(1)  # loading or running
        driver.send_signal(ending)
        assert driver.wait(20) == (128 + ending if ending == signal.SIGTERM else -ending)
        assert psutil.wait_procs(workers, 20)[1] == []
    finally:
        for process in (driver, *workers):
            if process.is_running():
                process.kill()


def test_a_random_checkpoint_is_decided_by_its_seed() -> None:
    models = load("models")
    first, again = (models.random_tensor("a", (4, 8), 0) for _ in range(2))
    assert first.equal(again) and not first.equal(models.random_tensor("b", (4, 8), 0))
    assert not first.equal(models.random_tensor("a", (4, 8), 1))


def test_int8_weights_times_their_scales_are_the_weights() -> None:
    models = load("models")
    config = dict(models.SHAPES["qwen3-0.6b"], num_hidden_layers=1, vocab_size=300)
    plain = {entry.name: entry for entry in models.bf16_entries(config, 0)}
    int8 = {entry.name: entry for entry in models.w8a8_entries(config, 0)}
    name = "model.layers.0.self_attn.q_proj.weight"
    scale = int8[name + "_scale"].make().float()
    error = (int8[name].make().float() * scale - plain[name].make().float()).abs()
    assert (error <= 0.51 * scale).all()
    assert "model.embed_tokens.weight_scale" not in int8
