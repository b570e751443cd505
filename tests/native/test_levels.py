"""Levels: none of a level's instructions outside its own functions, and the same model answers at each of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType

import pytest

from octavo import LLM, SamplingParams
from octavo.checkpoint import POCKET
from octavo.platforms import native

if native.library is None:
    pytest.skip(f"the native library is not installed: {native.missing}", allow_module_level=True)

LEVELS: list[str] = native.load().kernel_levels()

SYMBOL = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\t(\S+)(.*)$")
# As in mangled names, some of which no tool can read back.
LEVEL = re.compile(
    r"6octavo(?:6(?=scalar)|4(?=avx2)|6(?=avx512)|11(?=avx512)|3(?=amx))(scalar|avx2|avx512(?:_vnni|_bf16)?|amx)"
)
# VEX and EVEX encodings are the mnemonics that begin with v, but for two of 1982; mask registers have their own.
WIDE = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b")
ADDED = {
    "avx512_vnni": re.compile(r"vpdp(bu|w)s[sd]"),
    "avx512_bf16": re.compile(r"vdpbf16ps|vcvtne2?ps2?bf16|vpermi2b|vpermt2b|vpermb|vpmultishiftqb"),
    "amx": re.compile(r"tileloadd|tilestored|tilezero|tdp|ldtilecfg|tilerelease"),
}


def needed(mnemonic: str, operands: str) -> str:
    """The lowest level that has an instruction."""
    for level, pattern in ADDED.items():
        if pattern.match(mnemonic):
            return level
    if WIDE.search(operands):
        return "avx512"
    return "avx2" if mnemonic.startswith("v") and mnemonic not in ("verr", "verw") else "scalar"


ORDER = ["scalar", "avx2", "avx512", *ADDED]


def leaks(disassembly: Iterable[str]) -> list[str]:
    """Instructions, with their functions, that the level of the function's namespace does not have.

    Functions outside every level's namespace must run anywhere: the linker keeps one copy for all levels.
    """
    found: dict[str, str] = {}
    function, allowed = "", 0
    for line in disassembly:
        if start := SYMBOL.match(line):
            function = start[1]
            levels = LEVEL.findall(function)
            allowed = max((ORDER.index(level) for level in levels), default=0)
        elif (instruction := INSTRUCTION.match(line)) and ORDER.index(needed(*instruction.groups())) > allowed:
            found.setdefault(function, line.strip())
    return [f"{function}: {line}" for function, line in found.items()]


@pytest.mark.parametrize(
    ("function", "instruction", "leaks_there"),
    [
        ("_ZN6octavo6avx5123sumEv", "vaddps\t(%rsi),%zmm0,%zmm1", False),
        ("_ZN6octavo4avx23sumEv", "vaddps\t(%rsi),%zmm0,%zmm1", True),
        ("_ZN6octavo4avx23sumEv", "vaddps\t%ymm0,%ymm0,%ymm16", True),
        ("_ZN6octavo4avx23sumEv", "vaddps\t%ymm0,%ymm0,%ymm15", False),
        ("_ZN6octavo4avx23sumEv", "kmovw\t%eax,%k1", True),
        ("_ZNK6octavo12PackedWeight10num_panelsEv", "vaddps\t(%rsi),%zmm0,%zmm1", True),
        ("_ZNSt6vectorIiSaIiEE9push_backEi", "vmovups\t%xmm0,(%rax)", True),
        ("_ZN6octavo6scalar3sumEv", "addps\t%xmm0,%xmm1", False),
        ("_ZN6octavo6scalar3sumEv", "vaddps\t%xmm0,%xmm1,%xmm2", True),
        ("_ZN6octavo6avx5123dotEv", "vpdpbusd\t%zmm0,%zmm1,%zmm2", True),
        ("_ZN6octavo11avx512_vnni3dotEv", "vpdpbusd\t%zmm0,%zmm1,%zmm2", False),
        ("_ZN6octavo11avx512_vnni3dotEv", "vdpbf16ps\t%zmm0,%zmm1,%zmm2", True),
        ("_ZSt4sortIN6octavo4avx23KeyEEvT_", "vaddps\t%ymm0,%ymm0,%ymm1", False),
    ],
)
def test_the_check_below_knows_a_leak_from_what_is_allowed(function: str, instruction: str, leaks_there: bool) -> None:
    assert bool(leaks([f"0000000000001000 <{function}>:", f"    1000:\t{instruction}"])) == leaks_there


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.skipif("avx2" not in LEVELS, reason="needs an x86 CPU with AVX2")
def test_no_instruction_of_a_level_is_outside_its_functions() -> None:
    command = ["objdump", "-d", "--no-show-raw-insn", str(native.load().__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    functions = [match[1] for line in lines if (match := SYMBOL.match(line))]
    if not any(LEVEL.search(function) for function in functions):
        pytest.skip("the library has no symbols: it was stripped")
    assert {level for function in functions for level in LEVEL.findall(function)} >= set(LEVELS)
    assert leaks(lines) == []


@pytest.fixture
def library() -> Iterator[ModuleType]:
    """The native library, which has its level back afterwards."""
    found = native.load()
    before = found.kernel_level()
    yield found
    found.use_kernel_level(before)


def test_a_model_answers_alike_at_every_level(library: ModuleType) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=5, ignore_eos=True)
    answers = {}
    for level in LEVELS:
        library.use_kernel_level(level)
        with LLM(str(POCKET), dtype="float32", use_tqdm_on_load=False, max_model_len=64) as llm:
            [answers[level]] = llm.generate(["The capital of France is"], params, use_tqdm=False)[0].outputs
        assert library.kernel_level() == level
    expected = answers["scalar"]
    for found in answers.values():
        assert found.token_ids == expected.token_ids
        for step, wanted in zip(found.logprobs, expected.logprobs, strict=True):
            told = {id: each.logprob for id, each in step.items()}
            assert told == pytest.approx({id: each.logprob for id, each in wanted.items()}, abs=1e-3)


@pytest.mark.parametrize("level", LEVELS)
def test_the_environment_chooses_the_level_and_the_report_names_it(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "octavo", "collect-env", "--json"],
        env=os.environ | {"OCTAVO_ISA": level},
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["cpu kernel level"] == level
