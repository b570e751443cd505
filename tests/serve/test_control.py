"""A running request is changed by its owner, between two steps, in whole answers and in streams."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest


def test_a_new_max_tokens_gives_the_text_that_it_had_given_from_the_start(crowd):
    expected = crowd.ask("expected", 60).result().json()["choices"][0]
    with crowd.full():
        longer, shorter = crowd.ask("expanded", 40), crowd.ask("shortens", 1500)
        for name in ("expanded", "shortens"):
            crowd.until(name, "waiting")
            told = crowd.control(name, max_tokens=60).json()
            assert told["object"] == "request.control"
            assert [(one["index"], one["state"], one["max_tokens"]) for one in told["sequences"]] == [
                (0, "waiting", 60)
            ]
    for answer in (longer, shorter):
        choice = answer.result().json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (expected["text"], "length")
    assert answer.result().json()["usage"]["completion_tokens"] == 60
    texts = [event["text"] for event in crowd.about("expanded").json()["timelines"][0]["events"]]
    assert "max_tokens was changed to 60" in texts


def test_a_running_answer_is_made_shorter(crowd):
    answer = crowd.ask("shorter", 1500)
    crowd.until("shorter", "running")
    told = crowd.control("shorter", max_tokens=120).json()["sequences"][0]
    reply = answer.result().json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == max(120, told["generated_tokens"])


def test_a_max_tokens_that_is_reached_already_ends_it_with_what_it_has(crowd):
    answer = crowd.ask("reached", 1500)
    crowd.until("reached", "running")
    while crowd.about("reached", "").json()["generated_tokens"] < 3:
        pass
    told = crowd.control("reached", max_tokens=1).json()["sequences"][0]
    assert told["state"] == "ended"
    reply = answer.result().json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == told["generated_tokens"] >= 3


def test_a_cancelled_whole_answer_keeps_its_text(crowd):
    whole = crowd.ask("whole", 30).result().json()["choices"][0]["text"]
    answer = crowd.ask("cance", 1500)  # as long a name: the same prompt
    crowd.until("cance", "running")
    while crowd.about("cance", "").json()["generated_tokens"] < 3:
        pass
    told = crowd.control("cance", cancel=True).json()["sequences"][0]
    reply = answer.result()
    assert reply.status_code == 200
    choice = reply.json()["choices"][0]
    assert choice["finish_reason"] == "abort"
    assert len(choice["text"]) == reply.json()["usage"]["completion_tokens"] == told["generated_tokens"]
    assert whole.startswith(choice["text"]) or choice["text"].startswith(whole)
    crowd.server.http.headers["authorization"] = "Bearer first-key"
    stats = crowd.server.settle()
    assert stats["octavo_kv_pages_free"] == stats["octavo_kv_pages"]


def test_a_cancelled_stream_ends_like_one(crowd):
    client = openai.OpenAI(base_url=f"{crowd.server.url}/v1", api_key="first-key", max_retries=0)
    text, reasons, usage = "", [], None
    stream = client.chat.completions.create(
        model="octavo-pocket",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=1500,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons.append(choice.finish_reason)
        if len(text) > 5 and crowd.control(chunk.id, cancel=True).status_code == 200:
            text += ""  # what was on its way still comes
    assert reasons[-1] == "abort" and set(reasons[:-1]) == {None}
    assert usage.completion_tokens == len(text) < 1500


def test_a_request_that_waits_is_cancelled_without_a_token(crowd):
    with crowd.full():
        waits = crowd.ask("waiting", 10)
        crowd.until("waiting", "waiting")
        assert crowd.control("waiting", cancel=True).status_code == 200
        choice = waits.result().json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("", "abort")


def test_every_continuation_of_every_prompt_is_changed(crowd):
    answer = crowd.ask("many", 1500, prompt=[[7] * 5, [8] * 5], n=2, temperature=1.0)
    crowd.until("many", "running")
    told = crowd.control("many", max_tokens=8).json()["sequences"]
    assert [one["index"] for one in told] == [0, 1, 2, 3]
    reply = answer.result().json()
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["length"] * 4


def test_what_makes_no_sense_is_refused_in_one_line_and_changes_nothing(crowd):
    refusals = {
        "cancel": [{}, {"cancel": False}, {"cancel": True, "max_tokens": 5}, {"cancel": True, "end_thinking": True}],
        "max_tokens": [{"max_tokens": 0}, {"max_tokens": 2**40}, {"max_tokens": "9"}],
        "end_thinking": [{"end_thinking": True}],  # of a text that octavo sees no reasoning in
        "stop": [{"stop": "x"}],
    }
    with crowd.full():
        answer = crowd.ask("steady", 20)
        crowd.until("steady", "waiting")
        for field, bodies in refusals.items():
            for body in bodies:
                refused = crowd.control("steady", **body)
                assert refused.status_code == 400, body
                assert refused.json()["error"]["param"] == field, body
        assert crowd.control("steady", owner=1, cancel=True).status_code == 404
        assert crowd.control("unknown", cancel=True).status_code == 404
        nobody = httpx.post(f"{crowd.server.url}/v1/requests/steady/control", json={"cancel": True})
        assert nobody.status_code == 401
    assert answer.result().json()["usage"]["completion_tokens"] == 20
    ended = crowd.control("steady", cancel=True)
    assert (ended.status_code, ended.json()["error"]["message"]) == (400, "the request has ended")


def test_a_cancelled_message_and_a_cancelled_response_say_that_they_are_not_complete(crowd):
    owner = crowd.owners[0]
    message = {"model": "octavo-pocket", "max_tokens": 1500, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"x-request-id": "message", "anthropic-version": "2023-06-01"}
    running = crowd.pool.submit(owner.post, "/v1/messages", json=message, headers=headers)
    crowd.until("message", "running")
    crowd.control("message", cancel=True)
    told = running.result().json()
    assert told["stop_reason"] in ("pause_turn", "end_turn"), told
    response = {"model": "octavo-pocket", "input": "hi", "max_output_tokens": 1500}
    running = crowd.pool.submit(owner.post, "/v1/responses", json=response, headers={"x-request-id": "response"})
    crowd.until("response", "running")
    crowd.control("response", cancel=True)
    told = running.result().json()
    assert told["status"] in ("incomplete", "completed"), json.dumps(told)


@pytest.mark.parametrize("asked", [{"include_metrics": True}, {}])
def test_an_answer_tells_its_times_when_it_is_asked(crowd, asked):
    reply = crowd.ask("timed", 8, **asked).result().json()
    assert ("metrics" in reply) == bool(asked)
    events = crowd.ask("timed stream", 8, stream=True, stream_options={"include_usage": True}, **asked).result().text
    last = json.loads(events.split("\n\n")[-3].removeprefix("data: "))
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 8
    assert ("metrics" in last) == bool(asked)
    for told in (reply, last) if asked else ():
        times = told["metrics"]
        assert 0 <= times["queue_time_ms"] <= times["time_to_first_token_ms"] < times["total_time_ms"]
        assert times["generation_time_ms"] == pytest.approx(7 * times["mean_itl_ms"], rel=0.01)
        assert times["mean_itl_ms"] >= 4
        assert times["tokens_per_second"] == pytest.approx(8e3 / times["total_time_ms"], rel=0.01)


@pytest.fixture(scope="module")
def thinker(start, tmp_path_factory):
    """A server whose model thinks for long."""
    script = tmp_path_factory.mktemp("script") / "script.json"
    script.write_text(json.dumps({"": "<think>" + "Hm. " * 300 + "</think>So it is."}))
    return start(device=f"fake:low=3,high=97,step_ms=3,say=@{script}")


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_is_told_to_end(thinker, streamed):
    body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 400, "stream": streamed}
    name = f"thinks-{streamed}"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(thinker.http.post, "/v1/chat/completions", json=body, headers={"x-request-id": name})
        while thinker.http.get(f"/v1/requests/{name}").json().get("generated_tokens", 0) < 20:
            time.sleep(0.005)
        changed = thinker.http.post(f"/v1/requests/{name}/control", json={"end_thinking": True})
        assert changed.status_code == 200, changed.text
        reply = answer.result()
    told = changed.json()["sequences"][0]["generated_tokens"]
    if streamed:
        deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in reply.text.split("\n\n")[:-2]]
        thought = "".join(delta.get("reasoning_content") or "" for delta in deltas)
        said = "".join(delta.get("content") or "" for delta in deltas)
    else:
        message = reply.json()["choices"][0]["message"]
        thought, said = message["reasoning_content"], message["content"]
        thinking = reply.json()["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert told - 5 <= thinking <= told + 5
    assert thought and len(thought) < 400 < len("Hm. " * 300)
    assert said  # the script went on behind what was put into its mouth
    texts = [
        event["text"] for event in thinker.http.get(f"/v1/requests/{name}/timeline").json()["timelines"][0]["events"]
    ]
    assert "reasoning was told to end; what had been computed is read from the cache" in texts
