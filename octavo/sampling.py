"""SamplingParams: every generation parameter, declared once with its range; HTTP schemas and docs derive from `RULES`.

Names, defaults and rules are vLLM's, so that its users change only an import.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from octavo.errors import InvalidRequest
from octavo.limits import DEFAULT, Limits
from octavo.structured import StructuredOutputsParams

GREEDY_BELOW = 1e-5  # temperatures under this are greedy
LOWEST_TEMPERATURE = 0.01  # smaller positive ones are raised to it: logits / 1e-4 overflow float16 models
MAX_SEED = 2**63 - 1


class RequestOutputKind(IntEnum):
    """What each yielded output holds: all text so far, only what is new, or one output at the end."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


KINDS = tuple(RequestOutputKind)


@dataclass(frozen=True)
class Rule:
    """A number's kind and closed range, and one line for people. `above` makes the lower bound exclusive."""

    kind: type[int] | type[float]
    low: float
    high: float
    doc: str
    above: bool = False
    optional: bool = False

    def check(self, name: str, value: object) -> None:
        """Raise InvalidRequest unless `value` is a finite number of this kind inside the range."""
        if value is None and self.optional:
            return
        number = isinstance(value, (int, float) if self.kind is float else int) and not isinstance(value, bool)
        # isfinite() itself fails on integers that no float can hold; their range is checked below.
        if not number or (isinstance(value, float) and not math.isfinite(value)):
            what = "an integer" if self.kind is int else "a finite number"
            raise InvalidRequest(f"{name} must be {what}, got {shown(value)}", name)
        if value < self.low or value > min(self.high, sys.float_info.max) or (self.above and value == self.low):  # type: ignore[operator]
            raise InvalidRequest(f"{name} must be in {self.span}, got {shown(value)}", name)

    @property
    def span(self) -> str:
        """The range in interval notation."""
        low = "(" if self.above else "["
        high = "inf)" if math.isinf(self.high) else f"{self.high:g}]" if self.high < 1e6 else f"{int(self.high)}]"
        return f"{low}{self.low:g}, {high}"


def shown(value: object) -> str:
    """A value as an error message may show it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


INT_MAX = 2**31 - 1

RULES: dict[str, Rule] = {
    "n": Rule(int, 1, DEFAULT.n, "Sequences to generate for the prompt; they share its pages."),
    "presence_penalty": Rule(float, -2, 2, "Subtracted once from the logit of every token already generated."),
    "frequency_penalty": Rule(float, -2, 2, "Subtracted from a token's logit once per time it was generated."),
    "repetition_penalty": Rule(
        float,
        0,
        math.inf,
        "Divides positive logits (multiplies negative ones) of tokens seen in prompt or output.",
        True,
    ),
    "temperature": Rule(float, 0, 2, "Divides the logits; 0 picks the likeliest token."),
    "top_p": Rule(float, 0, 1, "Keep the smallest set of likeliest tokens whose probability reaches this.", True),
    "top_k": Rule(int, -1, INT_MAX, "Keep the k likeliest tokens; 0 or -1 keeps all."),
    "min_p": Rule(float, 0, 1, "Drop tokens less likely than this times the likeliest."),
    "seed": Rule(int, -MAX_SEED - 1, MAX_SEED, "Same seed, same request, same tokens. -1 means none.", optional=True),
    "max_tokens": Rule(int, 1, INT_MAX, "Tokens to generate at most; none means up to the context.", optional=True),
    "min_tokens": Rule(int, 0, INT_MAX, "Tokens before an end-of-sequence or stop token may be chosen."),
    "logprobs": Rule(
        int, -1, INT_MAX, "Log-probabilities of this many likeliest tokens, and of the chosen.", optional=True
    ),
    "prompt_logprobs": Rule(
        int,
        -1,
        INT_MAX,
        "Log-probabilities of this many likeliest tokens at each prompt position, and of the prompt's own.",
        optional=True,
    ),
}

BOOLEAN = (
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
)

LISTS = frozenset(("stop", "stop_token_ids", "logit_bias", "allowed_token_ids", "bad_words"))


class SamplingParams(msgspec.Struct, omit_defaults=True, kw_only=False):
    """How to continue a prompt. Every field is checked against `RULES`; a wrong one raises InvalidRequest naming it.

    Log-probabilities are those of the model itself: before temperature, penalties and filters (natural logarithm).
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        self.check()

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def check(self, limits: Limits = DEFAULT) -> None:
        """Normalize vLLM's alternative spellings, then raise InvalidRequest for the first field out of range.

        Fields at their default need no look: this runs several times per request.
        """
        changed = [name for name, default in DEFAULTS if getattr(self, name) is not default]
        if not changed:
            return
        if self.seed == -1:
            self.seed = None
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is True:
                setattr(self, name, 1)
        for name in changed:
            if name in RULES:
                RULES[name].check(name, getattr(self, name))
            elif name in BOOLEAN and not isinstance(getattr(self, name), bool):
                raise InvalidRequest(f"{name} must be true or false, got {shown(getattr(self, name))}", name)
        if 0 < self.temperature < LOWEST_TEMPERATURE and not self.greedy:
            self.temperature = LOWEST_TEMPERATURE
        if "output_kind" in changed:
            if self.output_kind not in KINDS:
                raise InvalidRequest(
                    f"output_kind must be a RequestOutputKind, got {shown(self.output_kind)}", "output_kind"
                )
            self.output_kind = RequestOutputKind(self.output_kind)
        self._check_counts(limits)
        if self.structured_outputs is not None:
            self._check_structured(limits)
        if not LISTS.isdisjoint(changed):
            self._check_lists(limits)

    def _check_counts(self, limits: Limits) -> None:
        if self.n > limits.n:
            raise InvalidRequest(f"n must be at most {limits.n}, got {self.n}", "n")
        if self.n > 1 and self.greedy:
            raise InvalidRequest(
                f"n must be 1 when temperature is 0 (all {self.n} would be equal), or raise temperature", "n"
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}; lower it", "min_tokens"
            )
        if self.stop and not self.detokenize:
            raise InvalidRequest("stop strings need detokenize=True; use stop_token_ids instead", "stop")
        for name in ("logprobs", "prompt_logprobs"):
            if (getattr(self, name) or 0) > limits.logprobs:
                raise InvalidRequest(
                    f"{name} must be at most {limits.logprobs} (or -1 for the whole vocabulary), "
                    f"got {getattr(self, name)}",
                    name,
                )

    def _check_structured(self, limits: Limits) -> None:
        wanted: object = self.structured_outputs
        if not isinstance(wanted, StructuredOutputsParams):
            raise InvalidRequest(
                f"structured_outputs must be a StructuredOutputsParams, got {shown(wanted)}", "structured_outputs"
            )
        wanted.check(limits)

    def _check_lists(self, limits: Limits) -> None:
        for name, most in (("stop", limits.stop_strings), ("bad_words", limits.bad_words)):
            value = getattr(self, name)
            if value is None or (isinstance(value, str) and name == "stop"):
                value = [value] if value is not None else []
            if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) and text for text in value):
                raise InvalidRequest(f"{name} must be non-empty strings, got {shown(value)}", name)
            if len(value) > most or any(len(text) > limits.stop_chars for text in value):
                raise InvalidRequest(f"{name} allows {most} strings of {limits.stop_chars} characters each", name)
        check_ids("stop_token_ids", self.stop_token_ids, limits.stop_token_ids)
        check_ids("allowed_token_ids", self.allowed_token_ids, INT_MAX)
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InvalidRequest("allowed_token_ids must name at least one token, or be left out", "allowed_token_ids")
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, dict) or len(self.logit_bias) > limits.logit_bias:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidRequest(f"logit_bias must be a map of at most {limits.logit_bias} token ids", "logit_bias")
            self.logit_bias = {bias_id(key): bias_value(value) for key, value in self.logit_bias.items()}

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InvalidRequest for a token id outside [0, vocab_size): none reaches a kernel unchecked (R53)."""
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            for id in getattr(self, name) or ():
                if not 0 <= id < vocab_size:
                    raise InvalidRequest(f"{name} has token id {id}, outside the vocabulary [0, {vocab_size})", name)


DEFAULTS = tuple((f.name, f.default) for f in msgspec.structs.fields(SamplingParams))


def check_ids(name: str, ids: list[int] | None, most: int) -> None:
    """Raise InvalidRequest unless `ids` is None or a list of at most `most` non-negative integers."""
    if ids is None:
        return
    if not isinstance(ids, (list, tuple)) or not all(  # pyright: ignore[reportUnnecessaryIsInstance]
        type(id) is int and 0 <= id <= INT_MAX for id in ids
    ):
        raise InvalidRequest(f"{name} must be a list of token ids, got {shown(ids)}", name)
    if len(ids) > most:
        raise InvalidRequest(f"{name} must have at most {most} ids, got {len(ids)}", name)


def bias_id(key: object) -> int:
    """A logit_bias key, which JSON spells as a string, as a token id."""
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10:
        key = int(key)
    if type(key) is not int or not 0 <= key <= INT_MAX:
        raise InvalidRequest(f"logit_bias keys must be token ids, got {shown(key)}", "logit_bias")
    return key


def bias_value(value: object) -> float:
    """A logit_bias value, clamped to [-100, 100]."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidRequest(f"logit_bias values must be finite numbers, got {shown(value)}", "logit_bias")
    return float(max(-100, min(100, value)))  # type: ignore[type-var]
