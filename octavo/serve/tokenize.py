"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from octavo.errors import InvalidRequest
from octavo.sampling import check_ids
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.conversation import check_messages, render
from octavo.serve.docs import describe
from octavo.serve.offer import check_tools
from octavo.serve.reply import written
from octavo.serve.schema import DetokenizeRequest, TokenizeRequest
from octavo.serve.service import Service


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
        most = service.limits.text_chars
        if len(body.prompt) > most:
            raise InvalidRequest(f"prompt has {len(body.prompt)} characters; at most {most} are taken", "prompt")
        ids = await service.llm.tokenize(body.prompt, body.add_special_tokens is not False)
    else:
        check_messages(body.messages, service.limits)
        check_tools(body.tools, "tools", service.limits)
        ids = (await render(service, body, body.tools))["prompt_token_ids"]  # type: ignore[arg-type]
    info = service.llm.info

    def build() -> dict[str, object]:
        names = [service.llm.tokenizer.token_text(id) for id in ids] if body.return_token_strs else None
        most = info.max_model_len if info else None
        return {"count": len(ids), "max_model_len": most, "tokens": ids, "token_strs": names}

    return Reply(await written(build, len(ids)))


async def to_text(service: Service, body: DetokenizeRequest, caller: Caller) -> Reply:
    """The text of token ids, special tokens included."""
    service.model(body.model)
    tokenizer = service.llm.tokenizer

    def build() -> dict[str, object]:
        ids: list[int] = body.tokens  # type: ignore[assignment]
        check_ids("tokens", ids, service.limits.json_values)
        if ids is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise InvalidRequest("tokens must be a list of token ids, got None", "tokens")
        for id in ids:
            if id >= tokenizer.vocab_size:
                what = f"tokens has id {id}, outside the vocabulary [0, {tokenizer.vocab_size})"
                raise InvalidRequest(what, "tokens")
        return {"prompt": tokenizer.decode(ids, skip_special_tokens=False)}

    return Reply(await written(build, len(body.tokens) if isinstance(body.tokens, list) else 0))
