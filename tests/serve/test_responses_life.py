"""Responses that outlive their request: in the background, over a restart, within bounds, and for their owner alone."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time

import httpx
import openai
import pytest

from octavo.errors import StartupError
from octavo.serve.data import hold
from octavo.serve.responses.routes import ended_with_the_server
from octavo.serve.responses.store import Stored

from .conftest import KEYS, SLOW
from .test_responses import MODEL, events


def connect(server, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def begin(client, tokens: int, **ask):
    return client.responses.create(model=MODEL, input="hello", background=True, max_output_tokens=tokens, **ask)


def until(client, id, *statuses):
    """The response once it has one of these statuses."""
    end = time.monotonic() + 20
    while (reply := client.responses.retrieve(id)).status not in statuses:
        assert time.monotonic() < end, reply.status
        time.sleep(0.02)
    return reply


@pytest.fixture(scope="module")
def client(slow):
    return connect(slow)


def test_a_background_response_is_answered_while_nobody_waits(client):
    reply = begin(client, 50, temperature=0)
    assert reply.status == "queued"
    assert reply.background
    done = until(client, reply.id, "completed", "incomplete")
    assert len(done.output_text) == 50
    now = client.responses.create(model=MODEL, input="hello", max_output_tokens=50, temperature=0)
    assert done.output_text == now.output_text


def test_a_cancelled_response_stops_the_engine_and_stays_cancelled(slow, client):
    reply = begin(client, 2000)
    until(client, reply.id, "in_progress", "queued")
    assert client.responses.cancel(reply.id).status == "cancelled"
    assert slow.settle()["octavo_requests_running"] == 0
    assert client.responses.retrieve(reply.id).status == "cancelled"
    assert client.responses.cancel(reply.id).status == "cancelled"
    assert slow.stats()["octavo_books_wrong_total"] == 0


def test_only_background_responses_can_be_cancelled(client):
    reply = client.responses.create(model=MODEL, input="hello", max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="background=true"):
        client.responses.cancel(reply.id)
    done = until(client, begin(client, 2).id, "incomplete")
    assert client.responses.cancel(done.id).status == "incomplete"


def test_deleting_a_running_response_ends_it(slow, client):
    reply = begin(client, 2000)
    client.responses.delete(reply.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(reply.id)
    slow.settle()


def test_a_running_response_cannot_be_continued(client):
    reply = begin(client, 2000)
    with pytest.raises(openai.BadRequestError, match="still being made"):
        client.responses.create(model=MODEL, input="and?", previous_response_id=reply.id)
    client.responses.delete(reply.id)


def test_too_many_background_responses_are_turned_away(slow, client):
    running = [begin(client, 2000) for _ in range(4)]
    with pytest.raises(openai.RateLimitError) as error:
        begin(client, 1)
    assert error.value.response.headers["retry-after"]
    for reply in running:
        client.responses.cancel(reply.id)
    assert until(client, begin(client, 1).id, "incomplete")


def test_events_of_a_background_response_are_followed_again(slow, client):
    """A client that loses its connection goes on where it was, while the response is made and afterwards."""
    ask = {"model": MODEL, "input": "hello", "max_output_tokens": 200, "background": True, "stream": True}
    seen = []
    with client.responses.create(**ask) as stream:
        for event in stream:
            seen.append(event)
            if len(seen) == 20:
                break
    id = seen[0].response.id
    assert client.responses.retrieve(id).status == "in_progress"
    assert 0 < len(client.responses.retrieve(id).output_text) < 200
    rest = list(client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number))
    both = [event.sequence_number for event in [*seen, *rest]]
    assert both == list(range(len(both)))
    whole = events(slow.http.get(f"/v1/responses/{id}", params={"stream": "true"}))
    assert [event["type"] for event in whole] == [event.type for event in [*seen, *rest]]
    text = "".join(event["delta"] for event in whole if event["type"] == "response.output_text.delta")
    assert text == client.responses.retrieve(id).output_text
    assert events(slow.http.get(f"/v1/responses/{id}?stream=true&starting_after={len(both) - 2}")) == whole[-1:]


def test_followers_of_a_cancelled_response_are_told(client):
    with begin(client, 2000, stream=True) as stream:
        first = next(iter(stream))
        client.responses.cancel(first.response.id)
        last = list(stream)[-1]
    assert (last.type, last.code) == ("error", "cancelled")
    assert list(client.responses.retrieve(first.response.id, stream=True))[-1].to_dict() == last.to_dict()


def test_a_stream_can_be_followed_only_if_it_was_one(slow, client):
    for reply in (begin(client, 2), client.responses.create(model=MODEL, input="hello", max_output_tokens=2)):
        with pytest.raises(openai.BadRequestError, match="stream=true"):
            list(client.responses.retrieve(reply.id, stream=True))


def test_a_client_that_goes_away_ends_its_response_unless_it_is_in_the_background(slow, client):
    before = slow.stats()["octavo_sequences_aborted_total"]
    for background in (False, True):
        ask = {"model": MODEL, "input": "hello", "max_output_tokens": 200, "background": background, "stream": True}
        with client.responses.create(**ask) as stream:
            for event in stream:
                if event.type == "response.created":
                    id = event.response.id
                if event.type == "response.output_text.delta":
                    break
        if background:
            assert len(until(client, id, "incomplete").output_text) == 200
        else:
            slow.settle()
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(id)
    assert slow.stats()["octavo_sequences_aborted_total"] == before + 1


def test_the_least_recently_used_are_dropped(client):
    first = client.responses.create(model=MODEL, input="first", max_output_tokens=1)
    second = client.responses.create(model=MODEL, input="second", max_output_tokens=1)
    for _ in range(10):
        client.responses.create(model=MODEL, input="more", max_output_tokens=1, previous_response_id=first.id)
    last = client.responses.create(model=MODEL, input="more", max_output_tokens=1)
    assert client.responses.retrieve(first.id).id == first.id
    assert client.responses.retrieve(last.id).id == last.id
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_responses_survive_a_server_that_is_killed_and_one_that_is_told_to_end(start, tmp_path):
    flags = ("--data-dir", str(tmp_path))
    one = start(*flags, device=SLOW)
    client = connect(one)
    first = client.responses.create(model=MODEL, input="one", max_output_tokens=5, temperature=0)
    whole = [event.to_dict() for event in begin(client, 5, stream=True)]
    silent = begin(client, 2000)
    with begin(client, 2000, stream=True) as stream:
        streamed = next(iter(stream)).response
    until(client, silent.id, "in_progress", "queued")
    os.kill(one.process.pid, signal.SIGKILL)
    one.process.wait()
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}

    two = start(*flags, "--drain-limit-s", "1", device=SLOW)
    client = connect(two)
    assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
    said = [{"role": "user", "content": "one"}, *[item.to_dict() for item in first.output]]
    ask = {"model": MODEL, "max_output_tokens": 5, "temperature": 0}
    continued = client.responses.create(**ask, input="two", previous_response_id=first.id)
    again = client.responses.create(**ask, input=[*said, {"role": "user", "content": "two"}])
    assert continued.output_text == again.output_text
    assert [e.to_dict() for e in client.responses.retrieve(whole[0]["response"]["id"], stream=True)] == whole
    for id in (silent.id, streamed.id):
        reply = client.responses.retrieve(id)
        assert (reply.status, reply.error.code) == ("failed", "server_error")
        assert client.responses.cancel(id).status == "failed"
    [last] = client.responses.retrieve(streamed.id, stream=True, starting_after=17)
    assert (last.type, last.sequence_number, last.response.status) == ("response.failed", 18, "failed")

    short, long = begin(client, 20), begin(client, 2000)
    two.process.terminate()
    assert two.process.wait(20) == 0
    client = connect(start(*flags, device=SLOW))
    assert client.responses.retrieve(continued.id).output_text == continued.output_text
    assert client.responses.retrieve(short.id).status == "incomplete"
    cut = client.responses.retrieve(long.id)
    assert (cut.status, cut.error.code) == ("failed", "server_error")
    assert "shutting down" in cut.error.message


def test_one_key_sees_nothing_of_another(keyed):
    mine, other = (connect(keyed, key) for key in KEYS[:2])
    reply = mine.responses.create(model=MODEL, input="a secret", max_output_tokens=2)
    running = begin(mine, 1000)
    calls = [
        lambda id: other.responses.retrieve(id),
        lambda id: other.responses.delete(id),
        lambda id: other.responses.cancel(id),
        lambda id: other.responses.input_items.list(id),
        lambda id: list(other.responses.retrieve(id, stream=True)),
    ]
    for id in (reply.id, running.id):
        for call in calls:
            with pytest.raises(openai.NotFoundError):
                call(id)
        with pytest.raises(openai.BadRequestError, match="not stored"):
            other.responses.create(model=MODEL, input="and?", previous_response_id=id)
    item = mine.responses.input_items.list(reply.id).data[0].id
    with pytest.raises(openai.BadRequestError, match="not stored"):
        other.responses.create(model=MODEL, input=[{"type": "item_reference", "id": item}])
    assert mine.responses.retrieve(running.id).status in ("queued", "in_progress")
    assert mine.responses.create(model=MODEL, input=[{"type": "item_reference", "id": item}], max_output_tokens=1)
    mine.responses.delete(running.id)


def test_a_background_response_keeps_the_place_of_the_request_that_began_it(keyed):
    client = connect(keyed, KEYS[2])
    running = begin(client, 2000)
    with pytest.raises(openai.RateLimitError, match="1 request"):
        client.responses.create(model=MODEL, input="hello", max_output_tokens=1)
    client.responses.cancel(running.id)
    assert client.responses.create(model=MODEL, input="hello", max_output_tokens=1).output_text


def test_a_folder_serves_one_server(slow, folder):
    with pytest.raises(StartupError, match="in use by another server"), hold(str(folder)):
        pass


def test_what_is_told_of_a_response_in_the_background_is_valid(slow, client, openai_spec):
    ask = {"input": "hello", "max_output_tokens": 5, "background": True}
    openai_spec.check("Response", slow.http.post("/v1/responses", json=ask).json())
    for event in events(slow.http.post("/v1/responses", json=ask | {"stream": True})):
        openai_spec.check("ResponseStreamEvent", event)
    with begin(client, 2000, stream=True) as stream:
        id = next(iter(stream)).response.id
        openai_spec.check("Response", slow.http.get(f"/v1/responses/{id}").json())
        reply = slow.http.post(f"/v1/responses/{id}/cancel").json()
        openai_spec.check("Response", reply)
        openai_spec.check("ResponseStreamEvent", list(stream)[-1].to_dict())
    running = Stored(id, "", "in_progress", None, json.dumps(reply | {"status": "in_progress"}).encode(), b"[]", b"x")
    failed = ended_with_the_server(running)
    openai_spec.check("Response", json.loads(failed.response))
    assert (failed.status, failed.events) == ("failed", b"")


def test_responses_that_are_followed_cancelled_and_deleted_at_once_leave_nothing(server):
    async def one(http: httpx.AsyncClient, chance: random.Random) -> None:
        ask = {"input": "hello", "background": True, "max_output_tokens": chance.choice((1, 20, 200))}
        ask["stream"] = chance.random() < 0.5
        async with http.stream("POST", "/v1/responses", json=ask) as reply:
            assert reply.status_code == 200
            lines = reply.aiter_lines()
            id = re.search(r'"id":"(resp_\w+)"', "".join([await anext(lines), await anext(lines, "")]))[1]
            for _ in range(chance.randrange(40)):
                await anext(lines, "")
        path = f"/v1/responses/{id}"
        actions = [
            lambda: http.post(f"{path}/cancel"),
            lambda: http.delete(path),
            lambda: http.get(path),
            lambda: http.get(f"{path}?stream=true"),
            lambda: http.post("/v1/responses", json={"input": "x", "previous_response_id": id, "max_output_tokens": 1}),
        ]
        replies = await asyncio.gather(*(chance.choice(actions)() for _ in range(chance.randrange(1, 5))))
        assert {reply.status_code for reply in replies} <= {200, 400, 404}

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            for start in range(0, 90, 30):
                await asyncio.gather(*(one(http, random.Random(start + i)) for i in range(30)))

    asyncio.run(run())
    assert server.settle()["octavo_books_wrong_total"] == 0
