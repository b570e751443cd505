"""scripts/gpu_check where there is no GPU: what is left of a part that fails, hangs or is killed, report and table."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
# Stands where gpu.child does: rows without torch, and every way to end.
STAND_IN = """
import json, os, signal, sys, time
function, rows = sys.argv[1:3]
row = {"work": function, "value": 3.0, "unit": "ms", "figure": 2.0, "at_most": True, "details": {}, "meets": False}
with open(rows, "a") as file:
    file.write(json.dumps(row) + "\\n" + ('{"work": "cut' if function == "crashes" else ""))
if function == "raises":
    raise RuntimeError("no kernel for this")
if function == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
if function == "hangs":
    os.system("sleep 60")
"""


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script's module, with parts of its own that any machine can run."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.syspath_prepend(str(ROOT))
    module, parts = importlib.import_module("gpu.check"), importlib.import_module("gpu.parts")
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "CHILD", "stand_in")
    # The first has no more than its own time: nobody left it any.
    # Each has three times this.
    times = {"hangs": 1.0, "good": 20.0, "raises": 20.0, "crashes": 20.0, "last": 20.0}
    monkeypatch.setattr(module, "PARTS", tuple(parts.Part(name, name, name, each) for name, each in times.items()))
    monkeypatch.chdir(tmp_path)
    return module


def test_a_part_that_goes_wrong_loses_nothing_that_was_told(
    check: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check.environment, "has_gpu", lambda: True)
    assert check.main([]) == 1
    parts = json.loads(Path("gpu_check.json").read_text())["parts"]
    states = {name: result["state"] for name, result in parts.items()}
    assert states == {"hangs": "timed out", "good": "ok", "raises": "failed", "crashes": "crashed", "last": "ok"}
    assert all(len(result["rows"]) == 1 for result in parts.values())
    assert "no kernel for this" in parts["raises"]["output"] and parts["crashes"]["why"] == "ended by SIGSEGV"
    told = capsys.readouterr().out
    assert "hangs: timed out: not done after 3 s" in told


def test_a_missed_figure_alone_is_no_failure(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--rehearse", "--only", "good"]) == 0
    told = capsys.readouterr().out
    assert "3 ms" in told and "a rehearsal" in told


def test_other_parts_results_stay_and_good_ones_are_not_repeated(check: ModuleType) -> None:
    check.main(["--rehearse", "--only", "good,raises"])
    before = json.loads(Path("gpu_check.json").read_text())["parts"]
    check.main(["--rehearse", "--only", "last"])
    assert list(json.loads(Path("gpu_check.json").read_text())["parts"]) == ["good", "raises", "last"]
    check.main(["--rehearse", "--resume", "--only", "good,raises"])
    after = json.loads(Path("gpu_check.json").read_text())["parts"]
    assert after["good"] == before["good"] and after["raises"]["seconds"] >= 0


def test_time_that_a_part_leaves_is_given_on_and_none_is_taken_beyond_the_end(check: ModuleType) -> None:
    args = check.options(["--minutes", "0.001", "--json", "report.json"])
    results = dict(check.run(args, check.PARTS, Path("nowhere")))
    assert {result["state"] for result in results.values()} == {"skipped"}


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_2(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    program = [sys.executable, str(ROOT / "scripts" / "gpu_check")]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "no NVIDIA GPU here" in done.stderr


def test_the_plain_table_shows_what_rich_would(check: ModuleType) -> None:
    rows, table = importlib.import_module("gpu.rows"), importlib.import_module("gpu.table")
    met = rows.Row("decode", 81.234, "% of copy", 80)
    lacking = rows.Row("idle", None, "%", 5, True, {"why": "no profiler"})
    lines = [("large", *table.cells(row)) for row in (met, lacking)]
    assert table.plain(lines).splitlines() == [
        "part   work    measured                   figure  met",
        "large  decode  81.23 % of copy            >= 80   yes",
        "large  idle    not measured: no profiler  <= 5",
    ]


def test_the_parts_are_there_and_their_shares_are_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    parts, suites = importlib.import_module("gpu.parts"), importlib.import_module("gpu.suites")
    for part in parts.PARTS:
        if part.is_tests:
            suite = suites.SUITES[part.function]
            assert all((ROOT / path.partition("::")[0]).exists() for path in (*suite.paths, *suite.rehearsed))
        else:
            assert (ROOT / "bench" / "gpu" / f"{part.function.partition(':')[0]}.py").exists()
    assert sum(part.budget_s for part in parts.PARTS) <= 60 * parts.MINUTES


def test_gaps_between_kernels_are_told_from_waiting_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    small = importlib.import_module("gpu.small")
    # 10 µs of work with a second stream inside it, a gap of 2, 5 of work, the host's gap of 20, 5 of work.
    spans = [(0.0, 10.0), (4.0, 8.0), (12.0, 17.0), (37.0, 42.0)]
    assert small.busy_and_between(spans, 5.0) == (20.0, 2.0)


def test_the_lengths_are_the_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    lengths = importlib.import_module("gpu.lengths")
    pairs = lengths.requests(1000)
    assert len(pairs) == 1000 and pairs[:2] == lengths.requests(1000)[:2]
    assert sum(prompt for prompt, _ in pairs) == 1_158_978 and sum(output for _, output in pairs) == 251_655
    spread = lengths.requests(100)
    assert len(spread) == 100 and set(spread) <= set(pairs)


@pytest.mark.parametrize("part", ["attention", "linear", "sampler"])
def test_a_part_alone_says_that_there_is_no_gpu(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [f"{part}.py"])
    with pytest.raises(SystemExit, match=f"gpu.{part} measures an NVIDIA GPU, and torch sees none"):
        importlib.import_module(f"gpu.{part}").main()
