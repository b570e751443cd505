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
from dataclasses import dataclass
from pathlib import Path

import pytest

import octavo

from .conftest import Start

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
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


def run(command: list[str], folder: Path, url: str) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(Path(octavo.__file__).parents[1]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"{url}/v1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


PAGES_THAT_RUN = [page for page in PAGES if any(one.runs for one in examples(page.read_text()))]


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(page: Path, start: Start, request: pytest.FixtureRequest, tmp_path: Path):
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
        run([sys.executable, str(script)], tmp_path, server.url)
    for block in blocks:
        if block.runs and block.language != "python":
            shell = block.text.replace("curl ", "curl --silent --show-error --fail-with-body ")
            ours = f'octavo() {{ {shlex.quote(sys.executable)} -m octavo "$@"; }}\n'
            run(["bash", "-euo", "pipefail", "-c", ours + shell], tmp_path, server.url)


def test_marks_that_nobody_knows_are_noticed():
    for page in PAGES:
        for comment in re.findall(r"<!--.*?-->", page.read_text(), re.DOTALL):
            assert MARK.fullmatch(comment), f"{page.name}: {comment}"
