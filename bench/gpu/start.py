"""From the command to the first token, 0.6 B, with nothing compiled beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from gpu import shapes
from gpu.rows import Row, Scene

from octavo.checkpoint import POCKET

PROGRAM = """
import json, sys, time
from octavo import LLM, SamplingParams
imported = time.time()
with LLM(sys.argv[1], **json.loads(sys.argv[2])) as llm:
    opened = time.time()
    params = SamplingParams(max_tokens=1, ignore_eos=True, temperature=0)
    llm.generate({"prompt_token_ids": list(range(16, 48))}, params, use_tqdm=False)
    print(json.dumps([imported, opened, time.time()]))
"""


def measure(scene: Scene) -> Iterator[Row]:
    """A process of its own, whose cache of compiled kernels is empty; weights are made, not read."""

    options = {
        "tokenizer": str(POCKET), "load_format": "dummy", "dtype": "bfloat16", "device": str(scene.device),
        "use_tqdm_on_load": False, "max_model_len": scene.pick(4096, 128),
    } | scene.pick({}, {"max_num_seqs": 4, "max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**22})  # fmt: skip
    with shapes.folder(shapes.shape(scene, "0.6 B")) as model, tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TRITON_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        started = time.time()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(model), json.dumps(options)],
            env=environment, stdout=subprocess.PIPE, text=True, timeout=max(1.0, scene.left_s() - 1), check=True,
        )  # fmt: skip
    imported, opened, told = json.loads(done.stdout.splitlines()[-1])
    yield Row(
        "start to first token, 0.6 B, nothing cached",
        told - started,
        "s",
        15,
        at_most=True,
        details={"import_s": imported - started, "open_s": opened - imported, "first_token_s": told - opened},
    )
