"""LLM: offline batches as vLLM users write them, on the fake device; with no guard, in a plain `python -c`."""

import subprocess
import sys

import pytest

from octavo import LLM, RequestOutput, SamplingParams
from octavo.errors import EngineDead, InvalidRequest, StartupError


@pytest.fixture(scope="module")
def llm():
    with LLM(device="fake", max_model_len=512) as llm:
        yield llm


def test_a_batch_comes_back_in_order_with_its_prompts(llm):
    prompts = ["Hello, my name is", "The capital of France is", "The future of AI is"]
    outputs = llm.generate(prompts, SamplingParams(n=1, temperature=0.7, top_p=0.9, max_tokens=20))
    assert [output.prompt for output in outputs] == prompts
    for output in outputs:
        assert isinstance(output, RequestOutput) and output.finished
        assert len(output.outputs[0].token_ids) == 20 and output.outputs[0].finish_reason == "length"
        assert output.outputs[0].text == llm.get_tokenizer().decode(output.outputs[0].token_ids)


def test_one_prompt_ids_and_dictionaries_are_prompts_too(llm):
    params = SamplingParams(temperature=0, max_tokens=4)
    ids = llm.get_tokenizer().encode("Hello")
    answers = [
        llm.generate("Hello", params),
        llm.generate({"prompt": "Hello"}, params),
        llm.generate(ids, params),
        llm.generate([{"prompt_token_ids": ids}], params),
    ]
    assert len({tuple(answer[0].outputs[0].token_ids) for answer in answers}) == 1


def test_every_prompt_may_have_its_own_parameters(llm):
    outputs = llm.generate(["a", "b"], [SamplingParams(max_tokens=3), SamplingParams(max_tokens=5)])
    assert [len(output.outputs[0].token_ids) for output in outputs] == [3, 5]
    with pytest.raises(InvalidRequest, match="2 prompts"):
        llm.generate(["a", "b"], [SamplingParams()])


def test_several_continuations_differ_and_are_reproducible(llm):
    params = SamplingParams(n=4, temperature=1, seed=5, max_tokens=12)
    (one,), (again,) = llm.generate("Hello", params), llm.generate("Hello", params)
    texts = [output.text for output in one.outputs]
    assert len(set(texts)) == 4 and [output.index for output in one.outputs] == [0, 1, 2, 3]
    assert texts == [output.text for output in again.outputs]


def test_a_conversation_is_rendered_with_the_models_template(llm):
    messages = [{"role": "user", "content": "Hi"}]
    (output,) = llm.chat(messages, SamplingParams(max_tokens=3))
    assert "Hi" in output.prompt and output.outputs[0].token_ids
    assert len(llm.chat([messages, messages], SamplingParams(max_tokens=3))) == 2


def test_logprobs_are_there_when_asked_for(llm):
    (output,) = llm.generate("Hello there", SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=1))
    completion = output.outputs[0]
    assert all(token in position for token, position in zip(completion.token_ids, completion.logprobs, strict=True))
    assert completion.cumulative_logprob == pytest.approx(
        sum(position[token].logprob for token, position in zip(completion.token_ids, completion.logprobs, strict=True))
    )
    assert output.prompt_logprobs[0] is None and len(output.prompt_logprobs) == len(output.prompt_token_ids)


def test_a_shared_prefix_is_computed_once(llm):
    shared = list(range(10, 10 + 64))
    llm.generate([{"prompt_token_ids": [*shared, 5]}], SamplingParams(max_tokens=1))
    (output,) = llm.generate([{"prompt_token_ids": [*shared, 6]}], SamplingParams(max_tokens=1))
    assert output.num_cached_tokens == 64


def test_a_wrong_prompt_leaves_the_engine_empty(llm):
    with pytest.raises(InvalidRequest, match="longest context is 512"):
        llm.generate(["fine", [1] * 512])
    stats = llm.get_metrics()
    assert stats.running == stats.waiting == 0 and stats.pages_free == stats.pages_total


def test_mistakes_are_one_clear_line(tmp_path):
    for options, word in (
        ({"model": str(tmp_path / "none")}, "no such folder"),
        ({"model": str(tmp_path)}, "config.json"),
        ({"tensor_paralel_size": 1}, "tensor_parallel_size"),
        ({"max_model_len": 10**9, "device": "fake"}, "max_model_len"),
        ({"trust_remote_code": True}, "never runs code"),
        ({"device": "quantum"}, "quantum"),
    ):
        with pytest.raises(StartupError, match=word) as error:
            LLM(**options)
        assert "\n" not in error.value.message


def test_an_llm_that_was_shut_down_says_so():
    with LLM(device="fake") as llm:
        llm.shutdown()
    with pytest.raises(EngineDead, match="shut down"):
        llm.generate("late")


def test_it_runs_in_a_plain_python_c_without_a_guard():
    code = (
        "from octavo import LLM, SamplingParams; "
        "print(len(LLM(device='fake').generate(['a', 'b'], SamplingParams(max_tokens=2))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
