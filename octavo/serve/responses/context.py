"""What a response is an answer to: the items of its input, of the responses it continues, and what of them fits."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from octavo.errors import InvalidRequest
from octavo.sampling import shown
from octavo.serve.conversation import check, render
from octavo.serve.offer import Tools
from octavo.serve.responses.items import Item, ItemReference, find, messages, read
from octavo.serve.responses.schema import NAMES, CountRequest, ResponseRequest, chat_fields, words
from octavo.serve.responses.store import RUNNING, Store
from octavo.serve.schema import ChatRequest
from octavo.serve.service import Service
from octavo.serve.translate import chat_request

LONGEST_CHAIN = 1024  # responses that one can continue, one after the other
decode_items = msgspec.json.Decoder(list[Item]).decode
decode_item = msgspec.json.Decoder(Item).decode


class Ended(msgspec.Struct):
    """The part of a stored response that the next one needs."""

    output: list[Item]


decode_ended = msgspec.json.Decoder(Ended).decode


async def conversation_of(
    service: Service, store: Store | None, body: CountRequest | ResponseRequest, owner: str
) -> tuple[list[Item], ChatRequest]:
    """The items of the body's input, and the chat that it asks for; InvalidRequest names the field that is wrong.

    Without a store, nothing can be named that was said before.
    """
    if body.input is None:
        raise InvalidRequest("input is required", "input")
    if body.truncation not in (None, "auto", "disabled"):
        raise InvalidRequest(f"truncation must be auto or disabled, got {shown(body.truncation)}", "truncation")
    wanted = read(body.input, service.limits)
    named = [item.id for item in wanted if isinstance(item, ItemReference)]
    kept = await store.items(owner, named) if store is not None else {}
    items = find({id: decode_item(one) for id, one in kept.items()}, wanted)
    earlier: list[Item] = []
    if body.previous_response_id is not None:
        if store is None:
            raise InvalidRequest("previous_response_id means nothing here: no response is kept", "previous_response_id")
        earlier = await history(store, owner, body.previous_response_id)
    count = len(items) + len(earlier)
    if not count and not body.instructions:
        raise InvalidRequest("input must hold at least one item", "input")
    if count > service.limits.messages:
        most = service.limits.messages
        raise InvalidRequest(f"input and the responses before it have {count} items; at most {most}", "input")
    with words():
        chat = chat_request(chat_fields(body, messages(body.instructions, [*earlier, *items])), NAMES)
        offer = check(chat, service.limits)
        return items, await fitting(service, chat, offer.tools) if body.truncation == "auto" else chat


async def history(store: Store, owner: str, id: str) -> list[Item]:
    """What was said until the end of response `id`; InvalidRequest when that is not stored, or not ended."""
    field = "previous_response_id"
    chain = await store.chain(owner, id, LONGEST_CHAIN + 1)
    if not chain:
        raise InvalidRequest(f"the previous response {shown(id)} is not stored here", field)
    if len(chain) > LONGEST_CHAIN:
        raise InvalidRequest(f"at most {LONGEST_CHAIN} responses can be continued, one after the other", field)
    if chain[0].previous is not None:
        gone = shown(chain[0].previous)
        raise InvalidRequest(f"{shown(id)} continues {gone}, which is not stored any more; send the items", field)
    if chain[-1].status in RUNNING:
        raise InvalidRequest(f"the previous response {shown(id)} is still being made; wait for its end", field)
    found: list[Item] = []
    for one in chain:
        found += decode_items(one.input)
        found += decode_ended(one.response).output
    return found


async def fitting(service: Service, chat: ChatRequest, tools: Tools) -> ChatRequest:
    """The chat without so many of its oldest turns that its prompt and the answer's longest length fit.

    A turn begins with a user message; system messages stay. The newest turn stays, too, whatever its length.
    """
    assert isinstance(chat.messages, list)
    all_messages: list[dict[str, object]] = chat.messages
    longest = service.llm.info.max_model_len if service.llm.info else 0
    answer = chat.max_completion_tokens
    room = longest - (answer if isinstance(answer, int) and answer < longest else 1)
    starts = [i for i, message in enumerate(all_messages) if message["role"] == "user"]

    def from_turn(turn: int) -> ChatRequest:
        kept = [m for i, m in enumerate(all_messages) if i >= starts[turn] or m["role"] == "system"]
        return chat.model_copy(update={"messages": kept})

    async def fits(some: ChatRequest) -> bool:
        try:
            return await length(service, some, tools) <= room
        except InvalidRequest:  # far too long, or refused by the template; the request that is sent will tell
            return False

    if not starts or await fits(chat):
        return chat
    low, high = 0, len(starts) - 1  # the first turn that is kept lies between them
    while low < high:
        middle = (low + high) // 2
        if await fits(from_turn(middle)):
            high = middle
        else:
            low = middle + 1
    return from_turn(low)


async def length(service: Service, chat: ChatRequest, tools: Tools) -> int:
    """The tokens of the chat's prompt, which shows these tools."""
    return len((await render(service, chat, tools))["prompt_token_ids"])


def page(items: Sequence[Item], after: str | None, before: str | None, limit: int, order: str) -> dict[str, object]:
    """The list object of at most `limit` items behind `after` and in front of `before`, in that order."""
    found = list(items) if order == "asc" else list(items)[::-1]
    ids = [item.id for item in found]
    for name, id in (("after", after), ("before", before)):
        if id is not None and id not in ids:
            raise InvalidRequest(f"{name} names no item of this response: {shown(id)}", name)
    first = ids.index(after) + 1 if after is not None else 0
    end = ids.index(before) if before is not None else len(ids)
    # A page in front of an item is the one that ends there.
    first = max(first, end - limit) if before is not None and after is None else first
    some = found[first:end][:limit]
    more = first > 0 if before is not None and after is None else first + len(some) < end
    ends = (some[0].id, some[-1].id) if some else ("", "")
    return {"object": "list", "data": some, "first_id": ends[0], "last_id": ends[1], "has_more": more}
