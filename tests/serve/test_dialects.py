"""Other dialects above their types: hostile bodies are 4xx at every field; pieces cut anywhere make the same answer."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from octavo.errors import InvalidRequest
from octavo.frontend.output import CompletionOutput
from octavo.limits import DEFAULT
from octavo.serve.anthropic.events import Writer as BlockWriter
from octavo.serve.anthropic.schema import MessagesRequest, chat_of
from octavo.serve.pieces import CallPiece, Piece
from octavo.serve.responses.events import Writer as ItemWriter
from octavo.serve.responses.items import messages, read
from octavo.serve.responses.schema import ResponseRequest, tool_fields
from octavo.serve.translate import told_as

STRANGE = [
    *(2**31, 2**63, 10**400, -1, 0.5, True, "", "much", "1", [], {}, [[["a"]]], {"type": "text"}, {"type": []}),
    *([1] * 10**4, ["a"] * 10**4, [{}] * 5000, {str(i): "v" for i in range(5000)}, "x" * 10**5, "\ud800"),
]
LONG = "1" * 2020  # a digit is a token: of the 2,048 of context, so that no bound on the output matters
BODIES = {
    "/v1/responses": (ResponseRequest, {"input": LONG, "max_output_tokens": 1}),
    "/v1/messages": (MessagesRequest, {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1}),
}
DEEP = {
    "/v1/responses": [
        lambda x: {"input": [x]},
        lambda x: {"input": [{"role": x, "content": "a"}]},
        lambda x: {"input": [{"role": "user", "content": [x]}]},
        lambda x: {"input": [{"role": "user", "content": [{"type": "input_text", "text": x}]}]},
        lambda x: {"input": [{"type": "function_call", "call_id": x, "name": x, "arguments": x}]},
        lambda x: {"input": [{"type": "reasoning", "summary": x, "content": x}]},
        lambda x: {"input": [{"type": x, "id": x}]},
        lambda x: {"tools": [x]},
        lambda x: {"tools": [{"type": "function", "name": x, "parameters": x, "strict": x}]},
        lambda x: {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [x]}},
        lambda x: {"tool_choice": {"type": "function", "name": x}},
        lambda x: {"text": {"format": x}},
        lambda x: {"text": {"format": {"type": "json_schema", "name": x, "schema": x}}},
        lambda x: {"reasoning": {"effort": x}},
        lambda x: {"metadata": {"key": x}},
        lambda x: {"include": [x]},
    ],
    "/v1/messages": [
        lambda x: {"messages": [x]},
        lambda x: {"messages": [{"role": "user", "content": [x]}]},
        lambda x: {
            "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": x, "name": x, "input": x}]}]
        },
        lambda x: {
            "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": x, "content": x}]}]
        },
        lambda x: {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": x}]}]},
        lambda x: {"system": [{"type": "text", "text": x}]},
        lambda x: {"tools": [x]},
        lambda x: {"tools": [{"name": x, "input_schema": x, "type": x}]},
        lambda x: {"tool_choice": {"type": "tool", "name": x}},
        lambda x: {"tool_choice": {"type": x}},
        lambda x: {"thinking": {"type": "enabled", "budget_tokens": x}},
        lambda x: {"thinking": {"type": x}},
        lambda x: {"output_config": {"effort": x}},
        lambda x: {"output_config": {"format": {"type": "json_schema", "schema": x}}},
    ],
}


def said(role, block):
    return {"messages": [{"role": role, "content": [block]}]}


def ask(http, path, change):
    body = json.dumps(BODIES[path][1] | change)
    reply = http.post(path, content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400, 404, 413), (reply.status_code, reply.text, str(change)[:200])
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert len(error["message"].splitlines()) == 1, error["message"][:200]
        assert len(error["message"]) < 1000, error["message"][:200]
        return error
    return None


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("share", [0.2, pytest.param(1, marks=pytest.mark.slow)])
def test_strange_values_are_refused_at_every_field(server, http, path, share):
    """A field takes a value or names itself; nothing is a 5xx and nothing is left running."""
    chance = random.Random(7)
    some = lambda: chance.sample(STRANGE, round(share * len(STRANGE)))
    for name in BODIES[path][0].model_fields:
        for value in some():
            error = ask(http, path, {name: value})
            if error is not None and path == "/v1/responses":
                assert error["param"] is None or error["param"].startswith((name, "input")), (name, error)
    for change in DEEP[path]:
        for value in some():
            ask(http, path, change(value))
    stats = server.settle()
    assert stats["octavo_books_wrong_total"] == 0


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=" + "9" * 400,
        "limit=-1",
        "limit=1e1",
        "order=up",
        "after=x",
        "before=",
    ],
)
def test_strange_pages_are_refused(http, query):
    id = http.post("/v1/responses", json={"input": "hello", "max_output_tokens": 1}).json()["id"]
    reply = http.get(f"/v1/responses/{id}/input_items?{query}")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("query", ["stream=yes", "stream=true&starting_after=x", "starting_after=1", "stream=true"])
def test_strange_ways_to_read_a_response_are_refused(http, query):
    id = http.post("/v1/responses", json={"input": "hello", "max_output_tokens": 1}).json()["id"]
    assert http.get(f"/v1/responses/{id}?{query}").status_code == 400
    for odd in ("x" * 5000, "..%2f..%2fetc", "%00", "%ff", "'; DROP TABLE responses; --"):
        assert http.get(f"/v1/responses/{odd}").status_code in (400, 404, 414)
    assert http.get(f"/v1/responses/{id}").status_code == 200


# ---- What the model says becomes items and blocks.

SAID = [
    Piece(None, reasoning="Let me think about it."),
    Piece(None, content="I shall look."),
    Piece(None, calls=(CallPiece(0, '{"city": "Oslo"}', "call_1", "weather"),)),
    Piece(None, calls=(CallPiece(1, '{"city": "Rome", "days": [1, 2]}', "call_2", "weather"),)),
]


def output() -> CompletionOutput:
    return CompletionOutput(0, "", [])


def cut(pieces: list[Piece], random: random.Random) -> list[Piece]:
    """The same pieces in smaller ones."""
    found: list[Piece] = []
    for piece in pieces:
        for kind in ("reasoning", "content"):
            text = getattr(piece, kind)
            while text:
                size = random.randint(1, 5)
                found.append(Piece(output(), **{kind: text[:size]}))
                text = text[size:]
        for call in piece.calls:
            found.append(Piece(output(), calls=(CallPiece(call.index, "", call.id, call.name),)))
            rest = call.arguments
            while rest:
                size = random.randint(1, 5)
                found.append(Piece(output(), calls=(CallPiece(call.index, rest[:size]),)))
                rest = rest[size:]
    return found


def joined(pieces: list[Piece]) -> Piece:
    """All in one, as an answer that is not streamed comes."""
    return Piece(
        output(),
        "".join(piece.content for piece in pieces),
        "".join(piece.reasoning for piece in pieces),
        tuple(call for piece in pieces for call in piece.calls),
    )


def decoded(events: bytes) -> list[dict]:
    return [json.loads(block.split(b"data: ")[1]) for block in events.split(b"\n\n")[:-1]]


@pytest.mark.parametrize("seed", range(10))
def test_items_are_the_same_however_they_came(openai_spec, seed):
    whole, parts = ItemWriter(None, 0), ItemWriter(None, 0)
    whole.push(joined(SAID))
    whole.finish("tool_calls")
    pieces = cut(SAID, random.Random(seed))
    events = decoded(b"".join(parts.push(piece) for piece in pieces) + parts.finish("tool_calls"))
    plain = lambda items: [msgspec.to_builtins(item) | {"id": ""} for item in items]
    assert plain(parts.output()) == plain(whole.output())
    kinds = [item["type"] for item in plain(whole.output())]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    grown: dict[str, str] = {}
    for event in events:
        if seed == 0:
            openai_spec.check("ResponseStreamEvent", event)
        if event["type"].endswith(".delta"):
            grown[event["item_id"]] = grown.get(event["item_id"], "") + event["delta"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == [msgspec.to_builtins(item) for item in parts.output()]
    for item in done:
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert grown[item["id"]] == text


@pytest.mark.parametrize("seed", range(10))
def test_blocks_are_the_same_however_they_came(seed):
    whole, parts = BlockWriter(True), BlockWriter(True)
    whole.push(joined(SAID))
    whole.finish()
    pieces = cut(SAID, random.Random(seed))
    events = decoded(b"".join(parts.push(piece) for piece in pieces) + parts.finish())
    assert parts.content == whole.content
    assert [block["type"] for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole.content[3]["input"] == {"city": "Rome", "days": [1, 2]}
    grown = ["", "", "", ""]
    for event in events:
        if event["type"] == "content_block_delta" and event["delta"]["type"] != "signature_delta":
            [text] = [value for name, value in event["delta"].items() if name != "type"]
            grown[event["index"]] += text
    assert grown[:2] == [SAID[0].reasoning, SAID[1].content]
    assert [json.loads(text) for text in grown[2:]] == [block["input"] for block in whole.content[2:]]


def test_thinking_can_be_left_out_of_blocks():
    writer = BlockWriter(False)
    events = decoded(writer.push(joined(SAID)) + writer.finish())
    assert writer.content[0]["thinking"] == ""
    assert "thinking_delta" not in str(events)
    assert writer.content[1]["text"] == SAID[1].content


def test_an_answer_that_was_cut_off_has_what_there_is():
    items = ItemWriter(None, 0)
    items.push(SAID[0])
    items.finish("length")
    [thought] = items.output()
    assert (thought.status, thought.content[0].text) == ("incomplete", SAID[0].reasoning)
    blocks = BlockWriter(True)
    blocks.push(Piece(output(), calls=(CallPiece(0, '{"city": "Os', "call_1", "weather"),)))
    blocks.finish()
    assert blocks.content[0]["input"] == {}
    silent = ItemWriter(None, 0)
    silent.finish("stop")
    assert silent.output()[0].content[0].text == ""


# ---- What the client says becomes messages.


def test_items_become_messages():
    said = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "not JSON"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
        {"role": "user", "content": "thanks"},
    ]
    first, user, called, one, two, done, thanks = messages("Be brief.", read(said, DEFAULT))
    assert first == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert user["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert called["reasoning_content"] == "hm"
    assert [call["function"] for call in called["tool_calls"]] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": '"not JSON"'},
    ]
    assert one == {"role": "tool", "content": "one", "tool_call_id": "c1", "name": "f"}
    assert (two["content"], two["name"]) == ("two", "g")
    assert done == {"role": "assistant", "content": "Done."}
    assert thanks["role"] == "user"


def test_blocks_become_messages():
    body = {
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "disabled"},
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "description": "F.", "cache_control": None}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "Look:"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "broken", "is_error": True},
                    {"type": "text", "text": "try again"},
                ],
            },
        ],
    }
    chat = chat_of(MessagesRequest.model_validate(body), DEFAULT)
    system, user, called, result, again = chat.messages
    assert system == {"role": "system", "content": "Be kind."}
    assert [part["text"] for part in user["content"]] == ["a", "b"]
    assert (called["reasoning_content"], called["content"]) == ("hm", "Look:")
    assert called["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert result["role"] == "tool"
    assert [part["text"] for part in result["content"]] == ["The tool failed:", "broken"]
    assert again == {"role": "user", "content": "try again"}
    assert chat.tools[0]["function"] == {"name": "f", "parameters": {"type": "object"}, "description": "F."}
    assert (chat.tool_choice, chat.parallel_tool_calls, chat.stop) == ("auto", False, ["END"])
    assert chat.reasoning_effort == "none"


def test_an_answer_has_the_shape_that_is_asked_for(http):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    shape = {"type": "json_schema", "schema": schema}
    for seed in range(5):  # with thinking, some would come to no end
        ask = {"seed": seed, "temperature": 1}
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 90, "output_config": {"format": shape}}
        message = http.post("/v1/messages", json=body | ask | {"thinking": {"type": "disabled"}}).json()
        [block] = message["content"]
        assert json.loads(block["text"])["n"] in (1, 2)
        body = {"input": "x", "max_output_tokens": 90, "text": {"format": shape | {"name": "answer"}}}
        reply = http.post("/v1/responses", json=body | ask | {"reasoning": {"effort": "none"}}).json()
        assert reply["text"]["format"] == shape | {"name": "answer"}
        [item] = reply["output"]
        assert json.loads(item["content"][0]["text"])["n"] in (1, 2)


def test_allowed_tools_hide_the_others():
    tools = [{"type": "function", "name": name} for name in ("a", "b", "c")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]}
    fields = tool_fields(tools, choice)
    assert fields["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in fields["tools"]] == ["b"]
    assert tool_fields(tools, {"type": "function", "name": "a"})["tool_choice"]["function"] == {"name": "a"}


def test_errors_are_told_in_the_dialects_words():
    def wrong() -> None:
        with told_as({"max_tokens": "max_output_tokens"}):
            raise InvalidRequest("max_tokens must be at least 1, got 0", "max_tokens")

    with pytest.raises(InvalidRequest, match="^max_output_tokens must be at least 1, got 0$") as error:
        wrong()
    assert error.value.field == "max_output_tokens"
