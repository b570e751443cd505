"""octavo, an inference and serving engine for large language models: the public names, as vLLM users know them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.beams import BeamSearchParams as BeamSearchParams
    from octavo.config import EngineConfig as EngineConfig
    from octavo.engine.async_llm import AsyncLLM as AsyncLLM
    from octavo.errors import OctavoError as OctavoError
    from octavo.frontend.inputs import TextPrompt as TextPrompt
    from octavo.frontend.inputs import TokensPrompt as TokensPrompt
    from octavo.frontend.output import CompletionOutput as CompletionOutput
    from octavo.frontend.output import Logprob as Logprob
    from octavo.frontend.output import RequestOutput as RequestOutput
    from octavo.llm import LLM as LLM
    from octavo.pooling import ClassificationOutput as ClassificationOutput
    from octavo.pooling import ClassificationRequestOutput as ClassificationRequestOutput
    from octavo.pooling import EmbeddingOutput as EmbeddingOutput
    from octavo.pooling import EmbeddingRequestOutput as EmbeddingRequestOutput
    from octavo.pooling import PoolingOutput as PoolingOutput
    from octavo.pooling import PoolingParams as PoolingParams
    from octavo.pooling import PoolingRequestOutput as PoolingRequestOutput
    from octavo.pooling import ScoringOutput as ScoringOutput
    from octavo.pooling import ScoringRequestOutput as ScoringRequestOutput
    from octavo.sampling import RepetitionDetectionParams as RepetitionDetectionParams
    from octavo.sampling import RequestOutputKind as RequestOutputKind
    from octavo.sampling import SamplingParams as SamplingParams
    from octavo.structured import StructuredOutputsParams as StructuredOutputsParams

__version__ = "0.1.0"

# Found on first use: `octavo --help` and the engine process must not import what they do not need.
HOMES = {
    "LLM": "octavo.llm",
    "AsyncLLM": "octavo.engine.async_llm",
    "SamplingParams": "octavo.sampling",
    "BeamSearchParams": "octavo.beams",
    "RepetitionDetectionParams": "octavo.sampling",
    "StructuredOutputsParams": "octavo.structured",
    "RequestOutputKind": "octavo.sampling",
    "RequestOutput": "octavo.frontend.output",
    "CompletionOutput": "octavo.frontend.output",
    "Logprob": "octavo.frontend.output",
    "PoolingParams": "octavo.pooling",
    "PoolingOutput": "octavo.pooling",
    "PoolingRequestOutput": "octavo.pooling",
    "EmbeddingOutput": "octavo.pooling",
    "EmbeddingRequestOutput": "octavo.pooling",
    "ClassificationOutput": "octavo.pooling",
    "ClassificationRequestOutput": "octavo.pooling",
    "ScoringOutput": "octavo.pooling",
    "ScoringRequestOutput": "octavo.pooling",
    "TextPrompt": "octavo.frontend.inputs",
    "TokensPrompt": "octavo.frontend.inputs",
    "EngineConfig": "octavo.config",
    "OctavoError": "octavo.errors",
}

__all__ = ["__version__", *HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  # the names are found at run time


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"octavo has no public name {name!r}; it has {', '.join(sorted(HOMES))}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
