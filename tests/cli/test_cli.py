"""The command line as people use it: real processes, their output, their exit codes, one clear line per mistake."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

from octavo import __version__
from octavo.checkpoint import POCKET
from octavo.cli.bench import KINDS
from octavo.cli.collect_env import gpus
from octavo.cli.main import COMMANDS
from octavo.cli.terminal import harmless

from ..warm import Warm

OCTAVO = [sys.executable, "-m", "octavo"]


@pytest.fixture(scope="module")
def octavo():
    """Runs `octavo` in a process of its own, in which the commands' modules are imported already."""
    commands = [f"octavo.cli.{name.replace('-', '_')}" for name in COMMANDS]
    with Warm(*commands, *(f"octavo.cli.bench.{kind}" for kind in KINDS), "octavo.serve.run") as warm:
        yield lambda *args, **options: warm.module("octavo", *args, **options)


@contextmanager
def served(*args, module="octavo", env=None):
    """A server on a free port: its process and its URL, once it is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, *(["serve"] if module == "octavo" else []), "--port", str(port), *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()


def test_the_version_and_the_help_are_there(octavo):
    said = subprocess.run([*OCTAVO, "--version"], capture_output=True, text=True, timeout=60).stdout
    assert said == octavo("--version").stdout == f"octavo {__version__}\n"
    assert "octavo chat" in octavo().stdout
    for command in (
        "serve",
        "chat",
        "complete",
        "bench throughput",
        "bench latency",
        "bench perplexity",
        "bench serve",
        "collect-env",
    ):
        done = octavo(*command.split(), "--help")
        assert done.returncode == 0 and "usage: octavo " + command in done.stdout, command


@pytest.mark.parametrize(
    ("args", "words", "code"),
    [
        (("srve",), "did you mean serve", 2),
        (("serve", "--max-modle-len", "5"), "did you mean --max-model-len", 2),
        (("serve", "--port", "http"), "--port", 2),
        (("serve", "--dtype", "int3"), "--dtype", 2),
        (("serve", "/no/such/folder"), "no such folder", 1),
        (("serve", "--device", "fake", "--max-model-len", "100000000"), "max_model_len", 1),
        (("serve", "--device", "fake:stepms=1"), "step_ms", 1),
        (("serve", "--trust-remote-code"), "never runs code", 1),
        (("serve", "--tensor-parallel-size", "2"), "tensor_parallel_size", 1),
        (("serve", "--host", "0.0.0.0"), "--insecure", 1),
        (("chat", "/no/such/folder", "-q", "hi"), "no such folder", 1),
        (("chat", "--url", "http://127.0.0.1:9", "-q", "hi"), "127.0.0.1:9", 1),
        (("complete", "--device", "fake", "-q", "hi", "--temperature", "9"), "temperature", 1),
        (("bench", "throughput", "--device", "fake", "--dataset-path", "/none"), "/none", 1),
        (("bench", "throughput", "--device", "fake", "--num-prompts", "0"), "--num-prompts", 2),
        (("bench", "throughput", "--device", "fake", "--input-len", "-1"), "--input-len", 2),
        (("bench", "latency", "--device", "fake", "--num-iters", "0"), "--num-iters", 2),
        (("bench", "serve", "--request-rate", "0"), "--request-rate", 2),
        (("bench", "serve", "--goodput", "speed:5"), "--goodput", 2),
        (("bench", "serve", "--goodput", "ttft"), "--goodput", 2),
        (("bench", "serve", "--max-concurrency", "0"), "--max-concurrency", 2),
        (("bench", "serve", "--base-url", "http://127.0.0.1:9"), "127.0.0.1:9", 1),
        (("bench", "latency", "--device", "fake", "--input-len", "4000"), "4000", 1),
    ],
)
def test_a_mistake_is_one_line_that_names_it(octavo, args, words, code):
    done = octavo(*args)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_log_level_is_the_flags_or_else_the_environments(octavo):
    environment = os.environ | {"OCTAVO_LOG_LEVEL": "error"}
    done = octavo("collect-env", env=os.environ | {"OCTAVO_LOG_LEVEL": "loud"})
    assert done.returncode == 1 and done.stderr.startswith("octavo collect-env: OCTAVO_LOG_LEVEL must be"), done.stderr
    for args, shown in (((), False), (("--log-level", "info"), True)):
        with served("--device", "fake", *args, env=environment) as (process, _):
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=20)
        assert ("octavo" in output) == shown, output


def test_a_port_in_use_is_one_line_and_leaves_nothing_running(octavo):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = octavo("serve", "--device", "fake", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1 and "in use" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_chat_answers_in_the_terminal_here_and_from_a_server(octavo):
    here = octavo("chat", "--device", "fake", "-q", "hi", "--max-tokens", "8", "--temperature", "0")
    piped = octavo("chat", "--device", "fake", "--max-tokens", "8", "--temperature", "0", input="hi")
    with served("--device", "fake") as (_, url):
        there = octavo("chat", "--url", url, "-q", "hi", "--max-tokens", "8", "--temperature", "0")
        text = octavo("complete", "--url", f"{url}/v1", "-q", "hi", "--max-tokens", "8", "--temperature", "0")
    assert here.returncode == there.returncode == piped.returncode == 0, (here.stderr, there.stderr)
    assert here.stdout == there.stdout == piped.stdout and len(here.stdout) > 1
    assert (
        text.stdout
        == octavo("complete", "--device", "fake", "-q", "hi", "--max-tokens", "8", "--temperature", "0").stdout
    )


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, *args):
        self.parent, child = pty.openpty()
        self.process = subprocess.Popen([*OCTAVO, *args], stdin=child, stdout=child, stderr=child)
        os.close(child)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.parent)

    def read_until(self, text, limit_s=20):
        seen, deadline = b"", time.monotonic() + limit_s
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([self.parent], [], [], 0.1)[0]:
                try:
                    seen += os.read(self.parent, 4096)
                except OSError:  # the command has ended
                    raise AssertionError(seen) from None
        return seen

    def type(self, text):
        os.write(self.parent, text)


def test_a_conversation_can_be_held_in_a_terminal():
    with Terminal("chat", "--device", "fake", "--max-tokens", "4") as terminal:
        terminal.read_until(b"> ")
        terminal.type(b"hello\n")
        terminal.read_until(b"\n> ")
        terminal.type(b"/quit\n")
        assert terminal.process.wait(10) == 0


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on():
    with Terminal("chat", "--device", "fake:step_ms=20", "--max-tokens", "1500") as terminal:
        terminal.read_until(b"> ")
        terminal.type(b"hello\n")
        terminal.read_until(b"hello\r\n")
        time.sleep(0.5)
        terminal.process.send_signal(signal.SIGINT)
        assert b"(stopped)" in terminal.read_until(b"\n> ")
        terminal.type(b"again\n")
        terminal.read_until(b"again\r\n")
        time.sleep(0.3)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(b"\n> ")
        time.sleep(0.3)  # a signal between the prompt and the read would wait for a key
        terminal.process.send_signal(signal.SIGINT)  # at the prompt: leaves
        assert terminal.process.wait(10) == 0


def test_a_question_that_cannot_be_answered_does_not_end_the_conversation():
    with Terminal("chat", "--device", "fake", "--max-tokens", "4", "--max-model-len", "64") as terminal:
        terminal.read_until(b"> ")
        terminal.type(b"word " * 100 + b"\n")
        assert b"prompt has" in terminal.read_until(b"\n> ")
        terminal.type(b"hello\n")
        assert b"prompt has" not in terminal.read_until(b"\n> ")


def test_chat_with_an_engine_that_cannot_start_says_why_before_it_asks():
    with Terminal("chat", "--device", "fake:stepms=1") as terminal:
        terminal.read_until(b"step_ms")
        assert terminal.process.wait(10) == 1


def test_a_server_that_goes_away_in_an_answer_is_one_line():
    with served("--device", "fake:step_ms=50") as (process, url):
        client = subprocess.Popen(
            [*OCTAVO, "chat", "--url", url, "-q", "hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert client.stdout.read(1)
        process.kill()
        _, errors = client.communicate(timeout=20)
    assert client.returncode == 1 and len(errors.strip().splitlines()) == 1 and url in errors, errors


def test_a_model_the_server_does_not_have_is_one_line(octavo):
    with served("--device", "fake") as (_, url):
        done = octavo("chat", "--url", url, "--model-name", "other", "-q", "hi")
    assert done.returncode == 1 and "other" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_serve_prints_its_plan_and_drains_on_sigterm():
    with served("--device", "fake", "--max-model-len", "64") as (process, url):
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    for words in ("octavo-pocket", "fake device", "longest context", "64 tokens", "KV cache", "pages", "weights", url):
        assert words in output, output


def test_vllms_module_path_serves_too():
    with (
        served(
            "--model",
            str(POCKET),
            "--served-model-name",
            "mine",
            "--device",
            "fake",
            module="octavo.entrypoints.openai.api_server",
        ) as (_, url),
        urllib.request.urlopen(f"{url}/v1/models") as reply,
    ):
        assert json.load(reply)["data"][0]["id"] == "mine"


def test_bench_reports_tables_and_json(octavo, tmp_path):
    small = ("--num-prompts", "6", "--input-len", "8", "--output-len", "5")
    done = octavo("bench", "throughput", "--device", "fake", *small, "--output-json", str(tmp_path / "t.json"))
    assert done.returncode == 0 and "output tokens/s" in done.stdout, done.stderr
    assert json.loads((tmp_path / "t.json").read_text())["output_tokens"] == 30
    done = octavo(
        "bench", "latency", "--device", "fake", *small, "--num-iters", "2", "--output-json", str(tmp_path / "l.json")
    )
    assert done.returncode == 0 and len(json.loads((tmp_path / "l.json").read_text())["latencies_s"]) == 2
    with served("--device", "fake:step_ms=1") as (_, url):
        done = octavo(
            "bench",
            "serve",
            "--base-url",
            url,
            *small,
            "--request-rate",
            "50",
            "--save-result",
            str(tmp_path / "s.json"),
        )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "s.json").read_text())
    assert result["successful_requests"] == 6 and result["output_tokens"] == 30 and result["prompt_tokens"] == 48
    for name in ("ttft", "tpot", "itl", "e2el"):
        assert 0 < result[f"median_{name}_ms"] <= result[f"p99_{name}_ms"]


def test_collect_env_tells_versions_and_no_secrets(octavo):
    facts = json.loads(octavo("collect-env", "--json", env=os.environ | {"OCTAVO_API_KEY": "hush-hush"}).stdout)
    assert facts["octavo"] == __version__ and facts["torch"]
    assert "hush" not in json.dumps(facts)


def test_collect_env_tells_of_gpus_what_their_driver_says(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, NVIDIA H200, 143771 MiB, 12 MiB, 9.0, 580.65.06'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    expected = "NVIDIA H200, memory 143771 MiB, used 12 MiB, compute capability 9.0, driver 580.65.06"
    assert gpus() == {"gpu 0": expected}
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert gpus() == {}


def test_a_models_escape_sequences_do_not_reach_the_terminal():
    assert harmless("a\x1b[2Jb\r\x07\tc\n世界 🎉") == "a\ufffd[2Jb\ufffd\ufffd\tc\n世界 🎉"
