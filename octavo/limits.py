"""The limits table: how much one request may ask for, applied at every door before anything is expanded (R24, R25)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds per request."""

    n: int = 128  # sequences per prompt
    prompts: int = 256  # prompts per HTTP request
    sequences: int = 1024  # n x prompts per HTTP request
    messages: int = 4096  # chat messages
    logprobs: int = 20  # alternatives per token
    stop_strings: int = 16
    stop_chars: int = 256  # per stop string
    stop_token_ids: int = 1024
    bad_words: int = 128
    bad_word_tokens: int = 64  # per bad word
    logit_bias: int = 1024  # entries
    id_chars: int = 128  # request ids, cache salts, user names
    body_bytes: int = 32 * 2**20
    header_bytes: int = 16 * 2**10
    json_depth: int = 64
    grammar_bytes: int = 64 * 2**10  # of a schema, regex, grammar or structural tag (R38)
    grammar_depth: int = 64  # levels of a schema or structural tag, and of groups in a regex or grammar
    choices: int = 4096  # texts of a choice
    whitespace_pattern_chars: int = 256
    begin_marks: int = 8  # texts a constraint may begin after


DEFAULT = Limits()
