"""API keys: the file that names them, and making new ones. Keys are held as SHA-256 digests only (R30)."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from octavo import log
from octavo.errors import StartupError

logger = log.get(__name__)

PREFIX = "sk-octavo-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_KEYS = 10_000
MOST_BYTES = 16 * 2**20
QUOTAS = ("requests_per_minute", "tokens_per_minute", "concurrent")
HIGHEST = 2**53  # a number every JSON reader holds exactly
LOWEST_PRIORITY = 2**31


@dataclass(frozen=True)
class Key:
    """Whom a key belongs to and what they may take. `digests` are those of the key, and of others while it changes.

    Requests of this key run at `priority` at best (lower runs earlier); `models` are all when empty.
    """

    name: str
    digests: tuple[bytes, ...]
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    priority: int | None = None
    models: tuple[str, ...] = ()
    is_named: bool = True  # by the operator, not by its place on the command line

    @property
    def id(self) -> str:
        """Whose things are whose: stays when a named key is changed for a new one."""
        return f"name:{self.name}" if self.is_named else self.digests[0].hex()


ENTRIES = ("name", "key", "sha256", *(f.name for f in fields(Key) if f.name not in ("name", "digests", "is_named")))


def digest(key: bytes) -> bytes:
    """What keys are compared as: equal length, and nothing of the key in memory dumps."""
    return hashlib.sha256(key).digest()


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def unnamed(keys: Iterable[str]) -> list[Key]:
    """The keys of the command line or the environment."""
    return [Key(f"key-{i}", (digest(key.encode()),), is_named=False) for i, key in enumerate(keys, 1)]


def read_keys(path: Path) -> list[Key]:
    """The keys of a .toml or .json file; StartupError names the entry that is wrong, and shows no key."""
    try:
        about = path.stat()
        if about.st_size > MOST_BYTES:
            raise StartupError(
                f"{path} has {about.st_size} bytes; a keys file has at most {MOST_BYTES}", "api_keys_file"
            )
        data = path.read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read keys from {path}: {error.strerror or error}", "api_keys_file") from None
    entries = parse(path, data)
    if about.st_mode & (stat.S_IRGRP | stat.S_IROTH) and any("key" in entry for entry in entries):
        logger.warning("%s holds keys that other users of this machine can read; chmod 600 it, or use sha256", path)
    return check(path, [make(path, i, entry) for i, entry in enumerate(entries, 1)])


def parse(path: Path, data: bytes) -> list[dict[str, Any]]:
    """The file's entries, as they are written."""
    try:
        # The parsers' own messages may quote what they read: only the place is told.
        found: object = tomllib.loads(data.decode()) if path.suffix == ".toml" else json.loads(data)
    except UnicodeDecodeError:
        raise StartupError(f"{path} is not UTF-8 text", "api_keys_file") from None
    except ValueError as error:
        where = re.search(r"line \d+", str(error))
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise StartupError(f"{path} is not {kind}{f' at {where[0]}' if where else ''}", "api_keys_file") from None
    entries = cast(Mapping[str, object], found).get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast(list[object], entries)):
        raise StartupError(
            f'{path} must hold a list of keys: [[keys]] in TOML, {{"keys": [...]}} in JSON', "api_keys_file"
        )
    return cast(list[dict[str, Any]], entries)


def make(path: Path, number: int, entry: Mapping[str, object]) -> Key:
    """One entry as a Key; StartupError for what is wrong with it."""

    def wrong(message: str) -> StartupError:
        return StartupError(f"{path}, key number {number}: {message}", "api_keys_file")

    unknown = [name for name in entry if name not in ENTRIES]
    if unknown:
        raise wrong(f"there is no entry {unknown[0][:64]!r}; there are {', '.join(ENTRIES)}")
    name = entry.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise wrong("name must be 1 to 64 letters, digits, dots, dashes or underscores")
    for quota in QUOTAS:
        value = entry.get(quota)
        if value is not None and (type(value) is not int or not 1 <= value <= HIGHEST):
            raise wrong(f"{quota} must be a positive integer")
    priority = entry.get("priority")
    if priority is not None and (type(priority) is not int or not -LOWEST_PRIORITY <= priority < LOWEST_PRIORITY):
        raise wrong("priority must be a 32-bit integer")
    models = texts(entry.get("models"))
    if models is None:
        raise wrong("models must be a list of served names")
    keys, digests = texts(entry.get("key")), texts(entry.get("sha256"))
    if keys is None or digests is None or not keys + digests or not all(keys):
        raise wrong("key or sha256 must be a text, or a list of them")
    if not all(DIGEST.fullmatch(text) for text in digests):
        raise wrong("sha256 must be 64 hexadecimal digits in lower case")
    found = [*(digest(key.encode()) for key in keys), *(bytes.fromhex(text) for text in digests)]
    quotas: dict[str, Any] = {quota: entry.get(quota) for quota in QUOTAS}
    return Key(name, tuple(found), **quotas, priority=priority, models=tuple(models))


def texts(value: object) -> list[str] | None:
    """A text or list of texts as a list; None when it is neither. Nothing is an empty list."""
    if value is None:
        return []
    items = cast(object, [value] if isinstance(value, str) else value)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in cast(list[object], items)):
        return None
    return cast(list[str], items)


def check(path: Path, keys: list[Key]) -> list[Key]:
    """The keys, if there is at least one and no two have a name or a key in common."""
    if not 0 < len(keys) <= MOST_KEYS:
        raise StartupError(f"{path} has {len(keys)} keys; there must be 1 to {MOST_KEYS}", "api_keys_file")
    names: set[str] = set()
    digests: set[bytes] = set()
    for number, key in enumerate(keys, 1):
        if key.name in names:
            raise StartupError(f"{path}, key number {number}: the name {key.name} is taken", "api_keys_file")
        if not digests.isdisjoint(key.digests) or len(set(key.digests)) < len(key.digests):
            raise StartupError(f"{path}, key number {number}: the same key stands here twice", "api_keys_file")
        names.add(key.name)
        digests.update(key.digests)
    return keys
