"""Prompts to be pooled: texts, ids and pairs in, sequences out, and what comes back put into outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from octavo.embedder import Embedder
from octavo.errors import InvalidRequest
from octavo.frontend.inputs import PLAIN, InputProcessor, Prompt, RequestExtras, split
from octavo.frontend.tokenizer import Tokenizer
from octavo.messages import Finish, SequenceSpec, TokenDelta, pack_ids
from octavo.pooling import Abilities, PoolingOutput, PoolingParams, PoolingRequestOutput, PoolingWork, Task
from octavo.sampling import SamplingParams, shown

NOTHING_SAMPLED = SamplingParams(temperature=0)


@dataclass(frozen=True)
class Pair:
    """Two texts that a cross-encoder reads together."""

    first: str
    second: str


PoolingPrompt = Prompt | Pair


@dataclass(frozen=True)
class Encoded:
    """A prompt's token ids; those from `second_from` on are of a pair's second text (0: there is none)."""

    ids: list[int]
    second_from: int = 0


class PoolingState:
    """A request of several prompts on its way to their outputs. OutputProcessor sees it as it sees a RequestState."""

    def __init__(self, request_id: str, prompts: list[list[int]], per_token: bool) -> None:
        self.request_id = request_id
        self.prompts = prompts
        self.per_token = per_token
        self.ids: list[int] = []  # of its sequences in the core, by prompt
        self.values: list[bytes | None] = [None] * len(prompts)
        self.cached = [0] * len(prompts)
        self.left = len(prompts)
        self.done_tokens = 0  # of the prompts that have ended
        self.error: Finish | None = None

    @property
    def finished(self) -> bool:
        """Whether every prompt has ended, well or not."""
        return self.left == 0

    def push(self, index: int, delta: TokenDelta) -> bool:
        """Take in a delta of prompt `index`."""
        if delta.finish is not None:
            self.left -= 1
            self.done_tokens += len(self.prompts[index])
            self.values[index], self.cached[index] = delta.pooled, delta.cached
            if delta.pooled is None and self.error is None:
                self.error = delta.finish
        return False

    def fail(self, index: int, finish: Finish) -> bool:
        """End prompt `index` with an error of the frontend's own."""
        self.left -= 1
        self.error = finish
        return True

    def outputs(self) -> list[PoolingRequestOutput[PoolingOutput]]:
        """One for each prompt, in order, once all have ended well."""
        many = len(self.prompts) > 1
        found: list[PoolingRequestOutput[PoolingOutput]] = []
        for i, (ids, values, cached) in enumerate(zip(self.prompts, self.values, self.cached, strict=True)):
            assert values is not None, "asked for after an error"
            output = PoolingOutput.of(values, len(ids) if self.per_token else None)
            found.append(
                PoolingRequestOutput(f"{self.request_id}-{i}" if many else self.request_id, output, ids, cached)
            )
        return found


class Feed:
    """Hands a request's sequences to the core a few steps' work at a time, so that others' come in between."""

    def __init__(self, state: PoolingState, specs: list[SequenceSpec], most_tokens: int) -> None:
        self.state = state
        self.specs = specs
        self.most_tokens = most_tokens
        self.sent = 0
        self.sent_tokens = 0

    def next(self) -> list[SequenceSpec]:
        """What is to be sent now."""
        first = self.sent
        while self.sent < len(self.specs) and self.sent_tokens - self.state.done_tokens < self.most_tokens:
            self.sent_tokens += len(self.state.prompts[self.sent])
            self.sent += 1
        return self.specs[first : self.sent]

    def unsent(self) -> list[int]:
        """The ids that the core has not heard of."""
        return [spec.id for spec in self.specs[self.sent :]]


class PoolingInputs:
    """Turns prompts into sequences that are pooled, for one engine. What the model cannot do is refused here."""

    def __init__(self, inputs: InputProcessor, abilities: Abilities, embedder: Embedder) -> None:
        self.inputs = inputs
        self.abilities = abilities
        self.embedder = embedder

    def build(
        self,
        request_id: str,
        task: Task,
        prompts: Sequence[PoolingPrompt],
        params: PoolingParams,
        extras: RequestExtras = PLAIN,
    ) -> tuple[PoolingState, list[SequenceSpec]]:
        """The state of one request, and a sequence for each prompt; InvalidRequest names the field that is wrong."""
        params.check(self.inputs.limits)
        self.abilities.check_task(params.task or task)
        work = self._work(params.task or task, params)
        self.inputs.check_extras(extras)
        encoded = self._encode(prompts, work, params)
        self._check_values(work, encoded)
        specs = [
            SequenceSpec(
                id=self.inputs.next_id(),
                tokens=pack_ids(each.ids),
                sampling=NOTHING_SAMPLED,
                max_tokens=1,
                seed=0,
                priority=extras.priority,
                salt=(extras.cache_salt or "").encode(),
                pooling=work if not each.second_from else with_second(work, each.second_from),
            )
            for each in encoded
        ]
        return PoolingState(request_id, [each.ids for each in encoded], work.per_token), specs

    def _work(self, task: Task, params: PoolingParams) -> PoolingWork:
        able = self.abilities
        embeds = task in ("embed", "token_embed")
        if params.dimensions is not None:
            if not embeds:
                raise InvalidRequest("dimensions belongs to embeddings; leave it out", "dimensions")
            if params.dimensions > able.dimensions:
                raise InvalidRequest(
                    f"dimensions must be at most {able.dimensions}, which this model's embeddings have, "
                    f"got {params.dimensions}",
                    "dimensions",
                )
        activate = params.activated
        if activate is None:
            activate = able.activates if embeds else True
        whole = task in ("token_embed", "token_classify") or able.kind != "last"
        every_position = whole or bool(params.skip_reading_prefix_cache)
        return PoolingWork(task, activate, params.dimensions or 0, every_position)

    def _encode(self, prompts: Sequence[PoolingPrompt], work: PoolingWork, params: PoolingParams) -> list[Encoded]:
        """Every prompt's tokens, checked and cut as `params` asks; texts are encoded together, on all cores."""
        most = self.inputs.max_model_len
        kept = params.truncate_prompt_tokens
        if kept is not None and kept > most:
            raise InvalidRequest(
                f"truncate_prompt_tokens must be at most {most}, the longest input of this model, or -1; got {kept}",
                "truncate_prompt_tokens",
            )
        limit = None if kept is None else most if kept == -1 else kept
        before = self._prompt(work, params)
        found: list[Encoded | None] = [None] * len(prompts)
        texts: dict[int, str | tuple[str, str]] = {}
        for i, prompt in enumerate(prompts):
            if isinstance(prompt, Pair):
                texts[i] = (prompt.first, prompt.second)
                continue
            text, ids = split(prompt)
            if ids is not None:
                if params.prompt_name is not None:
                    raise InvalidRequest(
                        "prompt_name goes before a text; token ids are taken as they are", "prompt_name"
                    )
                self._check_ids(ids)
                found[i] = Encoded(ids[:limit])
            else:
                assert text is not None
                texts[i] = before + text
        if texts:
            for i, encoded in zip(texts, encode(self._tokenizer(), list(texts.values()), limit), strict=True):
                found[i] = encoded
        encoded = [each for each in found if each is not None]
        for each in encoded:
            self._check_length(each.ids)
        return encoded

    def _prompt(self, work: PoolingWork, params: PoolingParams) -> str:
        """The text that goes before every text."""
        prompts = self.embedder.prompts or {}
        if params.prompt_name is not None and params.prompt_name not in prompts:
            known = f"it has {', '.join(prompts)}" if prompts else "it has none, so leave prompt_name out"
            raise InvalidRequest(
                f"prompt_name {shown(params.prompt_name)} is no prompt of this checkpoint; {known}", "prompt_name"
            )
        name = params.prompt_name or (self.embedder.default_prompt if work.task in ("embed", "token_embed") else None)
        return "" if name is None else prompts[name]

    def _tokenizer(self) -> Tokenizer:
        if self.inputs.tokenizer is None:
            raise InvalidRequest("this engine has no tokenizer; send the input as token ids", "input")
        return self.inputs.tokenizer

    def _check_ids(self, ids: Sequence[object]) -> None:
        for id in ids:
            if type(id) is not int or not 0 <= id < self.inputs.vocab_size:
                raise InvalidRequest(
                    f"input has token id {shown(id)}, outside the vocabulary [0, {self.inputs.vocab_size})", "input"
                )

    def _check_length(self, ids: list[int]) -> None:
        if not ids:
            raise InvalidRequest("an input must have at least one token; one is empty", "input")
        most = self.inputs.max_model_len
        if len(ids) > most:
            raise InvalidRequest(
                f"an input has {len(ids)} tokens; this model takes at most {most}. Shorten it, or send "
                "truncate_prompt_tokens=-1 to keep its beginning",
                "input",
            )

    def _check_values(self, work: PoolingWork, encoded: Sequence[Encoded]) -> None:
        able = self.abilities
        width = len(able.labels) if work.task in ("classify", "token_classify") else work.dimensions or able.dimensions
        count = width * (sum(len(each.ids) for each in encoded) if work.per_token else len(encoded))
        if count > self.inputs.limits.pooled_values:
            raise InvalidRequest(
                f"the answer would hold {count} numbers; at most {self.inputs.limits.pooled_values} fit one request. "
                "Send fewer or shorter inputs",
                "input",
            )


def with_second(work: PoolingWork, second_from: int) -> PoolingWork:
    """The same for a pair whose second text begins there."""
    return PoolingWork(work.task, work.activate, work.dimensions, work.every_position, second_from)


def encode(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]], limit: int | None) -> list[Encoded]:
    """The tokens of texts and pairs with the special tokens of each kind; cut to `limit` as Transformers does it."""
    backend = tokenizer.backend
    plain = [text for text in texts if isinstance(text, str)]
    if limit is None and len(plain) == len(texts):
        return [Encoded(ids) for ids in tokenizer.encode_batch(plain)]
    check_unicode(texts)
    encodings = backend.encode_batch_fast(list(texts))
    found: list[Encoded] = []
    for text, encoding in zip(texts, encodings, strict=True):
        if limit is not None and len(encoding) > limit:
            encoding = cut(tokenizer, text, limit)
        found.append(Encoded(encoding.ids, 0 if isinstance(text, str) else second_from(encoding)))
    return found


def check_unicode(texts: Sequence[str | tuple[str, str]]) -> None:
    """Raise InvalidRequest for a lone surrogate, which no tokenizer takes."""
    for text in texts:
        for part in (text,) if isinstance(text, str) else text:
            if not part.isascii() and any("\ud800" <= char <= "\udfff" for char in part):
                raise InvalidRequest("an input holds a lone surrogate, which is not valid Unicode", "input")


def cut(tokenizer: Tokenizer, text: str | tuple[str, str], limit: int) -> Encoding:
    """A text's beginning, or those of a pair's longer text first, in `limit` tokens; its special tokens stay."""
    backend = tokenizer.backend
    parts = [backend.encode(part, add_special_tokens=False) for part in ((text,) if isinstance(text, str) else text)]
    room = limit - backend.num_special_tokens_to_add(len(parts) == 2)
    if room < len(parts):
        raise InvalidRequest(
            f"truncate_prompt_tokens={limit} leaves no room beside the special tokens", "truncate_prompt_tokens"
        )
    for part, size in zip(parts, sizes([len(part) for part in parts], room), strict=True):
        part.truncate(size)
    return backend.post_process(parts[0], parts[1] if len(parts) == 2 else None, True)


def sizes(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens of each text are kept: the longer one gives way first (the "longest_first" of `tokenizers`)."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    short, long = sorted(lengths)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]


def second_from(encoding: Encoding) -> int:
    """Where the tokens of type 1 begin; 0 when there are none. InvalidRequest when they do not go on to the end."""
    types = encoding.type_ids
    if 1 not in types:
        return 0
    first = types.index(1)
    if first == 0 or any(kind != 1 for kind in types[first:]):
        raise InvalidRequest("this tokenizer mixes the types of a pair's tokens, which is not supported", "input")
    return first


def pairs(first: object, second: object, names: tuple[str, str]) -> list[Pair]:
    """One text against each of a list, or two lists text by text."""
    firsts, seconds = (check_texts(each, name) for each, name in zip((first, second), names, strict=True))
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        raise InvalidRequest(
            f"{names[0]} has {len(firsts)} texts and {names[1]} {len(seconds)}; give one, or as many", names[0]
        )
    return [Pair(a, b) for a, b in zip(firsts, seconds, strict=True)]


def check_texts(value: object, name: str) -> list[str]:
    """A text or a list of texts, as a list; InvalidRequest for anything else."""
    if isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be text or a list of texts, got {shown(value)}", name)
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []
    found = [text for text in texts if isinstance(text, str)]
    if not found or len(found) != len(texts):
        raise InvalidRequest(f"{name} must be text or a list of texts, got {shown(value)}", name)
    return found


def shortened(tokenizer: Tokenizer, text: str, most: int) -> str:
    """The beginning of `text` that its first `most` tokens spell."""
    check_unicode([text])
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    return text if len(encoding) <= most else text[: encoding.offsets[most - 1][1]]
