"""/v1/files and /v1/batches: upload lines, have them answered, read the results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import APIRouter
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.types import Message

from octavo.errors import InvalidRequest, NotFound
from octavo.sampling import shown
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.batches.jobs import Jobs
from octavo.serve.batches.schema import BatchRequest, check_endpoint, check_upload, page
from octavo.serve.batches.store import Batch, File, Shelves
from octavo.serve.body import receive_before
from octavo.serve.docs import Description, describe
from octavo.serve.errors import Refused
from octavo.serve.query import json, owner
from octavo.serve.service import Service, new_id
from octavo.serve.sse import encode

PIECE = 2**20
FORM: dict[str, object] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON lines, one request each."},
                        "purpose": {"const": "batch"},
                    },
                }
            }
        },
    }
}


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()
    folder = Path(service.server.data_dir) if service.server.data_dir else service.llm.supervisor.folder
    desk = Desk(service, Shelves(folder, service.limits))
    with suppress(RuntimeError):  # routes are also listed where no loop runs
        asyncio.get_running_loop().call_soon(desk.jobs.resume)

    @router.post(
        "/v1/files", **Description(summary="Upload a file of requests", response_class=Response, openapi_extra=FORM)
    )
    async def upload(request: Request) -> Response:
        return await desk.upload(request)

    @router.get("/v1/files", **describe(None, "List the files there are"))
    async def files(request: Request) -> Response:
        return await desk.list_files(request)

    @router.get("/v1/files/{file_id}", **describe(None, "Describe a file"))
    async def file(file_id: str, request: Request) -> Response:
        return json(await desk.file(request, file_id))

    @router.get("/v1/files/{file_id}/content", **describe(None, "Read a file"))
    async def content(file_id: str, request: Request) -> Response:
        await desk.file(request, file_id)
        return FileResponse(desk.shelves.path(file_id), media_type="application/jsonl")

    @router.delete("/v1/files/{file_id}", **describe(None, "Delete a file"))
    async def delete(file_id: str, request: Request) -> Response:
        return await desk.delete(request, file_id)

    @router.post("/v1/batches", **describe(BatchRequest, "Have every line of a file answered"))
    async def create() -> Response:
        return Answer(service, BatchRequest, desk.create, admitted=False)

    @router.get("/v1/batches", **describe(None, "List the batches there are"))
    async def batches(request: Request) -> Response:
        found = await desk.shelves.do(lambda: desk.shelves.list_batches(owner(request)))
        return json(page([desk.jobs.get(owner(request), one.id) or one for one in found], request, 100, 20))

    @router.get("/v1/batches/{batch_id}", **describe(None, "Describe a batch"))
    async def batch(batch_id: str, request: Request) -> Response:
        return json(await desk.batch(request, batch_id))

    @router.post("/v1/batches/{batch_id}/cancel", **describe(None, "Start no more lines of a batch"))
    async def cancel(batch_id: str, request: Request) -> Response:
        return await desk.cancel(request, batch_id)

    return router


class Desk:
    """Takes files in, gives batches to the jobs, and shows both."""

    def __init__(self, service: Service, shelves: Shelves) -> None:
        self.service = service
        self.shelves = shelves
        self.jobs = Jobs(service, shelves)

    async def upload(self, request: Request) -> Response:
        """Keep a file: it has its name only once all of it is on the disk (R27)."""
        limits, shelves = self.service.limits, self.shelves
        await shelves.do(lambda: shelves.check_room(0))
        try:
            async with form(request, self.service) as (uploaded, purpose):
                name = check_upload(uploaded.filename if uploaded else None, purpose, limits)
                assert uploaded is not None
                id = new_id("file-")
                size = await keep(uploaded, shelves.path(id))
        except OSError as error:
            raise Refused(507, f"the file cannot be kept here: {error.strerror}", "file") from None
        try:
            await shelves.do(lambda: shelves.check_room(size))
        except BaseException:
            shelves.path(id).unlink(missing_ok=True)
            raise
        file = File(id=id, bytes=size, created_at=int(time.time()), filename=name, purpose="batch")
        await shelves.do(lambda: shelves.put_file(owner(request), file))
        return json(file)

    async def list_files(self, request: Request) -> Response:
        """A page of the owner's files."""
        purpose = request.query_params.get("purpose")
        found = await self.shelves.do(lambda: self.shelves.list_files(owner(request)))
        return json(page([one for one in found if purpose in (None, one.purpose)], request, 10_000, 10_000))

    async def file(self, request: Request, id: str) -> File:
        """The owner's file; NotFound."""
        found = await self.shelves.do(lambda: self.shelves.get_file(owner(request), id))
        if found is None:
            raise NotFound(f"there is no file {shown(id)} here", "file_id")
        return found

    async def delete(self, request: Request, id: str) -> Response:
        """Forget a file that no batch needs any more."""
        await self.file(request, id)
        if await self.shelves.do(lambda: self.shelves.uses(id)):
            raise InvalidRequest(f"{shown(id)} is being answered; cancel its batch first", "file_id")
        await self.shelves.do(lambda: self.shelves.delete_file(owner(request), id))
        return json({"id": id, "object": "file", "deleted": True})

    async def create(self, service: Service, body: BatchRequest, caller: Caller) -> Reply:
        """Begin a batch; its lines are looked at after this has been answered."""
        check_endpoint(body.endpoint)
        hours, texts, key = body.hours(), body.texts(), caller.key or ""
        found = await self.shelves.do(lambda: self.shelves.get_file(key, body.input_file_id))
        if found is None or found.purpose != "batch":
            raise InvalidRequest(
                f"input_file_id names no file uploaded for batches: {shown(body.input_file_id)}", "input_file_id"
            )
        now = int(time.time())
        batch = Batch(
            id=new_id("batch_"),
            endpoint=body.endpoint,
            input_file_id=found.id,
            completion_window=body.completion_window,
            status="validating",
            created_at=now,
            expires_at=now + 3600 * hours,
            metadata=texts,
        )
        await self.shelves.do(lambda: self.shelves.put_batch(key, batch))
        reply = encode(batch)
        self.jobs.start(key, batch)
        return Reply(reply)

    async def batch(self, request: Request, id: str) -> Batch:
        """The owner's batch as it is now; NotFound."""
        running = self.jobs.get(owner(request), id)
        found = running or await self.shelves.do(lambda: self.shelves.get_batch(owner(request), id))
        if found is None:
            raise NotFound(f"there is no batch {shown(id)} here", "batch_id")
        return found

    async def cancel(self, request: Request, id: str) -> Response:
        """End a batch early; one that has ended stays as it is, which is an error as at OpenAI."""
        running = await self.jobs.cancel(owner(request), id)
        if running is None:
            ended = await self.batch(request, id)
            raise InvalidRequest(f"{shown(id)} is {ended.status} and cannot be cancelled", "batch_id")
        return json(running)


@asynccontextmanager
async def form(request: Request, service: Service) -> AsyncGenerator[tuple[UploadFile | None, object]]:
    """The `file` and `purpose` of an upload, whose length and pauses are bounded while it comes (R19, R23)."""
    limits = service.limits
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, "a file is uploaded as multipart/form-data", "content-type")
    count = 0
    end_s = asyncio.get_running_loop().time() + 3600

    async def receive() -> Message:
        nonlocal count
        message = await receive_before(request.receive, end_s, limits.body_idle_s)
        count += len(message.get("body", b""))
        if count > limits.file_bytes:
            raise Refused(413, f"the file is longer than {limits.file_bytes} bytes", "file")
        return message

    try:
        fields = await Request(request.scope, receive).form(max_files=1, max_fields=8, max_part_size=4096)
    except (MultiPartException, FormParserError, HTTPException, KeyError) as error:
        raise InvalidRequest(f"the form cannot be read: {getattr(error, 'message', None) or error}", "file") from None
    except ClientDisconnect:
        raise Refused(400, "the client went away") from None
    try:
        file = fields.get("file")
        yield (file if isinstance(file, UploadFile) else None), fields.get("purpose")
    finally:
        await fields.close()


async def keep(uploaded: UploadFile, path: Path) -> int:
    """Copy an upload to `path`, which appears when it is complete; its size."""

    def work() -> int:
        part = path.with_suffix(".part")
        size = 0
        try:
            with part.open("xb") as file:
                while piece := uploaded.file.read(PIECE):
                    size += file.write(piece)
                file.flush()
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return size

    return await asyncio.to_thread(work)
