"""/v1/responses through the official client: whole, streamed, continued, listed; valid under OpenAI's specification."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

MODEL = "octavo-pocket"
STREAM_EVENT = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}


def create(client, **ask):
    return client.responses.create(model=MODEL, **{"input": "hello", "max_output_tokens": 6} | ask)


def events(reply: httpx.Response) -> list[dict]:
    """The events of a stream's body; each is named as its type."""
    found = []
    for block in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def stream(http, **ask) -> list[dict]:
    reply = http.post("/v1/responses", json={"input": "hello", "max_output_tokens": 6, "stream": True} | ask)
    assert reply.status_code == 200, reply.text
    return events(reply)


def test_a_response_answers_in_one_piece(client):
    reply = create(client, instructions="be brief", metadata={"a": "b"}, temperature=0.5, user="me")
    assert isinstance(Response.model_validate(reply.model_dump()), Response)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert len(reply.output_text) == 6
    assert (reply.instructions, reply.metadata, reply.temperature, reply.user) == ("be brief", {"a": "b"}, 0.5, "me")
    assert reply.usage.output_tokens == 6
    assert reply.usage.total_tokens == reply.usage.input_tokens + 6
    assert reply.model == MODEL


def test_a_response_that_ends_by_itself_is_completed(client, server):
    full = create(client, max_output_tokens=30, temperature=0).output_text
    reply = create(client, max_output_tokens=30, temperature=0, extra_body={"stop": full[10]})
    assert reply.status == "completed"
    assert reply.incomplete_details is None
    assert reply.completed_at >= reply.created_at
    assert full.startswith(reply.output_text)
    assert [item.status for item in reply.output] == ["completed"]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"instructions": "be brief", "metadata": {"k": "v"}, "user": "me", "store": False},
        {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        {"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False},
        {"input": [{"role": "user", "content": "weather?"}, CALL, OUTPUT], "reasoning": {"summary": "auto"}},
        {"background": True, "text": {"format": {"type": "text"}}, "truncation": "auto"},
        {"temperature": 0, "top_k": 5, "min_p": 0.1, "seed": 3, "stop": ["zzz"], "priority": 1, "cache_salt": "s"},
    ],
)
def test_responses_and_events_are_valid(http, openai_spec, extra):
    reply = http.post("/v1/responses", json={"input": "hello", "max_output_tokens": 6} | extra)
    assert reply.status_code == 200, reply.text
    openai_spec.check("Response", reply.json())
    found = stream(http, **extra)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    for event in found:
        openai_spec.check("ResponseStreamEvent", event)
        STREAM_EVENT.validate_python(event)
    if extra.get("store") is not False:
        kept = http.get(f"/v1/responses/{found[-1]['response']['id']}").json()
        assert kept == found[-1]["response"]
        items = http.get(f"/v1/responses/{kept['id']}/input_items").json()
        openai_spec.check("ResponseItemList", items)


def test_a_stream_tells_every_step_in_order(http):
    found = stream(http)
    kinds = [event["type"].removeprefix("response.") for event in found]
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[4:-4] == ["output_text.delta"] * len(deltas)
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    text = "".join(event["delta"] for event in deltas)
    response = found[-1]["response"]
    assert found[-4]["text"] == text == response["output"][0]["content"][0]["text"]
    assert {event["item_id"] for event in found if "item_id" in event} == {response["output"][0]["id"]}
    assert found[0]["response"]["output"] == []


def test_the_clients_own_stream_helper_accumulates(client):
    with client.responses.stream(model=MODEL, input="hello", max_output_tokens=6) as one:
        text = "".join(event.delta for event in one if event.type == "response.output_text.delta")
    assert len(text) == 6
    whole = create(client, max_output_tokens=20, temperature=0.8, extra_body={"seed": 5})
    ask = {"model": MODEL, "input": "hello", "max_output_tokens": 20, "temperature": 0.8}
    parts = client.responses.create(**ask, stream=True, extra_body={"seed": 5})
    assert "".join(e.delta for e in parts if e.type == "response.output_text.delta") == whole.output_text


@pytest.mark.parametrize("streamed", [False, True])
def test_log_probabilities_tell_every_token_of_the_text(http, streamed):
    ask = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    if streamed:
        found = stream(http, **ask)
        deltas = [event for event in found if event["type"] == "response.output_text.delta"]
        assert all("".join(entry["token"] for entry in event["logprobs"]) == event["delta"] for event in deltas)
        response = found[-1]["response"]
    else:
        response = http.post("/v1/responses", json={"input": "hello", "max_output_tokens": 6} | ask).json()
    [part] = response["output"][0]["content"]
    assert "".join(entry["token"] for entry in part["logprobs"]) == part["text"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    assert http.get(f"/v1/responses/{response['id']}").json() == response
    said = {"input": "and?", "previous_response_id": response["id"]}
    sent = {"input": [{"role": "user", "content": "hello"}, *response["output"], {"role": "user", "content": "and?"}]}
    replies = [http.post("/v1/responses", json=body | {"max_output_tokens": 1}).json() for body in (said, sent)]
    assert len({reply["usage"]["input_tokens"] for reply in replies}) == 1


def test_a_stored_response_is_read_and_deleted(client):
    reply = create(client)
    assert client.responses.retrieve(reply.id).to_dict() == reply.to_dict()
    client.responses.delete(reply.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(reply.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(reply.id)


def test_a_response_that_is_not_stored_is_gone(client):
    reply = create(client, store=False)
    assert reply.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(reply.id)
    with pytest.raises(openai.BadRequestError, match="not stored") as error:
        create(client, previous_response_id=reply.id)
    assert error.value.param == "previous_response_id"


def test_a_continued_response_sees_what_was_said(client):
    first = create(client, input="one", instructions="be brief", temperature=0)
    second = create(client, input="two", previous_response_id=first.id, temperature=0)
    third = create(client, input="three", previous_response_id=second.id, temperature=0)
    said = [
        {"role": "user", "content": "one"},
        *[item.to_dict() for item in first.output],
        {"role": "user", "content": "two"},
        *[item.to_dict() for item in second.output],
        {"role": "user", "content": "three"},
    ]
    alone = create(client, input=said, temperature=0, store=False)
    assert (third.output_text, third.usage.input_tokens) == (alone.output_text, alone.usage.input_tokens)
    assert third.previous_response_id == second.id
    # One branch does not see the other.
    other = create(client, input="three", previous_response_id=first.id, temperature=0)
    assert other.usage.input_tokens < third.usage.input_tokens


def test_a_chain_without_its_beginning_is_refused(client):
    first = create(client)
    second = create(client, previous_response_id=first.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match="not stored any more"):
        create(client, previous_response_id=second.id)


def test_an_item_can_be_named_instead_of_sent(client):
    first = create(client, input="one", temperature=0)
    asked = client.responses.input_items.list(first.id).data[0].id
    said = [{"type": "item_reference", "id": asked}, {"id": first.output[0].id}, {"role": "user", "content": "two"}]
    named = create(client, input=said, temperature=0)
    continued = create(client, input="two", previous_response_id=first.id, temperature=0)
    assert named.output_text == continued.output_text
    with pytest.raises(openai.BadRequestError, match="not stored"):
        create(client, input=[{"type": "item_reference", "id": "msg_nobody"}])


def test_input_items_come_in_pages(client):
    said = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"line {i}"} for i in range(7)]
    reply = create(client, input=said)
    texts = lambda page: [item.content[0].text for item in page]
    everything = [f"line {i}" for i in range(7)]
    assert texts(client.responses.input_items.list(reply.id, order="asc", limit=3)) == everything
    assert texts(client.responses.input_items.list(reply.id, limit=2)) == everything[::-1]
    page = client.responses.input_items.list(reply.id, order="asc", limit=3)
    assert (texts(page.data), page.has_more) == (everything[:3], True)
    assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
    rest = client.responses.input_items.list(reply.id, order="asc", after=page.data[-1].id)
    assert (texts(rest.data), rest.has_more) == (everything[3:], False)
    query = {"order": "asc", "before": rest.data[-1].id, "limit": 2}
    middle = client.responses.input_items.list(reply.id, extra_query=query)
    assert (texts(middle.data), middle.has_more) == (everything[4:6], True)


def test_a_tool_conversation_reaches_the_template(client, server):
    said = [{"role": "user", "content": "weather?"}, CALL, OUTPUT]
    whole = create(client, input=said, tools=[WEATHER])
    tokens = client.responses.input_tokens.count(model=MODEL, input=said, tools=[WEATHER]).input_tokens
    assert whole.usage.input_tokens == tokens
    shorter = client.responses.input_tokens.count(model=MODEL, input=said, tools=[WEATHER], tool_choice="none")
    assert shorter.input_tokens <= tokens
    with pytest.raises(openai.BadRequestError, match="call_id"):
        create(client, input=[{"role": "user", "content": "weather?"}, OUTPUT])


def test_truncation_drops_the_oldest_turns_that_do_not_fit(client):
    said = [{"role": "developer", "content": "be brief"}]
    said += [{"role": "user", "content": f"{i} " + "word " * 100} for i in range(40)]
    with pytest.raises(openai.BadRequestError, match="longest context") as error:
        create(client, input=said)
    assert error.value.param == "input"
    with pytest.raises(openai.BadRequestError):
        list(create(client, input=said, stream=True))
    reply = create(client, input=said, truncation="auto", temperature=0)
    assert reply.usage.input_tokens + 6 <= 2048
    for kept in range(1, 40):
        if create(client, input=[said[0], *said[-kept:]], temperature=0, max_output_tokens=1).usage.input_tokens == (
            reply.usage.input_tokens
        ):
            break
    newest = create(client, input=[said[0], *said[-kept:]], temperature=0)
    assert newest.output_text == reply.output_text
    with pytest.raises(openai.BadRequestError):
        create(client, input=[said[0], *said[-kept - 1 :]])


HOSTED = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "function tools only"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["a"]}]}, "tools[0].type", "function tools only"),
    ({"tools": [{"type": "mcp", "server_label": "a"}]}, "tools[0].type", "function tools only"),
    ({"tools": [{"type": "computer_use_preview"}]}, "tools[0].type", "function tools only"),
    ({"tools": [{"type": "image_generation"}]}, "tools[0].type", "function tools only"),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice", "function tools only"),
    ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "no stored prompts"),
    ({"context_management": [{"type": "compaction"}]}, "context_management", "truncation"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type", "takes text"),
    ({"input": [{"type": "computer_call_output"}]}, "input[0].type", "takes text"),
    ({"background": True, "store": False}, "background", "store"),
    ({"model": "gpt-4o"}, "model", "not served"),
]


@pytest.mark.parametrize(("change", "field", "why"), HOSTED)
def test_what_is_not_here_is_refused_by_name(http, change, field, why):
    reply = http.post("/v1/responses", json={"input": "hello"} | change)
    assert reply.status_code in (400, 404)
    error = reply.json()["error"]
    assert error["param"] == field
    assert why in error["message"]
    assert "\n" not in error["message"]


def test_a_batch_may_hold_responses(client, openai_spec):
    bodies = {
        "good": {"input": "hello", "max_output_tokens": 3, "instructions": "be brief"},
        "lost": {"input": "hello", "previous_response_id": "resp_1"},
        "behind": {"input": "hello", "background": True},
    }
    lines = [{"custom_id": id, "method": "POST", "url": "/v1/responses", "body": body} for id, body in bodies.items()]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("lines.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    end = time.monotonic() + 20
    while (batch := client.batches.retrieve(batch.id)).status not in ("completed", "failed"):
        assert time.monotonic() < end, batch.status
        time.sleep(0.05)
    [good] = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    openai_spec.check("Response", good["response"]["body"])
    assert (good["custom_id"], good["response"]["body"]["store"]) == ("good", False)
    errors = map(json.loads, client.files.content(batch.error_file_id).text.splitlines())
    params = {line["custom_id"]: line["response"]["body"]["error"]["param"] for line in errors}
    assert params == {"lost": "previous_response_id", "behind": "background"}
