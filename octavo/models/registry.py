"""Which family speaks for which architecture."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable

from octavo import spec
from octavo.errors import UnsupportedModel
from octavo.models import families
from octavo.models.config import HFConfig
from octavo.quant.method import stored_format
from octavo.sampling import shown

COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)

Family = Callable[[HFConfig], spec.Decoder]

_FAMILIES: dict[str, Family] = {}


def family(*architectures: str) -> Callable[[Family], Family]:
    """Register a function as the reader of these architectures' configs."""

    def register(function: Family) -> Family:
        for architecture in architectures:
            _FAMILIES[architecture] = function
        return function

    return register


def architectures() -> list[str]:
    """Every architecture octavo can run, sorted."""
    for module in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{module.name}")
    return sorted(_FAMILIES)


def check_counts(config: HFConfig) -> None:
    """UnsupportedModel for the first of COUNTS, here or in `text_config`, that is there and no positive integer."""
    text = config.get("text_config")
    for part in (config, HFConfig(text) if isinstance(text, dict) else HFConfig({})):
        for name in COUNTS:
            value = part.get(name, 1)
            if type(value) is not int or value < 1:
                raise UnsupportedModel(
                    f"config.json: {name} must be an integer of at least 1, got {shown(value)}", name
                )


def spec_for(config: HFConfig) -> spec.Decoder:
    """The model that a config.json describes; UnsupportedModel names what octavo cannot do."""
    known = architectures()
    named = config.get("architectures") or []
    for architecture in named:
        if architecture in _FAMILIES:
            stored_format(config)  # refuses what cannot be read
            check_counts(config)
            try:
                return _FAMILIES[architecture](config)
            except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise UnsupportedModel(f"config.json of {architecture} cannot be read: {reason}", "model") from error
    if not named:
        raise UnsupportedModel("config.json names no architecture in 'architectures'", "model")
    near = [match for name in named for match in difflib.get_close_matches(name, known, n=3, cutoff=0.7)]
    hint = f"; similar and supported: {', '.join(dict.fromkeys(near))}" if near else f"; supported: {', '.join(known)}"
    raise UnsupportedModel(f"architecture {', '.join(named)} is not supported{hint}", "model")
