"""Parameters beyond OpenAI's plain ones, through the official client's extra_body: each does what its page says."""

from __future__ import annotations

import math

import openai
import pytest

from octavo import LLM, SamplingParams
from octavo.checkpoint import POCKET
from octavo.frontend.tokenizer import Tokenizer

from .conftest import Start

MODEL = "octavo-pocket"
HELLO = [{"role": "user", "content": "hello"}]
COMPLETION = "n temperature max_tokens echo logprobs stream seed best_of suffix stop stream_options".split()
CHAT = "n temperature max_tokens logprobs top_logprobs stream seed".split()
PREFILLED = [*HELLO, {"role": "assistant", "content": "Well, "}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(POCKET)


def complete(client, prompt="hello", **extra):
    extra.setdefault("temperature", 0)
    known = {name: extra.pop(name) for name in COMPLETION if name in extra}
    return client.completions.create(model=MODEL, prompt=prompt, **known, extra_body=extra)


def chat(client, messages=HELLO, **extra):
    extra.setdefault("temperature", 0)
    known = {name: extra.pop(name) for name in CHAT if name in extra}
    return client.chat.completions.create(model=MODEL, messages=messages, **known, extra_body=extra)


def refused(call, field):
    with pytest.raises(openai.BadRequestError) as error:
        call()
    assert error.value.param == field, error.value
    assert field in error.value.message
    assert "\n" not in error.value.message
    return error.value.message


def test_best_of_returns_the_likeliest_and_counts_all(client):
    ask = {"temperature": 1, "seed": 4, "max_tokens": 6, "logprobs": 0}
    everything = complete(client, n=6, **ask)
    means = [sum(one.logprobs.token_logprobs) / 6 for one in everything.choices]
    order = sorted(range(6), key=lambda i: -means[i])
    best = complete(client, n=2, best_of=6, **ask)
    assert [one.text for one in best.choices] == [everything.choices[i].text for i in order[:2]]
    assert [one.index for one in best.choices] == [0, 1]
    assert best.usage.completion_tokens == 36
    unasked = complete(client, best_of=6, **(ask | {"logprobs": None}))
    assert unasked.choices[0].text == best.choices[0].text
    assert unasked.choices[0].logprobs is None
    told = chat(client, best_of=3, n=2, temperature=1, max_tokens=3)
    assert len(told.choices) == 2 and told.usage.completion_tokens == 9
    refused(lambda: complete(client, best_of=2, temperature=0), "best_of")
    refused(lambda: chat(client, best_of=3, stream=True), "best_of")


def test_a_stop_regex_ends_the_text_streamed_and_whole(client):
    free = complete(client, max_tokens=120).choices[0].text
    pattern = rf"[{free[40].replace(']', '')}-~].{{2}}" if free[40] not in "]^\\-" else "..."
    whole = complete(client, max_tokens=120, stop_regex=["nowhere", pattern]).choices[0]
    assert whole.finish_reason == "stop" and whole.stop_reason == pattern
    assert free.startswith(whole.text) and len(whole.text) < 120
    chunks = list(complete(client, max_tokens=120, stop_regex=["nowhere", pattern], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    kept = complete(client, max_tokens=120, stop_regex=pattern, include_stop_str_in_output=True).choices[0].text
    assert kept.startswith(whole.text) and len(kept) == len(whole.text) + 3
    for wrong in ("a*", "(a", r"a\b", "(a{300}){300}", ["x"] * 9, "x" * 300, 5, [""]):
        refused(lambda wrong=wrong: complete(client, stop_regex=wrong), "stop_regex")


def test_an_answer_that_repeats_itself_ends(client, tokenizer):
    letter = tokenizer.encode("a", add_special_tokens=False)
    ask = {"max_tokens": 50, "allowed_token_ids": letter, "ignore_eos": True}
    found = complete(client, repetition_detection={"max_pattern_size": 2, "min_count": 4}, **ask)
    assert found.choices[0].text == "aaaa"
    assert (found.choices[0].finish_reason, found.choices[0].stop_reason) == ("stop", "repetition_detected")
    assert complete(client, **ask).choices[0].text == "a" * 50
    message = refused(lambda: complete(client, repetition_detection={"max_pattern_size": 2}), "repetition_detection")
    assert "min_count" in message


def test_a_stream_interval_gives_fewer_events(client):
    every = list(complete(client, max_tokens=40, stream=True))
    fewer = list(complete(client, max_tokens=40, stream=True, stream_interval=10))
    assert "".join(one.choices[0].text for one in every) == "".join(one.choices[0].text for one in fewer)
    assert len(fewer) <= 7
    refused(lambda: complete(client, stream=True, stream_interval=0), "stream_interval")


def test_a_long_prompt_is_cut_as_asked(client, tokenizer):
    ids = tokenizer.encode("one two three four five six seven")
    for side, kept in ((None, ids[-3:]), ("left", ids[-3:]), ("right", ids[:3])):
        extra = {"truncation_side": side} if side else {}
        found = complete(
            client,
            "one two three four five six seven",
            max_tokens=1,
            truncate_prompt_tokens=3,
            return_token_ids=True,
            **extra,
        )
        assert found.choices[0].prompt_token_ids == kept
        assert found.usage.prompt_tokens == 3
    echoed = complete(client, "one two three", max_tokens=1, truncate_prompt_tokens=2, echo=True, return_token_ids=True)
    assert echoed.choices[0].text.startswith(tokenizer.decode(echoed.choices[0].prompt_token_ids))
    fits = complete(client, [5] * 3000, max_tokens=8, truncate_prompt_tokens=-1)
    assert fits.usage.prompt_tokens == 2040
    refused(lambda: complete(client, truncate_prompt_tokens=0), "truncate_prompt_tokens")
    refused(lambda: complete(client, truncate_prompt_tokens=4096), "truncate_prompt_tokens")
    refused(lambda: complete(client, truncation_side="middle"), "truncation_side")


def test_min_tokens_may_not_be_more_than_max_tokens(client):
    refused(lambda: complete(client, max_tokens=3, min_tokens=4), "min_tokens")
    refused(lambda: chat(client, max_completion_tokens=3, min_tokens=4), "min_tokens")


@pytest.mark.parametrize("stream", [False, True])
def test_named_tokens_are_told_at_every_position(client, stream):
    ids = [280, 5, 700]
    ask = {"max_tokens": 3, "logprobs": 1, "logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    found = complete(client, stream=stream, **ask)
    tops = [top for one in (found if stream else [found]) for top in one.choices[0].logprobs.top_logprobs]
    assert len(tops) == 3
    assert all({f"token_id:{id}" for id in ids} <= set(top) for top in tops)
    told = chat(client, max_tokens=2, logprobs=True, logprob_token_ids=ids, return_tokens_as_token_ids=True)
    for entry in told.choices[0].logprobs.content:
        assert [top.token for top in entry.top_logprobs] == [f"token_id:{id}" for id in ids]
    refused(lambda: complete(client, logprob_token_ids=ids), "logprob_token_ids")
    refused(lambda: complete(client, logprobs=1, logprob_token_ids=[99999]), "logprob_token_ids")
    refused(lambda: complete(client, logprobs=1, logprob_token_ids=list(range(129))), "logprob_token_ids")


def test_max_tokens_0_scores_the_prompt(client):
    scored = complete(client, "hello there", max_tokens=0, echo=True, logprobs=2)
    longer = complete(client, "hello there", max_tokens=1, echo=True, logprobs=2)
    [one], [other] = scored.choices, longer.choices
    assert (one.text, one.finish_reason) == ("hello there", "length")
    assert one.logprobs.token_logprobs == other.logprobs.token_logprobs[:-1]
    assert one.logprobs.token_logprobs[0] is None and all(value < 0 for value in one.logprobs.token_logprobs[1:])
    assert scored.usage.completion_tokens == 0
    prompts = complete(client, ["hello there", "a"], max_tokens=0, prompt_logprobs=0)
    assert [len(one.prompt_logprobs) for one in prompts.choices] == [
        len(one.logprobs.tokens),
        prompts.usage.prompt_tokens - len(one.logprobs.tokens),
    ]
    for extra in ({}, {"echo": True, "stream": True}, {"echo": True, "use_beam_search": True}):
        refused(lambda extra=extra: complete(client, max_tokens=0, **extra), "max_tokens")
    refused(lambda: chat(client, max_tokens=0), "max_tokens")


def test_a_chat_may_begin_with_what_it_continues(client):
    ask = {"max_tokens": 5, "continue_final_message": True, "add_generation_prompt": False}
    plain = chat(client, PREFILLED, **ask).choices[0].message.content
    assert chat(client, PREFILLED, echo=True, **ask).choices[0].message.content == "Well, " + plain
    stream = chat(client, PREFILLED, echo=True, stream=True, **ask)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Well, " + plain
    assert (
        chat(client, HELLO, echo=True, max_tokens=5).choices[0].message.content
        == chat(client, max_tokens=5).choices[0].message.content
    )


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompts_text_ids_and_offsets_are_told(client, stream, tokenizer):
    extra = {"return_prompt_text": True, "return_token_offsets": True, "return_token_ids": True, "max_tokens": 2}
    found = complete(client, "naïve 世界 hello", stream=stream, **extra)
    told = next(iter(found)).choices[0] if stream else found.choices[0]
    ids, text = told.prompt_token_ids, told.prompt_text
    assert text == "naïve 世界 hello" and ids == tokenizer.encode(text)
    assert "".join(text[a:b] for a, b in told.prompt_token_offsets if ids).startswith("na")
    assert max(b for _, b in told.prompt_token_offsets) == len(text)
    found = chat(client, stream=stream, **extra)
    told = next(iter(found)).choices[0] if stream else found
    assert "hello" in told.prompt_text
    assert len(told.prompt_token_offsets) == len(told.prompt_token_ids)
    begin = told.prompt_text.index("hello")
    pairs = zip(told.prompt_token_ids, told.prompt_token_offsets, strict=True)
    assert tokenizer.decode([id for id, (a, b) in pairs if begin <= a < b <= begin + 5]) == "hello"


def test_a_request_id_names_the_answer_and_nothing_else(client, http):
    assert complete(client, max_tokens=1, request_id="mine-1").id == "cmpl-mine-1"
    assert chat(client, max_tokens=1, request_id="a b\n<c>/../ü" + "x" * 100).id.startswith("chatcmpl-abc")
    both = [complete(client, max_tokens=1, request_id="same").id for _ in range(2)]
    assert both == ["cmpl-same"] * 2
    assert complete(client, max_tokens=1, request_id="\n").id.startswith("cmpl-")


def test_the_whole_prompt_is_computed_when_asked(client):
    prompt = "tell me of caches " * 20
    complete(client, prompt, max_tokens=1)
    assert complete(client, prompt, max_tokens=1).usage.prompt_tokens_details.cached_tokens > 0
    again = complete(client, prompt, max_tokens=1, skip_reading_prefix_cache=True)
    assert again.usage.prompt_tokens_details.cached_tokens == 0


def test_a_beam_search_over_http_is_the_librarys(client):
    found = complete(client, use_beam_search=True, n=3, max_tokens=6, logprobs=1, length_penalty=0.5)
    assert len({one.text for one in found.choices}) == 3
    sums = [sum(one.logprobs.token_logprobs) / len(one.logprobs.tokens) ** 0.5 for one in found.choices]
    assert sums == sorted(sums, reverse=True)
    again = complete(client, use_beam_search=True, n=3, max_tokens=6, length_penalty=0.5, temperature=0)
    assert [one.text for one in again.choices] == [one.text for one in found.choices]
    wider = complete(client, use_beam_search=True, n=1, best_of=3, max_tokens=6, length_penalty=0.5)
    assert [one.text for one in wider.choices] == [found.choices[0].text]
    told = chat(client, use_beam_search=True, n=2, max_tokens=4)
    assert len(told.choices) == 2


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"stream": True}, "stream"),
        ({"stop": "a"}, "stop"),
        ({"top_k": 4}, "top_k"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"stop_regex": "a+"}, "stop_regex"),
        ({"vllm_xargs": {"dry": True}}, "vllm_xargs"),
        ({"n": 65}, "n"),
        ({"n": "3"}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"length_penalty": math.inf}, "length_penalty"),
        ({"length_penalty": 99}, "length_penalty"),
        ({"temperature": 5}, "temperature"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"guided_regex": "a+"}, "structured_outputs"),
    ],
)
def test_what_a_beam_search_has_not_is_refused(http, extra, field):
    body = {"prompt": "hello", "use_beam_search": True, "max_tokens": 2} | extra
    if extra.get("length_penalty") == math.inf:
        reply = http.post(
            "/v1/completions",
            content=str(body).replace("'", '"').replace("True", "true").replace("inf", "Infinity"),
            headers={"content-type": "application/json"},
        )
    else:
        reply = http.post("/v1/completions", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == field, reply.text


def test_a_beam_search_offers_no_tools(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    refused(lambda: chat(client, use_beam_search=True, n=2, tools=[tool]), "tools")
    assert len(chat(client, use_beam_search=True, n=2, tools=[tool], tool_choice="none", max_tokens=2).choices) == 2


def test_a_length_penalty_needs_a_beam_search(client):
    refused(lambda: complete(client, length_penalty=1.0), "length_penalty")


def test_a_search_that_nobody_waits_for_leaves_nothing(start: Start):
    slow = start(device="fake:low=3,high=97,step_ms=20")
    with pytest.raises(Exception, match="timed out"):
        slow.http.post(
            "/v1/completions",
            json={"prompt": "hello", "use_beam_search": True, "n": 8, "max_tokens": 500, "ignore_eos": True},
            timeout=0.5,
        )
    stats = slow.settle()
    assert stats["octavo_requests_running"] == 0
    slow.stop()


def test_several_conversations_have_a_choice_each(http, openai_spec):
    chats = [HELLO, [{"role": "user", "content": "bye"}], HELLO]
    reply = http.post(
        "/v1/chat/completions/batch", json={"messages": chats, "max_tokens": 4, "logprobs": True, "temperature": 0}
    )
    assert reply.status_code == 200, reply.text
    body = reply.json()
    openai_spec.check("CreateChatCompletionResponse", body)
    assert [one["index"] for one in body["choices"]] == [0, 1, 2]
    alone = [
        http.post("/v1/chat/completions", json={"messages": chat, "max_tokens": 4, "temperature": 0}).json()
        for chat in chats
    ]
    assert [one["message"]["content"] for one in body["choices"]] == [
        one["choices"][0]["message"]["content"] for one in alone
    ]
    assert body["usage"]["total_tokens"] == sum(one["usage"]["total_tokens"] for one in alone)
    wrong = [
        ({"messages": HELLO}, "messages"),
        ({"messages": [HELLO], "n": 2}, "n"),
        ({"messages": [HELLO, []]}, "messages"),
        ({"messages": [HELLO] * 257}, "messages"),
        ({"messages": [HELLO], "stream": True}, "stream"),
    ]
    for change, field in wrong:
        reply = http.post("/v1/chat/completions/batch", json=change)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == field, reply.text


def test_metadata_and_the_rest_are_accepted(client):
    for extra in (
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "s"},
        {"prediction": {"type": "content", "content": "x"}, "verbosity": "low", "prompt_cache_key": "k"},
        {"documents": [{"text": "a"}], "session_id": "s", "prompt_cache_options": {}, "prompt_cache_retention": "24h"},
        {"chat_template": None, "audio": None, "functions": None, "web_search_options": None},
    ):
        assert chat(client, max_tokens=1, **extra).choices
    for field, value in {"verbosity": "loud", "documents": [1], "chat_template": "{{ 1 }}", "audio": {}}.items():
        refused(lambda field=field, value=value: chat(client, **{field: value}), field)


def test_a_suffix_is_refused_where_the_vocabulary_has_no_marks(client):
    assert "Qwen" in refused(lambda: complete(client, "def f():", suffix="return 1"), "suffix")


def test_the_library_takes_the_same_parameters():
    with LLM(device="fake:low=3,high=97", max_model_len=256) as llm:
        [output] = llm.generate("hello", SamplingParams(n=1, best_of=3, seed=1, max_tokens=4))
        assert output.num_unseen_tokens == 8 and len(output.outputs) == 1
        [output] = llm.generate("hello", SamplingParams(stop_regex="[a-z]{2}", temperature=0, max_tokens=200))
        assert output.outputs[0].stop_reason == "[a-z]{2}"
        [output] = llm.generate("one two three", SamplingParams(truncate_prompt_tokens=2, max_tokens=1))
        assert len(output.prompt_token_ids) == 2
