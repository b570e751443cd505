"""Vectors, classes and scores over a real server: the official client, Jina's and Cohere's shapes, what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import httpx
import numpy as np
import openai
import pytest

from octavo.checkpoint import POCKET
from octavo.frontend.tokenizer import Tokenizer

from .conftest import Server, Start
from .openai_spec import OpenAISpec

TEXTS = ["the cat sat", "on the mat", "the cat sat", "and slept"]
DIMENSIONS = 32


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(POCKET)


@pytest.fixture(scope="module")
def faulty(start: Start) -> Server:
    """A server whose model gives a pair one score, and fails for two token ids."""
    return start(device="fake:labels=1,row_error=2900,fail_token=2901,step_ms=1")


@pytest.fixture(scope="module")
def ranker(faulty: Server) -> httpx.Client:
    return faulty.http


@pytest.fixture(scope="module")
def slow(start: Start) -> Server:
    """A server whose model has three labels, and takes its time."""
    return start(device="fake:labels=3,token_us=20")


@pytest.fixture(scope="module")
def classifier(slow: Server) -> httpx.Client:
    return slow.http


def refusal(client: httpx.Client, path: str, body: object, status: int = 400) -> tuple[str, str | None]:
    """The message and field of an error."""
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    return error["message"], error["param"]


def test_the_official_client_reads_vectors_in_order_with_their_usage(
    client: openai.OpenAI, tokenizer: Tokenizer
) -> None:
    reply = client.embeddings.create(model="octavo-pocket", input=TEXTS, user="somebody")
    assert [item.index for item in reply.data] == [0, 1, 2, 3]
    vectors = [item.embedding for item in reply.data]
    assert all(len(vector) == DIMENSIONS and abs(np.linalg.norm(vector) - 1) < 1e-6 for vector in vectors)
    assert vectors[0] == vectors[2] != vectors[1]
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert reply.model == "octavo-pocket" and reply.object == "list"


def test_floats_and_base64_are_the_same_numbers(client: openai.OpenAI, http: httpx.Client) -> None:
    told = client.embeddings.create(model="octavo-pocket", input=TEXTS, encoding_format="float")
    raw = http.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    for item, other in zip(told.data, raw["data"], strict=True):
        packed = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert packed.tolist() == item.embedding


def test_replies_and_errors_are_valid_under_openais_own_specification(
    http: httpx.Client, openai_spec: OpenAISpec
) -> None:
    openai_spec.check("CreateEmbeddingResponse", http.post("/v1/embeddings", json={"input": TEXTS}).json())
    openai_spec.check("ErrorResponse", http.post("/v1/embeddings", json={"input": 5}).json())


def test_lines_of_a_batch_may_ask_for_vectors(client: openai.OpenAI) -> None:
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/embeddings", "body": {"input": text}}
        for i, text in enumerate(TEXTS)
    ]
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = client.files.create(file=("lines.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    end = time.monotonic() + 20
    while batch.status not in ("completed", "failed") and time.monotonic() < end:
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch
    answers = {
        answer["custom_id"]: answer["response"]["body"]["data"][0]["embedding"]
        for answer in map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    }
    direct = client.embeddings.create(model="octavo-pocket", input=TEXTS).data
    assert answers == {str(i): item.embedding for i, item in enumerate(direct)}


def test_text_and_its_token_ids_have_one_vector(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(text) for text in TEXTS]
    by_text = client.embeddings.create(model="octavo-pocket", input=TEXTS).data
    by_ids = client.embeddings.create(model="octavo-pocket", input=ids).data
    one = client.embeddings.create(model="octavo-pocket", input=ids[1]).data
    assert [item.embedding for item in by_text] == [item.embedding for item in by_ids]
    assert [item.embedding for item in one] == [by_text[1].embedding]


def test_dimensions_shorten_and_keep_unit_length(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model="octavo-pocket", input="hello").data[0].embedding
    short = client.embeddings.create(model="octavo-pocket", input="hello", dimensions=8).data[0].embedding
    assert np.allclose(short, np.array(whole[:8]) / np.linalg.norm(whole[:8]), atol=1e-6)


def test_pooling_returns_a_row_for_each_token(http: httpx.Client, tokenizer: Tokenizer) -> None:
    body = {"input": TEXTS[0], "task": "token_embed", "normalize": False}
    data = http.post("/pooling", json=body).json()["data"]
    assert np.array(data[0]["data"]).shape == (len(tokenizer.encode(TEXTS[0])), DIMENSIONS)
    vector = http.post("/pooling", json={"input": TEXTS[0]}).json()["data"][0]
    assert vector["object"] == "pooling" and len(vector["data"]) == DIMENSIONS


def test_long_inputs_are_refused_or_cut(http: httpx.Client) -> None:
    long = {"input": "word " * 5000}
    message, field = refusal(http, "/v1/embeddings", long)
    assert "takes at most" in message and "truncate_prompt_tokens=-1" in message and field == "input"
    cut = http.post("/v1/embeddings", json=long | {"truncate_prompt_tokens": 7}).json()
    assert cut["usage"]["prompt_tokens"] == 7


def test_probabilities_of_labels_sum_to_one(classifier: httpx.Client) -> None:
    reply = classifier.post("/classify", json={"input": TEXTS}).json()
    assert [item["index"] for item in reply["data"]] == [0, 1, 2, 3]
    for item in reply["data"]:
        assert item["num_classes"] == len(item["probs"]) == 3
        assert abs(sum(item["probs"]) - 1) < 1e-6
        assert item["label"] == f"LABEL_{int(np.argmax(item['probs']))}"
    logits = classifier.post("/classify", json={"input": TEXTS[0], "use_activation": False}).json()["data"][0]["probs"]
    assert np.allclose(np.exp(logits) / np.exp(logits).sum(), reply["data"][0]["probs"], atol=1e-6)


def test_reranking_sorts_by_the_scores_of_score(ranker: httpx.Client) -> None:
    scored = ranker.post("/v1/score", json={"text_1": "cats", "text_2": TEXTS}).json()
    scores = [item["score"] for item in scored["data"]]
    assert all(0 < score < 1 for score in scores) and scored["data"][0]["object"] == "score"
    documents = [TEXTS[0], {"text": TEXTS[1]}, *TEXTS[2:]]
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        reply = ranker.post(path, json={"query": "cats", "documents": documents}).json()
        assert [result["index"] for result in reply["results"]] == sorted(range(4), key=lambda i: (-scores[i], i))
        for result in reply["results"]:
            assert result["relevance_score"] == scores[result["index"]]
            assert result["document"]["text"] == TEXTS[result["index"]]
        assert reply["usage"]["total_tokens"] > 0 and reply["meta"]["billed_units"]["search_units"] == 1
    body = {"query": "cats", "documents": documents, "top_n": 2, "return_documents": False}
    best = ranker.post("/v1/rerank", json=body).json()["results"]
    assert len(best) == 2 and "document" not in best[0]


def test_a_model_that_only_embeds_scores_by_the_angle(http: httpx.Client) -> None:
    vectors = np.array(
        [item["embedding"] for item in http.post("/v1/embeddings", json={"input": TEXTS}).json()["data"]]
    )
    scored = http.post("/score", json={"text_1": TEXTS[1], "text_2": TEXTS}).json()
    assert np.allclose([item["score"] for item in scored["data"]], vectors @ vectors[1], atol=1e-6)
    best = http.post("/rerank", json={"query": TEXTS[1], "documents": TEXTS}).json()["results"][0]
    assert best["index"] == 1 and abs(best["relevance_score"] - 1) < 1e-6


def test_documents_may_be_read_in_part(ranker: httpx.Client) -> None:
    body = {"query": "cats", "documents": ["the cat sat on the mat for hours", "the cat"]}
    cut = ranker.post("/v1/rerank", json=body | {"max_tokens_per_doc": 2}).json()
    assert cut["usage"]["total_tokens"] < ranker.post("/v1/rerank", json=body).json()["usage"]["total_tokens"]
    assert {result["document"]["text"] for result in cut["results"]} == set(body["documents"])


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        ("/v1/embeddings", {}, "input", "required"),
        ("/v1/embeddings", {"input": []}, "input", "must be text"),
        ("/v1/embeddings", {"input": 5}, "input", "must be text"),
        ("/v1/embeddings", {"input": ["a", [1]]}, "input", "texts or lists of token ids only"),
        ("/v1/embeddings", {"input": [1, "a"]}, "input", "outside the vocabulary"),
        ("/v1/embeddings", {"input": [[10**9]]}, "input", "outside the vocabulary"),
        ("/v1/embeddings", {"input": [[]]}, "input", "at least one token"),
        ("/v1/embeddings", {"input": ["a"] * 3000}, "input", "allows 2048 inputs"),
        ("/v1/embeddings", {"input": "a", "dimensions": 33}, "dimensions", "at most 32"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions", "at least 1"),
        ("/v1/embeddings", {"input": "a", "dimensions": "4"}, "dimensions", "integer"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format", "base64"),
        ("/v1/embeddings", {"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "at least -1"),
        ("/v1/embeddings", {"input": "a", "truncate_prompt_tokens": 10**6}, "truncate_prompt_tokens", "at most"),
        ("/v1/embeddings", {"input": "a", "priority": "high"}, "priority", "integer"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "query"}, "prompt_name", "it has none"),
        ("/v1/embeddings", {"input": "a", "normalize": True, "use_activation": False}, "normalize", "the same thing"),
        ("/pooling", {"input": "a", "task": "sing"}, "task", "must be one of"),
        ("/pooling", {"input": "a", "task": "classify"}, "task", "it can generate, embed"),
        ("/classify", {"input": "a"}, "task", "cannot classify texts; it can generate, embed"),
        ("/score", {"text_1": "a"}, "text_2", "required"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1", "give one, or as many"),
        ("/score", {"text_1": "a", "text_2": [1]}, "text_2", "must be text"),
        ("/rerank", {"query": "a", "documents": []}, "documents", "must be a list of texts"),
        ("/rerank", {"query": "a", "documents": [{"title": "b"}]}, "documents", "object with a"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n", "at least 1"),
        ("/rerank", {"query": "a", "documents": ["b"] * 3000}, "documents", "allows 2048 texts"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, path: str, body: object, field: str | None, message: str) -> None:
    said, param = refusal(http, path, body)
    assert message in said
    assert param == field


def test_pairs_cannot_be_scored_by_a_classifier_of_many_labels(classifier: httpx.Client) -> None:
    for path, body in (
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
    ):
        message, field = refusal(classifier, path, body)
        assert "cannot score pairs" in message and "it can generate, classify" in message and field == "model"
    message, _ = refusal(classifier, "/v1/embeddings", {"input": "a"})
    assert "cannot embed texts; it can generate, classify" in message


def test_answers_of_too_many_numbers_are_refused_before_they_are_computed(http: httpx.Client) -> None:
    body = {"input": [[5] * 2000] * 200, "task": "token_embed"}
    message, field = refusal(http, "/pooling", body)
    assert "the answer would hold 12800000 numbers" in message and field == "input"


def test_a_failing_prompt_leaves_others_and_generations_alone(faulty: Server) -> None:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=faulty.url, timeout=30) as client:
            generate = {"prompt": "hello", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
            bodies = [("/classify", {"input": [[11, 12], [token, 13]]}) for token in (2900, 2901, 10, 20)]
            return await asyncio.gather(
                *(client.post(path, json=body) for path, body in [("/v1/completions", generate), *bodies])
            )

    answer, *pooled = asyncio.run(run())
    assert answer.json()["usage"]["completion_tokens"] == 40
    assert [reply.status_code for reply in pooled] == [500, 500, 200, 200]
    first = [reply.json()["data"][0]["probs"] for reply in pooled[2:]]
    assert first[0] == first[1]
    assert_idle(faulty)


def test_a_client_that_goes_away_leaves_nothing_behind(slow: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow.url}/classify", json={"input": [[i + 3] * 1500 for i in range(64)]}, timeout=0.3)
    assert_idle(slow)
    assert slow.http.post("/classify", json={"input": "still here"}).status_code == 200


def assert_idle(server: Server) -> None:
    """Nothing runs, and every page is free."""
    stats = server.settle()
    assert stats["octavo_kv_pages_free"] == stats["octavo_kv_pages"]
