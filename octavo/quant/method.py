"""Which format a checkpoint's quantization_config asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from octavo.errors import UnsupportedModel
from octavo.quant.formats.awq import AWQFormat
from octavo.quant.formats.compressed_tensors import CompressedTensorsFormat
from octavo.quant.formats.fp8 import Fp8Format
from octavo.quant.formats.gptq import GPTQFormat
from octavo.weights.weight import StoredFormat, WeightFormat

FORMATS: Mapping[str, Callable[[Mapping[str, Any]], WeightFormat]] = MappingProxyType(
    {"awq": AWQFormat, "compressed-tensors": CompressedTensorsFormat, "fp8": Fp8Format, "gptq": GPTQFormat}
)


class Fields(Protocol):
    """A config.json, as a mapping or read by models/config.py."""

    def get(self, name: str, /) -> Any:
        """The field, or None."""
        ...


def stored_format(config: Fields) -> WeightFormat:
    """How a checkpoint with this config.json spells its weights; UnsupportedModel names a method that is not read."""
    text = config.get("text_config")
    parts: tuple[Fields, ...] = (config, text) if isinstance(text, Mapping) else (config,)
    for part in parts:
        found = part.get("quantization_config") or part.get("compression_config")
        if found:
            return _format(found)
    return StoredFormat()


def _format(config: object) -> WeightFormat:
    method = config.get("quant_method") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(method, str) or method not in FORMATS:
        raise UnsupportedModel(
            f"the checkpoint is quantized by {method!r}, which octavo does not read; it reads {', '.join(FORMATS)}, "
            "GGUF files, and dense checkpoints, which --quantization rounds while loading",
            "model",
        )
    return FORMATS[method](config)
