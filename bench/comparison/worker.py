"""One engine in a process of its own, for compare.py: loads once, then answers lines of JSON with lines of JSON.

    PYTHON worker.py ENGINE '{"model": …, "options": {…}}'

First line out: {"version": …, "weight_bytes": …}. Then for {"kind": "decode", "batches": [[[ids, count], …], …]} in:
{"seconds": [of each batch], "counts": [[tokens generated, of each request], …]}. Runs in the peer's own environment, so
it imports the standard library and the engine alone. What an engine prints goes to stderr.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

Batch = list[tuple[list[int], int]]
MAX_LEN = 4096
END_LIMIT_S = 5
CACHE_GB = 4  # of KV cache, for every engine; `mixed` needs 2.8 GB of it in 16 bits on the Qwen3-0.6B shape


class Engine(Protocol):
    """`run` answers a batch, seconds and tokens generated per request; kind is Work.kind."""

    version: str

    def run(self, batch: Batch, kind: str) -> tuple[float, list[int]]: ...

    def weight_bytes(self) -> int | None: ...


class Octavo:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        import octavo

        self.version = octavo.__version__
        self._params = octavo.SamplingParams
        settings = {"max_model_len": MAX_LEN, "kv_cache_memory_bytes": CACHE_GB * 2**30, "use_tqdm_on_load": False}
        self._llm = octavo.LLM(model, **(settings | options))

    def run(self, batch: Batch, kind: str) -> tuple[float, list[int]]:
        prompts = [{"prompt_token_ids": ids} for ids, _ in batch]
        params = [self._params(temperature=0, ignore_eos=True, max_tokens=count) for _, count in batch]
        started = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started, [len(output.outputs[0].token_ids) for output in outputs]

    def weight_bytes(self) -> int | None:
        found = re.match(r"([\d.]+) ([KMG]iB)", self._llm.info.plan["weights"])  # a line for people: 1.11 GiB: bfloat16
        return int(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2][0]]) if found else None


class VLLM:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        import vllm

        self.version = vllm.__version__
        self._model = model
        self._params = vllm.SamplingParams
        self._llm = vllm.LLM(model, **({"max_model_len": MAX_LEN, "disable_log_stats": True} | options))

    def run(self, batch: Batch, kind: str) -> tuple[float, list[int]]:
        prompts = [{"prompt_token_ids": ids} for ids, _ in batch]
        params = [
            self._params(temperature=0, ignore_eos=True, max_tokens=count, detokenize=False) for _, count in batch
        ]
        started = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started, [len(output.outputs[0].token_ids) for output in outputs]

    def weight_bytes(self) -> int | None:
        return file_bytes(self._model, "*.safetensors")


class OpenVINO:
    """`pipeline`: paged (continuous batching, the default) or stateful (one request at a time)."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        import numpy
        import openvino
        import openvino_genai

        self.version = openvino_genai.__version__
        self._model, self._genai = model, openvino_genai
        self._tensor = lambda ids: openvino.Tensor(numpy.array([ids], dtype=numpy.int64))
        options = dict(options)
        self._is_paged = options.pop("pipeline", "paged") == "paged"
        if self._is_paged:
            scheduler = openvino_genai.SchedulerConfig()
            for name, value in ({"cache_size": CACHE_GB, "enable_prefix_caching": True} | options).items():
                setattr(scheduler, name, value)
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU")
        else:
            self._pipeline = openvino_genai.LLMPipeline(model, "CPU", ATTENTION_BACKEND="SDPA", **options)

    def run(self, batch: Batch, kind: str) -> tuple[float, list[int]]:
        configs = [self._genai.GenerationConfig(max_new_tokens=count, ignore_eos=True) for _, count in batch]
        tensors = [self._tensor(ids) for ids, _ in batch]
        for config in configs:
            config.do_sample = False
        started = time.perf_counter()
        if self._is_paged:
            answers = [result.m_generation_ids[0] for result in self._pipeline.generate(tensors, configs)]
        else:
            answers = [
                self._pipeline.generate(ids, config).tokens[0] for ids, config in zip(tensors, configs, strict=True)
            ]
        return time.perf_counter() - started, [len(answer) for answer in answers]

    def weight_bytes(self) -> int | None:
        return file_bytes(self._model, "openvino_model.bin")


class Transformers:
    """`generate` in static batches of `batch` requests, left-padded, each as long as its longest answer."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        import torch
        import transformers

        self.version = transformers.__version__
        self._model, self._torch = model, torch
        options = dict(options)
        self._batch_size = options.pop("batch", 16)
        dtype = getattr(torch, options.pop("dtype", "bfloat16"))
        self._generator = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **options).eval()
        self._generator.generation_config.eos_token_id = None

    def run(self, batch: Batch, kind: str) -> tuple[float, list[int]]:
        counts: list[int] = []
        started = time.perf_counter()
        for at in range(0, len(batch), self._batch_size):
            part = batch[at : at + self._batch_size]
            longest, most = max(len(ids) for ids, _ in part), max(count for _, count in part)
            ids = self._torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in part])
            mask = self._torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in part])
            with self._torch.inference_mode():
                rows = self._generator.generate(
                    ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=0
                )
            counts += [min(count, rows.shape[1] - longest) for _, count in part]
        return time.perf_counter() - started, counts

    def weight_bytes(self) -> int | None:
        return file_bytes(self._model, "*.safetensors")


class LlamaCpp:
    """llama-bench for one stream (its own tool leaves sampling out), llama-server over HTTP for many.

    `bin`: folder of the programs; `slots`: sequences the server runs at once; `context`: tokens they share.
    """

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._model, self._options = model, options
        self._bin = Path(options["bin"])
        self._threads = str(options.get("threads", len(os.sched_getaffinity(0))))
        self._server: subprocess.Popen[bytes] | None = None
        said = subprocess.run([self._bin / "llama-bench", "--version"], capture_output=True, text=True)
        if said.returncode:
            raise SystemExit(f"{self._bin / 'llama-bench'} does not run: {said.stderr.strip()[-300:]}")
        self.version = (said.stdout + said.stderr).split("version:")[-1].splitlines()[0].strip()

    def run(self, batch: Batch, kind: str) -> tuple[float, list[int]]:
        if kind == "prefill":
            return self._bench("-p", str(len(batch[0][0])), "-n", "0"), [1]
        if kind == "decode":
            count = batch[0][1] - 1  # the first token belongs to the prompt
            return self._bench("-p", "0", "-n", str(count), "-d", str(len(batch[0][0]))) if count else 0.0, [count + 1]
        if self._server is None:
            self._server, self._url = self._start_server()
        with ThreadPoolExecutor(len(batch)) as pool:
            started = time.perf_counter()
            counts = list(pool.map(self._complete, batch))
            return time.perf_counter() - started, counts

    def weight_bytes(self) -> int | None:
        return Path(self._model).stat().st_size

    def _bench(self, *args: str) -> float:
        """Seconds of one timed repetition, after llama-bench's own warm-up."""
        program = [self._bin / "llama-bench", "-m", self._model, "-t", self._threads, "-r", "1", "-o", "json", *args]
        return json.loads(subprocess.run(program, check=True, stdout=subprocess.PIPE).stdout)[0]["avg_ns"] / 1e9

    def _start_server(self) -> tuple[subprocess.Popen[bytes], str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        slots, context = str(self._options.get("slots", 16)), str(self._options.get("context", 24_576))
        args = ["-m", self._model, "-t", self._threads, "-np", slots, "-c", context, "--cont-batching"]
        server = subprocess.Popen([self._bin / "llama-server", *args, "--port", port, "--no-webui"], stdout=sys.stderr)
        atexit.register(server.kill)
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("llama-server ended while it was loading the model") from None
                time.sleep(0.1)
            else:
                return server, url
        raise SystemExit("llama-server was not ready after a minute")

    def _complete(self, request: tuple[list[int], int]) -> int:
        ids, count = request
        body = {"prompt": ids, "n_predict": count, "ignore_eos": True, "temperature": 0, "cache_prompt": True}
        headers = {"Content-Type": "application/json"}
        post = urllib.request.Request(f"{self._url}/completion", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(post, timeout=3600) as answer:
            return json.load(answer)["tokens_predicted"]


def file_bytes(folder: str, pattern: str) -> int:
    """Size of a model's weight files."""
    return sum(path.stat().st_size for path in Path(folder).glob(pattern))


ENGINES = {
    "octavo": Octavo, "vllm": VLLM, "openvino": OpenVINO, "transformers": Transformers, "llama.cpp": LlamaCpp,
}  # fmt: skip


def listen() -> queue.SimpleQueue[dict[str, Any] | None]:
    """What the driver sends, and None once its end of the pipe is closed, even by its death.

    A thread reads, because a run may take minutes after nobody wants its result any more: this process and its children
    have END_LIMIT_S from then on to end by themselves.
    """
    commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        rest = b""
        while chunk := os.read(0, 2**20):  # not sys.stdin, whose lock would be held when the interpreter ends
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                commands.put(json.loads(line))
        commands.put(None)
        time.sleep(END_LIMIT_S)
        if os.getpgrp() == os.getpid():  # as the driver starts it; not in somebody's shell
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return commands


def main() -> None:
    # Engines and their children print where they like; the pipe to the driver is for answers alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    commands = listen()  # before loading, which takes longest
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    engine: Engine = ENGINES[name](settings["model"], settings["options"])
    print(json.dumps({"version": engine.version, "weight_bytes": engine.weight_bytes()}), file=answers)
    while (command := commands.get()) is not None:
        results = [engine.run(batch, command["kind"]) for batch in command["batches"]]
        print(json.dumps({"seconds": [s for s, _ in results], "counts": [c for _, c in results]}), file=answers)


if __name__ == "__main__":
    main()
