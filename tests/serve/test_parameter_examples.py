"""The examples of docs/parameters.md run as they stand, against a real server and in a process of their own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import octavo

from .conftest import Server, Start

PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def real(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The embedded model itself, started as the page says, with its processors."""
    folder = tmp_path_factory.mktemp("operator")
    [code] = [block for block in BLOCKS if block.startswith("# my_processors.py")]
    (folder / "my_processors.py").write_text(code)
    paths = [str(Path(octavo.__file__).parents[1]), str(folder)]
    [flags] = re.findall(r"^octavo serve MODEL (--logits-processors .*)$", PAGE.read_text(), re.M)
    return start(*flags.split(), "--dtype", "float32", device="cpu", env={"PYTHONPATH": os.pathsep.join(paths)})


def test_every_example_runs(real, capsys):
    ran = 0
    scope: dict[str, object] = {}
    for block in BLOCKS:
        if not block.startswith("# my_processors.py"):
            exec(compile(block.replace("http://localhost:8000", real.url), str(PAGE), "exec"), scope)
            ran += 1
    assert ran >= 3
    said = capsys.readouterr().out
    assert len(said.splitlines()) >= 5  # an answer, and four beams


def test_registered_processors_change_answers_over_http(real):
    plain = {"prompt": "hello there", "max_tokens": 6, "temperature": 0, "return_token_ids": True}
    free = real.http.post("/v1/completions", json=plain).json()["choices"][0]["token_ids"]
    ban = plain | {"logits_processors": [{"name": "ban", "args": {"ids": free[:1]}}]}
    changed = real.http.post("/v1/completions", json=ban).json()["choices"][0]["token_ids"]
    assert changed[0] != free[0]
    by_args = plain | {"vllm_xargs": {"ban": {"ids": free[:1]}}}
    assert real.http.post("/v1/completions", json=by_args).json()["choices"][0]["token_ids"] == changed
    for wrong, status in (
        ({"name": "nobody"}, 400),
        ({"name": "ban"}, 400),
        ({"name": "ban", "args": {"ids": "x"}}, 500),
    ):
        reply = real.http.post("/v1/completions", json=plain | {"logits_processors": [wrong]})
        assert reply.status_code == status, reply.text
    assert real.http.post("/v1/completions", json=plain).json()["choices"][0]["token_ids"] == free


def test_a_beam_search_over_http_is_the_models_best(real):
    ask = {"prompt": "The opposite of hot is", "max_tokens": 8, "use_beam_search": True, "n": 4, "logprobs": 0}
    found = real.http.post("/v1/completions", json=ask).json()["choices"]
    greedy = real.http.post(
        "/v1/completions", json={"prompt": ask["prompt"], "max_tokens": 8, "temperature": 0, "logprobs": 0}
    ).json()["choices"][0]
    means = [sum(one["logprobs"]["token_logprobs"]) / len(one["logprobs"]["tokens"]) for one in found]
    assert means == sorted(means, reverse=True)
    values = greedy["logprobs"]["token_logprobs"]
    assert means[0] >= sum(values) / len(values) - 1e-6
