"""Odd bodies for every endpoint that a server says it has, so that a new one is among them the day it appears."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

from .poison import BROKEN, HELLO, Poison

CLIENTS_FAULT = frozenset(range(200, 500)) - {500}

ODD: list[object] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    "",
    "x",
    "\0",
    "\u202e\ufeff\U0010ffff",
    "a" * 70_000,
    "../../etc/passwd",
    "{{ 7 * 7 }}",
    "$(id)",
    "'; DROP TABLE x; --",
    "<|im_end|>",
    "\r\nset-cookie: a",
    "NaN",
    [],
    [[]],
    [None],
    ["x"],
    [5] * 3000,
    [["a"] * 50] * 50,
    {},
    {"": {}},
    {"type": "x"},
    {"type": 5},
    [{"type": "text"}],
    {"a": {"b": {"c": [{"d": 1}]}}},
    [{"role": "user", "content": 5}],
    {"__proto__": {"x": 1}},
    {"x" * 3000: "x"},
]

# A body that is served, for the endpoints that need more than nothing; others are tried with odd fields alone.
WHOLE: dict[str, dict[str, object]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 2},
    "/v1/chat/completions/batch": {"messages": [HELLO], "max_tokens": 2},
    "/v1/responses": {"input": "hello", "max_output_tokens": 16, "store": False},
    "/v1/responses/input_tokens": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/embeddings": {"input": "hello"},
    "/pooling": {"input": "hello"},
    "/classify": {"input": "hello"},
    "/score": {"text_1": "a", "text_2": ["b"]},
    "/v1/score": {"text_1": "a", "text_2": "b"},
    "/rerank": {"query": "a", "documents": ["b", "c"]},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v2/rerank": {"query": "a", "documents": ["b"]},
    "/v1/batches": {"input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
}
IDS = (
    "x",
    "0",
    "..",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%00",
    "a" * 300,
    "%F0%9F%98%80",
    "resp_" + "0" * 48,
    "%27%20OR%201=1",
)
SHAPES = [
    [{"type": "text", "text": "a"}],
    [{"type": "input_text", "text": "a"}],
    [{"type": "image", "source": {"type": "url"}}],
    [{"type": "function_call", "name": "f", "arguments": "{"}],
    [{"type": "function_call_output", "output": 5}],
    [{"type": "tool_use", "id": 5, "name": "f", "input": "x"}],
    [{"type": "tool_result", "tool_use_id": "a", "content": 5}],
    [{"type": "reasoning", "summary": [], "encrypted_content": "x" * 1000}],
    [{"type": "item_reference", "id": "x"}],
    [{"type": "thinking", "thinking": 5, "signature": "x"}],
    [{"role": "user", "content": [{"type": "document"}]}],
]
FORM = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: form-data; '


def doors(document: Mapping[str, Any], draw: random.Random, share: float) -> Iterator[Poison]:
    """Odd requests for every path of an OpenAPI document: about `share` of all there are."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for poison in every(path, method.upper(), operation):
                if draw.random() < share:
                    yield poison


def every(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[Poison]:
    """All odd requests for one endpoint."""
    if "{" in path:
        for id in IDS:
            where = path.replace(path[path.index("{") : path.index("}") + 1], id)
            yield Poison(f"{method} {where[:60]}", b"{}", where, CLIENTS_FAULT, method=method)
        return
    kinds = operation.get("requestBody", {}).get("content", {})
    if "application/json" in kinds:
        whole = WHOLE.get(path, {})
        for field in sorted(kinds["application/json"]["schema"].get("properties", {})):
            values = [*ODD, *(SHAPES if field in ("messages", "input", "system", "tools") else ())]
            for i, value in enumerate(values):
                yield Poison(f"{path} {field} {i}", json.dumps(whole | {field: value}).encode(), path, CLIENTS_FAULT)
        for name, body in BROKEN.items():
            yield Poison(f"{path} {name}", body, path, CLIENTS_FAULT)
    elif kinds:
        yield from forms(path, method)


def forms(path: str, method: str) -> Iterator[Poison]:
    """Odd uploads."""
    named = b'name="file"; filename="../../../a\0b.jsonl"\r\n\r\n'
    for name, body in {
        "empty": b"",
        "no end": FORM + named + b"{}",
        "a path": FORM + named + b"{}\r\n--b--\r\n",
        "no name": FORM + b"\r\n\r\n{}\r\n--b--\r\n",
        "many parts": (FORM + b'name="x"\r\n\r\n1\r\n') * 2000 + b"--b--\r\n",
        "no JSON": FORM + b'name="file"; filename="a"\r\n\r\n\xff\xfe\0{{{\r\n--b--\r\n',
        "a boundary": b"--b" * 10_000,
    }.items():
        headers = ("content-type: multipart/form-data; boundary=b",)
        yield Poison(f"{path} {name}", body, path, CLIENTS_FAULT, headers, method)
    yield Poison(f"{path} no boundary", b"x", path, CLIENTS_FAULT, ("content-type: multipart/form-data",), method)
