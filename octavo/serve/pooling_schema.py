"""Bodies of requests for embeddings, classes and scores. PoolingParams checks their values, as at every door."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from octavo.pooling import TASKS, PoolingParams
from octavo.serve.schema import Body, Prompts

Texts = Annotated[
    object, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
]
Documents = Annotated[
    object,
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
                ]
            },
        }
    ),
]
Count = Annotated[object, WithJsonSchema({"type": "integer", "minimum": 1})]
Length = Annotated[object, WithJsonSchema({"type": "integer", "minimum": -1})]
Switch = Annotated[object, WithJsonSchema({"type": "boolean"})]
Priority = Annotated[object, WithJsonSchema({"type": "integer"})]


class PoolingRequest(Body):
    """What all of these have in common."""

    model: str | None = Field(None, description="Name of a served model.")
    user: str | None = Field(None, description="Accepted; identifies nobody.")
    truncate_prompt_tokens: Length = Field(
        None,
        description="Keep this many tokens of longer inputs, special ones included; -1: as many as the model takes.",
    )
    use_activation: Switch = Field(
        None, description="Unit length of vectors, probabilities in place of logits; default: as the checkpoint says."
    )
    priority: Priority = Field(None, description="Lower runs first, under the policy 'priority'.")
    cache_salt: str | None = Field(None, description="Share cached prefixes only with requests of the same salt.")
    request_id: str | None = Field(None, description="A name for the answer: its `id` ends with it.")

    def params(self) -> PoolingParams:
        """The request's PoolingParams."""
        return PoolingParams(**{name: value for name, value in self if name in POOLING and value is not None})


POOLING = frozenset(PoolingParams.__struct_fields__)


class VectorRequest(PoolingRequest):
    """What can be asked of vectors."""

    input: Prompts = Field(description="Text or token ids, or a list of either.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers, or base64 of little-endian float32; default: float."
    )
    dimensions: Count = Field(None, description="Keep so many first components of each vector.")
    normalize: Switch = Field(None, description="The same as use_activation.")
    prompt_name: str | None = Field(None, description="A prompt of the checkpoint to put before each text.")


class EmbeddingRequest(VectorRequest):
    """POST /v1/embeddings."""


class RawPoolingRequest(VectorRequest):
    """POST /pooling."""

    task: Annotated[object, WithJsonSchema({"enum": list(TASKS)})] = Field(
        None, description="Default: the first that the model can do."
    )


class ClassificationRequest(PoolingRequest):
    """POST /classify."""

    input: Prompts = Field(description="Text or token ids, or a list of either.")


class ScoreRequest(PoolingRequest):
    """POST /score."""

    text_1: Texts = Field(description="A text, or as many as text_2 has.")
    text_2: Texts = Field(description="The text or texts to compare with.")


class RerankRequest(PoolingRequest):
    """POST /rerank."""

    query: str = Field(description="What the documents should be about.")
    documents: Documents = Field(description='Texts, or objects with a "text".')
    top_n: Count = Field(None, description="Return only the best so many.")
    return_documents: bool | None = Field(None, description="Return the texts, too; default: true.")
    max_tokens_per_doc: Count = Field(None, description="Read only so many tokens of each document.")
