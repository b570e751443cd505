"""Checkpoint: what names a model, what its JSON says, and the one line a wrong one gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from octavo import checkpoint
from octavo.checkpoint import Checkpoint
from octavo.errors import StartupError, UnsupportedModel

ROOT = Path(checkpoint.__file__).parent.parent
STORIES = Path(__file__).parents[2] / "shared" / "data" / "models" / "stories260K"


def write(folder: Path, config: object, generation: object = None) -> Path:
    """A checkpoint folder with these JSON files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def refusal(model: str | None, **options: str) -> str:
    with pytest.raises(StartupError) as caught:
        Checkpoint.resolve(model, **options)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModel": "evil.Model"}})
    (folder / "evil.py").write_text("raise SystemExit('code from a checkpoint ran')")
    found = Checkpoint.resolve(str(folder))
    assert (found.folder, found.name, found.architecture) == (folder, str(folder), "LlamaForCausalLM")
    assert found.generation == {}
    assert found.eos_ids == ()
    assert found.generation_defaults() == {}


def test_no_model_means_the_embedded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint.POCKET.is_dir()
    assert checkpoint.POCKET.parent.name == "octavo"
    monkeypatch.setattr(checkpoint, "POCKET", write(tmp_path / "pocket", {"architectures": ["A"]}))
    found = Checkpoint.resolve(None)
    assert (found.name, found.folder) == ("octavo-pocket", tmp_path / "pocket")


@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/data is absent")
def test_a_real_checkpoint_says_what_it_is() -> None:
    found = Checkpoint.resolve(str(STORIES))
    assert (found.architecture, found.eos_ids, found.config["vocab_size"]) == ("LlamaForCausalLM", (2,), 512)


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 7}, (7, 8)),
        ({"eos_token_id": 7}, {"eos_token_id": [9, 7]}, (7, 9)),
        ({"eos_token_id": None}, {"text_config": {"eos_token_id": [3]}}, (3,)),
        ({}, {}, ()),
    ],
)
def test_end_tokens_come_from_both_files(
    tmp_path: Path, generation: object, config: object, ids: tuple[int, ...]
) -> None:
    assert Checkpoint.resolve(str(write(tmp_path, config, generation))).eos_ids == ids


@pytest.mark.parametrize("bad", ["2", [1, None], -1, True, [[2]], 1.0])
def test_end_tokens_that_are_no_ids_are_refused(tmp_path: Path, bad: object) -> None:
    found = Checkpoint.resolve(str(write(tmp_path, {"eos_token_id": bad})))
    with pytest.raises(StartupError, match=r"config\.json: eos_token_id must be a token id"):
        _ = found.eos_ids


def test_sampling_defaults_are_those_vllm_takes(tmp_path: Path) -> None:
    generation = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": None,
        "max_new_tokens": 128,
        "bos_token_id": 1,
    }
    found = Checkpoint.resolve(str(write(tmp_path, {}, generation | {"repetition_penalty": 1.1, "do_sample": False})))
    assert found.generation_defaults() == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "max_tokens": 128,
        "repetition_penalty": 1.1,
    }


@pytest.mark.parametrize("bad", [{"temperature": "hot"}, {"top_p": 7}, {"max_new_tokens": 0}, {"top_k": 1.5}])
def test_sampling_defaults_out_of_range_name_the_file_and_the_field(tmp_path: Path, bad: dict[str, object]) -> None:
    found = Checkpoint.resolve(str(write(tmp_path, {}, bad)))
    with pytest.raises(StartupError, match=f"generation_config.json: {next(iter(bad))} must be"):
        found.generation_defaults()


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [1]])
def test_a_config_without_a_model_class_is_refused(tmp_path: Path, architectures: object) -> None:
    found = Checkpoint.resolve(str(write(tmp_path, {"architectures": architectures})))
    with pytest.raises(UnsupportedModel, match="architectures must name the model class"):
        _ = found.architecture


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "../nothing", "~/nothing", "a/b/c", "a/", "", "a\\b"])
def test_a_path_that_is_not_there_says_so_and_what_works(path: str) -> None:
    message = refusal(path)
    assert "there is no such folder" in message
    assert "a folder with config.json" in message


@pytest.mark.parametrize(
    "name", ["a b", "~no.such.user/x", "owner/../x", "-x", "a\0b", "x" * 5000, "a\nb", "owner/na;me"]
)
def test_a_name_that_cannot_be_a_hub_id_never_reaches_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "download", None)
    assert refusal(name).startswith("model ")


def test_broken_gguf_and_single_files_say_what_to_give_instead(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert f"{tmp_path / 'm.gguf'} is no valid GGUF file" in refusal(str(tmp_path / "m.gguf"))
    assert "model 'n.gguf': there is no such file" in refusal("n.gguf")
    assert f"give the folder it is in, '{tmp_path}'" in refusal(str(tmp_path / "model.safetensors"))


def test_broken_json_files_are_named(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    assert f"{config} does not exist" in refusal(str(tmp_path))
    for content in (b"", b"{", b'{"a": "\xff"}', b"[" * 10**6, b'{"n": ' + b"1" * 10**4 + b"}"):
        config.write_bytes(content)
        assert f"{config} is not valid JSON" in refusal(str(tmp_path))
    config.write_text("[1]")
    assert "must hold a JSON object, got list" in refusal(str(tmp_path))
    config.write_bytes(b" " * (checkpoint.JSON_BYTES + 1))
    assert f"longer than {checkpoint.JSON_BYTES} bytes" in refusal(str(tmp_path))
    config.write_text("{}")
    (tmp_path / "generation_config.json").mkdir()
    assert "generation_config.json is not a regular file" in refusal(str(tmp_path))


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert "is not a regular file" in refusal(str(tmp_path))


class Hub(BaseHTTPRequestHandler):
    """A hub with two models, octavo/safe and octavo/pickled, of which the first has both weight formats."""

    files: ClassVar = {
        "octavo/safe": (
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "evil.py",
            "x/y.json",
        ),
        "octavo/pickled": ("config.json", "pytorch_model.bin", "modeling.py"),
    }
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "api" and parts[2] == "octavo" and "/".join(parts[2:4]) not in self.files:
            gated = parts[3] == "gated"
            code, kind = (403, "GatedRepo") if gated else (404, "RepoNotFound")
            return self.reply(code, b"{}", {"X-Error-Code": kind, "X-Error-Message": kind})
        if parts[0] == "api" and "tree" in parts:
            names = self.files["/".join(parts[2:4])]
            return self.reply(
                200, json.dumps([{"type": "file", "path": n, "size": 2, "oid": "0" * 40} for n in names]).encode()
            )
        if parts[0] == "api":
            if "revision" in parts and parts[-1] not in ("main", self.commit):
                return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            names = self.files["/".join(parts[2:4])]
            info = {"id": "/".join(parts[2:4]), "sha": self.commit, "siblings": [{"rfilename": n} for n in names]}
            return self.reply(200, json.dumps(info).encode())
        return self.reply(200, b"{}", {"ETag": f'"{parts[-1]}"', "X-Repo-Commit": self.commit})

    do_HEAD = do_GET

    def reply(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in (
            {"Content-Length": str(len(body)), "Content-Type": "application/json"} | (headers or {})
        ).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(cache: Path, endpoint: str, *models: str, **variables: str) -> list[str]:
    """Resolve each of `models` (id or id@revision) in a fresh process; its folder's files, or the error's message."""
    script = (
        "import sys\nfrom octavo.checkpoint import Checkpoint\nfrom octavo.errors import StartupError\n"
        "for each in sys.argv[1:]:\n"
        "    model, _, revision = each.partition('@')\n"
        "    try:\n"
        "        print(*sorted(p.name for p in Checkpoint.resolve(model, revision or None).folder.iterdir()))\n"
        "    except StartupError as error:\n"
        "        print(error.message)\n"
    )
    variables = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "0",
    } | variables
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | variables
    done = subprocess.run(
        [sys.executable, "-c", script, *models], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_hub_model_is_downloaded_in_one_format_and_without_code(hub: str, tmp_path: Path) -> None:
    safe, pickled, missing, gated, revision = ask(
        tmp_path, hub, "octavo/safe", "octavo/pickled", "octavo/nothing", "octavo/gated", "octavo/safe@v9"
    )
    assert safe == "config.json model.safetensors tokenizer.json"
    assert pickled == "config.json pytorch_model.bin"
    assert missing.startswith("model octavo/nothing is no folder here and no public model")
    assert gated.startswith("model octavo/gated is gated: accept its terms")
    assert revision.startswith("model octavo/safe@v9 has no revision 'v9'")
    nowhere = "http://127.0.0.1:9"
    for variables in ({"HF_HUB_OFFLINE": "1"}, {}):  # what is in the cache works without the hub
        assert ask(tmp_path, nowhere, "octavo/safe", **variables) == [safe]
    assert "HF_HUB_OFFLINE is set" in ask(tmp_path, hub, "octavo/other", HF_HUB_OFFLINE="1")[0]
    assert "huggingface.co cannot be reached" in ask(tmp_path, nowhere, "octavo/other")[0]
