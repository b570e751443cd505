"""Reading a body: its size, the time it takes, and what all bodies together hold are bounded while it comes."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from octavo.serve.errors import ClientGone, Refused
from octavo.serve.service import Hold


async def read_body(scope: Scope, receive: Receive, hold: Hold) -> bytes:
    """The whole body (R19, R23); Refused when it is too long, too slow or not JSON by its type.

    Overloaded when all bodies together are too many bytes; `hold` keeps this one's share.
    """
    limits = hold.service.limits
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Refused(415, "the body must be JSON, sent with content-type: application/json", "content-type")
    if int(headers.get(b"content-length", b"0") or 0) > limits.body_bytes:
        raise too_long(limits.body_bytes)
    parts: list[bytes] = []
    end_s = asyncio.get_running_loop().time() + limits.body_s
    while True:
        message = await receive_before(receive, end_s, limits.body_idle_s)
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        parts.append(part)
        hold.add(len(part))
        if hold.num_bytes > limits.body_bytes:
            raise too_long(limits.body_bytes)
        if not message.get("more_body"):
            return b"".join(parts)


async def receive_before(receive: Receive, end_s: float, idle_s: float) -> Message:
    """The next part of the body; Refused when it does not come within `idle_s`, or until `end_s` of the loop's time.

    What is there already comes without a pause, so that of a burst only those have their bodies read who find a place.
    """
    left_s = end_s - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(idle_s, left_s)):
            return await receive()
    except TimeoutError:
        if left_s <= idle_s:
            raise Refused(408, "the body took too long to come") from None
        raise Refused(408, f"no more of the body came for {idle_s} seconds") from None


def too_long(limit: int) -> Refused:
    """The refusal of a body over the limit."""
    return Refused(413, f"the body is longer than {limit} bytes")
