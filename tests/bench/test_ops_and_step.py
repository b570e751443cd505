"""bench/ops.py and bench/step.py with the smallest work there is: what they measure adds up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import octavo.checkpoint
from octavo.platforms import native

if native.library is None:
    pytest.skip(f"the native library is not installed: {native.missing}", allow_module_level=True)

BENCH = Path(__file__).parents[2] / "bench"
# A bench is run from its folder's path, as people run it: its neighbors must be found.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
TINY = {
    "vocab_size": 96, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_experts": 3, "num_experts_per_tok": 2,
}  # fmt: skip


def run(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """What a bench wrote as JSON."""
    program = [sys.executable, str(BENCH / name), *arguments, "--threads", "2", "--json", str(folder / "out.json")]
    done = subprocess.run(program, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_every_operation_is_timed_and_judged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    quick = ["--min-time", "0", "--rotate", "0", "--probe", "1", "--context", "20", "--rows", "1,130"]
    found = run(tmp_path, "ops.py", "--shapes", str(tmp_path), *quick)
    assert found["read_gb_per_s"] > 0 and all(peak > 0 for peak in found["register_peaks"].values())
    (lines,) = found["results"].values()
    level = native.load().kernel_levels()[-1]
    native_lines = [line for line in lines if line["implementation"] == level]
    assert {line["family"] for line in native_lines} == {"linear", "attention", "pointwise", "experts", "sampling"}
    kinds = {line["kind"] for line in native_lines if line["family"] == "linear"}
    assert kinds == {"f32", "bf16", "f16", "int8", "int4", "int4_bf16", "q8_0", "q4_0", "q4_k", "q6_k"}
    for line in lines:
        assert line["seconds"] > 0 and line["bytes"] > 0
        if line["family"] in ("linear", "attention", "experts"):
            gb_per_s = line["bytes"] / line["seconds"] / 1e9 / line["read_gb_per_s"]
            assert line["of_limit"] >= gb_per_s * 0.999 and line["limit"] in ("memory", "f32", "bf16", "int8")
    (head,) = (line for line in native_lines if line["op"] == "head 96 x 256" and line["kind"] == "bf16")
    assert head["rows"] == 1 and head["bytes"] == 96 * 256 * 2 and head["flops"] == 96 * 256 * 2
    (prefill,) = (line for line in native_lines if line["op"] == "prefill" and line["kind"] == "f32")
    assert prefill["rows"] == 130 and prefill["flops"] == 4 * 4 * 64 * (130 * 131 // 2)


def test_a_step_is_split_into_kernels_tape_and_python(tmp_path: Path) -> None:
    quick = ["--rows", "1,3", "--steps", "4", "--context", "5", "--kv-cache-memory-bytes", str(2**24)]
    found = run(tmp_path, "step.py", str(octavo.checkpoint.POCKET), *quick)
    assert [line["rows"] for line in found["lines"]] == [1, 3] and found["layers"] > 0
    for line in found["lines"]:
        assert 0 <= line["uneven"] <= line["kernels"] and line["tape"] > 0 and line["python"] > 0
        assert line["rest"] > 0
        assert all(part > 0 for part in line["parts"].values()) and len(line["parts"]) == 6
