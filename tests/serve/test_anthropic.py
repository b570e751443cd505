"""/v1/messages through Anthropic's own client: whole, streamed, counted, continued; errors in Anthropic's words."""

from __future__ import annotations

import json
from functools import cache

import openai
import pytest
from pydantic import TypeAdapter

from ..lazy import lazily
from .conftest import KEYS

anthropic = lazily("anthropic")

MODEL = "octavo-pocket"
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "weather", "description": "Of a city.", "input_schema": {"type": "object", "properties": {}}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
ASK = {"model": MODEL, "max_tokens": 6, "messages": HELLO}


@pytest.fixture(scope="module")
def claude(server):
    """Anthropic's client."""
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


@cache
def event_type() -> TypeAdapter:
    return TypeAdapter(anthropic.types.RawMessageStreamEvent)


def create(claude, **ask):
    """A message; what this client no longer knows goes into the body as it is."""
    extra = {name: ask.pop(name) for name in ("temperature", "top_k", "top_p", "seed") if name in ask}
    return claude.messages.create(**ASK | ask, extra_body=extra)


def post(http, **ask):
    return http.post("/v1/messages", json=ASK | ask)


def events(reply) -> list[dict]:
    """The checked events of a stream's body; each is named as its type."""
    found = []
    for block in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        if found[-1]["type"] not in ("ping", "error"):
            event_type().validate_python(found[-1])
    return found


def error(reply, status, kind):
    """The checked message of an error reply."""
    assert reply.status_code == status, reply.text
    found = anthropic.types.shared.ErrorResponse.model_validate(reply.json())
    assert found.error.type == kind
    assert found.request_id == reply.headers["request-id"]
    return found.error.message


def test_a_message_answers_in_one_piece(claude):
    reply = create(claude, system="be brief", metadata={"user_id": "me"}, cache_control={"type": "ephemeral"})
    assert isinstance(anthropic.types.Message.model_validate(reply.model_dump()), anthropic.types.Message)
    [block] = reply.content
    assert len(block.text) == 6
    assert (reply.stop_reason, reply.stop_sequence, reply.role, reply.model) == ("max_tokens", None, "assistant", MODEL)
    assert reply.usage.output_tokens == 6
    assert reply._request_id


def test_a_streamed_message_tells_every_step_in_order(http):
    whole = post(http, seed=3, temperature=0.8).json()
    found = events(post(http, seed=3, temperature=0.8, stream=True))
    kinds = [event["type"] for event in found]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert found[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 6
    assert found[0]["message"]["usage"]["input_tokens"] == found[-2]["usage"]["input_tokens"]
    assert found[0]["message"]["content"] == []


def test_the_clients_own_stream_helper_accumulates(claude):
    with claude.messages.stream(**ASK) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert message.content[0].text == text
    assert message.stop_reason == "max_tokens"
    assert len(text) == 6


def test_models_are_listed_for_anthropics_client_too(claude):
    [model] = claude.models.list()
    assert anthropic.types.ModelInfo.model_validate(model.model_dump()).id == MODEL
    assert claude.models.retrieve(MODEL).max_input_tokens == 2048


def test_a_stop_sequence_is_named(claude):
    full = create(claude, max_tokens=30, temperature=0).content[0].text
    reply = create(claude, max_tokens=30, temperature=0, stop_sequences=["never there", full[10:12]])
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", full[10:12])
    assert reply.content[0].text == full[: full.index(full[10:12])]


def test_an_answer_that_fills_the_context_says_so(claude):
    long = [{"role": "user", "content": "1" * 1000}]
    tokens = claude.messages.count_tokens(model=MODEL, messages=long).input_tokens
    long[0]["content"] += "1" * (2048 - tokens - 4)
    reply = create(claude, messages=long, max_tokens=100)
    assert reply.stop_reason == "model_context_window_exceeded"
    assert reply.usage.input_tokens + reply.usage.cache_read_input_tokens + reply.usage.output_tokens == 2048


def test_tokens_are_counted_as_they_will_be(claude):
    ask = {
        "model": MODEL,
        "system": [{"type": "text", "text": "be brief"}, {"type": "text", "text": "and kind"}],
        "messages": [*HELLO, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}],
        "tools": [TOOL],
    }
    count = claude.messages.count_tokens(**ask).input_tokens
    usage = claude.messages.create(**ask, max_tokens=1).usage
    assert count == usage.input_tokens + usage.cache_read_input_tokens
    assert count > claude.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens


def test_cached_tokens_are_not_counted_as_input(claude):
    ask = {"system": "a long system prompt that is sent again and again " * 5}
    first, again = (create(claude, **ask).usage for _ in range(2))
    assert first.cache_read_input_tokens == 0
    assert again.cache_read_input_tokens > 0
    assert again.input_tokens + again.cache_read_input_tokens == first.input_tokens


def test_the_beginning_of_an_answer_is_continued(claude, http):
    begun = [*HELLO, {"role": "assistant", "content": "I am"}]
    reply = create(claude, messages=begun, temperature=0)
    options = {"continue_final_message": True, "add_generation_prompt": False, "max_tokens": 6, "temperature": 0}
    chat = http.post("/v1/chat/completions", json={"messages": begun} | options).json()
    assert reply.content[0].text == chat["choices"][0]["message"]["content"]
    assert reply.usage.input_tokens + reply.usage.cache_read_input_tokens == chat["usage"]["prompt_tokens"]


def test_both_dialects_say_the_same(claude, http):
    said = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    reply = create(claude, system="be brief", messages=said, temperature=0, top_k=5)
    chat = {"messages": [{"role": "system", "content": "be brief"}, *said], "max_tokens": 6, "temperature": 0}
    same = http.post("/v1/chat/completions", json=chat | {"top_k": 5}).json()
    assert reply.content[0].text == same["choices"][0]["message"]["content"]


def test_a_key_is_taken_from_anthropics_header(keyed):
    named = {"base_url": keyed.url, "max_retries": 0}
    assert anthropic.Anthropic(api_key=KEYS[0], **named).messages.create(**ASK).content
    bearer = anthropic.Anthropic(auth_token=KEYS[1], **named)
    assert bearer.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens
    with pytest.raises(anthropic.AuthenticationError) as refused:
        anthropic.Anthropic(api_key="sk-other", **named).messages.create(**ASK)
    assert refused.value.body["error"]["type"] == "authentication_error"
    assert refused.value.request_id == refused.value.body["request_id"]


REFUSED = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "six"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content is required"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image'; this server takes text"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "'document'; this server takes text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [USE]}]}, "cannot hold"),
    ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0].content[0].tool_use_id"),
    ({"messages": [{"role": "assistant", "content": [USE | {"input": "x"}]}]}, "messages[0].content[0].input"),
    ({"messages": [{"role": "user", "content": "word " * 5000}]}, "the longest context is 2048"),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "custom tools only"),
    ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    ({"tools": "x"}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "disable_parallel_tool_use"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 6}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "much"}}, "thinking"),
    ({"thinking": {"type": "disabled", "display": "loud"}}, "thinking.display"),
    ({"stop_sequences": "x" * 5000}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 5000}, "stop_sequences"),
    ({"temperature": 3}, "temperature"),
    ({"top_k": -5}, "top_k"),
    ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
    ({"container": "x"}, "container"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ({"n": 2}, "unknown field 'n'"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_what_is_wrong_is_named_in_anthropics_words(http, change, words):
    body = {name: value for name, value in (ASK | change).items() if value is not None}
    assert words in error(http.post("/v1/messages", json=body), 400, "invalid_request_error")


def test_other_errors_have_anthropics_kinds(http, claude):
    error(http.post("/v1/messages", json=ASK | {"model": "nobody"}), 404, "not_found_error")
    error(http.get("/v1/messages/batches"), 404, "not_found_error")
    error(http.get("/v1/messages"), 405, "invalid_request_error")
    error(http.post("/v1/messages", content=b"x", headers={"content-type": "text/plain"}), 415, "invalid_request_error")
    error(
        http.post("/v1/messages", content=b"{", headers={"content-type": "application/json"}),
        400,
        "invalid_request_error",
    )
    with pytest.raises(anthropic.NotFoundError) as missing:
        create(claude, model="nobody")
    assert missing.value.request_id == missing.value.body["request_id"]
    assert "not served here" in str(missing.value)


def test_an_engine_that_fails_ends_the_stream_with_an_error(start):
    server = start(device="fake:low=3,high=97,lost_at=12")
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    text: list[str] = []
    long = claude.messages.stream(**ASK | {"max_tokens": 50})
    with long as stream, pytest.raises(anthropic.APIStatusError) as failed:
        text.extend(stream.text_stream)
    assert 0 < len(text) < 50
    assert failed.value.body["error"]["type"] in ("api_error", "overloaded_error")


def test_a_client_that_goes_away_frees_everything(slow):
    claude = anthropic.Anthropic(base_url=slow.url, api_key="none", max_retries=0)
    before = slow.settle()["octavo_sequences_aborted_total"]
    with claude.messages.stream(**ASK | {"max_tokens": 2000}) as stream:
        for _, _ in zip(range(3), stream.text_stream, strict=False):
            pass
    stats = slow.settle()
    assert stats["octavo_sequences_aborted_total"] == before + 1
    assert stats["octavo_books_wrong_total"] == 0


def test_a_real_model_answers_alike_in_every_dialect(real):
    said = [{"role": "user", "content": "What is the capital of France?"}]
    claude = anthropic.Anthropic(base_url=real.url, api_key="none")
    message = claude.messages.create(model=MODEL, max_tokens=20, messages=said, extra_body={"temperature": 0})
    client = openai.OpenAI(base_url=f"{real.url}/v1", api_key="none")
    response = client.responses.create(model=MODEL, max_output_tokens=20, input=said, temperature=0)
    chat = client.chat.completions.create(model=MODEL, max_tokens=20, messages=said, temperature=0)
    thoughts = "".join(block.thinking for block in message.content if block.type == "thinking")
    text = "".join(block.text for block in message.content if block.type == "text")
    items = [item.content[0].text for item in response.output if item.type == "reasoning"]
    assert (thoughts, text) == ("".join(items), response.output_text)
    assert thoughts == (getattr(chat.choices[0].message, "reasoning_content", None) or "")
    assert text == (chat.choices[0].message.content or "")
    assert thoughts or text
