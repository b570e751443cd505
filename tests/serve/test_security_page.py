"""docs/security.md says what is so: every limit with its default, every route of the admin listener, every flag."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from octavo.config import ServerConfig
from octavo.limits import DEFAULT, Limits
from octavo.serve.keys import ENTRIES, read_keys

from .inventory import ADMIN, listed

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()


def test_the_table_of_limits_is_the_one_that_is_applied():
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.M))
    assert told == {field.name: str(getattr(DEFAULT, field.name)) for field in dataclasses.fields(Limits)}
    assert list(told) == [field.name for field in dataclasses.fields(Limits)]


def test_the_routes_of_admins_are_told():
    for method, path in listed(ADMIN):
        assert re.search(rf"`{method}`?.*{re.escape(path)}", PAGE), (method, path)


def test_every_flag_of_the_page_exists():
    flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(ServerConfig)}
    others = {"--file", "--limits", "--unix-socket", *re.findall(r"--[a-z-]+", PAGE.split("keys new alice")[1][:200])}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= flags | others


def test_the_entry_of_a_keys_file_is_one(tmp_path):
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    path = tmp_path / "keys.toml"
    path.write_text(example)
    [key] = read_keys(path)
    assert (key.name, key.requests_per_minute, key.concurrent, key.models) == ("alice", 60, 4, ("small",))
    assert all(name in PAGE for name in ENTRIES)
