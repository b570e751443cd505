"""A request's story: told to its owner, under every name it has, in numbers that add up and words that explain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest

import octavo as package
from octavo.errors import InvalidRequest
from octavo.frontend.journal import Entry
from octavo.messages import SequenceSpec, pack_ids
from octavo.sampling import SamplingParams
from octavo.serve.records import KEPT, Record, Records
from octavo.serve.timeline import Story
from octavo.serve.timeline_page import write_timeline

from ..simulator import Machine, Simulator


def events(timeline: dict, sequence: int = 0) -> dict[str, dict]:
    """The last event of each kind."""
    return {event["event"]: event for event in timeline["timelines"][sequence]["events"]}


def test_a_wait_explains_itself(crowd):
    with crowd.full():
        waits = crowd.ask("waits", 5)
        seen = crowd.until("waits", "waiting")
        assert (seen["ahead"], seen["prompt_tokens"], seen["generated_tokens"], seen["max_tokens"]) == (0, 30, 0, 5)
        behind = crowd.ask("behind", 5)
        assert crowd.until("behind", "waiting")["ahead"] == 1
        assert "1 request ahead of it" in crowd.about("behind").json()["summary"]
    assert all(each.result().status_code == 200 for each in (waits, behind))

    told = crowd.about("behind").json()
    assert told["state"] == "ended" and told["object"] == "request.timeline"
    (sequence,) = told["timelines"]
    kinds = [event["event"] for event in sequence["events"]]
    assert kinds[:2] == ["queued", "admitted"] and kinds[-2:] == ["first_token", "ended"]
    computed = sum(event["tokens"] for event in sequence["events"] if event["event"] == "chunk")
    assert computed + events(told)["admitted"]["tokens"] == 30  # an admission tells what was cached
    admitted = events(told)["admitted"]
    assert "all 2 rows were taken" in admitted["text"]
    assert admitted["waits_ms"]["rows"] > 0
    queued_at = events(told)["queued"]["at_ms"]
    assert sum(admitted["waits_ms"].values()) == pytest.approx(admitted["at_ms"] - queued_at, abs=0.1)
    assert events(told)["queued"]["text"] == "queued behind 1 request"
    assert re.search(
        r"ended after .*; admitted after waiting .*; first token after .*; 5 tokens generated", told["summary"]
    )
    arrival = [event["event"] for event in told["events"]]
    assert arrival == ["received", "read", "prepared", "answered"]
    times = [event["at_ms"] for event in (*told["events"][:3], *sequence["events"], told["events"][3])]
    assert times == sorted(times)
    assert (sequence["finish_reason"], sequence["generated_tokens"]) == ("length", 5)


def test_a_stream_that_others_leave_no_budget_says_so(crowd):
    long = crowd.ask("long prompt", 1, prompt=[90] * 200)
    assert long.result().status_code == 200
    told = crowd.about("longprompt").json()  # as it is echoed: without the space
    chunks = [event for event in told["timelines"][0]["events"] if event["event"] == "chunk"]
    assert [event["tokens"] for event in chunks] == [16] * 12 + [8]
    assert [event["step"] for event in chunks] == list(range(chunks[0]["step"], chunks[0]["step"] + 13))
    assert "16 tokens of the prompt were computed in step" in chunks[0]["text"]


def test_every_name_of_a_request_finds_it(crowd):
    client = openai.OpenAI(base_url=f"{crowd.server.url}/v1", api_key="first-key", max_retries=0)
    raw = client.chat.completions.with_raw_response.create(
        model="octavo-pocket", messages=[{"role": "user", "content": "hello"}], max_tokens=3
    )
    names = [raw.parse().id, raw.headers["x-request-id"]]
    told = [crowd.about(name).json() for name in names]
    assert told[0] == told[1]
    assert told[0]["endpoint"] == "/v1/chat/completions"
    assert told[0]["names"] == [names[0]] and told[0]["id"] == names[1]
    assert crowd.about(told[0]["id"], "").json()["generated_tokens"] == 3


def test_several_prompts_and_continuations_are_one_request(crowd):
    crowd.ask("several", 4, prompt=[[7] * 9, [8] * 9], n=2, temperature=1.0).result()
    told = crowd.about("several").json()
    assert (told["sequences"], told["prompt_tokens"], told["generated_tokens"]) == (4, 18, 16)
    assert [(one["prompt"], one["index"]) for one in told["timelines"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    held = [event["text"] for one in told["timelines"] for event in one["events"] if event["event"] == "held"]
    assert held and set(held) == {"held until the prompt that it shares is computed"}


def test_nobody_reads_about_another_s_request(crowd):
    crowd.ask("mine", 2).result()
    mine = crowd.about("mine").json()
    for name in ("mine", mine["id"], *mine["names"]):
        for what in ("", "/timeline"):
            refused = crowd.about(name, what, owner=1)
            assert refused.status_code == 404
            assert refused.json()["error"]["message"].startswith(f"there is no request '{name}' of yours")
    # The same name under another key is another request.
    crowd.ask("mine", 3, owner=1).result()
    assert crowd.about("mine", "", owner=1).json()["generated_tokens"] == 3
    assert crowd.about("mine", "").json()["generated_tokens"] == 2
    assert httpx.get(f"{crowd.server.url}/v1/requests/mine").status_code == 401


def test_the_list_has_one_s_own_running_requests_only(crowd):
    running = []
    for i, state in enumerate(("running", "running", "waiting")):
        running.append(crowd.ask(f"runs-{i}", 1500, owner=i % 2))
        crowd.until(f"runs-{i}", state, owner=i % 2)
    told = [owner.get("/v1/requests").json()["data"] for owner in crowd.owners]
    assert [sorted(row["names"][0] for row in rows) for rows in told] == [["runs-0", "runs-2"], ["runs-1"]]
    assert {row["state"] for rows in told for row in rows} == {"running", "waiting"}
    for i, each in enumerate(running):
        crowd.control(f"runs-{i}", owner=i % 2, cancel=True)
        each.result()
    for i in range(3):
        crowd.until(f"runs-{i}", "ended", owner=i % 2)
    assert crowd.owners[0].get("/v1/requests").json() == {"object": "list", "data": []}


def test_a_refused_request_tells_what_kind_of_error_it_was(crowd):
    assert crowd.ask("refused", 5, top_p=7).result().status_code == 400
    crowd.until("refused", "ended")
    told = crowd.about("refused").json()
    assert (told["state"], told["error"], told["timelines"]) == ("ended", "invalid_request_error", [])
    assert "Error" not in json.dumps(told)


def test_a_request_whose_client_left_is_remembered_as_such(crowd):
    body = {"prompt": [5], "max_tokens": 1500, "stream": True, "ignore_eos": True}
    headers = {"x-request-id": "leaves"}
    with crowd.owners[0].stream("POST", "/v1/completions", json=body, headers=headers) as reply:
        next(reply.iter_raw())
    told = crowd.until("leaves", "ended")
    told = crowd.about("leaves").json()
    assert told["error"] == "client_gone"
    assert told["timelines"][0]["finish_reason"] == "abort"
    assert events(told)["ended"]["text"].endswith("cancelled, or the client went away")


def test_a_preemption_and_its_cause_are_told():
    simulator = Simulator(Machine(num_pages=(13,), page_size=4, max_num_seqs=8))
    prompts = [pack_ids([5 + id] * 16) for id in range(2)]
    params = SamplingParams(temperature=1.0)
    simulator.add(*(SequenceSpec(id, tokens, params, 20, id) for id, tokens in enumerate(prompts)))
    simulator.run()
    entries = [Entry(f"r-{id}", [id], params, 16, 20, 0.0, False, None, 60.0, [20], ["length"]) for id in range(2)]
    cores = {timeline.id: timeline for timeline in simulator.scheduler.timelines([0, 1])}
    story = Story(Record("r", None, "/", began=0.0, ended=60.0), entries, cores, None, 60.0).whole()
    texts = [event["text"] for event in story["timelines"][1]["events"]]
    [lost] = [text for text in texts if text.startswith("preempted with")]
    assert lost.endswith("tokens computed: the KV cache was full and a more urgent request needed pages")
    again = texts[texts.index(lost) + 2]
    assert again.startswith("admitted after waiting")
    assert "pages of the KV cache" in again or "put back yet" in again
    assert "preempted 1 time" in story["summary"] and "40 tokens generated" in story["summary"]


@pytest.mark.parametrize("token_s", [0.01, 1e-6])
def test_a_swap_and_what_decided_it_are_told(token_s):
    machine = Machine(num_pages=(13,), page_size=4, max_num_seqs=8, host_pages=(40,), token_s=token_s)
    simulator = Simulator(machine)
    params = SamplingParams(temperature=1.0)
    simulator.add(*(SequenceSpec(id, pack_ids([5 + id] * 16), params, 20, id) for id in range(2)))
    simulator.run()
    entries = [Entry("r", [1], params, 16, 20, 0.0, False, None, 60.0, [20], ["length"])]
    cores = {timeline.id: timeline for timeline in simulator.scheduler.timelines([1])}
    story = Story(Record("r", None, "/", began=0.0, ended=60.0), entries, cores, None, 60.0).whole()
    told = {event["event"]: event for event in story["timelines"][0]["events"]}
    if token_s == 0.01:
        tokens = told["swapped_out"]["tokens"]
        assert re.fullmatch(
            rf"swapped out {tokens} tokens: \S+ ms to copy against {10 * tokens} ms to compute them again",
            told["swapped_out"]["text"],
        )
        assert told["swapped_in"]["text"].endswith(f"{tokens} tokens need no computing")
    else:
        assert told["not_swapped"]["text"].startswith("not swapped out, ") and "swapped_in" not in told


def test_records_forget_the_oldest_and_find_the_latest_of_a_name():
    records = Records(kept=3)
    for i in range(5):
        with records.open(Record(f"id-{i}", "key", "/", names=["same"])):
            assert records.find("same", "key").id == f"id-{i}"
    assert list(records.ended) == ["id-2", "id-3", "id-4"]
    assert records.find("same", "key").id == "id-4"
    assert records.find("id-0", "key") is None
    assert records.find("id-4", None) is None
    with pytest.raises(InvalidRequest), records.open(Record("bad", None, "/")):
        raise InvalidRequest("no", "field")
    assert records.find("bad", None).error == "invalid_request_error"
    assert KEPT >= 1000


def octavo(*words: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(package.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
    command = [sys.executable, "-m", "octavo", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_command_line_shows_the_same(crowd):
    crowd.ask("shown", 5).result()
    done = octavo("timeline", f"{crowd.server.url}/v1", "shown", "--api-key", "first-key")
    told = crowd.about("shown").json()
    assert done.returncode == 0, done.stderr
    assert told["summary"] in done.stdout and "█" in done.stdout
    for event in (*told["events"], *told["timelines"][0]["events"]):
        assert event["text"] in done.stdout
    refused = octavo("timeline", crowd.server.url, "shown", "--api-key", "second-key")
    assert refused.returncode == 1
    assert refused.stderr.startswith("octavo timeline: there is no request 'shown' of yours")


def test_the_command_line_lists_what_runs(crowd):
    running = crowd.ask("listed", 1500)
    crowd.until("listed", "running")
    done = octavo("timeline", crowd.server.url, "--api-key", "first-key")
    assert re.search(r"listed +running .* of 1500 +/v1/completions", done.stdout), done.stdout + done.stderr
    crowd.control("listed", cancel=True)
    running.result()


def test_a_browser_gets_a_page_in_which_no_name_is_code(crowd):
    crowd.ask("<script>alert(1)</script>page", 3).result()
    name = "scriptalert1scriptpage"  # as it is echoed
    page = crowd.owners[0].get(f"/v1/requests/{name}/timeline", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    told = crowd.about(name).json()
    assert told["summary"] in page.text
    for event in told["timelines"][0]["events"]:
        assert event["text"] in page.text
    evil = told | {"endpoint": "<b>", "names": ["<i>"], "summary": "<u>"}
    assert not re.search("<[biu]>", write_timeline(evil).replace('<i class="', ""))
