"""Replies, whole and every event of a stream, are valid under OpenAI's own specification."""

from __future__ import annotations

import pytest

HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"messages": HELLO, "max_tokens": 6}
TEXT = {"prompt": "hello", "max_tokens": 6}

CHATS = {
    "plain": {},
    "several": {"n": 3, "temperature": 1},
    "log-probabilities": {"logprobs": True, "top_logprobs": 3},
    "vLLM's extras": {"return_token_ids": True, "prompt_logprobs": 2, "cache_salt": "a", "priority": 1},
    "a stop string": {"stop": list("abcdefgh!%"), "max_tokens": 40},
}
TEXTS = {
    "plain": {},
    "several": {"n": 3, "temperature": 1, "prompt": ["hello", "there"]},
    "log-probabilities": {"logprobs": 3},
    "echo": {"echo": True, "logprobs": 1},
    "vLLM's extras": {"return_token_ids": True, "prompt_logprobs": 2, "cache_salt": "a", "priority": 1},
}
WRONG = [
    ("/v1/chat/completions", {"messages": HELLO, "temperature": 9}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "nonsense": 1}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "model": "nobody"}, 404),
    ("/v1/completions", {"prompt": 5}, 400),
    ("/v1/nothing", {}, 404),
]


@pytest.mark.parametrize("extra", CHATS.values(), ids=CHATS)
def test_a_chat_is_valid(http, openai_spec, extra):
    reply = http.post("/v1/chat/completions", json=CHAT | extra)
    assert reply.status_code == 200, reply.text
    openai_spec.check("CreateChatCompletionResponse", reply.json())


@pytest.mark.parametrize("extra", CHATS.values(), ids=CHATS)
def test_every_event_of_a_streamed_chat_is_valid(http, openai_spec, extra):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = CHAT | extra | options
    body.pop("prompt_logprobs", None)
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    found = openai_spec.check_stream("CreateChatCompletionStreamResponse", reply.text)
    assert found[-1]["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("extra", TEXTS.values(), ids=TEXTS)
def test_a_completion_is_valid(http, openai_spec, extra):
    reply = http.post("/v1/completions", json=TEXT | extra)
    assert reply.status_code == 200, reply.text
    openai_spec.check("CreateCompletionResponse", reply.json())


@pytest.mark.parametrize("extra", TEXTS.values(), ids=TEXTS)
def test_every_event_of_a_streamed_completion_is_valid(http, openai_spec, extra):
    body = TEXT | extra | {"stream": True, "stream_options": {"include_usage": True}}
    body.pop("prompt_logprobs", None)
    reply = http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    openai_spec.check_stream("CreateCompletionResponse", reply.text)


@pytest.mark.parametrize(("path", "body", "status"), WRONG)
def test_an_error_is_valid(http, openai_spec, path, body, status):
    reply = http.post(path, json=body)
    assert reply.status_code == status
    openai_spec.check("ErrorResponse", reply.json())


def test_the_model_list_is_valid(http, openai_spec):
    models = http.get("/v1/models").json()
    openai_spec.check("ListModelsResponse", models)
    openai_spec.check("Model", http.get(f"/v1/models/{models['data'][0]['id']}").json())


def test_the_judge_finds_what_is_wrong(openai_spec):
    with pytest.raises(AssertionError, match=r"choices\[0\].finish_reason"):
        openai_spec.check(
            "CreateCompletionResponse",
            {
                "id": "a",
                "object": "text_completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "bored"}],
            },
        )
