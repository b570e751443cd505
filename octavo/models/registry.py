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


def spec_for(config: HFConfig) -> spec.Decoder:
    """The model that a config.json describes; UnsupportedModel names what octavo cannot do."""
    known = architectures()
    named = config.get("architectures") or []
    for architecture in named:
        if architecture in _FAMILIES:
            if config.get("quantization_config") is not None:
                raise UnsupportedModel("the checkpoint is quantized; octavo reads unquantized weights", "model")
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
