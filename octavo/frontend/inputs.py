"""Prompts and parameters in, sequences out: everything about a request is checked here, before anything is expanded."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import msgspec

from octavo import processors
from octavo.errors import InvalidRequest
from octavo.frontend.answers import AnswerReading
from octavo.frontend.output import RequestState
from octavo.frontend.tokenizer import Tokenizer
from octavo.limits import CEILING, DEFAULT, Limits
from octavo.messages import Grammar, SequenceSpec, pack_ids
from octavo.sampling import MAX_SEED, RequestOutputKind, SamplingParams, shown
from octavo.thinking import ThinkingBudget

CHARS_PER_TOKEN = 64  # more than any text's average


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str


class TokensPrompt(TypedDict):
    """A prompt as token ids, taken as they are; `prompt` is only repeated in outputs."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]


Prompt = str | TextPrompt | TokensPrompt | Sequence[int]


@dataclass(frozen=True)
class RequestExtras:
    """What a request may ask for besides sampling."""

    priority: int = 0
    cache_salt: str | None = None
    is_trusted: bool = False  # our own parameters, which are not held to a request's limits
    reading: AnswerReading | None = None  # how tool calls and reasoning are read out of the answers
    grammar: Grammar | None = None  # of params.structured_outputs


PLAIN = RequestExtras()


class InputProcessor:
    """Turns prompts into sequences for one engine. `max_model_len` and `vocab_size` are the engine's."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        eos_ids: Sequence[int],
        max_model_len: int,
        vocab_size: int,
        seed: int,
        limits: Limits = DEFAULT,
        registered: Iterable[str] = processors.BUILT_IN,
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_ids = tuple(eos_ids)
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.limits = limits
        self.processors = frozenset(registered)
        self._seed = seed
        self._ids = itertools.count()
        self._unseeded = itertools.count()

    def ids(
        self, prompt: Prompt, add_special_tokens: bool = True, params: SamplingParams | None = None
    ) -> tuple[str | None, list[int]]:
        """The prompt's text, if it has one, and its checked token ids, cut as `params` asks."""
        text, ids = split(prompt)
        if ids is None:
            if self.tokenizer is None:
                raise InvalidRequest("this engine has no tokenizer; send the prompt as token ids", "prompt")
            assert text is not None
            self.check_text(text, is_cut=params is not None and params.truncate_prompt_tokens is not None)
            ids = self.tokenizer.encode(text, add_special_tokens)
        if not ids:
            raise InvalidRequest("prompt must have at least one token; it is empty", "prompt")
        if params is not None and params.truncate_prompt_tokens is not None:
            ids = self._truncate(ids, params)
        if len(ids) >= self.max_model_len:
            raise InvalidRequest(
                f"prompt has {len(ids)} tokens; the longest context is {self.max_model_len} tokens, and one must be "
                "left to answer. Shorten it, or serve with a larger --max-model-len",
                "prompt",
            )
        for id in ids:
            if type(id) is not int or not 0 <= id < self.vocab_size:
                raise InvalidRequest(
                    f"prompt has token id {shown(id)}, outside the vocabulary [0, {self.vocab_size})", "prompt"
                )
        return text, ids

    def check_text(self, text: str, field: str = "prompt", is_cut: bool = False) -> None:
        """Raise InvalidRequest for a text that cannot fit, before it takes long to find out how many tokens it has.

        `is_cut`: only some of its tokens will be wanted.
        """
        most = self.limits.text_chars if is_cut else CHARS_PER_TOKEN * self.max_model_len
        if len(text) > most:
            raise InvalidRequest(
                f"{field} has {len(text)} characters; at most {most} are taken for a longest context of "
                f"{self.max_model_len} tokens. Shorten it",
                field,
            )

    def _truncate(self, ids: list[int], params: SamplingParams) -> list[int]:
        """The last tokens (or the first, for side right), as many as truncate_prompt_tokens says."""
        kept = params.truncate_prompt_tokens
        assert kept is not None
        if kept == -1:
            kept = max(1, self.max_model_len - (params.max_tokens or 1))
        if kept >= self.max_model_len:
            raise InvalidRequest(
                f"truncate_prompt_tokens={kept} leaves no room to answer; the longest context is "
                f"{self.max_model_len} tokens, so use less, or -1",
                "truncate_prompt_tokens",
            )
        return ids[:kept] if params.truncation_side == "right" else ids[-kept:]

    def build(
        self, request_id: str, text: str | None, ids: list[int], params: SamplingParams, extras: RequestExtras = PLAIN
    ) -> tuple[RequestState, list[SequenceSpec]]:
        """The request's state and its `params.n` sequences; InvalidRequest names the field that is wrong."""
        params = copy(params)  # what the caller changes later is not this request's; copying checks nothing
        params.check(CEILING if extras.is_trusted else self.limits)
        params.check_vocabulary(self.vocab_size)
        self.check_extras(extras)
        room = self.max_model_len - len(ids)
        max_tokens = min(params.max_tokens or room, room)
        self._check_logprobs(params, len(ids), max_tokens)
        seed = params.seed if params.seed is not None else mix(self._seed, next(self._unseeded))
        tokens = pack_ids(ids)
        bad_words = tuple(self._bad_words(params.bad_words or []))
        wanted = core_params(params)
        if wanted.logits_processors:
            field = "logits_processors" if params.logits_processors else "vllm_xargs"
            processors.check_names(wanted.logits_processors, self.processors, field)
        if params.is_ranked:
            params.output_kind = RequestOutputKind.FINAL_ONLY
            wanted.logprobs = wanted.logprobs or 0
        # The followers' prompt is the leader's: scored once, and read from the cache afterwards.
        followers = copy(wanted)
        followers.prompt_logprobs = None
        grammar = extras.grammar
        thinking = self._thinking(params.thinking_token_budget, extras.reading)
        leader: int | None = None
        specs: list[SequenceSpec] = []
        for index in range(params.num_sequences):
            id = next(self._ids)
            specs.append(
                SequenceSpec(
                    id=id,
                    tokens=tokens,
                    sampling=wanted if index == 0 else followers,
                    max_tokens=max_tokens,
                    seed=seed if index == 0 else mix(seed, index),
                    eos=() if params.ignore_eos else self.eos_ids,
                    bad_words=bad_words,
                    priority=extras.priority,
                    salt=(extras.cache_salt or "").encode(),
                    leader=leader,
                    grammar=grammar,
                    thinking=thinking,
                )
            )
            if leader is None:
                leader = id
                grammar = msgspec.structs.replace(grammar, text="") if grammar else None
        return RequestState(request_id, text, ids, params, self.tokenizer, extras.reading), specs

    def _check_logprobs(self, params: SamplingParams, prompt_len: int, max_tokens: int) -> None:
        """InvalidRequest for more log-probabilities in one piece than the limit. -1 is the Python API's own wish."""
        if params.output_kind is RequestOutputKind.DELTA:
            return  # a stream's are gone when they are sent
        asked, shown_of_prompt = params.logprobs, params.prompt_logprobs
        named = len(params.logprob_token_ids or ())
        count = 0 if asked is None or asked < 0 else params.num_sequences * max_tokens * (asked + 1 + named)
        count += 0 if shown_of_prompt is None or shown_of_prompt < 0 else prompt_len * (shown_of_prompt + 1)
        if count > self.limits.logprob_values:
            raise InvalidRequest(
                f"the answer may hold {count} log-probabilities; at most {self.limits.logprob_values} fit one: set "
                "max_tokens, ask for fewer, or stream",
                "logprobs" if asked is not None else "prompt_logprobs",
            )

    def _thinking(self, budget: int | None, reading: AnswerReading | None) -> ThinkingBudget | None:
        """What bounds reasoning; InvalidRequest when octavo cannot tell where it ends."""
        return None if budget is None or budget < 0 else self._bounded(budget, reading, "thinking_token_budget")

    def no_thinking(self, reading: AnswerReading | None) -> ThinkingBudget:
        """What ends reasoning that goes on; InvalidRequest when octavo cannot tell where it ends."""
        return self._bounded(0, reading, "end_thinking")

    def _bounded(self, budget: int, reading: AnswerReading | None, field: str) -> ThinkingBudget:
        marks = reading.thinking_marks if reading is not None else None
        if reading is None or marks is None or self.tokenizer is None:
            raise InvalidRequest(
                f"{field} needs a chat with a model whose reasoning is marked; see --reasoning-parser", field
            )
        start, end = (tuple(self.tokenizer.encode(mark, add_special_tokens=False)) for mark in marks)
        return ThinkingBudget(budget, start, end, reading.is_inside)

    def next_id(self) -> int:
        """An id for a sequence of this engine."""
        return next(self._ids)

    def check_extras(self, extras: RequestExtras) -> None:
        """Raise InvalidRequest for what is out of range."""
        if type(extras.priority) is not int or not -(2**31) <= extras.priority < 2**31:
            raise InvalidRequest(
                f"priority must be a 32-bit integer (lower runs first), got {shown(extras.priority)}", "priority"
            )
        salt = extras.cache_salt
        if salt is not None and (not isinstance(salt, str) or not 0 < len(salt) <= self.limits.id_chars):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(
                f"cache_salt must be 1 to {self.limits.id_chars} characters, got {shown(salt)}", "cache_salt"
            )

    def _bad_words(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Each word as the token sequences that spell it, at the start of a text and inside one."""
        if words and self.tokenizer is None:
            raise InvalidRequest("bad_words needs a tokenizer, and this engine has none", "bad_words")
        found: dict[tuple[int, ...], None] = {}
        for word in words:
            assert self.tokenizer is not None
            for spelled in (word, " " + word.lstrip()):
                ids = tuple(self.tokenizer.encode(spelled, add_special_tokens=False))
                if len(ids) > self.limits.bad_word_tokens:
                    raise InvalidRequest(
                        f"bad_words has a word of {len(ids)} tokens; at most {self.limits.bad_word_tokens}", "bad_words"
                    )
                if ids:
                    found[ids] = None
        return list(found)


def split(prompt: Prompt) -> tuple[str | None, list[int] | None]:
    """A prompt's text or its ids, whichever it gives; InvalidRequest when it is neither."""
    if isinstance(prompt, str):
        return prompt, None
    if isinstance(prompt, Mapping):
        if isinstance(prompt.get("prompt_token_ids"), (list, tuple)):
            text = prompt.get("prompt")
            return (text if isinstance(text, str) else None), list(prompt["prompt_token_ids"])  # type: ignore[typeddict-item]
        if isinstance(prompt.get("prompt"), str):
            return prompt["prompt"], None  # type: ignore[typeddict-item]
    elif isinstance(prompt, (list, tuple)):
        return None, list(prompt)
    raise InvalidRequest(
        f"prompt must be text, a list of token ids, or {{'prompt_token_ids': [...]}}; got {shown(prompt)}", "prompt"
    )


def core_params(params: SamplingParams) -> SamplingParams:
    """The parameters as the core needs them: what only the frontend uses is at its default, so that it is not sent."""
    sent = copy(params)
    sent.n = 1
    sent.thinking_token_budget = None
    sent.best_of = sent.stop_regex = sent.repetition_detection = sent.stream_interval = None
    sent.truncate_prompt_tokens = sent.truncation_side = None
    sent.logits_processors = processors.wanted(sent.logits_processors, sent.extra_args) or None
    sent.extra_args = None
    sent.stop = sent.bad_words = sent.seed = sent.structured_outputs = None
    sent.detokenize = sent.skip_special_tokens = sent.spaces_between_special_tokens = True
    sent.include_stop_str_in_output = False
    return sent


def mix(seed: int, index: int) -> int:
    """A 63-bit seed that depends on both numbers and collides with no other by accident."""
    digest = hashlib.sha256(
        b"octavo seed\0" + (seed % 2**64).to_bytes(8, "little") + index.to_bytes(8, "little")
    ).digest()
    return int.from_bytes(digest[:8], "little") & MAX_SEED
