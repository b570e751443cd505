"""The sandbox in which a chat template runs, and the bounds it keeps."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import ClassVar, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from octavo.errors import InvalidRequest, StartupError

MAX_TEMPLATE_CHARS = 1 << 20
MAX_OUTPUT_CHARS = 8 << 20
MAX_WORK = 1_000_000
CALL_WORK = 8  # a call costs about as much as eight turns of a loop
MAX_NUMBER = 100_000


class _Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class _TooMuch(Exception):
    """A render passed one of the limits; deliberately unknown to templates."""


class TooLong(Exception):
    """A render took longer than `until`; unknown to templates, too."""


class _Budget:
    """Counts the loop iterations and calls of one render, and looks at the clock (time.monotonic) meanwhile."""

    def __init__(self, until: float) -> None:
        self.left = MAX_WORK
        self._until = until

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise _TooMuch(f"it loops more than {MAX_WORK} times, or calls more than {MAX_WORK // CALL_WORK} times")
        if time.monotonic() > self._until:
            raise TooLong

    def walk(self, items: Iterable[object]) -> Iterator[object]:
        for item in items:
            self.spend(1)
            yield item


class CompiledTemplate:
    """One compiled template, and how it wants message content.

    walks_parts: it iterates over message content. needs_parts: and never asks whether content is a string.
    """

    def __init__(self, environment: Environment, source: str, origin: str) -> None:
        self._environment = environment
        if len(source) > MAX_TEMPLATE_CHARS:
            raise StartupError(
                f"{origin}: the chat template has {len(source)} characters; at most {MAX_TEMPLATE_CHARS}",
                "chat_template",
            )
        try:
            tree = environment.parse(source)
            self.walks_parts = _walks_content(tree)
            self.needs_parts = self.walks_parts and not any(test.name == "string" for test in tree.find_all(nodes.Test))
            code = environment.compile(_with_limits(tree))
            self._template = environment.template_class.from_code(environment, code, environment.globals)
        except jinja2.TemplateSyntaxError as error:
            raise StartupError(
                f"{origin}: the chat template does not compile: {error.message} (line {error.lineno})", "chat_template"
            ) from error
        except RecursionError as error:
            raise StartupError(f"{origin}: the chat template is nested too deeply", "chat_template") from error

    def render(self, variables: dict[str, object], until: float = math.inf) -> str:
        """Return the rendered text; InvalidRequest with the template's message when it fails.

        TooLong once the clock (time.monotonic) has passed `until`, seen at the next turn of a loop or call.
        """
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(variables | {BUDGET: _Budget(until)}):
                size += len(part)
                if size > MAX_OUTPUT_CHARS:
                    raise _TooMuch(f"it writes more than {MAX_OUTPUT_CHARS} characters")
                parts.append(part)
        except (_Refused, _TooMuch) as error:
            raise InvalidRequest(f"the chat template refuses these messages: {_line(error)}", "messages") from error
        except TooLong:
            raise
        # The template is a program that we did not write: any error of it is about these messages.
        except Exception as error:
            reason = f"{type(error).__name__}: {_line(error)}"
            raise InvalidRequest(f"the chat template fails on these messages: {reason}", "messages") from error
        return self._environment.concat(parts)


def _line(error: Exception) -> str:
    """Return the error's message as one line of bounded length; a template may put anything into it."""
    return " ".join(str(error)[:1000].split())


BUDGET = "__octavo_budget"


def _with_limits(tree: nodes.Template) -> nodes.Template:
    """Send every loop's items through the render's budget and every `~` through our own, bounded one, in place."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _call_filter("__octavo_walk", loop.iter)
    for node in list(tree.find_all(nodes.Node)):
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, name, _own_concat(value))
            elif isinstance(value, list):
                value[:] = [_own_concat(v) if isinstance(v, nodes.Concat) else v for v in value]
    return tree


def _own_concat(value: nodes.Concat) -> nodes.Filter:
    values = nodes.Tuple(value.nodes, "load", lineno=value.lineno, environment=value.environment)
    return _call_filter("__octavo_concat", values)


def _call_filter(name: str, value: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno, environment=value.environment)


@jinja2.pass_context
def _walk(context: Context, items: Iterable[object]) -> Iterable[object]:
    return _budget(context).walk(items)


def _budget(context: Context) -> _Budget:
    budget = context.parent[BUDGET]
    assert isinstance(budget, _Budget)
    return budget


def bounded(value: object) -> object:
    """`value`, refused when it is a text or list that is too long."""
    if isinstance(value, str | list | tuple):
        _check_size(len(value))
    return value


def _check_size(size: int) -> None:
    if size > MAX_OUTPUT_CHARS:
        raise _TooMuch(f"it builds a text or list longer than {MAX_OUTPUT_CHARS}")


def _check_widths(arguments: Iterable[object]) -> None:
    for value in arguments:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise _TooMuch(f"it asks for a width of {value}; at most {MAX_NUMBER}")


def _longest(values: object) -> int:
    """Return the length of the longest string among `values`, a value or a collection of values."""
    if isinstance(values, Mapping):
        values = list(values.values())
    items = values if isinstance(values, list | tuple) else [values]
    return max((len(item) for item in items if isinstance(item, str)), default=0)


def _check_format(text: str, mark: str, values: object) -> None:
    """Refuse a format whose result could be huge: by a width in it, a width from the values, or many long values."""
    digits = 0
    for char in text if mark in text else "":
        digits = digits + 1 if char.isdigit() else 0
        if digits > 3:
            raise _TooMuch("it formats with a width of more than 999")
    if text.count(mark) > 0 and ((mark == "%" and "*" in text) or (mark == "{" and ":{" in text)):
        raise _TooMuch("it takes the width of a format from the values")
    _check_size(len(text) + text.count(mark) * (_longest(values) + 999 * bool(digits)))


def _check_text_call(name: str, text: str, args: tuple[object, ...], named: Mapping[str, object]) -> None:
    """Refuse a string method or filter of this name on `text` whose result could be huge."""
    _check_widths([*args, *named.values()])
    strings = [arg for arg in args if isinstance(arg, str)]
    if name == "replace" and len(strings) > 1:
        _check_size(len(text) + text.count(strings[0]) * len(strings[1]))
    elif name == "indent":
        _check_size(len(text) + (text.count("\n") + 1) * max([4, *(len(s) for s in strings), *_integers(args, named)]))
    elif name == "expandtabs":
        _check_size(len(text) + text.count("\t") * max([8, *_integers(args, named)]))
    elif name in ("format", "format_map"):
        _check_format(text, "{", [*args, *named.values()] if name == "format" else args[0] if args else None)
    elif name == "join" and args and isinstance(args[0], list | tuple):
        _check_size(len(args[0]) * (len(text) + _longest(args[0])))
    elif name == "translate":
        raise _TooMuch("it calls translate, which is not available")


def _integers(args: tuple[object, ...], named: Mapping[str, object]) -> list[int]:
    return [value for value in (*args, *named.values()) if isinstance(value, int)]


def _guarded(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """Return the filter `function` with its result bounded, and its arguments where they set the result's size."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def call(*arguments: object, **named: object) -> object:
        value, args = arguments[first], arguments[first + 1 :]
        if name in ("center", "indent", "wordwrap", "replace"):
            _check_text_call(name, str(value), args, named)
        elif name in ("batch", "slice"):
            _check_widths([*args, *named.values()])
        elif name == "format":
            _check_format(str(value), "%", [*args, *named.values()])
        elif name == "join" and isinstance(value, list | tuple):
            _check_size(len(value) * (_longest([*args, *named.values()]) + _longest(value)))
        return bounded(function(*arguments, **named))

    return call


def own_arguments(named: Mapping[str, object]) -> dict[str, object]:
    """A call's arguments by name, without what Jinja sends along for macros."""
    return {name: value for name, value in named.items() if name not in ("_loop_vars", "_block_vars")}


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with bounded strings and numbers."""

    concat: Callable[[Iterable[str]], str]  # pyright: ignore[reportIncompatibleVariableOverride]

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Return left operator right, refused where the result would be huge."""
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                    _check_size(len(sequence) * max(count, 0))
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
                raise _TooMuch("it computes with huge numbers")
        elif operator == "**" and isinstance(left, int | float) and isinstance(right, int | float):
            if abs(right) > 64 or abs(left) > MAX_NUMBER:
                raise _TooMuch(f"it computes {left} ** {right}")
        elif operator == "%" and isinstance(left, str):
            _check_format(left, "%", right)
        return bounded(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:
        """Return the call's result; counts it, and refuses string methods where the result would be huge."""
        _budget(__context).spend(CALL_WORK)
        # The sandbox wraps str.format; the method itself, which knows its string, is underneath.
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _check_text_call(getattr(method, "__name__", ""), owner, args, own_arguments(kwargs))
        return bounded(super().call(__context, __obj, *args, **kwargs))


class _Generation(Extension):
    """The {% generation %} tag, which marks assistant text for training and renders as its body."""

    # Jinja declares a variable of the instance and overrides it per class.
    tags: ClassVar[set[str]] = {"generation"}  # pyright: ignore[reportIncompatibleVariableOverride]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _Namespace(Namespace):
    """Jinja's namespace without underscore names, which lead to Python's internals."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise _Refused(f"a namespace cannot hold {name!r}")


def _make_dict(*args: object, **kwargs: object) -> dict[str, object]:
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> None:
    raise _Refused(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _concat(values: Iterable[object]) -> object:
    return bounded("".join(map(str, values)))


def sandbox(clock: Callable[[], datetime], kind: type[Environment] = Environment) -> Environment:
    """An immutable environment with what Transformers gives templates; `clock` answers strftime_now."""
    environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    # Jinja's tables are open, but typed by what it fills them with.
    filters = cast(dict[str, Callable[..., object]], environment.filters)
    filters["tojson"] = _to_json
    filters |= {name: _guarded(name, function) for name, function in filters.items()}
    filters["__octavo_walk"] = _walk
    filters["__octavo_concat"] = _concat
    names = cast(dict[str, object], environment.globals)
    del names["lipsum"]
    names |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: clock().strftime(form),
        "dict": _make_dict,
        "namespace": _Namespace,
    }
    return environment


def _walks_content(tree: nodes.Template) -> bool:
    """Tell whether a template iterates over message content, directly, through a variable or a macro's parameter."""
    names: set[str] = set()
    macros = {macro.name: [arg.name for arg in macro.args] for macro in tree.find_all(nodes.Macro)}
    while True:
        before = len(names)
        for assign in tree.find_all(nodes.Assign):
            if isinstance(assign.target, nodes.Name) and _is_content(assign.node, names):
                names.add(assign.target.name)
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in macros:
                pairs = zip(macros[call.node.name], call.args, strict=False)
                names.update(name for name, value in pairs if _is_content(value, names))
        if len(names) == before:
            return any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            return _is_content(node.node, names)
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Getattr) and node.attr == "content"
