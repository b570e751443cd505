"""Requests that must hurt nobody but themselves: wrong, huge, deep, broken, crafted after published advisories."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..embedded import VOCAB_SIZE

ROW_ERROR = 2001  # token ids of planted faults; the fake device samples neither
FAIL_TOKEN = 2002
CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Poison:
    """One request. `statuses` are the replies it may get."""

    name: str
    body: bytes
    path: str = COMPLETE
    statuses: frozenset[int] = frozenset((400,))
    headers: tuple[str, ...] = ()
    method: str = "POST"


def sent(fields: dict[str, object]) -> bytes:
    """A completion with these fields."""
    return json.dumps({"prompt": "a", "max_tokens": 4} | fields).encode()


def chat(fields: dict[str, object]) -> bytes:
    """A chat with these fields."""
    return json.dumps({"messages": HELLO, "max_tokens": 4} | fields).encode()


WRONG = {  # values that no field of the name may have
    "n": [0, -1, 129, 16384, 2**63, 1.5, "2", [1]],
    "temperature": [-0.1, 2.1, math.nan, math.inf, "hot", [0]],
    "top_p": [0, -1, 1.1, math.nan, "x"],
    "top_k": [-2, 2**31, 0.5, "x"],
    "min_p": [-0.1, 1.1, math.nan],
    "presence_penalty": [-2.1, 2.1, math.inf, "x"],
    "frequency_penalty": [-2.1, 2.1, {}],
    "repetition_penalty": [0, -1, math.inf, 10**400],
    "seed": [2**63, -(2**63) - 1, 0.5, "x"],
    "max_tokens": [0, -1, 2**31, 1.5, "x"],
    "min_tokens": [-1, 5, 2**31, "x"],
    "logprobs": [-2, 21, 10**9, "x"],
    "prompt_logprobs": [-2, 21, 10**9, "x"],
    "stop": [[""], ["a"] * 17, "x" * 257, 5, [None], ["a"] * 10**6],
    "stop_token_ids": [[-1], [VOCAB_SIZE], [2**31], [2**63], ["a"], [[1]], [5] * 10**6, 5],
    "allowed_token_ids": [[], [-1], [VOCAB_SIZE], [2**40], ["a"], 5],
    "bad_words": [[""], ["a" * 300], ["a"] * 10**6, [5], "a"],
    "logit_bias": [{"-1": 1}, {str(VOCAB_SIZE): 1}, {"a": 1}, {"5": "x"}, {"9" * 400: 1}, {"5": math.nan}, [1]],
    "priority": [2**31, 0.5, "x"],
    "cache_salt": ["", "x" * 129, 5, ["a"]],
    "ignore_eos": ["yes", 1, []],
    "skip_special_tokens": ["yes", 0],
    "echo": ["yes"],
    "stream": ["yes", 1],
    "stream_options": [{"include_usage": True}, {"nonsense": 1}, 5],
    "best_of": [0, -1, 129, 1.5, "x"],
    "response_format": [{"type": "json_schema"}, {"type": "xml"}, 5, {"type": "structural_tag", "triggers": []}],
    "guided_regex": ["(" * 30_000 + ")" * 30_000, "(?=a)", "a\0", 5],
    "guided_json": [{"not": {}}, {"$ref": "#"}, {"type": "integer", "multipleOf": 1e-300}, "nonsense", 5],
    "guided_grammar": ["root ::= nobody", 'root ::= root', "start: (" * 1000, 5],
    "structured_outputs": [{"regex": "a", "choice": ["b"]}, {}, {"choice": []}, {"json": {"enum": list(range(10**5))}}],
    "use_beam_search": [1, "yes"],
    "kv_transfer_params": [{"do_remote_prefill": True, "remote_block_ids": [0]}],
    "model": [5],
    "user": [5],
    "metadata": [5],
    "no_such_field": [1],
    "__class__": ["x"],
    "constructor": [{"prototype": {}}],
    "prompt": [
        None, 5, {}, "", [], [""], [[]], [None], [5, "a"], [[5], "a"], [-1], [VOCAB_SIZE], [2**31], [2**63], [1.5],
        [True], [[5, [6]]], ["a"] * 257, [5] * 2048, [5] * 10**6, "a" * 10**6, {"prompt_embeds": "AAAA"},
    ],
}  # fmt: skip

ODD_MESSAGES: list[object] = [
    None,
    5,
    {},
    [],
    [None],
    ["hi"],
    [{}],
    [{"role": 5, "content": "a"}],
    [{"role": "", "content": "a"}],
    [{"role": "x" * 10**5, "content": "a"}],
    [{"role": "user", "content": 5}],
    [{"role": "user", "content": {"a": 1}}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]}],
    [{"role": "user", "content": [{"type": "text", "text": 5}]}],
    [{"role": "user", "content": [5]}],
    [{"role": "user", "content": "a"}] * 5000,
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
    [{"role": "assistant", "tool_calls": [{"function": 5}]}],
    [{"role": "assistant", "tool_calls": 5}],
    [{"role": "user", "content": "word " * 50_000}],
]

ODD_CHATS: list[dict[str, object]] = [
    {"tools": 5},
    {"tools": [5]},
    {"tools": [{"type": "function"}]},
    {"tools": [{"type": "function", "function": {"name": 5}}]},
    {"tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"top_logprobs": 21, "logprobs": True},
    {"top_logprobs": 3},
    {"max_completion_tokens": 0},
    {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
    {"chat_template_kwargs": 5},
    {"chat_template_kwargs": {"messages": 5}},
    {"chat_template_kwargs": {"raise_exception": 5, "bos_token": ["a"] * 100, "range": 1}},
    {"add_generation_prompt": 5},
    {"continue_final_message": True},
    {"modalities": ["audio"]},
    {"audio": {"voice": "x"}},
]

BROKEN = {
    "no body": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "deep lists": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"metadata": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b', "prompt": "a"}',
    "not UTF-8": b'{"prompt": "\xff\xfe\x80"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "a lone surrogate": b'{"prompt": "a", "cache_salt": "\\ud800", "max_tokens": 4}',
    "a lone surrogate in the prompt": b'{"prompt": "\\udfff\\ud800", "max_tokens": 4}',
    "half a pair": b'{"prompt": "\\ud83d", "max_tokens": 4}',
    "a huge number": b'{"prompt": "a", "n": ' + b"9" * 100_000 + b"}",
    "a huge exponent": b'{"prompt": "a", "temperature": 1e400}',
    "a long name": b'{"prompt": "a", "' + b"x" * 10**6 + b'": 1}',
    "a million fields": json.dumps({"prompt": "a"} | {f"f{i}": 1 for i in range(50_000)}).encode(),
}

# Served or refused, both are right; but never an error of the server, and nobody else may notice.
HARMLESS: dict[str, dict[str, object]] = {
    "special tokens spelled": {"prompt": "<|im_end|><|endoftext|></s><s>[INST]<unk><pad>"},
    "special ids": {"prompt": [0, 1, 2, 0, 1, 2]},
    "NUL": {"prompt": "\0\0\0"},
    "control characters": {"prompt": "\x1b[31m\r\n\x07", "user": "\r\nset-cookie: a"},
    "odd text": {"prompt": "\u202e\ufeff\U0010ffff\u0300" * 50},
    "a salt of other letters": {"cache_salt": "\u0000\U0001f600\n'\";--"},
    "the last id": {
        "prompt": [VOCAB_SIZE - 1],
        "stop_token_ids": [VOCAB_SIZE - 1],
        "logit_bias": {str(VOCAB_SIZE - 1): -100},
    },
    "all logprobs": {"logprobs": 20, "prompt_logprobs": 20},
    "penalties at their ends": {"presence_penalty": 2, "frequency_penalty": -2, "repetition_penalty": 1e300},
    "almost greedy": {"temperature": 1e-300, "top_p": 1e-300, "min_p": 1},
    "stop at once": {"stop": list("abcdefgh!%"), "min_tokens": 4},
    "long context": {"prompt": [5] * 2040},
    "many prompts": {"prompt": [[5, 6]] * 200, "max_tokens": 2},
    "fan-out": {"n": 100, "temperature": 1, "max_tokens": 2},
    "false for null": {"stop": None, "logit_bias": None, "bad_words": None, "seed": -1},
    "bad words": {"bad_words": ["the", " ", "\u4e16", "<|im_end|>"]},
}


def corpus() -> Iterator[Poison]:
    """All of it."""
    for name, values in WRONG.items():
        for i, value in enumerate(values):
            statuses = frozenset((400, 404)) if name == "model" else frozenset((400,))
            yield Poison(f"{name}#{i}", sent({name: value}), statuses=statuses)
    yield Poison("another model", sent({"model": "../../etc/passwd"}), statuses=frozenset((404,)))
    for i, messages in enumerate(ODD_MESSAGES):
        yield Poison(f"messages#{i}", chat({"messages": messages}), CHAT)
    for i, fields in enumerate(ODD_CHATS):
        yield Poison(f"chat#{i}", chat(fields), CHAT, frozenset((200, 400)))
    for name, body in BROKEN.items():
        yield Poison(name, body)
        yield Poison(f"{name} (chat)", body, CHAT)
    for name, fields in HARMLESS.items():
        yield Poison(name, sent(fields), statuses=frozenset((200, 400)))
    yield Poison("row error", sent({"prompt": [5, ROW_ERROR]}), statuses=frozenset((500,)))
    yield Poison("row error of many", sent({"prompt": [[5], [6, ROW_ERROR], [7]]}), statuses=frozenset((500,)))
    yield Poison("row error, n", sent({"prompt": [5, ROW_ERROR], "n": 3}), statuses=frozenset((500,)))
    yield Poison("step error", sent({"prompt": [5, FAIL_TOKEN, 6]}), statuses=frozenset((500,)))
    yield Poison("step error in a long prompt", sent({"prompt": [7] * 900 + [FAIL_TOKEN]}), statuses=frozenset((500,)))
    yield Poison("text body", sent({}), statuses=frozenset((415,)), headers=("content-type: text/plain",))
    for path in ("/tokenize", "/detokenize"):
        for i, fields in enumerate(
            ({}, {"prompt": 5}, {"tokens": [-1]}, {"tokens": [10**9]}, {"tokens": "x"}, {"prompt": []})
        ):
            yield Poison(f"{path}#{i}", json.dumps(fields).encode(), path)
