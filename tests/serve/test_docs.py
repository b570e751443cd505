"""The documentation's examples run as they are printed: Python and curl, against a server of the embedded model.

A page's Python blocks are one program, in order; http://127.0.0.1:8000 is the test's server. Comments that readers of
the rendered page do not see say what cannot be guessed:

    <!-- server: --flag value -->    flags of the page's server
    <!-- file: NAME -->              the next block is the content of this file
    <!-- run -->                     run the next bash block, which is not curl
    <!-- not run: REASON -->         leave the next block out
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import octavo

from ..warm import Warm
from .conftest import Start

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
OWN_TEST = [ROOT / "docs/parameters.md"]  # test_parameter_examples.py
BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n+)*)^( *)```(\w+)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (server|file|run|not run)(?:: (.*?))? -->")
HERE = re.compile(r"http://(?:127\.0\.0\.1|localhost):8000")
LIMIT_S = 120


@dataclass(frozen=True)
class Example:
    """A block of a page; `line` is its first line there."""

    language: str
    text: str
    line: int
    marks: dict[str, str]

    @property
    def runs(self) -> bool:
        if "not run" in self.marks or "file" in self.marks:
            return False
        return self.language == "python" or (
            self.language in ("bash", "sh") and ("run" in self.marks or self.text.startswith("curl"))
        )


def examples(page: str) -> list[Example]:
    found = []
    for block in BLOCK.finditer(page):
        marks = {kind: value or "" for kind, value in MARK.findall(block[1])}
        indent = block[2]
        text = "".join(line.removeprefix(indent) for line in block[4].splitlines(keepends=True))
        found.append(Example(block[3], text, page.count("\n", 0, block.start(4)) + 1, marks))
    return found


def server_flags(page: str) -> list[str]:
    return next((shlex.split(value) for kind, value in MARK.findall(page) if kind == "server"), [])


def python_program(blocks: list[Example]) -> str:
    """The blocks as one program whose tracebacks show the page's lines."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm("torch", "openai", "octavo.llm") as found:
        yield found


def environment(url: str) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(Path(octavo.__file__).parents[1]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"{url}/v1",
    }


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def pages_that_run() -> list[Path]:
    """Pages with examples but those of OWN_TEST; of those whose code is another's, as a translation's may be, one."""
    found: dict[tuple[str, ...], Path] = {}
    for page in sorted(PAGES):
        blocks = examples(text := page.read_text())
        if any(one.runs for one in blocks):
            used = (one.text for one in blocks if one.runs or "file" in one.marks)
            found.setdefault((*server_flags(text), *used), page)
    return [page for page in found.values() if page not in OWN_TEST]


@pytest.mark.parametrize("page", pages_that_run(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(
    page: Path, start: Start, warm: Warm, request: pytest.FixtureRequest, tmp_path: Path
):
    text = page.read_text()
    flags = server_flags(text)
    for block in examples(text):
        if "file" in block.marks:
            (tmp_path / block.marks["file"]).write_text(block.text)
    if flags:
        # A flag may name a module of the page.
        paths = os.pathsep.join([str(tmp_path), str(Path(octavo.__file__).parents[1])])
        server = start(*flags, device="cpu", env={"PYTHONPATH": paths})
    else:
        server = request.getfixturevalue("real")
    blocks = examples(HERE.sub(server.url, text))
    program = python_program([block for block in blocks if block.runs and block.language == "python"])
    if program.strip():
        script = tmp_path / f"of_{page.stem}.py"  # no name that an example imports
        script.write_text(program)
        check(warm.script(script, cwd=tmp_path, env=environment(server.url), timeout=LIMIT_S))
    for block in blocks:
        if block.runs and block.language != "python":
            shell = block.text.replace("curl ", "curl --silent --show-error --fail-with-body ")
            ours = f'octavo() {{ {shlex.quote(sys.executable)} -m octavo "$@"; }}\n'
            command = ["bash", "-euo", "pipefail", "-c", ours + shell]
            options = {"capture_output": True, "text": True, "timeout": LIMIT_S}
            check(subprocess.run(command, cwd=tmp_path, env=environment(server.url), **options))


def test_marks_that_nobody_knows_are_noticed():
    for page in PAGES:
        for comment in re.findall(r"<!--.*?-->", page.read_text(), re.DOTALL):
            assert MARK.fullmatch(comment), f"{page.name}: {comment}"


TRANSLATED = sorted((ROOT / "docs/zh").glob("*.md"))


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_a_translated_page_has_every_example_of_its_original(page: Path):
    original = ROOT / "docs" / page.name
    assert f"[简体中文](zh/{page.name})" in original.read_text()
    ours, theirs = (examples(each.read_text()) for each in (page, original))
    assert [(one.language, one.marks) for one in ours] == [(one.language, one.marks) for one in theirs]


LINK = re.compile(r"\]\(([^)#\s]+\.md)(#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_links_of_a_page_lead_somewhere(page: Path):
    missing = [
        target
        for target, _ in LINK.findall(page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not missing
