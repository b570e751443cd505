"""What runs on a GPU needs neither the native library nor what only servers and grammars need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import octavo

ABSENT = (
    "octavo._native", "llguidance", "gguf", "zmq", "fastapi", "starlette", "uvicorn", "httptools", "uvloop", "pydantic",
    "httpx", "prometheus_client", "multipart", "transformers",
)  # fmt: skip
PROGRAM = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[1:] or name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import octavo.attention.triton
import octavo.engine.executors.device
import octavo.ops.triton
import octavo.worker.sampling.triton_logits
from octavo import LLM, SamplingParams
from octavo.platforms.cuda import CudaPlatform
"""


def test_the_gpus_modules_load_with_torch_triton_and_little_else() -> None:
    folder = str(Path(octavo.__file__).parents[1])
    program = f"import sys; sys.path.insert(0, {folder!r})\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program, *ABSENT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
