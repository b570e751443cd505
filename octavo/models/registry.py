"""Which family speaks for which architecture."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from octavo import spec
from octavo.errors import UnsupportedModel
from octavo.models import families
from octavo.models.config import HFConfig
from octavo.models.labels import plain_classifier
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

M = TypeVar("M", bound=spec.Model)
Family = Callable[[HFConfig], spec.Model]

# A causal language model's name ends with one of these; what is before it also names its other uses.
GENERATES = ("ForCausalLM", "LMHeadModel")
OTHER_USES = ("Model", "ForSequenceClassification", "ForTokenClassification")
SAME = {"Gemma3TextModel": "Gemma3Model", "Gemma3TextForSequenceClassification": "Gemma3ForSequenceClassification"}

_FAMILIES: dict[str, Family] = {}


def family(*architectures: str) -> Callable[[Callable[[HFConfig], M]], Callable[[HFConfig], M]]:
    """Register a function as the reader of these architectures' configs."""

    def register(function: Callable[[HFConfig], M]) -> Callable[[HFConfig], M]:
        for architecture in architectures:
            _FAMILIES[architecture] = function
        return function

    return register


def architectures() -> list[str]:
    """Every architecture octavo can run, sorted."""
    for module in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{module.name}")
    return sorted(_FAMILIES)


def headless(architecture: str) -> Family | None:
    """The reader of a causal language model without its head: an embedder (…Model) or a classifier; None: unknown."""
    architecture = SAME.get(architecture, architecture)
    for use in OTHER_USES:
        stem = architecture.removesuffix(use)
        bases = [stem + ending for ending in GENERATES if stem + ending in _FAMILIES]
        if stem != architecture and bases:
            return partial(read_headless, bases[0], use)
    return None


def read_headless(base: str, use: str, config: HFConfig) -> spec.Model:
    """The spec of `base` with the head of `use` in the place of its own."""
    if config.get("is_causal") is False:
        raise UnsupportedModel(
            "is_causal=false: this decoder was trained to see both ways; octavo's is causal", "model"
        )
    model = _FAMILIES[base](config.replaced({"architectures": [base]}))
    assert isinstance(model, spec.Decoder), base
    per_token = use == "ForTokenClassification"
    found = None if use == "Model" else plain_classifier(config, "last", per_token, bias=per_token)
    return replace(model, tied=True, head_bias=False, headless=True, classifier=found)


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


def spec_for(config: HFConfig) -> spec.Model:
    """The model that a config.json describes; UnsupportedModel names what octavo cannot do."""
    known = architectures()
    named = config.get("architectures") or []
    for architecture in named:
        reader = _FAMILIES.get(architecture) or headless(architecture)
        if reader is not None:
            stored_format(config)  # refuses what cannot be read
            check_counts(config)
            try:
                return reader(config)
            except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise UnsupportedModel(f"config.json of {architecture} cannot be read: {reason}", "model") from error
    if not named:
        raise UnsupportedModel("config.json names no architecture in 'architectures'", "model")
    near = [match for name in named for match in difflib.get_close_matches(name, known, n=3, cutoff=0.7)]
    hint = f"; similar and supported: {', '.join(dict.fromkeys(near))}" if near else f"; supported: {', '.join(known)}"
    raise UnsupportedModel(f"architecture {', '.join(named)} is not supported{hint}", "model")
