"""Logits processors that the operator has registered by name, and what happens when one fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from octavo import log
from octavo.errors import InvalidRequest, OctavoError, StartupError
from octavo.messages import NewRow
from octavo.worker.rows import IntArray, Rows
from octavo.worker.sampling.logits import StepLogits
from octavo.worker.sampling.processors import Wishes

logger = log.get(__name__)

FIELD = "logits_processors"
Processor = Callable[[list[int], Tensor], Tensor | None]
Named = tuple[str, Processor]


def load(places: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    """The code behind module:attribute of each name; StartupError for what cannot be imported."""
    found: dict[str, Callable[..., Any]] = {}
    for name, place in places.items():
        module, _, path = place.partition(":")
        try:
            code: Any = import_module(module)
            for part in path.split("."):
                code = getattr(code, part)
        except (ImportError, AttributeError) as error:
            raise StartupError(f"logits processor {name}: cannot import {place} ({error})", FIELD) from None
        if not callable(code):
            raise StartupError(f"logits processor {name}: {place} is neither a function nor a class", FIELD)
        found[name] = code
    return found


class CustomProcessors:
    """The registered processors that rows ask for, with an object per row where they are classes."""

    def __init__(self, table: Rows, code: Mapping[str, Callable[..., Any]]) -> None:
        self._table = table
        self._code = code
        self._wishes: Wishes[list[Named]] = Wishes()

    def admit(self, row: int, new: NewRow) -> None:
        """Make what the row asks for; InvalidRequest when a processor does not take its arguments."""
        asked = new.spec.sampling.logits_processors
        if asked:
            prompt = self._table.tokens[row, : self._table.prompt_len[row]].tolist()
            self._wishes.set(row, [(one["name"], self._make(one["name"], prompt, one["args"])) for one in asked])

    def _make(self, name: str, prompt: list[int], args: dict[str, Any]) -> Processor:
        code = self._code.get(name)
        if code is None:
            raise InvalidRequest(f"{FIELD} names {name!r}, which is not registered here", FIELD)
        try:
            if isinstance(code, type):
                return code(prompt, **args)  # type: ignore[return-value]
            inspect.signature(code).bind(prompt, None, **args)
            return partial(code, **args)
        except (TypeError, ValueError, OctavoError) as error:
            raise InvalidRequest(f"{FIELD}: {name} does not take these arguments: {error}"[:300], FIELD) from None
        except Exception as error:  # R9: the operator's code must not end anything but the request that asked for it
            logger.exception("logits processor %s failed to start", name)
            raise OctavoError(f"logits processor {name} failed ({type(error).__name__})") from None

    def drop(self, row: int) -> None:
        """Forget a row."""
        self._wishes.drop(row)

    def flush(self) -> None:
        """Nothing is staged."""

    def active(self, rows: IntArray) -> bool:
        """Whether any of `rows` asks."""
        return self._wishes.any(rows)

    def apply(self, step: StepLogits, rows: IntArray, positions: IntArray) -> dict[int, str]:
        """Let the processors of rows [L] change the step's logits; returns what went wrong, by index into `rows`."""
        errors: dict[int, str] = {}
        for i, row, processors in self._wishes.among(rows):
            past = self._table.tokens[row, self._table.prompt_len[row] : positions[i]].tolist()
            logits = step.row(i)
            for name, processor in processors:
                error = run(processor, past, logits)
                if error is not None:
                    errors[i] = f"logits processor {name} failed: {error}"
                    break
        step.refresh()
        return errors


def run(processor: Processor, past: list[int], logits: Tensor) -> str | None:
    """Change logits [V] in place as one processor wants it; what was wrong with that, if anything."""
    try:
        changed = processor(past, logits)
        if changed is not None and changed is not logits:
            if changed.shape != logits.shape:
                return f"it returned logits of shape {tuple(changed.shape)}, not {tuple(logits.shape)}"
            logits.copy_(changed)
    except Exception as error:  # R9, as above
        logger.exception("a logits processor failed")
        return type(error).__name__
    if bool((torch.isnan(logits) | (logits == float("inf"))).any()):
        return "it returned logits that are not numbers"
    return None
