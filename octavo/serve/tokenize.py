"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from octavo.errors import InvalidRequest
from octavo.sampling import check_ids
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.conversation import check_messages, check_tools, render
from octavo.serve.docs import describe
from octavo.serve.schema import DetokenizeRequest, TokenizeRequest
from octavo.serve.service import Service
from octavo.serve.sse import encode

MOST_IDS = 4 * 2**20


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.post("/tokenize", **describe(TokenizeRequest, "Turn text or a conversation into token ids"))
    async def tokenize() -> Response:
        return Answer(service, TokenizeRequest, to_ids, admitted=False)

    @router.post("/detokenize", **describe(DetokenizeRequest, "Turn token ids into text"))
    async def detokenize() -> Response:
        return Answer(service, DetokenizeRequest, to_text, admitted=False)

    return router


async def to_ids(service: Service, body: TokenizeRequest, caller: Caller) -> Reply:
    """Count, ids, and the tokens' texts when asked for."""
    service.model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give either prompt or messages", "prompt")
    if body.prompt is not None:
        ids = await service.llm.tokenize(body.prompt, body.add_special_tokens is not False)
    else:
        check_messages(body.messages, service.limits)
        check_tools(body.tools)
        ids = (await render(service, body))["prompt_token_ids"]
    info = service.llm.info
    names = [service.llm.tokenizer.token_text(id) for id in ids] if body.return_token_strs else None
    return Reply(
        encode(
            {
                "count": len(ids),
                "max_model_len": info.max_model_len if info else None,
                "tokens": ids,
                "token_strs": names,
            }
        )
    )


async def to_text(service: Service, body: DetokenizeRequest, caller: Caller) -> Reply:
    """The text of token ids, special tokens included."""
    service.model(body.model)
    check_ids("tokens", body.tokens, MOST_IDS)  # type: ignore[arg-type]
    if body.tokens is None:
        raise InvalidRequest("tokens must be a list of token ids, got None", "tokens")
    tokenizer = service.llm.tokenizer
    for id in body.tokens:  # type: ignore[attr-defined]
        if id >= tokenizer.vocab_size:
            raise InvalidRequest(f"tokens has id {id}, outside the vocabulary [0, {tokenizer.vocab_size})", "tokens")
    return Reply(encode({"prompt": tokenizer.decode(body.tokens, skip_special_tokens=False)}))  # type: ignore[arg-type]
