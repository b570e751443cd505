"""SamplingParams: every generation parameter, declared once with its range; HTTP schemas and docs derive from `RULES`.

Names, defaults and rules are vLLM's, so that its users change only an import.
"""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import msgspec

from octavo.errors import InvalidRequest
from octavo.limits import CEILING, DEFAULT, Limits
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


SHORT = reprlib.Repr()  # a value that is too long to show need not be spelled out
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = 20
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 100


def shown(value: object) -> str:
    """A value as an error message may show it: short, on one line."""
    text = SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


INT_MAX = 2**31 - 1

RULES: dict[str, Rule] = {
    "n": Rule(int, 1, CEILING.n, "Sequences to generate for the prompt; they share its pages."),
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
    "thinking_token_budget": Rule(
        int, -1, INT_MAX, "In a chat: tokens of reasoning at most, then it is ended; -1 means any.", optional=True
    ),
    "best_of": Rule(
        int, 1, DEFAULT.n, "Sample this many and return the `n` with the likeliest tokens on average.", optional=True
    ),
    "stream_interval": Rule(
        int, 1, INT_MAX, "Stream after the first and then every so many tokens of a choice.", optional=True
    ),
    "truncate_prompt_tokens": Rule(
        int, -1, INT_MAX, "Keep so many tokens of a longer prompt; -1 keeps what leaves room to answer.", optional=True
    ),
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
    "skip_reading_prefix_cache",
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
)

LISTS = frozenset(
    ("stop", "stop_regex", "stop_token_ids", "logit_bias", "allowed_token_ids", "bad_words", "logprob_token_ids")
)
OBJECTS = frozenset(("repetition_detection", "logits_processors", "extra_args", "truncation_side"))
SIDES = ("left", "right")


class RepetitionDetectionParams(msgspec.Struct, omit_defaults=True):
    """Ends an output whose last tokens are one pattern of `min_pattern_size` (0 is 1) to `max_pattern_size` tokens,
    `min_count` times over. Names are vLLM's.
    """

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def check(self, limits: Limits = DEFAULT) -> None:
        """Raise InvalidRequest for numbers that describe no pattern."""
        field = "repetition_detection"
        sizes = (self.max_pattern_size, self.min_pattern_size, self.min_count)
        if not all(type(size) is int and 0 <= size <= INT_MAX for size in sizes):
            raise InvalidRequest(f"{field} must hold integers from 0 on, got {shown(self)}", field)
        if not 0 < self.max_pattern_size <= limits.repetition_pattern:
            most = limits.repetition_pattern
            raise InvalidRequest(f"{field}.max_pattern_size must be in [1, {most}], got {self.max_pattern_size}", field)
        if self.min_pattern_size > self.max_pattern_size:
            raise InvalidRequest(f"{field}.min_pattern_size is more than max_pattern_size; lower it", field)
        if self.min_count < 2:
            raise InvalidRequest(f"{field}.min_count must be at least 2, got {self.min_count}", field)


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
    thinking_token_budget: int | None = None
    best_of: int | None = None
    stop_regex: str | list[str] | None = None
    logprob_token_ids: list[int] | None = None
    repetition_detection: RepetitionDetectionParams | None = None
    skip_reading_prefix_cache: bool = False
    stream_interval: int | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    logits_processors: list[dict[str, Any]] | None = None
    extra_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.check(CEILING)  # what the operator allows is checked at the door

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def stop_patterns(self) -> list[str]:
        """The stop regexes as a list."""
        return [self.stop_regex] if isinstance(self.stop_regex, str) else list(self.stop_regex or ())

    @property
    def num_sequences(self) -> int:
        """How many continuations are sampled, `n` of which are returned."""
        return self.best_of or self.n

    @property
    def is_ranked(self) -> bool:
        """Whether the likeliest of more continuations are returned, so that nothing can be told before the end."""
        return self.num_sequences > self.n

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
        if not OBJECTS.isdisjoint(changed):
            self._check_objects(limits)

    def _check_counts(self, limits: Limits) -> None:
        if self.n > limits.n:
            raise InvalidRequest(f"n must be at most {limits.n}, got {self.n}", "n")
        if self.best_of is not None and not self.n <= self.best_of <= limits.n:
            raise InvalidRequest(f"best_of must be in [n={self.n}, {limits.n}], got {self.best_of}", "best_of")
        if self.num_sequences > 1 and self.greedy:
            name = "n" if self.n > 1 else "best_of"
            raise InvalidRequest(
                f"{name} must be 1 when temperature is 0 (all {self.num_sequences} would be equal), or raise "
                "temperature",
                name,
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}; lower it", "min_tokens"
            )
        for name in ("stop", "stop_regex"):
            if getattr(self, name) and not self.detokenize:
                raise InvalidRequest(f"{name} needs detokenize=True; use stop_token_ids instead", name)
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequest(
                "truncate_prompt_tokens must be -1 (what fits) or at least 1, got 0", "truncate_prompt_tokens"
            )
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
        for name, most in (
            ("stop", limits.stop_strings),
            ("stop_regex", limits.stop_regexes),
            ("bad_words", limits.bad_words),
        ):
            value = getattr(self, name)
            if value is None or (isinstance(value, str) and name != "bad_words"):
                value = [value] if value is not None else []
            if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) and text for text in value):
                raise InvalidRequest(f"{name} must be non-empty strings, got {shown(value)}", name)
            if len(value) > most or any(len(text) > limits.stop_chars for text in value):
                raise InvalidRequest(f"{name} allows {most} strings of {limits.stop_chars} characters each", name)
        check_ids("stop_token_ids", self.stop_token_ids, limits.stop_token_ids)
        check_ids("logprob_token_ids", self.logprob_token_ids, limits.logprob_token_ids)
        if self.logprob_token_ids and self.logprobs is None:
            raise InvalidRequest("logprob_token_ids needs logprobs (0 is enough)", "logprob_token_ids")
        check_ids("allowed_token_ids", self.allowed_token_ids, INT_MAX)
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InvalidRequest("allowed_token_ids must name at least one token, or be left out", "allowed_token_ids")
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, dict) or len(self.logit_bias) > limits.logit_bias:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidRequest(f"logit_bias must be a map of at most {limits.logit_bias} token ids", "logit_bias")
            self.logit_bias = {bias_id(key): bias_value(value) for key, value in self.logit_bias.items()}

    def _check_objects(self, limits: Limits) -> None:
        if self.truncation_side not in (None, *SIDES):
            raise InvalidRequest(
                f"truncation_side must be left or right, got {shown(self.truncation_side)}", "truncation_side"
            )
        wanted = cast(object, self.repetition_detection)
        if isinstance(wanted, dict):
            self.repetition_detection = repetition_of(cast(dict[str, object], wanted))
        elif wanted is not None and not isinstance(wanted, RepetitionDetectionParams):
            raise InvalidRequest(f"repetition_detection must be an object, got {shown(wanted)}", "repetition_detection")
        if self.repetition_detection is not None:
            self.repetition_detection.check(limits)
        check_processors(self.logits_processors, limits)
        check_args("vllm_xargs", self.extra_args, limits)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InvalidRequest for a token id outside [0, vocab_size): none reaches a kernel unchecked (R53)."""
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias", "logprob_token_ids"):
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


def repetition_of(wanted: Mapping[str, object]) -> RepetitionDetectionParams:
    """The parameters as JSON spells them; InvalidRequest for another shape."""
    names = RepetitionDetectionParams.__struct_fields__
    if not wanted.keys() <= set(names):
        raise InvalidRequest(
            f"repetition_detection has {', '.join(names)}; got {shown(wanted)}", "repetition_detection"
        )
    return RepetitionDetectionParams(**{name: value for name, value in wanted.items() if value is not None})  # type: ignore[arg-type]


def check_processors(wanted: object, limits: Limits) -> None:
    """Raise InvalidRequest unless `wanted` is None or a list of {"name", "args"}; the engine knows the names."""
    if wanted is None:
        return
    field, most = "logits_processors", limits.logits_processors
    if not isinstance(wanted, list) or len(wanted) > most:  # type: ignore[arg-type]
        raise InvalidRequest(f"{field} must be a list of at most {most} processors, got {shown(wanted)}", field)
    for one in wanted:  # type: ignore[misc]
        is_named = isinstance(one, dict) and isinstance(one.get("name"), str) and one.keys() <= {"name", "args"}  # type: ignore[union-attr]
        if not is_named or not isinstance(one.get("args") or {}, dict):  # type: ignore[union-attr]
            raise InvalidRequest(f'{field} must hold {{"name": …, "args": {{…}}}}, got {shown(one)}', field)
    check_args(field, {"": wanted}, limits)


def check_args(field: str, args: object, limits: Limits) -> None:
    """Raise InvalidRequest unless `args` is None or an object that is small as JSON."""
    if args is None:
        return
    if not isinstance(args, dict) or not all(isinstance(key, str) for key in args):  # type: ignore[union-attr]
        raise InvalidRequest(f"{field} must be an object, got {shown(args)}", field)
    try:
        size = len(msgspec.json.encode(args))
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest(f"{field} must be plain JSON, got {shown(args)}", field) from None
    if size > limits.processor_args_bytes:
        raise InvalidRequest(f"{field} takes {size} bytes as JSON; at most {limits.processor_args_bytes}", field)


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
