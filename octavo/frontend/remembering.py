"""The template sandbox in which text remembers where it comes from (`said.py`): slower than the plain one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from jinja2.filters import make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, Macro, Undefined

from octavo.frontend.said import Said, formatted, joined, ours, remembers
from octavo.frontend.template import Environment, bounded, own_arguments, sandbox

# Filters that hand on what they were given, or count it. All others make text.
PASSING = frozenset(
    "abs attr batch count d default dictsort first float groupby int items last length list map max min random reject "
    "rejectattr reverse round select selectattr slice sort sum unique wordcount".split()
)

# Filters that are one method of the text. Others put it together again, of which it knows nothing.
EXACT = frozenset("capitalize lower replace string trim upper".split())


def _shown(value: object) -> Any:
    """`value` as an expression's output. What the text of a list or map is made of, nobody knows."""
    if value is None or isinstance(value, str | int | float | Undefined):
        return value
    return Said(str(value)) if remembers(value) else value


def _concat(parts: Iterable[str]) -> str:
    parts = list(parts)
    return joined(parts) if any(isinstance(part, Said) for part in parts) else "".join(parts)


class _Remembering(Environment):
    """The sandbox with operators, calls and output that carry marks along."""

    concat = staticmethod(_concat)  # type: ignore[assignment]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> object:
        """As in the plain sandbox; a format knows where its values go."""
        result = super().call_binop(context, operator, left, right)
        if operator == "%" and type(result) is str and remembers(right):
            return formatted(left, str.__mod__, right)
        return result

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> object:
        """As in the plain sandbox; a string's methods remember as soon as their arguments do."""
        named = own_arguments(kwargs)
        arguments = (*args, *named.values())
        method = getattr(__obj, "__wrapped__", __obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        call = functools.partial(super().call, __context)
        if isinstance(owner, str) and name in ("format", "format_map"):
            if not remembers(arguments) and not isinstance(owner, Said):
                return call(__obj, *args, **kwargs)
            if named or name == "format_map":
                return Said(cast(str, call(__obj, *args, **kwargs)))
            return formatted(owner, lambda text, values: str(call(__obj, *values)), args)
        if type(owner) is str and remembers(arguments):
            __obj = getattr(ours(owner), name)
        result = call(__obj, *args, **kwargs)
        if type(result) is str and not isinstance(__obj, Macro) and (remembers(arguments) or isinstance(owner, bytes)):
            return Said(result)
        return result


def _marking(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """The filter `function`, whose result remembers if its value or an argument does."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> object:
        value, rest = arguments[first], (*arguments[first + 1 :], *named.values())
        if not remembers(value) and not remembers(rest):
            return function(*arguments, **named)
        if name == "format" and not named:
            return formatted(str(value), lambda text, values: str(function(text, *values)), arguments[first + 1 :])
        value = ours(value) if type(value) is str else value
        result = function(*arguments[:first], value, *arguments[first + 1 :], **named)
        is_exact = name in EXACT and isinstance(result, Said)
        return Said(result) if isinstance(result, str) and not is_exact else result

    return call


def remembering(clock: Callable[[], datetime]) -> Environment:
    """`sandbox(clock)` whose renders are `Said` text if they hold any of the request's."""
    environment = sandbox(clock, _Remembering)
    environment.finalize = _shown
    filters = cast(dict[str, Callable[..., Any]], environment.filters)
    own = {name: function for name, function in filters.items() if not name.startswith("__octavo")}
    filters |= {
        name: _marking(name, function) for name, function in own.items() if name not in PASSING and name != "join"
    }
    bounded_join = filters["join"]

    @functools.wraps(bounded_join)
    def join(context: EvalContext, value: Any, d: Any = "", attribute: Any = None) -> str:
        items = map(make_attrgetter(environment, attribute), value) if attribute is not None else value
        items, separator = [str(_shown(item)) for item in items], str(_shown(d))
        plain = bounded_join(context, items, separator)
        return joined(items, separator) if remembers((items, separator)) else plain

    filters["join"] = join
    filters["__octavo_concat"] = lambda values: bounded(_concat([str(_shown(value)) for value in values]))
    return environment
