"""POST /v1/embeddings and /pooling."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence

from fastapi import APIRouter
from starlette.responses import Response

from octavo.errors import InvalidRequest
from octavo.limits import Limits
from octavo.pooling import PoolingOutput, PoolingRequestOutput, Task
from octavo.sampling import shown
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.docs import describe
from octavo.serve.generation import reply_id
from octavo.serve.pooling_schema import EmbeddingRequest, PoolingRequest, RawPoolingRequest
from octavo.serve.service import Service
from octavo.serve.sse import encode

AT_ONCE = 16_384  # numbers that are written as text before others have their turn

Outputs = Sequence[PoolingRequestOutput[PoolingOutput]]


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.post("/v1/embeddings", **describe(EmbeddingRequest, "Turn texts into vectors"))
    async def embeddings() -> Response:
        return Answer(service, EmbeddingRequest, embed)

    @router.post("/pooling", **describe(RawPoolingRequest, "Return what a pooling task makes of texts"))
    async def pooling() -> Response:
        return Answer(service, RawPoolingRequest, pool)

    return router


async def embed(service: Service, body: EmbeddingRequest, caller: Caller) -> Reply:
    """A vector for each input."""
    model = service.model(body.model)
    outputs = await computed(service, body, "embed", split(body.input, service.limits), caller)
    head = {"id": caller.named(reply_id("embd-", body.request_id)), "object": "list", "created": int(time.time())}
    usage = spent(outputs, caller)
    data = await vectors(outputs, "embedding", "embedding", body.encoding_format == "base64")
    return Reply(joined(head | {"model": model}, data, {"usage": usage}))


async def pool(service: Service, body: RawPoolingRequest, caller: Caller) -> Reply:
    """What the task makes of each input: a vector, scores, or a row of either for each token."""
    model = service.model(body.model)
    info = service.llm.info
    able = info.abilities.tasks if info else ()
    wanted: Task = body.params().task or (able[0] if able else "embed")
    outputs = await computed(service, body, wanted, split(body.input, service.limits), caller)
    head = {"id": caller.named(reply_id("pool-", body.request_id)), "object": "list", "created": int(time.time())}
    usage = spent(outputs, caller) | {"completion_tokens": 0}
    data = await vectors(outputs, "pooling", "data", body.encoding_format == "base64")
    return Reply(joined(head | {"model": model}, data, {"usage": usage}))


async def computed(
    service: Service, body: PoolingRequest, task: Task, prompts: Sequence[str | list[int]], caller: Caller
) -> Outputs:
    """The engine's outputs, in order; the prompts are checked there."""
    return await service.llm.pool(
        task,
        prompts,
        body.params(),
        caller.id,
        priority=body.priority or 0,  # type: ignore[arg-type]
        cache_salt=service.salt(caller.key, body.cache_salt),
    )


def split(value: object, limits: Limits) -> list[str | list[int]]:
    """One input or many; InvalidRequest for what is none. The engine's door checks token ids."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"input must be text, token ids, or a list of either; got {shown(value)}", "input")
    if type(value[0]) is int:
        return [value]
    if len(value) > limits.inputs:
        raise InvalidRequest(f"input allows {limits.inputs} inputs in one request, got {len(value)}", "input")
    for one in value:
        if not isinstance(one, str | list) or type(one) is not type(value[0]):
            raise InvalidRequest(f"input must hold texts or lists of token ids only, got {shown(one)}", "input")
    return value


def spent(outputs: Outputs, caller: Caller) -> dict[str, object]:
    """The usage of a request, counted against the key's quotas."""
    tokens = sum(len(output.prompt_token_ids) for output in outputs)
    caller.spend(tokens, 0, sum(output.num_cached_tokens for output in outputs))
    return {"prompt_tokens": tokens, "total_tokens": tokens}


async def vectors(outputs: Outputs, kind: str, field: str, as_base64: bool) -> list[bytes]:
    """Each output as JSON. Long lists of numbers take a while, so that others get their turn in between."""
    parts: list[bytes] = []
    written = 0
    for index, output in enumerate(outputs):
        values = output.outputs.data
        told: object = b64encode(values).decode() if as_base64 else values.tolist()
        parts.append(encode({"object": kind, "index": index, field: told}))
        written += values.nbytes // 4
        if written >= AT_ONCE:
            written = 0
            await asyncio.sleep(0)
    return parts


def joined(head: Mapping[str, object], data: Sequence[bytes], tail: Mapping[str, object]) -> bytes:
    """One JSON object: `head`, then the list "data", then `tail`."""
    return encode(head)[:-1] + b',"data":[' + b",".join(data) + b"]," + encode(tail)[1:]
