"""What cannot start says which thing is wrong in one line, ends at once, and leaves nothing behind (R13)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from octavo import LLM
from octavo.checkpoint import POCKET
from octavo.config import EngineConfig, ServerConfig
from octavo.errors import StartupError
from octavo.serve.run import run_server

from .harness import Server

SERVED = EngineConfig.of(device="fake")


def changed(folder: Path, **fields: object) -> Path:
    """A copy of the embedded model without its weights, with other values in config.json."""
    folder.mkdir(exist_ok=True)
    for path in POCKET.iterdir():
        if path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model"):
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def written(folder: Path, name: str, data: bytes) -> str:
    """A copy of the embedded model in which the file `name` holds `data`."""
    (changed(folder) / name).write_bytes(data)
    return str(folder)


def without(folder: Path, name: str) -> str:
    """A copy of the embedded model without a file."""
    (changed(folder) / name).unlink()
    return str(folder)


FAKE = "fake"
DEEP = b'{"a":' * 100_000

# what to open, given an empty folder; words the line must have
MODELS: list[tuple[str, Callable[[Path], dict[str, object]], list[str]]] = [
    ("no folder", lambda f: {"model": str(f / "none")}, ["none", "no such folder"]),
    ("an empty folder", lambda f: {"model": str(f)}, ["config.json", "does not exist"]),
    ("a file", lambda f: {"model": written(f, "x.bin", b"") + "/x.bin"}, ["x.bin", "is a file"]),
    ("config cut", lambda f: {"model": written(f, "config.json", b'{"vocab_size": 3')}, ["config.json", "JSON"]),
    ("config of a list", lambda f: {"model": written(f, "config.json", b"[]")}, ["config.json", "object"]),
    ("config deep", lambda f: {"model": written(f, "config.json", DEEP)}, ["config.json"]),
    ("config huge", lambda f: {"model": written(f, "config.json", b" " * 17 * 2**20)}, ["config.json", "longer"]),
    ("config no text", lambda f: {"model": written(f, "config.json", b"\xff\xfe\x00")}, ["config.json"]),
    ("no tokenizer", lambda f: {"model": without(f, "tokenizer.json")}, ["tokenizer"]),
    ("tokenizer cut", lambda f: {"model": written(f, "tokenizer.json", b'{"model":')}, ["tokenizer.json"]),
    ("tokenizer odd", lambda f: {"model": written(f, "tokenizer.json", b'{"model": {"type": 3}}')}, ["tokenizer.json"]),
    ("template", lambda f: {"model": None, "chat_template": "{% for %}"}, ["template"]),
    ("template file", lambda f: {"model": None, "chat_template": str(f / "none.jinja")}, ["none.jinja"]),
    ("too long", lambda f: {"max_model_len": 10**6}, ["max_model_len", "2048"]),
    ("no memory", lambda f: {"kv_cache_memory_bytes": 64}, ["64 B", "memory"]),
    ("share", lambda f: {"gpu_memory_utilization": 1.5}, ["gpu_memory_utilization", "1.5"]),
    ("number format", lambda f: {"dtype": "int3"}, ["dtype", "int3", "bfloat16"]),
    ("device option", lambda f: {"device": "fake:step=1"}, ["step", "step_ms"]),
    ("two devices", lambda f: {"tensor_parallel_size": 2}, ["tensor_parallel_size", "use 1"]),
    ("foreign code", lambda f: {"trust_remote_code": True}, ["trust_remote_code"]),
    ("seed", lambda f: {"seed": 2**64}, ["seed", str(2**63 - 1)]),
    ("an unknown option", lambda f: {"max_model_length": 5}, ["max_model_length", "max_model_len"]),
]


@pytest.mark.parametrize(("open_what", "words"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_a_model_that_cannot_be_opened_is_named_in_one_line(open_what, words: list[str], tmp_path: Path):
    options = {"device": FAKE} | open_what(tmp_path)
    with pytest.raises(StartupError) as error:
        LLM(**options)
    check_line(error.value.message, words)


def check_line(line: str, words: list[str]) -> None:
    """One line of bearable length that holds all `words`."""
    assert "\n" not in line and len(line) < 600, line
    assert "Traceback" not in line
    for word in words:
        assert word in line, line


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def real(
    folder: Path, name: str = "model.safetensors", data: bytes | None = None, **fields: object
) -> dict[str, object]:
    """A tiny Llama whose weights are `data`."""
    changed(folder, **fields)
    if data is not None:
        (folder / name).write_bytes(data)
    return {"model": str(folder), "device": "cpu"}


INDEX = json.dumps({"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}).encode()
EMPTY = safetensors(b"{}")
ONE = b'{"model.embed_tokens.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'

WEIGHTS: list[tuple[str, Callable[[Path], dict[str, object]], list[str]]] = [
    ("none", lambda f: real(f), ["safetensors"]),
    ("header cut", lambda f: real(f, data=b"\x05\x00"), ["model.safetensors"]),
    ("header huge", lambda f: real(f, data=safetensors(b"{}", length=2**62)), ["model.safetensors"]),
    ("header odd", lambda f: real(f, data=safetensors(b'{"a": 1}')), ["model.safetensors"]),
    ("data cut", lambda f: real(f, data=safetensors(ONE, b"\0" * 9)), ["model.safetensors"]),
    ("mis-shaped", lambda f: real(f, data=safetensors(ONE, b"\0" * 16)), ["embed_tokens"]),
    ("missing tensor", lambda f: real(f, data=EMPTY), ["embed_tokens"]),
    ("missing shard", lambda f: real(f, "model.safetensors.index.json", INDEX), ["model-00001-of-00002.safetensors"]),
    ("architecture", lambda f: real(f, architectures=["LlamaForCausalLN"]), ["LlamaForCausalLN", "LlamaForCausalLM"]),
    ("no architecture", lambda f: real(f, architectures=[]), ["architectures"]),
    ("device", lambda f: real(f) | {"device": "abacus"}, ["abacus", "cpu"]),
    ("vocabulary", lambda f: real(f, data=EMPTY, vocab_size="many"), ["vocab_size", "many"]),
    ("context", lambda f: real(f, data=EMPTY, max_position_embeddings=-4), ["max_position_embeddings", "-4"]),
    ("layers", lambda f: real(f, data=EMPTY, num_hidden_layers=0), ["num_hidden_layers", "0"]),
    ("heads", lambda f: real(f, data=EMPTY, num_attention_heads=-7), ["num_attention_heads", "-7"]),
    ("activation", lambda f: real(f, data=EMPTY, hidden_act="sillu"), ["activation", "sillu", "silu,"]),
]


@pytest.mark.parametrize(("open_what", "words"), [case[1:] for case in WEIGHTS], ids=[case[0] for case in WEIGHTS])
def test_weights_that_cannot_be_loaded_are_named_in_one_line(open_what, words: list[str], tmp_path: Path):
    with pytest.raises(StartupError) as error:
        LLM(**open_what(tmp_path), use_tqdm_on_load=False)
    check_line(error.value.message, words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"port": 99_999}, ["port", "65535"]),
        ({"port": -1}, ["port"]),
        ({"host": "no such host", "insecure": True}, ["no such host", "cannot listen"]),
        ({"host": "0.0.0.0"}, ["--insecure"]),
        ({"heartbeat_s": 0.0}, ["heartbeat_s", "at least 1"]),
        ({"heartbeat_s": float("nan")}, ["heartbeat_s"]),
        ({"drain_limit_s": float("nan")}, ["drain_limit_s"]),
        ({"max_queued_requests": 0}, ["max_queued_requests"]),
        ({"uds": "/no/such/folder/socket"}, ["/no/such/folder/socket"]),
        ({"uds": "u" * 200}, ["too long"]),
        ({"api_keys_file": "/no/keys.toml"}, ["/no/keys.toml", "No such file"]),
        ({"ssl_certfile": "/no/cert.pem"}, ["/no/cert.pem", "No such file"]),
        ({"ssl_keyfile": "/no/key.pem"}, ["--ssl-certfile"]),
        ({"admin_port": 99_999}, ["admin_port", "65535"]),
        ({"admin_port": 1, "admin_uds": "/x"}, ["admin_uds", "admin_port"]),
        ({"admin_uds": "/no/such/folder/admin"}, ["/no/such/folder/admin"]),
    ],
)
def test_a_server_setting_that_cannot_work_is_named(fields: dict[str, object], words: list[str]):
    with pytest.raises(StartupError) as error:
        run_server(SERVED, ServerConfig(**{"port": 0} | fields))  # type: ignore[arg-type]
    check_line(error.value.message, words)


def test_a_unix_socket_replaces_neither_a_file_nor_a_server(tmp_path: Path):
    letter = tmp_path / "letter"
    letter.write_text("dear")
    with pytest.raises(StartupError, match="no socket"):
        run_server(SERVED, ServerConfig(uds=str(letter)))
    assert letter.read_text() == "dear"
    taken = tmp_path / "taken"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(taken))
        other.listen()
        with pytest.raises(StartupError, match="in use"):
            run_server(SERVED, ServerConfig(uds=str(taken)))
        assert taken.is_socket()


LONG = "x" * 100


@pytest.mark.parametrize(
    ("flags", "env", "word"),
    [
        (["no/such/folder/here"], {}, "no such folder"),
        (["--device", "fake:step=1"], {}, "step_ms"),
        (["--seed", "99999999999999999999"], {}, "seed"),
        ([], {"TMPDIR": LONG}, "TMPDIR"),
    ],
)
def test_a_failed_start_ends_the_process_and_leaves_nothing(flags: list[str], env: dict[str, str], word: str, tmp_path):
    if env:
        env = {"TMPDIR": str(tmp_path / LONG)}
        os.mkdir(env["TMPDIR"])
    server = Server(*flags, env=env)
    try:
        assert server.wait(20) == 1
        assert len(server.lines) <= 2, server.log
        assert word in server.lines[-1] and "Traceback" not in server.log, server.log
        assert not server.left() and not server.files()
        assert not env or not os.listdir(env["TMPDIR"])
    finally:
        server.end()
