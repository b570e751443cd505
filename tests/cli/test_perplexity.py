"""Perplexity: every token of the text is predicted once, and the figures follow from the model's log-probabilities."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo import LLM, SamplingParams
from octavo.cli import main
from octavo.cli.bench.perplexity import windows

TEXT = "Once upon a time there was a little owl who lived in a tree and could not sleep at night."


@given(st.lists(st.integers(), min_size=2, max_size=60), st.integers(1, 12))
def test_every_token_but_the_first_is_predicted_once_and_in_order(ids: list[int], size: int) -> None:
    parts = windows(ids, size)
    assert [token for part in parts for token in part[1:]] == ids[1:]
    assert all(2 <= len(part) <= max(2, size) for part in parts)
    assert all(part[0] == before[-1] for before, part in itertools.pairwise(parts))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("perplexity")
    (folder / "text").write_text(TEXT)
    code = main.main(
        ["bench", "perplexity", "--text", str(folder / "text"), "--window", "8", "--output-json", str(folder / "out"),
         "--quantization", "none", "int8", "int4", "--device", "cpu", "--max-model-len", "64"]
    )  # fmt: skip
    assert code == 0
    return json.loads((folder / "out").read_text())


def test_the_perplexity_is_that_of_the_models_own_log_probabilities(figures) -> None:
    with LLM(dtype="float32", max_model_len=64) as llm:
        ids = llm.get_tokenizer().encode(TEXT)
        nats = 0.0
        for at in range(1, len(ids)):
            begin = (at - 1) // 7 * 7
            prompt = {"prompt_token_ids": ids[begin : at + 1]}
            params = SamplingParams(max_tokens=1, prompt_logprobs=0)
            told = llm.generate([prompt], params, use_tqdm=False)[0].prompt_logprobs
            nats -= told[-1][ids[at]].logprob
    assert figures["float32"]["num_tokens"] == len(ids) - 1
    assert figures["float32"]["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-4)


def test_rounding_changes_the_perplexity_little_and_fewer_bits_change_it_more(figures) -> None:
    exact = figures["float32"]["perplexity"]
    off = {name: abs(figure["perplexity"] / exact - 1) for name, figure in figures.items()}
    assert off["auto"] < 0.02 and off["int8"] < 0.05 and 0 < off["int4"] < 0.5


def test_a_text_that_cannot_be_used_is_refused_in_one_line(tmp_path, capsys) -> None:
    (tmp_path / "empty").write_text("")
    for file in ("none", "empty"):
        assert main.main(["bench", "perplexity", "--text", str(tmp_path / file), "--device", "cpu"]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("octavo bench: --text") and str(tmp_path / file) in error
