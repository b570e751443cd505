"""Command-line flags generated from the config dataclasses: a field's doc is its help, None means "decide for me"."""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from octavo.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulingConfig, ServerConfig

TITLES = {
    ModelConfig: "model",
    CacheConfig: "KV cache",
    SchedulingConfig: "scheduling",
    ParallelConfig: "parallelism",
    ServerConfig: "server",
}

NUMBER = re.compile(r"(-?[\d_]+(?:\.\d+)?)(?:([kmgtKMGT])(i?)([bB]?))?")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Wide enough for a flag and its default on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)


def add_engine(parser: argparse.ArgumentParser, skip: tuple[str, ...] = ()) -> None:
    """All engine flags, grouped as in config.py. `model` is a positional argument, also spelled --model."""
    for part in EngineConfig.parts():
        add_group(parser, type(part.default), (*skip, "model"))
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--limits",
        nargs="+",
        metavar="NAME=N",
        help="what requests may ask for, other than the defaults: entries (n=256,logprobs=50) or a JSON file of them; "
        "docs/security.md lists all",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, as a positional argument or as --model (vLLM's api_server spelling)."""
    doc = next(f for name, f, _ in EngineConfig.options() if name == "model").metadata["doc"]
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help=doc)
    parser.add_argument("--model", dest="model_flag", metavar="MODEL", help="the same, as a flag")


def add_group(parser: argparse.ArgumentParser, owner: Any, skip: tuple[str, ...] = ()) -> None:
    """The flags of one config dataclass."""
    group = parser.add_argument_group(TITLES[owner])
    hints = typing.get_type_hints(owner)
    for f in dataclasses.fields(owner):
        if f.name not in skip:
            add_field(group, f, hints[f.name])


def add_field(group: Any, f: dataclasses.Field[Any], hint: Any) -> None:
    """One flag. Booleans get a --no- twin, tuples repeat or take several values."""
    spelled = [f"--{f.name.replace('_', '-')}"]
    help = f.metadata["doc"].replace("%", "%%")
    if f.default not in (None, (), "", False):
        help += f" (default: {'on' if f.default is True else f.default})"
    kind = plain_type(hint)
    if f.name == "tensor_parallel_size":
        spelled.append("-tp")
    if f.name == "pipeline_parallel_size":
        spelled.append("-pp")
    options: dict[str, Any] = {"dest": f.name, "default": None, "help": help}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
        group.add_argument(spelled[0], **options)
    elif kind is tuple:
        group.add_argument(*spelled, **options, nargs="+", metavar=f.metadata["metavar"] or "VALUE")
    elif f.metadata["choices"]:
        group.add_argument(*spelled, **options, choices=f.metadata["choices"])
    else:
        metavar = f.metadata["metavar"] or {int: "N", float: "X", str: "TEXT"}[kind]
        parse = number if kind is int else kind
        group.add_argument(*spelled, **options, type=parse, metavar=metavar)


def plain_type(hint: Any) -> Any:
    """int for `int | None`, tuple for `tuple[str, ...]`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return typing.get_origin(hint) or hint


def number(text: str) -> int:
    """An integer, or a size as vLLM spells it: 16k is 16 000, 16K is 16 384, 4GiB and 4GB are bytes; auto is -1."""
    if text == "auto":
        return -1
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    digits, unit, binary, byte = match.groups()
    if not unit:
        return int(digits)
    base = 1024 if binary or (unit.isupper() and not byte) else 1000
    return round(float(digits) * base ** "kmgt".index(unit.lower()) * base)


def at_least_one(text: str) -> int:
    """A positive integer."""
    value = number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def positive(text: str) -> float:
    """A positive number, `inf` among them."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def dashed(argv: Sequence[str]) -> list[str]:
    """The arguments with --flag_names spelled --flag-names, as vLLM's users may write either."""
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        result.append(name.replace("_", "-") + equals + value if name.startswith("--") else argument)
    return result


def engine_config(args: argparse.Namespace) -> EngineConfig:
    """The engine's config from parsed flags; StartupError for values that can never work."""
    names = {name for name, *_ in EngineConfig.options()} - {"model"}
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    limits = getattr(args, "limits", None)
    return EngineConfig.of(model=args.model_tag or args.model_flag, limits=limits, **given)


def server_config(args: argparse.Namespace) -> ServerConfig:
    """The server's config from parsed flags."""
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(ServerConfig)}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if v is not None}
    return ServerConfig(**given)
