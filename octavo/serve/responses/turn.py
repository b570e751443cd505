"""Turn: one response from its checked body to its stored end, whether anybody listens or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from octavo.errors import InvalidRequest, Overloaded
from octavo.serve.answer import Caller
from octavo.serve.conversation import Conversation
from octavo.serve.errors import printable, public
from octavo.serve.logprobs import TokenNames
from octavo.serve.pieces import Piece
from octavo.serve.responses.context import conversation_of
from octavo.serve.responses.events import Writer
from octavo.serve.responses.items import Item
from octavo.serve.responses.schema import ResponseRequest, check, functions, words
from octavo.serve.responses.store import RUNNING, Store, Stored
from octavo.serve.service import Service, new_id
from octavo.serve.sse import encode


class Turn:
    """A response that is being made. Make one with `open`."""

    def __init__(
        self,
        body: ResponseRequest,
        owner: str,
        model: str,
        items: list[Item],
        conversation: Conversation,
        writer: Writer,
        store: Store | None,
    ) -> None:
        self.id = new_id("resp_")
        self.body = body
        self.owner = owner
        self.status = "queued" if body.background else "in_progress"
        self.writer = writer
        self._model = model
        self._items = items
        self._conversation = conversation
        self._store = store if body.store is not False else None
        self._created = int(time.time())
        self._completed: int | None = None
        self._reason: str | None = None  # the finish reason
        self._error: dict[str, str] | None = None

    @classmethod
    async def open(cls, service: Service, store: Store | None, body: ResponseRequest, caller: Caller) -> Turn:
        """Check and render `body`; InvalidRequest names the field that is wrong. Nothing runs yet.

        Without a store, nothing is kept.
        """
        check(body)
        owner = caller.key or ""
        model = service.model(body.model)
        items, chat = await conversation_of(service, store, body, owner)
        with words():
            conversation = await Conversation.open(service, chat, caller)
        names = TokenNames(service.llm.tokenizer, False) if chat.logprobs else None
        writer = Writer(names, conversation.params.logprobs or 0, keeps_log=bool(body.background and body.stream))
        turn = cls(body, owner, model, items, conversation, writer, store)
        caller.named(turn.id)
        return turn

    def opening(self) -> bytes:
        """The events that a stream begins with."""
        now = self.response()
        second = "response.queued" if self.status == "queued" else "response.in_progress"
        return self.writer.event("response.created", response=now) + self.writer.event(second, response=now)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events as they come, then the response is kept and the last one follows.

        What goes wrong before the first piece is raised, unless the caller is gone and has `opening` already.
        """
        begun = self.status == "queued"
        try:
            with words():
                async with aclosing(self._conversation.pieces()) as items:
                    async for _, pieces in items:
                        if self.status == "queued":
                            self.status = "in_progress"
                            yield self.writer.event("response.in_progress", response=self.response())
                        elif not begun:
                            yield self.opening()
                        begun = True
                        if new := self._push(pieces):
                            yield new
            yield self._finish()
        except Exception as error:
            if not begun:
                raise
            self.fail(error)
        last = self.writer.event(f"response.{self.status}", response=self.response())
        await self.save()
        yield last

    async def whole(self) -> bytes:
        """The response, finished and kept."""
        with words():
            _, pieces = await self._conversation.whole()
        if self._conversation.params.logprobs is None:
            self._push(pieces)
        else:
            await asyncio.to_thread(self._push, pieces)  # a long answer has very many
        self._finish()
        await self.save()
        return encode(self.response())

    def _push(self, pieces: Sequence[Piece]) -> bytes:
        self._reason = next((piece.finish_reason for piece in pieces if piece.finish_reason), self._reason)
        return b"".join(self.writer.push(piece) for piece in pieces)

    def _finish(self) -> bytes:
        events = self.writer.finish(self._reason)
        self.status = "incomplete" if self._reason in ("length", "abort") else "completed"
        self._completed = int(time.time()) if self.status == "completed" else None
        return events

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        seen = public(error)
        codes = ((InvalidRequest, "invalid_prompt"), (Overloaded, "rate_limit_exceeded"))
        code = next((code for kind, code in codes if isinstance(seen, kind)), "server_error")
        self._error = {"code": code, "message": printable(seen.message)}
        self.status = "failed"

    def cancel(self) -> None:
        """End it because its owner wants that."""
        self.status = "cancelled"
        self.writer.event("error", code="cancelled", message="the response was cancelled", param=None)

    async def save(self) -> None:
        """Keep the response as it is now, unless it is not to be kept."""
        if self._store is None:
            return
        log = self.writer.log
        one = Stored(
            id=self.id,
            owner=self.owner,
            status=self.status,
            previous=self.body.previous_response_id,
            response=encode(self.response()),
            input=encode(self._items),
            events=b"".join(log) if log is not None else None,
        )
        items = [*self._items, *(self.writer.output() if self.status not in RUNNING else ())]
        await self._store.put(one, [(item.id or "", encode(item)) for item in items])

    def response(self) -> dict[str, object]:
        """OpenAI's response object."""
        body, params = self.body, self._conversation.params
        ended = self.status in ("completed", "incomplete")
        text = body.text.model_dump(exclude_none=True) if body.text else {}
        reasoning = body.reasoning.model_dump(exclude_none=True) if body.reasoning else {}
        result: dict[str, object] = {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": self._completed,
            "status": self.status,
            "background": bool(body.background),
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if self._reason == "length" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": self._model,
            "output": self.writer.output("in_progress" if self.status in RUNNING else "incomplete"),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None} | reasoning,
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": self._store is not None,
            "temperature": params.temperature,
            "text": {"format": {"type": "text"}} | text,
            "tool_choice": body.tool_choice or "auto",
            "tools": [{"parameters": None, "strict": None, **tool} for tool in functions(body.tools)],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": body.truncation or "disabled",
        }
        # OpenAI's specification allows no null for these two.
        if ended:
            result["usage"] = usage(self._conversation.account.usage())
        if body.user is not None:
            result["user"] = body.user
        return result


def usage(chat: dict[str, object]) -> dict[str, object]:
    """The usage object of responses, from chat's."""
    details = (chat.get("prompt_tokens_details"), chat.get("completion_tokens_details"))
    asked, generated = (one if isinstance(one, dict) else {} for one in details)
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": asked.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": generated.get("reasoning_tokens") or 0},
        "total_tokens": chat["total_tokens"],
    }
