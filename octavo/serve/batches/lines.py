"""Lines of a batch: what one asks for, whether a file of them can be accepted, and the answer to one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from octavo.errors import EngineDead, InvalidRequest, Overloaded, StepFailed
from octavo.limits import Limits
from octavo.sampling import shown
from octavo.serve import chat, completions, embeddings, score
from octavo.serve.answer import Caller, Reply, granted
from octavo.serve.errors import CODES, error_object, public
from octavo.serve.pooling_schema import EmbeddingRequest, RerankRequest, ScoreRequest
from octavo.serve.records import Record
from octavo.serve.responses.routes import answer_once
from octavo.serve.responses.schema import ResponseRequest
from octavo.serve.schema import ChatRequest, CompletionRequest, parse
from octavo.serve.service import Service, new_id

BEHIND = 1000  # the priority of lines that name none: behind whoever waits for an answer
ATTEMPTS = 3  # of a line whose engine died meanwhile: it may be the cause
PAUSE_S = 0.5
MOST_ERRORS = 100  # that a refused file is told

Work = Callable[[Service, Any, Caller], Awaitable[Reply]]


@dataclass(frozen=True)
class Endpoint:
    """What answers the lines of one URL."""

    schema: type[BaseModel]
    work: Work


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(ChatRequest, chat.answer),
    "/v1/completions": Endpoint(CompletionRequest, completions.answer),
    "/v1/responses": Endpoint(ResponseRequest, answer_once),
    "/v1/embeddings": Endpoint(EmbeddingRequest, embeddings.embed),
    "/v1/score": Endpoint(ScoreRequest, score.score),
    "/v1/rerank": Endpoint(RerankRequest, score.rerank),
}


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of an input file, as OpenAI defines it."""

    custom_id: str
    url: str
    body: msgspec.Raw
    method: Literal["POST"] = "POST"


@dataclass(frozen=True)
class Task:
    """A line to be answered; `number` counts from 1."""

    number: int
    custom_id: str
    url: str
    body: bytes


@dataclass
class Survey:
    """What a file holds: how many lines, and what is wrong with the first of the wrong ones, by line."""

    count: int = 0
    errors: list[tuple[int | None, InvalidRequest]] = field(default_factory=list)


decode = msgspec.json.Decoder(Line).decode


def read_task(line: bytes, number: int, limits: Limits, endpoint: str | None = None) -> Task:
    """The line's task; InvalidRequest names the field that is wrong. With `endpoint`, its URL must be that one."""
    if len(line) > limits.body_bytes:
        raise InvalidRequest(f"the line is longer than {limits.body_bytes} bytes")
    try:
        found = decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f'must be {{"custom_id", "method": "POST", "url", "body"}}: {error}') from None
    if not 0 < len(found.custom_id) <= limits.id_chars:
        raise InvalidRequest(
            f"custom_id must be 1 to {limits.id_chars} characters, got {shown(found.custom_id)}", "custom_id"
        )
    if endpoint is not None and found.url != endpoint:
        raise InvalidRequest(f"url must be the batch's endpoint {endpoint}, got {shown(found.url)}", "url")
    if found.url not in ENDPOINTS:
        raise InvalidRequest(f"url must be one of {', '.join(ENDPOINTS)}, got {shown(found.url)}", "url")
    return Task(number, found.custom_id, found.url, bytes(found.body))


def lines_of(path: Path, limits: Limits) -> Iterator[tuple[int, bytes]]:
    """The file's lines that are not blank, with their numbers; one that is too long is cut there."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(limits.body_bytes + 2):
            number += 1
            if line.strip():
                yield number, line
            while not line.endswith(b"\n") and (line := file.readline(2**20)):
                pass  # the rest of a line that is too long


def survey(path: Path, limits: Limits, endpoint: str | None = None) -> Survey:
    """Read the whole file once, off the event loop: every line must be a task, and no custom_id come twice."""
    found = Survey()
    seen: set[bytes] = set()
    for number, line in lines_of(path, limits):
        found.count += 1
        if found.count > limits.batch_lines:
            found.errors.append((None, InvalidRequest(f"a batch may have {limits.batch_lines} lines", "input_file_id")))
            break
        try:
            task = read_task(line, number, limits, endpoint)
            mark = blake2b(task.custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if mark in seen:
                raise InvalidRequest(f"custom_id {shown(task.custom_id)} comes twice", "custom_id")
            seen.add(mark)
        except InvalidRequest as error:
            found.errors.append((number, error))
            if len(found.errors) >= MOST_ERRORS:
                break
    if not found.count:
        found.errors.append((None, InvalidRequest("the file has no lines", "input_file_id")))
    return found


@dataclass(frozen=True)
class Outcome:
    """The answer to a line: a line of the output file, or of the error file."""

    good: bool
    line: bytes


async def answer(service: Service, task: Task, caller: Caller, mark: str) -> Outcome:
    """Answer a line; waits while the engine is away or full. `mark` becomes the outcome's id. Never raises."""
    attempts = 0
    while True:
        try:
            await ready(service)
            endpoint = ENDPOINTS[task.url]
            body = parse(endpoint.schema, task.body, service.limits)
            if getattr(body, "stream", None):
                raise InvalidRequest("stream is not available in a batch", "stream")
            if getattr(body, "priority", 0) is None:
                body = body.model_copy(update={"priority": BEHIND})
            if caller.tenant is not None:
                caller.tenant.check_tokens()
                body = granted(body, caller.tenant, service)
            with service.records.open(Record(caller.id, caller.key, task.url)) as record:
                reply = await endpoint.work(service, body, replace(caller, record=record))
            return Outcome(True, outcome(mark, task, 200, caller.id, reply.body))
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_s)
        except Exception as error:  # R9: whatever a line does, it does to itself
            attempts += 1
            if isinstance(error, (EngineDead, StepFailed)) and attempts < ATTEMPTS:
                await asyncio.sleep(PAUSE_S)
                continue
            shown_error = public(error)
            return Outcome(False, outcome(mark, task, shown_error.status, caller.id, error_object(shown_error)))


async def ready(service: Service) -> None:
    """Wait until the engine takes requests; EngineDead when it never will again."""
    while not (service.llm.state == "ready" and service.llm.is_healthy):
        if service.llm.state == "dead":
            raise EngineDead("the engine is down")
        await asyncio.sleep(PAUSE_S)


def outcome(mark: str, task: Task, status: int, request_id: str, body: bytes) -> bytes:
    """A line of the output or error file."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    found = {"id": mark, "custom_id": task.custom_id, "response": response, "error": None}
    return msgspec.json.encode(found) + b"\n"


def not_answered(mark: str, task: Task, code: str, message: str) -> bytes:
    """The line of the error file for a task that was never started."""
    error = {"code": code, "message": message}
    return msgspec.json.encode({"id": mark, "custom_id": task.custom_id, "response": None, "error": error}) + b"\n"


def caller_of(service: Service, owner: str) -> Caller:
    """Who asks, for a line: a request id of its own, and the key whose batch it is ("" for none)."""
    tenant = next((one for one in service.ring.tenants.values() if one.key.id == owner), None)
    return Caller(new_id("req_"), owner or None, tenant)


def explain(number: int | None, error: InvalidRequest) -> dict[str, object]:
    """An entry of a refused batch's `errors`."""
    return {"code": CODES[400], "line": number, "message": error.message, "param": error.field}
