"""/v1/files and /v1/batches through the official client: each line answered once, whatever happens to the server."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import octavo
from octavo.serve.batches.journal import Journal, mark

from .conftest import PRINTABLE, Start, spawn, wait_until_ready
from .openai_spec import OpenAISpec

WAIT_S = 60.0
ENDED = ("completed", "failed", "expired", "cancelled")


def line(id: str, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    content = {"messages": [{"role": "user", "content": id}]} if "chat" in url else {"prompt": id}
    return {"custom_id": id, "method": "POST", "url": url, "body": {"max_tokens": 4, **content, **body}}


def jsonl(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def upload(client: openai.OpenAI, lines: list[Any] | bytes, name: str = "in.jsonl") -> str:
    content = lines if isinstance(lines, bytes) else jsonl(lines)
    return client.files.create(file=(name, content), purpose="batch").id


def ended(client: openai.OpenAI, id: str) -> Any:
    end = time.monotonic() + WAIT_S
    while (batch := client.batches.retrieve(id)).status not in ENDED:
        assert time.monotonic() < end, batch
        time.sleep(0.05)
    return batch


def begin(client: openai.OpenAI, lines: list[Any] | bytes, endpoint: str = "/v1/chat/completions") -> Any:
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=endpoint, completion_window="24h", metadata={"made by": "a test"}
    )


def read(client: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


def test_every_line_is_answered_and_wrong_ones_stand_in_the_error_file(client: openai.OpenAI):
    batch = ended(client, begin(client, [line("one"), line("two", max_tokens=-1), line("three", seed=3)]).id)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
    answers = {one["custom_id"]: one for one in read(client, batch.output_file_id)}
    assert set(answers) == {"one", "three"}
    assert answers["one"]["response"]["status_code"] == 200
    assert answers["one"]["response"]["body"]["usage"]["completion_tokens"] == 4
    (wrong,) = read(client, batch.error_file_id)
    assert wrong["custom_id"] == "two" and wrong["response"]["status_code"] == 400
    assert wrong["response"]["body"]["error"]["param"] == "max_tokens"


def test_a_line_gets_the_answer_that_a_request_gets(client: openai.OpenAI):
    batch = ended(client, begin(client, [line("same", "/v1/completions", seed=5)], "/v1/completions").id)
    alone = client.completions.create(model="octavo-pocket", prompt="same", max_tokens=4, seed=5)
    assert read(client, batch.output_file_id)[0]["response"]["body"]["choices"][0]["text"] == alone.choices[0].text


# OpenAI sends null for what is not there yet, which its document does not allow.
def test_files_and_batches_are_listed_page_by_page_and_valid(client: openai.OpenAI, openai_spec: OpenAISpec):
    ids = [ended(client, begin(client, [line(f"listed {i}")]).id).id for i in range(3)]
    listed = [one.id for one in client.batches.list(limit=2)]  # the client asks for the next pages by itself
    assert listed[:3] == ids[::-1]
    assert len(set(listed)) == len(listed)
    page = client.batches.list(limit=1)
    assert page.has_more and page.data[0].id == ids[2]
    for one in client.batches.list(limit=100).data:
        openai_spec.check("Batch", json.loads(one.model_dump_json(exclude_none=True)))
    files = client.files.list(purpose="batch_output").data
    assert {one.purpose for one in files} == {"batch_output"}
    for one in files:
        openai_spec.check("OpenAIFile", json.loads(one.model_dump_json(exclude_none=True)))


def test_a_file_is_read_back_and_deleted(client: openai.OpenAI):
    id = upload(client, b'{"any": "bytes"}\n', name="../../etc/x.jsonl")
    assert client.files.retrieve(id).filename == "x.jsonl"
    assert client.files.content(id).content == b'{"any": "bytes"}\n'
    assert client.files.delete(id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(id)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (b"", "no lines"),
        (b"not json\n", "custom_id"),
        (jsonl([line("a"), line("a")]), "comes twice"),
        (jsonl([line("a", "/v1/completions")]), "must be the batch's endpoint"),
        (jsonl([{**line("a"), "method": "GET"}]), "GET"),
        (jsonl([{**line("a"), "more": 1}]), "more"),
        (jsonl([{**line("a"), "custom_id": "x" * 1000}]), "1 to 128 characters"),
    ],
)
def test_a_file_that_is_no_batch_fails_as_a_whole_and_says_which_line(client: openai.OpenAI, lines: bytes, says: str):
    batch = ended(client, begin(client, lines).id)
    assert batch.status == "failed"
    assert batch.output_file_id is None and batch.request_counts.completed == 0
    assert says in batch.errors.data[0].message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"endpoint": "/v1/embeddings/no"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "9999h"}, "completion_window"),
        ({"input_file_id": "../../batches.sqlite3"}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ],
)
def test_a_wrong_batch_is_refused_by_the_name_of_its_field(
    client, http: httpx.Client, body: dict[str, Any], field: str
):
    good = {"input_file_id": upload(client, [line("a")]), "endpoint": "/v1/completions", "completion_window": "24h"}
    reply = http.post("/v1/batches", json=good | body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"json": {"file": "x"}}, 415),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "assistants"}}, 400),
        ({"data": {"purpose": "batch"}, "files": {"other": ("a", b"x")}}, 400),
        ({"files": [("file", ("a", b"x")), ("file", ("b", b"y"))], "data": {"purpose": "batch"}}, 400),
        ({"content": b"--x\r\nrubbish", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400),
    ],
)
def test_a_form_that_holds_no_file_is_refused(http: httpx.Client, sent: dict[str, Any], status: int):
    assert http.post("/v1/files", **sent).status_code == status


def test_a_file_over_the_limit_is_refused_while_it_comes(start: Start):
    server = start("--limits", "file_bytes=1000,files=2")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIStatusError, match="longer than 1000 bytes"):
        upload(client, b"x" * 2000)
    upload(client, b"x")
    upload(client, b"y")
    with pytest.raises(openai.RateLimitError, match="delete some"):
        upload(client, b"z")


def test_one_key_sees_nothing_of_another(start: Start):
    server = start("--api-key", "first-key", "second-key")
    first, second = (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) for key in ("first-key", "second-key")
    )
    batch = ended(first, begin(first, [line("private")]).id)
    assert second.files.list().data == [] and second.batches.list().data == []
    for call in (
        lambda: second.files.content(batch.output_file_id),
        lambda: second.files.delete(batch.input_file_id),
        lambda: second.batches.retrieve(batch.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    with pytest.raises(openai.NotFoundError):
        second.batches.cancel(batch.id)
    with pytest.raises(openai.BadRequestError, match="names no file"):
        second.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )


def test_a_cancelled_batch_keeps_what_was_answered(start: Start):
    server = start("--max-num-seqs", "2", device=f"{PRINTABLE},step_ms=20")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    batch = begin(client, [line(f"line {i}", ignore_eos=True) for i in range(200)])
    while client.batches.retrieve(batch.id).request_counts.completed == 0:
        time.sleep(0.05)
    with pytest.raises(openai.BadRequestError, match="being answered"):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    found = ended(client, batch.id)
    assert found.status == "cancelled"
    assert 0 < found.request_counts.completed == len(read(client, found.output_file_id)) < 200
    with pytest.raises(openai.BadRequestError, match="cannot be cancelled"):
        client.batches.cancel(batch.id)


def test_requests_at_the_door_go_before_lines(start: Start):
    server = start("--max-num-seqs", "4", device=f"{PRINTABLE},step_ms=10")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    batch = begin(client, [line(f"line {i}", max_tokens=40, ignore_eos=True) for i in range(60)])
    while client.batches.retrieve(batch.id).status != "in_progress":
        time.sleep(0.02)
    began = time.monotonic()
    client.completions.create(model="octavo-pocket", prompt="now", max_tokens=1)
    assert time.monotonic() - began < 5  # the lines in front of it, at 0.4 s each four at a time, would take 6
    client.batches.cancel(batch.id)


def test_a_killed_server_goes_on_behind_its_last_answer(tmp_path: Path):
    flags = ("--data-dir", str(tmp_path / "data"), "--max-num-seqs", "4")
    count, device = 120, f"{PRINTABLE},step_ms=10"
    process = spawn(*flags, device=device)
    url = wait_until_ready(process)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    id = begin(client, [line(f"line {i}", seed=i, ignore_eos=True) for i in range(count)]).id
    for _ in range(2):
        before = client.batches.retrieve(id).request_counts.completed
        while client.batches.retrieve(id).request_counts.completed <= before + 3:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        process = spawn(*flags, device=device)
        client = openai.OpenAI(base_url=f"{wait_until_ready(process)}/v1", api_key="none", max_retries=0)
    try:
        batch = ended(client, id)
        answers = read(client, batch.output_file_id)
        assert batch.status == "completed"
        assert sorted(one["custom_id"] for one in answers) == sorted(f"line {i}" for i in range(count))
    finally:
        process.kill()
        process.communicate()


def test_a_journal_cuts_off_the_line_that_a_crash_left(tmp_path: Path):
    batch = "0123456789abcdef"
    whole = json.dumps({"id": mark(batch, 1), "custom_id": "a"}, separators=(",", ":")).encode() + b"\n"
    second = whole.replace(b"_1", b"_2")
    for cut in range(len(second)):
        path = tmp_path / str(cut)
        path.write_bytes(whole + second[:cut])
        journal = Journal(path, batch)
        assert journal.done == {1}
        journal.append(2, second)
        journal.close()
        assert path.read_bytes() == whole + second
    with pytest.raises(ValueError, match="not answers to this input"):
        Journal(tmp_path / "0", "f" * 16)


def test_a_full_disk_leaves_whole_lines_and_a_reason(tmp_path: Path):
    batch = "0123456789abcdef"
    lines = [
        json.dumps({"id": mark(batch, i), "text": "x" * 100}, separators=(",", ":")).encode() + b"\n" for i in (1, 2)
    ]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(lines[0]) + 10, before[1]))
        journal = Journal(tmp_path / "full", batch)
        journal.append(1, lines[0])
        with pytest.raises(OSError, match="File too large"):
            journal.append(2, lines[1])
        journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "full").read_bytes() == lines[0]


def run_batch(*flags: str, device: str = PRINTABLE, wait: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "octavo", "run-batch", "--device", device, *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(octavo.__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if wait:
        process.wait(WAIT_S)
    return process


def test_run_batch_answers_a_file_without_a_server_and_continues_after_a_kill(tmp_path: Path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(jsonl([line(f"line {i}", ignore_eos=True) for i in range(60)]))
    flags = ("-i", str(source), "-o", str(target), "--max-num-seqs", "2")
    process = run_batch(*flags, device=f"{PRINTABLE},step_ms=15", wait=False)
    end = time.monotonic() + WAIT_S
    while not target.exists() or target.read_bytes().count(b"\n") < 10:
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    again = run_batch(*flags)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert "60 lines answered (" in said and "by an earlier run" in said
    ids = [json.loads(one)["custom_id"] for one in target.read_text().splitlines()]
    assert sorted(ids) == sorted(f"line {i}" for i in range(60))


def test_run_batch_says_which_line_is_wrong_before_it_opens_a_model(tmp_path: Path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl([line("a"), line("b", "/v1/nothing")]))
    process = run_batch("-i", str(source), "-o", str(tmp_path / "out"))
    assert process.returncode == 1
    assert process.communicate()[0].startswith(f"octavo run-batch: line 2 of {source}: url must be one of")
    assert not (tmp_path / "out").exists()


def test_a_server_without_a_data_directory_leaves_no_file_behind():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a test's own is too long a path for sockets
        process = spawn(env={"TMPDIR": folder})
        client = openai.OpenAI(base_url=f"{wait_until_ready(process)}/v1", api_key="none", max_retries=0)
        ended(client, begin(client, [line("gone")]).id)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert [path for path in Path(folder).rglob("*") if path.is_file()] == []
