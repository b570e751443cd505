"""Processors registered with the library or on the command line change what requests that name them get."""

from __future__ import annotations

import pytest

from octavo import LLM, SamplingParams
from octavo.cli.main import command_parser
from octavo.errors import InvalidRequest, StartupError, StepFailed


def ban(past_ids, logits, ids):
    """An operator's own: these ids never come."""
    logits[ids] = float("-inf")


class Failing:
    """Fails at its third token."""

    def __init__(self, prompt_ids):
        self.prompt_ids = prompt_ids

    def __call__(self, past_ids, logits):
        if len(past_ids) == 2:
            raise RuntimeError("a bug")
        return logits


@pytest.fixture(scope="module")
def llm():
    with LLM(logits_processors={"ban": ban, "failing": Failing}, max_model_len=256, dtype="float32") as llm:
        yield llm


def asking(name, **args):
    return SamplingParams(temperature=0, max_tokens=6, logits_processors=[{"name": name, "args": args}])


def test_a_processor_changes_what_its_request_gets_and_no_other(llm):
    plain = SamplingParams(temperature=0, max_tokens=6)
    [free] = llm.generate("hello there", plain)
    banned = free.outputs[0].token_ids[:1]
    changed, again = llm.generate(["hello there"] * 2, [asking("ban", ids=banned), plain])
    assert changed.outputs[0].token_ids[0] not in banned
    assert again.outputs[0].token_ids == free.outputs[0].token_ids
    by_args = SamplingParams(temperature=0, max_tokens=6, extra_args={"ban": {"ids": banned}})
    assert llm.generate("hello there", by_args)[0].outputs[0].token_ids == changed.outputs[0].token_ids


def test_one_that_fails_ends_its_request_and_the_engine_goes_on(llm):
    with pytest.raises(StepFailed, match="logits processor failing failed: RuntimeError"):
        llm.generate("hello there", asking("failing"))
    [output] = llm.generate("hello there", asking("no_repeat_ngram", size=1))
    assert len(set(output.outputs[0].token_ids)) == 6
    assert not llm._core.check_books()


@pytest.mark.parametrize(
    "params",
    [
        {"logits_processors": [{"name": "nobody"}]},
        {"logits_processors": [{"name": "ban"}]},
        {"logits_processors": [{"name": "ban", "args": {"ids": [1], "more": 1}}]},
        {"logits_processors": [{"name": "no_repeat_ngram", "args": {"size": -1}}]},
        {"logits_processors": [{"name": "dry", "args": {"base": "much"}}]},
        {"logits_processors": [{"args": {}}]},
        {"logits_processors": [{"name": "ban", "module": "os"}]},
        {"logits_processors": [{"name": "ban"}] * 9},
        {"logits_processors": [{"name": "ban", "args": {"ids": list(range(20_000))}}]},
        {"logits_processors": "ban"},
    ],
)
def test_what_a_request_gets_wrong_is_named(llm, params):
    with pytest.raises(InvalidRequest) as error:
        llm.generate("hello", SamplingParams(max_tokens=2, **params))
    assert error.value.field == "logits_processors"
    with pytest.raises(InvalidRequest) as error:
        llm.generate("hello", SamplingParams(max_tokens=2, extra_args={"nobody": True}))
    assert error.value.field == "vllm_xargs"


def test_code_has_a_place_or_is_refused():
    with pytest.raises(StartupError, match="top of a module"):
        LLM(device="fake", logits_processors={"local": lambda past, logits: logits})
    with pytest.raises(StartupError, match="cannot import nowhere:it"):
        LLM(logits_processors=["mine=nowhere:it"])
    parsed = command_parser("serve").parse_args(["--logits-processor", "a=b:c", "d=e:f"])
    assert parsed.logits_processors == ["a=b:c", "d=e:f"]
