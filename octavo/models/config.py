"""A Hugging Face config.json, read once: fields by name, and the vocabularies (activations, RoPE kinds) it uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from octavo import spec
from octavo.errors import UnsupportedModel

ACTIVATIONS: Mapping[str, spec.Activation] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "relu2": "relu2",
    }
)
ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "su")


class HFConfig:
    """Fields of a config.json as attributes; an absent or null field raises UnsupportedModel, `get` gives a default.

    Values are JSON, hence Any; `spec_for` turns a value of the wrong type into an UnsupportedModel.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise UnsupportedModel(f"config.json lacks {name!r}", "model")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or `default` when it is absent or null."""
        value = self._values.get(name)
        return default if value is None else value

    def replaced(self, values: Mapping[str, Any]) -> HFConfig:
        """This config with other values in some fields."""
        return HFConfig({**self._values, **values})

    def filled(self, defaults: Mapping[str, Any]) -> HFConfig:
        """This config with `defaults` for the fields it lacks."""
        return HFConfig({**defaults, **self._values})

    def nested(self, name: str) -> HFConfig:
        """The config in field `name` (the text part of a multimodal model)."""
        value = self.get(name)
        if not isinstance(value, Mapping):
            raise UnsupportedModel(f"config.json has no object in {name!r}", "model")
        return HFConfig(value)

    @property
    def head_dim_or_default(self) -> int:
        """D: `head_dim`, else the hidden size shared among the query heads."""
        return self.get("head_dim") or self.hidden_size // self.num_attention_heads


def activation(name: str) -> spec.Activation:
    """The activation that Transformers calls `name`."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModel(f"activation {name!r} is not supported; known are {known}", "hidden_act")
    return ACTIVATIONS[name]


def windows(c: HFConfig, num_layers: int) -> tuple[int | None, ...]:
    """Each layer's window from `layer_types`, or from `sliding_window` for all layers without them."""
    window = c.get("sliding_window")
    kinds = c.get("layer_types") or ["full_attention" if window is None else "sliding_attention"] * num_layers
    if len(kinds) != num_layers:
        raise UnsupportedModel(f"layer_types lists {len(kinds)} layers; num_hidden_layers={num_layers}", "layer_types")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedModel(
                f"layer type {kind!r} is not supported; use full_attention or sliding_attention", "layer_types"
            )
    if "sliding_attention" in kinds and (not isinstance(window, int) or window < 1):
        raise UnsupportedModel(f"sliding_window={window!r}: sliding layers need a positive window", "sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def rope(
    c: HFConfig, head_dim: int, layer_type: str | None = None, theta: float = 10000.0, partial: float = 1.0
) -> spec.Rope:
    """The rotation of a layer, from `rope_parameters` (Transformers 5) or `rope_scaling` and `rope_theta`.

    `layer_type` picks one of several sets; `theta` and `partial` (the rotated share of D) are the family's defaults.
    """
    parameters = rope_parameters(c, layer_type)
    theta = _number(parameters, "rope_theta", c.get("rope_theta", theta))
    partial = _number(parameters, "partial_rotary_factor", c.get("partial_rotary_factor", partial))
    return spec.Rope(float(theta), int(head_dim * partial), _scaling(c, parameters))


def rope_parameters(c: HFConfig, layer_type: str | None = None) -> Mapping[str, Any]:
    """The RoPE fields of one kind of layer, whichever spelling the config uses."""
    parameters = c.get("rope_parameters") or c.get("rope_scaling") or {}
    if layer_type is not None and isinstance(parameters.get(layer_type), Mapping):
        parameters = parameters[layer_type]
    return parameters


def rope_kind(parameters: Mapping[str, Any]) -> str:
    """The kind of scaling; unknown ones are refused."""
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in ROPE_KINDS:
        known = ", ".join(ROPE_KINDS)
        raise UnsupportedModel(f"RoPE type {kind!r} is not supported; known are {known}", "rope_scaling")
    return "longrope" if kind == "su" else kind


def max_length(c: HFConfig) -> int:
    """The longest context: `max_position_embeddings`, stretched where the scaling stretches what was trained."""
    trained = int(c.max_position_embeddings)
    parameters = rope_parameters(c, "full_attention")
    match rope_kind(parameters):
        case "linear" | "dynamic":
            return int(trained * _number(parameters, "factor"))
        case "yarn":
            original = _number(parameters, "original_max_position_embeddings", trained)
            return max(trained, int(original * _number(parameters, "factor", trained / original)))
        case _:
            return trained


def _number(parameters: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = parameters.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UnsupportedModel(f"RoPE parameter {name}={value!r} is not a number", "rope_scaling")
    return value


def _scaling(c: HFConfig, parameters: Mapping[str, Any]) -> spec.RopeScaling | None:
    kind = rope_kind(parameters)
    if kind == "default":
        return None
    if kind == "linear":
        return spec.Linear(_number(parameters, "factor"))
    if kind == "dynamic":
        return spec.Dynamic(_number(parameters, "factor"), int(c.max_position_embeddings))
    trained = int(c.get("max_position_embeddings", 0))
    name = "original_max_position_embeddings"
    original = c.get(name) or parameters.get(name) or trained
    if kind == "llama3":
        low, high = _number(parameters, "low_freq_factor"), _number(parameters, "high_freq_factor")
        return spec.Llama3(_number(parameters, "factor"), low, high, original)
    factor = _number(parameters, "factor", trained / original)
    if kind == "longrope":
        short, long = tuple(parameters["short_factor"]), tuple(parameters["long_factor"])
        spread = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        return spec.LongRope(short, long, original, _number(parameters, "attention_factor", spread))
    return _yarn(parameters, factor, original)


def _yarn(parameters: Mapping[str, Any], factor: float, original: int) -> spec.Yarn:
    def temperature(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    mscale, mscale_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    default = temperature(mscale) / temperature(mscale_all) if mscale and mscale_all else temperature(1.0)
    yarn = spec.Yarn(factor, original, attention_factor=_number(parameters, "attention_factor", default))
    truncate = parameters.get("truncate", True)
    fast, slow = parameters.get("beta_fast") or yarn.beta_fast, parameters.get("beta_slow") or yarn.beta_slow
    return replace(yarn, beta_fast=fast, beta_slow=slow, truncate=bool(truncate))
