"""A process that has imported what many programs import and forks one for each: only the first pays for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import octavo

# Each program has its own files, folder and environment, and ends as an interpreter does.
FORKING = """
import gc, json, os, runpy, signal, sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
gc.collect()
gc.freeze()  # a fork shares what it does not touch
for line in iter(sys.stdin.buffer.raw.readline, b""):
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(asked["limit_s"])
        for number, path in enumerate(asked["files"]):
            os.dup2(os.open(path, os.O_RDWR), number)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = asked["arguments"]
        if asked["is_module"]:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(sys.argv[0]))
            runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Warm:
    """Runs Python programs as `subprocess.run` would, with these modules already imported."""

    def __init__(self, *modules: str) -> None:
        paths = [str(Path(octavo.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-P", "-c", FORKING, *modules]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def module(self, name: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """What `python -m name arguments` did."""
        return self._run([name, *arguments], True, **options)  # type: ignore[arg-type]

    def script(self, path: Path, **options: object) -> subprocess.CompletedProcess[str]:
        """What `python path` did."""
        return self._run([str(path)], False, **options)  # type: ignore[arg-type]

    def _run(
        self,
        arguments: list[str],
        is_module: bool,
        *,
        input: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: int = 60,
    ) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("input", "output", "errors")]
            for path, text in zip(files, (input, "", ""), strict=True):
                path.write_text(text)
            asked = {
                "files": [str(path) for path in files], "folder": str(cwd or Path.cwd()), "limit_s": timeout,
                "environment": dict(os.environ if env is None else env), "arguments": arguments,
                "is_module": is_module,
            }  # fmt: skip
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, files[1].read_text(), files[2].read_text())
