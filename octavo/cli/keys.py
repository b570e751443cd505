"""`octavo keys`: make an API key and the entry for it in a keys file, or say what a keys file holds, without keys."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from octavo.cli import flags
from octavo.errors import StartupError
from octavo.serve.keys import NAME, QUOTAS, digest, new_key, parse, read_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make a key: it is shown once, and a keys file holds its digest only")
    new.add_argument("name", metavar="NAME", help="whom it is for; the label of their usage")
    new.add_argument("--file", type=Path, metavar="FILE", help="keys file to add it to (.toml or .json)")
    for quota in QUOTAS:
        new.add_argument(f"--{quota.replace('_', '-')}", type=flags.at_least_one, metavar="N", help="quota")
    new.add_argument("--priority", type=int, metavar="N", help="priority of its requests; lower runs earlier")
    new.add_argument("--models", nargs="+", default=[], metavar="NAME", help="served names it may use; default: all")
    check = actions.add_parser("check", help="say who is in a keys file, or what is wrong with it")
    check.add_argument("file", type=Path, metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.action == "check":
        for key in read_keys(args.file):
            quotas = [f"{quota}={getattr(key, quota)}" for quota in (*QUOTAS, "priority") if getattr(key, quota)]
            print(f"{key.name:<24} {' '.join([*quotas, *key.models]) or 'no quotas'}")
        return 0
    if not NAME.fullmatch(args.name):
        raise StartupError("name must be 1 to 64 letters, digits, dots, dashes or underscores", "name")
    key = new_key()
    entry: dict[str, Any] = {"name": args.name, "sha256": digest(key.encode()).hex()}
    entry |= {quota: getattr(args, quota) for quota in (*QUOTAS, "priority") if getattr(args, quota) is not None}
    entry |= {"models": args.models} if args.models else {}
    if args.file is None:
        print(f"key    {key}\n\nentry for a keys file:\n\n{toml(entry)}")
    else:
        add(args.file, entry)
        print(f"key    {key}\n\n{args.name} is in {args.file} now; a running server lets them in within seconds.")
    return 0


def toml(entry: dict[str, Any]) -> str:
    """An entry as TOML: its values are texts, integers and lists of texts, which JSON spells alike."""
    return "[[keys]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in entry.items())


def add(path: Path, entry: dict[str, Any]) -> None:
    """Write the file anew with one more entry, and put it in the old one's place only if it can be read."""
    old = path.read_text() if path.exists() else ""
    if path.suffix == ".toml":
        text = f"{old}{'' if old.endswith(chr(10)) or not old else chr(10)}{chr(10) if old else ''}{toml(entry)}"
    else:
        text = json.dumps({"keys": [*(parse(path, old.encode()) if old else []), entry]}, indent=2) + "\n"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".keys-", suffix=path.suffix)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            read_keys(Path(name))
        except StartupError as error:
            raise StartupError(error.message.replace(name, str(path)), error.field) from None
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
