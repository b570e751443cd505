"""POST /classify, /score and /rerank: labels for texts, and how well texts belong together."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import Response

from octavo.errors import InvalidRequest
from octavo.frontend.pooling import Pair, pairs, shortened
from octavo.limits import Limits
from octavo.pooling import Abilities, check_count, cosine
from octavo.sampling import shown
from octavo.serve.answer import Answer, Caller, Reply
from octavo.serve.docs import describe
from octavo.serve.embeddings import Outputs, computed, joined, spent, split
from octavo.serve.generation import reply_id
from octavo.serve.pooling_schema import ClassificationRequest, PoolingRequest, RerankRequest, ScoreRequest
from octavo.serve.service import Service
from octavo.serve.sse import encode


def routes(service: Service) -> APIRouter:
    """The endpoints of this module."""
    router = APIRouter()

    @router.post("/classify", **describe(ClassificationRequest, "Score texts against the model's labels"))
    async def classify_texts() -> Response:
        return Answer(service, ClassificationRequest, classify)

    for path in ("/score", "/v1/score"):

        @router.post(path, **describe(ScoreRequest, "Score pairs of texts"))
        async def score_pairs() -> Response:
            return Answer(service, ScoreRequest, score)

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):

        @router.post(path, **describe(RerankRequest, "Sort documents by how well they fit a query"))
        async def rerank_documents() -> Response:
            return Answer(service, RerankRequest, rerank)

    return router


async def classify(service: Service, body: ClassificationRequest, caller: Caller) -> Reply:
    """A score for each label, and the label with the highest."""
    model = service.model(body.model)
    outputs = await computed(service, body, "classify", split(body.input, service.limits), caller)
    labels = abilities(service).labels
    data: list[bytes] = []
    for index, output in enumerate(outputs):
        scores = list(output.outputs.data)
        best = max(range(len(scores)), key=scores.__getitem__)
        data.append(encode({"index": index, "label": labels[best], "probs": scores, "num_classes": len(scores)}))
    head = {"id": caller.named(reply_id("classify-", body.request_id)), "object": "list", "created": int(time.time())}
    usage = spent(outputs, caller) | {"completion_tokens": 0}
    return Reply(joined(head | {"model": model}, data, {"usage": usage}))


async def score(service: Service, body: ScoreRequest, caller: Caller) -> Reply:
    """A score for each pair."""
    model = service.model(body.model)
    check_number(body.text_1, "text_1", service.limits)
    check_number(body.text_2, "text_2", service.limits)
    found = await compare(service, body, pairs(body.text_1, body.text_2, ("text_1", "text_2")), caller)
    data = [encode({"index": index, "object": "score", "score": each}) for index, each in enumerate(found.scores)]
    head = {"id": caller.named(reply_id("score-", body.request_id)), "object": "list", "created": int(time.time())}
    return Reply(joined(head | {"model": model}, data, {"usage": found.usage | {"completion_tokens": 0}}))


async def rerank(service: Service, body: RerankRequest, caller: Caller) -> Reply:
    """The documents, best first: Jina's and Cohere's shapes in one, as in vLLM."""
    model = service.model(body.model)
    check_number(body.documents, "documents", service.limits)
    documents = texts_of(body.documents)
    check_count("top_n", body.top_n, 1)
    check_count("max_tokens_per_doc", body.max_tokens_per_doc, 1)
    read = documents
    if body.max_tokens_per_doc is not None:
        read = [shortened(service.llm.tokenizer, text, int(str(body.max_tokens_per_doc))) for text in documents]
    found = await compare(service, body, [Pair(body.query, text) for text in read], caller)
    order = sorted(range(len(documents)), key=lambda i: (-found.scores[i], i))
    results: list[dict[str, object]] = []
    for index in order[: int(str(body.top_n)) if body.top_n is not None else None]:
        result: dict[str, object] = {"index": index, "relevance_score": found.scores[index]}
        if body.return_documents is not False:
            result["document"] = {"text": documents[index]}
        results.append(result)
    reply = {
        "id": caller.named(reply_id("rerank-", body.request_id)),
        "object": "list",
        "model": model,
        "results": results,
        "usage": found.usage,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    return Reply(encode(reply))


@dataclass(frozen=True)
class Compared:
    """The score of each pair, and what computing them took."""

    scores: list[float]
    usage: dict[str, object]


async def compare(service: Service, body: PoolingRequest, asked: list[Pair], caller: Caller) -> Compared:
    """Score pairs with a cross-encoder, or by the cosine of their embeddings, each text embedded once."""
    able = abilities(service)
    if able.scores_pairs:
        outputs: Outputs = await service.llm.pool(
            "classify",
            asked,
            body.params(),
            caller.id,
            priority=body.priority or 0,  # type: ignore[arg-type]
            cache_salt=service.salt(caller.key, body.cache_salt),
        )
        return Compared([output.outputs.data[0] for output in outputs], spent(outputs, caller))
    able.check_scores()
    texts = list(dict.fromkeys(text for pair in asked for text in (pair.first, pair.second)))
    outputs = await computed(service, body, "embed", texts, caller)
    vectors = dict(zip(texts, (output.outputs.data for output in outputs), strict=True))
    return Compared([cosine(vectors[pair.first], vectors[pair.second]) for pair in asked], spent(outputs, caller))


def abilities(service: Service) -> Abilities:
    """What the loaded model can do; an engine that was never ready takes no requests."""
    info = service.llm.info
    return info.abilities if info else Abilities()


def check_number(value: object, name: str, limits: Limits) -> None:
    """InvalidRequest for a list that is too long."""
    if isinstance(value, list) and len(value) > limits.inputs:
        raise InvalidRequest(f"{name} allows {limits.inputs} texts in one request, got {len(value)}", name)


def texts_of(documents: object) -> list[str]:
    """The texts of documents, each a string or an object with a text."""
    if not isinstance(documents, list) or not documents:
        raise InvalidRequest(f"documents must be a list of texts, got {shown(documents)}", "documents")
    found: list[str] = []
    for document in documents:
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str):
            raise InvalidRequest(
                f'a document must be text or an object with a "text", got {shown(document)}', "documents"
            )
        found.append(text)
    return found
