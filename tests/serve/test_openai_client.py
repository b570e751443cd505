"""The official openai client judges every endpoint: its typed objects parse, streaming and not, errors included."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from octavo.checkpoint import POCKET
from octavo.frontend.tokenizer import Tokenizer

MODEL = "octavo-pocket"
HELLO = [{"role": "user", "content": "hello"}]


def valid(typed):
    """The object checked strictly against its class; the client itself lets anything pass."""
    return type(typed).model_validate(typed.model_dump(), strict=False)


def joined(stream) -> dict[int, str]:
    """The text of each choice of a chat stream, every event checked."""
    texts: dict[int, str] = {}
    for chunk in stream:
        assert isinstance(valid(chunk), ChatCompletionChunk)
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def test_models_are_listed_and_found(client):
    [model] = client.models.list().data
    assert isinstance(valid(model), Model)
    assert client.models.retrieve(MODEL).id == model.id == MODEL
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("nobody/knows-it")
    assert error.value.code == "model_not_found"
    assert error.value.param == "model"


def test_a_chat_answers_in_one_piece(client):
    reply = client.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=7)
    assert isinstance(valid(reply), ChatCompletion)
    [choice] = reply.choices
    assert choice.finish_reason == "length"
    assert choice.message.role == "assistant"
    assert len(choice.message.content) == 7
    assert reply.usage.completion_tokens == 7
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 7
    assert reply._request_id


def test_a_streamed_chat_says_the_same_as_one_piece(client):
    ask = {"model": MODEL, "messages": HELLO, "max_tokens": 40, "temperature": 0.8, "seed": 5, "n": 3}
    whole = client.chat.completions.create(**ask)
    stream = client.chat.completions.create(**ask, stream=True)
    assert joined(stream) == {choice.index: choice.message.content for choice in whole.choices}
    assert len({choice.message.content for choice in whole.choices}) == 3


def test_a_stream_ends_with_its_usage_when_asked(client):
    ask = {"model": MODEL, "messages": HELLO, "max_tokens": 9, "stream": True}
    chunks = list(client.chat.completions.create(**ask, stream_options={"include_usage": True}))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 9
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[0].choices[0].delta.role == "assistant"
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [
        chunk.usage.completion_tokens
        for chunk in client.chat.completions.create(**ask, stream_options=options)
        if chunk.usage
    ]
    assert counts == sorted(counts)
    assert counts[-1] == 9


def test_a_prompt_seen_before_is_counted_as_cached(client):
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "tell me of caches " * 20}], "max_tokens": 1}
    first = client.chat.completions.create(**ask).usage
    again = client.chat.completions.create(**ask).usage
    assert first.prompt_tokens_details.cached_tokens == 0
    assert 0 < again.prompt_tokens_details.cached_tokens < again.prompt_tokens
    salted = client.chat.completions.create(**ask, extra_body={"cache_salt": "mine"}).usage
    assert salted.prompt_tokens_details.cached_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_tell_every_token(client, stream):
    ask = {"model": MODEL, "messages": HELLO, "max_tokens": 5, "logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = [valid(chunk) for chunk in client.chat.completions.create(**ask, stream=True)]
        choices = [chunk.choices[0] for chunk in chunks]
        content = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
        text = "".join(choice.delta.content or "" for choice in choices)
    else:
        [choice] = valid(client.chat.completions.create(**ask)).choices
        content, text = choice.logprobs.content, choice.message.content
    assert "".join(entry.token for entry in content) == text
    for entry in content:
        assert bytes(entry.bytes).decode() == entry.token
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert entry.logprob == values[0]


def test_logprobs_without_top_show_the_token_alone(client):
    reply = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2, logprobs=True)
    assert [entry.top_logprobs for entry in reply.choices[0].logprobs.content] == [[], []]


def test_a_completion_answers_every_kind_of_prompt(client):
    for prompt, count in (("hello", 1), (["hello", "there"], 2), ([280, 576], 1), ([[280], [576], [7]], 3)):
        reply = client.completions.create(model=MODEL, prompt=prompt, max_tokens=4, n=2, temperature=1)
        assert isinstance(valid(reply), Completion)
        assert [choice.index for choice in reply.choices] == list(range(2 * count))
        assert all(len(choice.text) == 4 for choice in reply.choices)
        assert reply.usage.completion_tokens == 8 * count


def test_streamed_completions_of_many_prompts_say_the_same_as_one_piece(client):
    ask = {
        "model": MODEL,
        "prompt": ["one", "two", "three"],
        "max_tokens": 20,
        "n": 2,
        "seed": 3,
        "temperature": 0.9,
        "echo": True,
    }
    whole = client.completions.create(**ask)
    texts = dict.fromkeys(range(6), "")
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert texts[2].startswith("two")


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_completion_has_logprobs_of_its_prompt(client, stream):
    ask = {"model": MODEL, "prompt": "hello there", "max_tokens": 3, "logprobs": 2, "echo": True}
    if stream:
        parts = [chunk.choices[0] for chunk in client.completions.create(**ask, stream=True)]
    else:
        parts = [client.completions.create(**ask).choices[0]]
    tokens = [token for part in parts for token in part.logprobs.tokens]
    values = [value for part in parts for value in part.logprobs.token_logprobs]
    offsets = [at for part in parts for at in part.logprobs.text_offset]
    text = "".join(part.text for part in parts)
    assert text == "".join(tokens)
    assert text.startswith("hello there")
    assert values[0] is None
    assert all(value <= 0 for value in values[1:])
    assert [text[at : at + len(token)] for at, token in zip(offsets, tokens, strict=True)] == tokens


def test_token_ids_come_back_when_asked(client):
    body = {"return_token_ids": True}
    reply = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4, extra_body=body)
    tokenizer = Tokenizer.load(POCKET)
    assert tokenizer.decode(reply.choices[0].token_ids) == reply.choices[0].message.content
    assert "hello" in tokenizer.decode(reply.prompt_token_ids, skip_special_tokens=False)
    ids = []
    for chunk in client.completions.create(model=MODEL, prompt="hello", max_tokens=4, stream=True, extra_body=body):
        ids += chunk.choices[0].token_ids
    assert len(ids) == 4


def test_prompt_logprobs_come_in_vllms_shape(client):
    reply = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1, extra_body={"prompt_logprobs": 1})
    first, second, *rest = reply.prompt_logprobs
    assert first is None
    assert len(rest) == reply.usage.prompt_tokens - 2
    [(_, value), *_] = second.items()
    assert value.keys() == {"logprob", "rank", "decoded_token"}


@pytest.mark.parametrize("keep", [False, True])
def test_a_stop_string_ends_the_text_wherever_events_cut_it(client, keep):
    ask = {"model": MODEL, "prompt": "hello", "max_tokens": 60, "temperature": 0}
    full = client.completions.create(**ask).choices[0].text
    stop = full[20:23]
    end = full.index(stop)
    body = {"include_stop_str_in_output": keep}
    whole = client.completions.create(**ask, stop=[stop, "never there"], extra_body=body).choices[0]
    assert (whole.text, whole.finish_reason, whole.stop_reason) == (full[: end + 3 * keep], "stop", stop)
    parts = [chunk.choices[0] for chunk in client.completions.create(**ask, stop=stop, stream=True, extra_body=body)]
    assert "".join(part.text for part in parts) == whole.text
    assert parts[-1].finish_reason == "stop"


def test_no_event_holds_half_a_character(client):
    ask = {"model": MODEL, "prompt": "hello", "max_tokens": 120, "temperature": 1}
    ids = [*range(97, 259), 2000]  # the first of them are single bytes, parts of characters
    for seed in range(2):
        extra = {"allowed_token_ids": ids, "return_token_ids": True}
        whole = client.completions.create(**ask | {"seed": seed, "extra_body": extra}).choices[0]
        extra = {"allowed_token_ids": ids}
        stream = client.completions.create(**ask | {"seed": seed, "extra_body": extra}, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.text
        assert Tokenizer.load(POCKET).decode(whole.token_ids) == whole.text


def test_the_asynchronous_client_works_too(server):
    async def run() -> tuple[str, str, int]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            reply = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=6, seed=1)
            text = ""
            async for chunk in await client.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=6, seed=1, stream=True
            ):
                text += chunk.choices[0].delta.content or ""
            return reply.choices[0].message.content, text, len([model async for model in client.models.list()])

    whole, streamed, models = asyncio.run(run())
    assert whole == streamed
    assert models == 1


def test_the_clients_own_stream_helper_accumulates(client):
    with client.chat.completions.stream(model=MODEL, messages=HELLO, max_tokens=6) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.current_completion_snapshot.choices[0]
    assert final.message.content == text
    assert len(text) == 6
    assert final.finish_reason == "length"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"model": "gpt-4"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "long " * 5000}]}, "messages"),
        ({"extra_body": {"max_token": 3}}, "max_token"),
        ({"extra_body": {"guided_json": {"not": {}, "type": "object"}}}, "guided_json"),
        ({"extra_body": {"chat_template": "{{ messages }}"}}, "chat_template"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs"),
        ({"extra_body": {"add_generation_prompt": True, "continue_final_message": True}}, "continue_final_message"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"reasoning_effort": "immense"}, "reasoning_effort"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream": True, "extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs"),
        ({"extra_body": {"min_tokens": 9}, "max_tokens": 3}, "min_tokens"),
        ({"extra_body": {"stop_token_ids": [99999]}}, "stop_token_ids"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ],
)
def test_a_request_that_cannot_be_served_names_its_field(client, change, field):
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 5} | change)
    assert error.value.status_code == (404 if field == "model" else 400)
    assert error.value.param == field
    assert isinstance(error.value, (openai.BadRequestError, openai.NotFoundError))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [[1, "a"]]}, "prompt"),
        ({"prompt": ["a", [2]], "stream": True}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": [[5], [99999]], "stream": True}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": ["a"] * 200, "n": 100}, "n"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_a_completion_that_cannot_be_served_names_its_field(client, change, field):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(**{"model": MODEL, "prompt": "a", "max_tokens": 5} | change)
    assert error.value.param == field


def test_fields_that_change_nothing_are_taken(client):
    ask = {"model": MODEL, "messages": HELLO, "max_tokens": 3}
    extras = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "tool_choice": "auto"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    client.chat.completions.create(
        **ask, **extras, tools=tools, response_format={"type": "text"}, parallel_tool_calls=True
    )
    client.completions.create(model=MODEL, prompt="a", max_tokens=3, best_of=1, user="me")


def test_a_tool_conversation_renders(client):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "c1", "content": "seen"})
    assert client.chat.completions.create(model=MODEL, messages=messages, max_tokens=3).usage.prompt_tokens > 10
    call["function"]["arguments"] = "{not json"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=3)
    assert error.value.param == "messages[1].tool_calls"


def test_text_becomes_ids_and_back(http, client):
    tokenizer = Tokenizer.load(POCKET)
    found = http.post("/tokenize", json={"prompt": "hello there", "return_token_strs": True}).json()
    assert found["tokens"] == tokenizer.encode("hello there")
    assert found["count"] == len(found["tokens"])
    assert "".join(found["token_strs"]) == "hello there"
    assert found["max_model_len"] == 2048
    chat = http.post("/tokenize", json={"messages": HELLO}).json()
    assert (
        chat["count"] == client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1).usage.prompt_tokens
    )
    back = http.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": "hello there"}
    for path, body in (
        ("tokenize", {}),
        ("detokenize", {"tokens": [99999]}),
        ("detokenize", {"tokens": None}),
        ("detokenize", {}),
    ):
        assert http.post(f"/{path}", json=body).status_code == 400


def test_operators_get_their_pages(http):
    for path in ("health", "ping", "version", "metrics", "docs", "openapi.json"):
        assert http.get(f"/{path}").status_code == 200
    api = http.get("/openapi.json").json()
    fields = api["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "properties"
    ]
    assert fields["temperature"]["maximum"] == 2
    assert fields["top_k"]["description"]
    assert "StreamOptions" in api["components"]["schemas"]
    assert "top_p" in http.get("/docs").text
    nothing = http.get("/nothing")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "not_found")
    assert http.get("/v1/completions").json()["error"]["code"] == "method_not_allowed"
