"""Logits processors by name: which there are and where their code is. Code comes from the operator, never a request.

A processor is a function `(past_ids, logits, **args) -> logits`, or a class made as `cls(prompt_ids, **args)` whose
objects are called with `(past_ids, logits)`: past_ids are the ids generated so far, logits [V] float32 after all of the
request's other parameters but before temperature and filters. Whether it changes logits in place or returns others is
its choice. A class has one object per continuation; a preempted continuation gets a fresh one, so what an object knows
must follow from past_ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from octavo.errors import InvalidRequest, StartupError

GROUP = "octavo.logits_processors"  # entry points of installed packages
BUILT_IN = {
    name: f"octavo.worker.sampling.built_in:{attr}"
    for name, attr in {"no_repeat_ngram": "NoRepeatNgram", "dry": "Dry"}.items()
}


def registered(named: Iterable[str]) -> dict[str, str]:
    """Where each processor's code is, as module:attribute: octavo's own, those of installed packages, the operator's.

    named: NAME=module:attribute. StartupError for other spellings.
    """
    found = dict(BUILT_IN) | {point.name: point.value for point in entry_points(group=GROUP)}
    for text in named:
        name, _, place = text.partition("=")
        module, _, attr = place.partition(":")
        if not name or not all(part.isidentifier() for part in (*module.split("."), *attr.split("."))):
            raise StartupError(f"logits_processors must be NAME=module:attribute, got {text!r}", "logits_processors")
        found[name] = place
    return found


def spelled(processors: object) -> tuple[str, ...]:
    """`LLM(logits_processors=...)` as the configuration spells it; a mapping is from names to places or to code."""
    if not isinstance(processors, Mapping):
        return tuple(processors)  # type: ignore[arg-type]
    return tuple(f"{name}={place if isinstance(place, str) else place_of(place)}" for name, place in processors.items())  # type: ignore[misc]


def place_of(code: Callable[..., Any]) -> str:
    """Where a function or class can be imported from; StartupError for one that has no such place."""
    module, name = getattr(code, "__module__", None), getattr(code, "__qualname__", "<")
    if module is None or "<" in name:
        raise StartupError(
            f"logits_processors: {code!r} must be a function or class at the top of a module", "logits_processors"
        )
    return f"{module}:{name}"


def wanted(listed: list[dict[str, Any]] | None, extra: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The processors a request asks for, whichever way: `logits_processors`, or names as keys of vllm_xargs."""
    found = [{"name": one["name"], "args": one.get("args") or {}} for one in listed or ()]
    for name, value in (extra or {}).items():
        if value is not None and value is not False:
            args = value if isinstance(value, dict) else {} if value is True else {"value": value}
            found.append({"name": name, "args": args})
    return found


def check_names(asked: list[dict[str, Any]], known: Iterable[str], field: str) -> None:
    """InvalidRequest for a processor that is not registered."""
    for one in asked:
        if one["name"] not in known:
            raise InvalidRequest(
                f"{field} names {str(one['name'])[:60]!r}, which is not registered here; there are "
                f"{', '.join(sorted(known))}",
                field,
            )
