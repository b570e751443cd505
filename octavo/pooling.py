"""PoolingParams: what is wanted of a prompt's hidden states instead of a continuation, and the outputs that carry it.

Names, defaults and rules are vLLM's, so that its users change only an import.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec

from octavo.errors import InvalidRequest
from octavo.limits import DEFAULT, Limits
from octavo.sampling import INT_MAX, shown

Task = Literal["embed", "classify", "token_embed", "token_classify"]
TASKS: tuple[Task, ...] = ("embed", "classify", "token_embed", "token_classify")
Kind = Literal["last", "mean", "cls"]
KINDS: tuple[Kind, ...] = ("last", "mean", "cls")
NOT_HERE = ("step_tag_id", "returned_token_ids", "late_interaction_params", "late_chunking_params", "extra_kwargs")

T = TypeVar("T")


class PoolingParams(msgspec.Struct, omit_defaults=True):
    """How to pool a prompt. A wrong field raises InvalidRequest naming it.

    `task` None is what the method called says. `dimensions` cuts embeddings to their first components (Matryoshka,
    Kusupati et al. 2022, arXiv:2205.13147). `use_activation` makes an embedding unit length and scores probabilities;
    None is as the checkpoint says; `normalize` is its older name for embeddings. `truncate_prompt_tokens` keeps the
    beginning of longer prompts, special tokens included; -1 as much as the model takes. `prompt_name` puts one of the
    checkpoint's own prompts (config_sentence_transformers.json) before the text.
    """

    dimensions: int | None = None
    normalize: bool | None = None
    use_activation: bool | None = None
    task: Task | None = None
    truncate_prompt_tokens: int | None = None
    skip_reading_prefix_cache: bool | None = None
    prompt_name: str | None = None
    step_tag_id: int | None = None
    returned_token_ids: list[int] | None = None
    late_interaction_params: object = None
    late_chunking_params: object = None
    extra_kwargs: object = None

    def __post_init__(self) -> None:
        self.check()

    @property
    def activated(self) -> bool | None:
        """`use_activation` under either of its names."""
        return self.normalize if self.use_activation is None else self.use_activation

    def check(self, limits: Limits = DEFAULT) -> None:
        """Raise InvalidRequest for the first field out of range."""
        if self.task is not None and self.task not in TASKS:
            raise InvalidRequest(f"task must be one of {', '.join(TASKS)}; got {shown(self.task)}", "task")
        for name in ("normalize", "use_activation", "skip_reading_prefix_cache"):
            if not isinstance(getattr(self, name), bool | None):
                raise InvalidRequest(f"{name} must be true or false, got {shown(getattr(self, name))}", name)
        if None not in (self.normalize, self.use_activation) and self.normalize != self.use_activation:
            raise InvalidRequest("normalize and use_activation say the same thing; give one of them", "normalize")
        check_count("dimensions", self.dimensions, 1)
        check_count("truncate_prompt_tokens", self.truncate_prompt_tokens, -1)
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequest("truncate_prompt_tokens must be -1 or at least 1, got 0", "truncate_prompt_tokens")
        name = self.prompt_name
        if name is not None and (not isinstance(name, str) or not 0 < len(name) <= limits.id_chars):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(f"prompt_name must be the name of a prompt, got {shown(name)}", "prompt_name")
        for name in NOT_HERE:
            if getattr(self, name) is not None:
                raise InvalidRequest(f"{name} is not supported; leave it out", name)


def check_count(name: str, value: object, low: int) -> None:
    """Raise InvalidRequest unless `value` is None or an integer of at least `low`."""
    if value is None:
        return
    if type(value) is not int or not low <= value <= INT_MAX:
        raise InvalidRequest(f"{name} must be an integer of at least {low}, got {shown(value)}", name)


class PoolingWork(msgspec.Struct, array_like=True, frozen=True):
    """What the worker computes of a prompt, every choice made.

    `dimensions` 0 keeps all. `every_position`: the hidden states of all prompt positions are needed, so that none may
    come from the prefix cache. Tokens from `second_from` on belong to the second text of a pair; 0: there is none.
    """

    task: Task
    activate: bool
    dimensions: int = 0
    every_position: bool = True
    second_from: int = 0

    @property
    def per_token(self) -> bool:
        """Whether the result has a row for each token."""
        return self.task in ("token_embed", "token_classify")


class Abilities(msgspec.Struct, array_like=True, frozen=True):
    """What a loaded model can do. `kind` is how it makes one vector of many, `dimensions` that vector's length.

    `labels` are a classifier's. `activates`: vectors become unit length unless the request says otherwise.
    `embeds_from_all`: the vector depends on the hidden states of all positions. `why_silent` is why it cannot
    generate; None: it can.
    """

    tasks: tuple[Task, ...] = ()
    kind: Kind = "last"
    dimensions: int = 0
    labels: tuple[str, ...] = ()
    activates: bool = True
    why_silent: str | None = None

    @property
    def can_generate(self) -> bool:
        """Whether it continues text."""
        return self.why_silent is None

    def check_generates(self) -> None:
        """Raise InvalidRequest when the model cannot generate."""
        if self.why_silent is not None:
            raise InvalidRequest(f"this model cannot generate text: {self.why_silent}; {self.said}", "model")

    def check_task(self, task: Task) -> None:
        """Raise InvalidRequest when the model cannot do `task`."""
        if task not in self.tasks:
            raise InvalidRequest(f"this model cannot {WORDS[task]}; {self.said}", "task")

    @property
    def scores_pairs(self) -> bool:
        """Whether it reads two texts together and gives them one score (a cross-encoder)."""
        return "classify" in self.tasks and len(self.labels) == 1

    def check_scores(self) -> None:
        """Raise InvalidRequest when the model cannot compare two texts."""
        if not self.scores_pairs and "embed" not in self.tasks:
            raise InvalidRequest(
                f"this model cannot score pairs: that takes embeddings, or a classifier with one label; {self.said}",
                "model",
            )

    @property
    def said(self) -> str:
        """What it can do, for people."""
        able = ["generate"] * self.can_generate + list(self.tasks)
        return f"it can {', '.join(able)}" if able else "it can do nothing of the kind"


WORDS: dict[Task, str] = {
    "embed": "embed texts",
    "classify": "classify texts",
    "token_embed": "embed tokens",
    "token_classify": "classify tokens",
}


@dataclass(frozen=True)
class PoolingOutput:
    """Values of one prompt: float32, [n] or [tokens, n]; `numpy.asarray(data)` shares them, `data.tolist()` copies."""

    data: memoryview[float]

    @classmethod
    def of(cls, values: bytes, num_rows: int | None) -> PoolingOutput:
        """From float32 bytes; `num_rows` None makes a vector."""
        count = len(values) // 4
        shape = (count,) if num_rows is None else (num_rows, count // max(1, num_rows))
        return cls(memoryview(values).cast("B").cast("f", shape) if count else memoryview(b"").cast("f"))


@dataclass(frozen=True)
class EmbeddingOutput:
    """One prompt's embedding."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        """Its length."""
        return len(self.embedding)


@dataclass(frozen=True)
class ClassificationOutput:
    """One prompt's scores: a probability for each label, or logits without activation."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.probs)


@dataclass(frozen=True)
class ScoringOutput:
    """How well two texts belong together."""

    score: float


@dataclass(frozen=True)
class PoolingRequestOutput(Generic[T]):
    """A pooled prompt. `num_cached_tokens` of it needed no computing."""

    request_id: str
    outputs: T
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    finished: bool = True


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]):
    """An embedded prompt."""

    @staticmethod
    def of(pooled: PoolingRequestOutput[PoolingOutput]) -> EmbeddingRequestOutput:
        """From the values."""
        outputs = EmbeddingOutput(list(pooled.outputs.data))
        return EmbeddingRequestOutput(pooled.request_id, outputs, pooled.prompt_token_ids, pooled.num_cached_tokens)


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]):
    """A classified prompt."""

    @staticmethod
    def of(pooled: PoolingRequestOutput[PoolingOutput]) -> ClassificationRequestOutput:
        """From the values."""
        outputs = ClassificationOutput(list(pooled.outputs.data))
        return ClassificationRequestOutput(
            pooled.request_id, outputs, pooled.prompt_token_ids, pooled.num_cached_tokens
        )


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]):
    """A scored pair of texts."""

    @staticmethod
    def of(pooled: PoolingRequestOutput[PoolingOutput]) -> ScoringRequestOutput:
        """From a cross-encoder's only value."""
        outputs = ScoringOutput(pooled.outputs.data[0])
        return ScoringRequestOutput(pooled.request_id, outputs, pooled.prompt_token_ids, pooled.num_cached_tokens)

    @staticmethod
    def between(
        first: PoolingRequestOutput[PoolingOutput], second: PoolingRequestOutput[PoolingOutput]
    ) -> ScoringRequestOutput:
        """From two embeddings."""
        return ScoringRequestOutput(
            f"{first.request_id}_{second.request_id}",
            ScoringOutput(cosine(first.outputs.data, second.outputs.data)),
            first.prompt_token_ids + second.prompt_token_ids,
            first.num_cached_tokens + second.num_cached_tokens,
        )


def cosine(first: memoryview[float], second: memoryview[float]) -> float:
    """The cosine of the angle between two vectors; 0 when one of them is zero."""
    a, b = list(first), list(second)
    norms = math.hypot(*a) * math.hypot(*b)
    return max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms)) if norms else 0.0
