"""Request bodies: fields with types and docs. Generation parameters derive from SamplingParams and its RULES.

Pydantic checks the shape; ranges of generation parameters are checked by SamplingParams, as at every other door (R25).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, create_model
from pydantic_core import ErrorDetails, from_json

from octavo.errors import InvalidRequest
from octavo.limits import DEFAULT, Limits
from octavo.sampling import RULES, SIDES, RepetitionDetectionParams, RequestOutputKind, SamplingParams, shown
from octavo.serve.structure import check_structure
from octavo.serve.structured import FORMATS, structured

DOCS = {
    "stop": "String or strings that end the text; they are not part of it.",
    "stop_token_ids": "Token ids that end the text.",
    "ignore_eos": "Go on after the end-of-sequence token.",
    "skip_special_tokens": "Leave special tokens out of the text.",
    "spaces_between_special_tokens": "Put spaces between special tokens in the text.",
    "include_stop_str_in_output": "Keep the stop string in the text.",
    "logit_bias": "Token id to a number in [-100, 100] that is added to its logit.",
    "allowed_token_ids": "Only these tokens may be generated.",
    "bad_words": "Strings that must not be generated.",
    "stop_regex": "Pattern or patterns that end the text; what matches is not part of it.",
    "logprob_token_ids": "Also the log-probabilities of these tokens at every position; needs `logprobs`.",
    "repetition_detection": "End an answer that repeats itself: max_pattern_size, min_pattern_size, min_count.",
    "skip_reading_prefix_cache": "Compute the whole prompt, whatever is cached of it.",
    "truncation_side": "Where truncate_prompt_tokens cuts: left (the default) or right.",
    "logits_processors": "Processors the operator has registered: [{name, args}].",
}
# What a parameter's Python type does not say, or says in a way that is not JSON's.
SHAPES: dict[str, dict[str, object]] = {
    "truncation_side": {"enum": [*SIDES, None]},
    "repetition_detection": {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0} for name in RepetitionDetectionParams.__struct_fields__},
    },
    "logits_processors": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "args": {"type": "object"}},
        },
    },
}
PRIVATE = ("output_kind", "detokenize", "logprobs", "structured_outputs", "extra_args")  # some have other spellings
NAMES = tuple(name for name in SamplingParams.__struct_fields__ if name not in PRIVATE)

# Known elsewhere and never served here, each with the reason; null is taken as left out.
REFUSED: dict[str, str] = {
    "audio": "answers are text only",
    "chat_template": "templates are the operator's (--chat-template FILE)",
    "ec_transfer_params": "there is one engine, which has nothing to fetch elsewhere",
    "kv_transfer_params": "there is one engine, which has nothing to fetch elsewhere",
    "media_io_kwargs": "prompts are text only",
    "mm_payload": "prompts are text only",
    "mm_processor_kwargs": "prompts are text only",
    "moderation": "there is no model here that moderates",
    "return_weight_versions": "weights do not change while they are served",
    "routed_experts_prompt_start": "the routing of experts is not told",
    "watermarking": "answers are not watermarked",
    "web_search_options": "nothing here searches the web",
}

M = TypeVar("M", bound=BaseModel)


def documented(name: str, kind: object) -> tuple[object, object]:
    """A generation parameter as a pydantic field: SamplingParams checks the value, the schema says what it may be."""
    schema: dict[str, object] = SHAPES.get(name) or TypeAdapter(kind | None).json_schema()  # type: ignore[operator]
    rule = RULES.get(name)
    if rule is not None:
        schema = {"type": "integer" if rule.kind is int else "number"}
        schema["exclusiveMinimum" if rule.above else "minimum"] = rule.low
        schema |= {} if math.isinf(rule.high) else {"maximum": min(rule.high, getattr(DEFAULT, name, rule.high))}
    doc = rule.doc if rule else DOCS[name]
    return Annotated[object, WithJsonSchema(schema)], Field(default=None, description=doc)


class Body(BaseModel):
    """A request body: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


# Any, or pyright tries the values on create_model's own keywords.
FIELDS: dict[str, Any] = {
    f.name: documented(f.name, f.type) for f in msgspec.structs.fields(SamplingParams) if f.name in NAMES
}
Generation = create_model(
    "Generation",
    __base__=Body,
    **FIELDS,
)


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool = Field(False, description="End with an event that carries the usage.")
    continuous_usage_stats: bool = Field(False, description="Carry the usage so far in every event.")
    include_obfuscation: bool | None = Field(None, description="Accepted; nothing is obfuscated.")


def any_of(*kinds: str | dict[str, object]) -> WithJsonSchema:
    """Some kinds of value, or null."""
    parts = [{"type": kind} if isinstance(kind, str) else kind for kind in (*kinds, "null")]
    return WithJsonSchema({"anyOf": parts})


Format = Annotated[
    object,
    any_of({"type": "object", "required": ["type"], "properties": {"type": {"enum": list(FORMATS)}}}),
]
Schema = Annotated[object, any_of("object", "string", "boolean")]
Constraint = Annotated[
    object,
    any_of(
        {
            "type": "object",
            "properties": {
                "json": {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "boolean"}]},
                "regex": {"type": "string"},
                "choice": {"type": "array", "items": {"type": "string"}},
                "grammar": {"type": "string"},
                "json_object": {"type": "boolean"},
                "structural_tag": {"anyOf": [{"type": "object"}, {"type": "string"}]},
                "disable_any_whitespace": {"type": "boolean"},
                "disable_additional_properties": {"type": "boolean"},
                "whitespace_pattern": {"type": "string"},
                "begin_after": {"type": "array", "items": {"type": "string"}},
                "opening": {"type": "string"},
            },
        }
    ),
]


class TextRequest(Generation):  # type: ignore[misc,valid-type]
    """What chat and completions have in common."""

    model: str | None = Field(None, description="Name of a served model.")
    stream: bool | None = Field(None, description="Send the answer as server-sent events while it grows.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    priority: int | None = Field(None, description="Lower runs earlier under the priority policy.")
    include_metrics: bool | None = Field(None, description="Tell how long the request waited and took.")
    cache_salt: str | None = Field(None, description="Requests share cached prefixes only within one salt.")
    return_token_ids: bool | None = Field(None, description="Return the token ids of prompt and answer.")
    return_tokens_as_token_ids: bool | None = Field(
        None, description="Spell tokens in log-probabilities as token_id:N."
    )
    return_prompt_text: bool | None = Field(None, description="Return the text of the prompt, as it was rendered.")
    return_token_offsets: bool | None = Field(
        None, description="Return where in the prompt's text each of its tokens begins and ends, in characters."
    )
    request_id: str | None = Field(None, description="A name for the answer: its `id` ends with it.")
    use_beam_search: bool | None = Field(
        None, description="Search for the `n` likeliest answers (the best of `best_of` beams) instead of sampling."
    )
    length_penalty: Annotated[object, WithJsonSchema({"type": "number", "minimum": -10, "maximum": 10})] = Field(
        None, description="With `use_beam_search`: above 0 favors long answers; default 1."
    )
    response_format: Format = Field(
        None, description="What the answer must match: text (anything), json_object, json_schema or structural_tag."
    )
    structured_outputs: Constraint = Field(
        None, description="Or one of json, regex, choice, grammar, json_object, structural_tag, and options."
    )
    guided_json: Schema = Field(None, description="The same as structured_outputs.json.")
    guided_regex: str | None = Field(None, description="The same as structured_outputs.regex.")
    guided_choice: list[str] | None = Field(None, description="The same as structured_outputs.choice.")
    guided_grammar: str | None = Field(None, description="The same as structured_outputs.grammar.")
    guided_whitespace_pattern: str | None = Field(None, description="White space in guided_json's answers, a regex.")
    guided_decoding_backend: str | None = Field(None, description="Accepted; there is one.")
    vllm_xargs: dict[str, object] | None = Field(
        None, description="Registered logits processors by name, each with its arguments; true for none."
    )
    user: str | None = Field(None, description="Accepted; changes nothing.")
    session_id: str | None = Field(None, description="Accepted; changes nothing.")
    metadata: dict[str, object] | None = Field(None, description="Accepted; changes nothing.")
    store: bool | None = Field(None, description="Accepted; nothing is stored.")
    service_tier: str | None = Field(None, description="Accepted; there is one tier.")
    safety_identifier: str | None = Field(None, description="Accepted; changes nothing.")
    prompt_cache_key: str | None = Field(None, description="Accepted; changes nothing.")
    prompt_cache_retention: str | None = Field(None, description="Accepted; changes nothing.")
    prompt_cache_options: dict[str, object] | None = Field(None, description="Accepted; changes nothing.")


Messages = Annotated[
    object,
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {
                    "role": {"type": "string", "description": "system, user, assistant or tool."},
                    "content": {
                        "description": "Text, or a list of text parts.",
                        "anyOf": [
                            {"type": "string"},
                            {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                                },
                            },
                            {"type": "null"},
                        ],
                    },
                },
            },
        }
    ),
]
Objects = Annotated[object, WithJsonSchema({"type": "array", "items": {"type": "object"}})]
Named = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
ToolChoice = Annotated[
    object,
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["none", "auto", "required", None]},
                {
                    "type": "object",
                    "required": ["type", "function"],
                    "properties": {"type": {"const": "function"}, "function": Named},
                },
                {
                    "type": "object",
                    "required": ["type", "allowed_tools"],
                    "properties": {"type": {"const": "allowed_tools"}, "allowed_tools": {"type": "object"}},
                },
            ]
        }
    ),
]
FunctionCall = Annotated[object, WithJsonSchema({"anyOf": [{"enum": ["none", "auto", None]}, Named]})]
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
Modalities = Annotated[object, WithJsonSchema({"type": "array", "items": {"const": "text"}})]


class Rendering(Body):
    """How messages become a prompt."""

    add_generation_prompt: bool = Field(True, description="End the prompt with the beginning of an answer.")
    continue_final_message: bool = Field(False, description="Let the model go on with the last message.")
    chat_template_kwargs: dict[str, object] | None = Field(None, description="Variables of the chat template.")


class ChatRequest(TextRequest):
    """POST /v1/chat/completions."""

    messages: Messages = Field(description="The conversation so far.")
    max_completion_tokens: Annotated[object, WithJsonSchema({"type": "integer", "minimum": 1})] = Field(
        None, description=RULES["max_tokens"].doc
    )
    logprobs: bool | None = Field(None, description="Return the log-probability of every token of the answer.")
    top_logprobs: Annotated[object, WithJsonSchema({"type": "integer", "minimum": 0})] = Field(
        None, description="With `logprobs`: also those of this many likeliest tokens."
    )
    tools: Objects = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice = Field(
        None,
        description="none hides the tools; auto leaves it to the model; required, or a function, makes it call; "
        "allowed_tools leaves some of them.",
    )
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most.")
    functions: Objects = Field(None, description="OpenAI's older spelling of `tools`.")
    function_call: FunctionCall = Field(None, description="OpenAI's older spelling of `tool_choice`.")
    reasoning_effort: Annotated[object, WithJsonSchema({"enum": [*EFFORTS, None]})] = Field(
        None, description="How much to think, for the chat template; none switches thinking off where it can."
    )
    include_reasoning: bool | None = Field(None, description="false leaves reasoning out of the answer.")
    modalities: Modalities = Field(None, description="Only text.")
    echo: bool | None = Field(
        None, description="Begin the answer with the last message, if that has the answer's role."
    )
    documents: Objects = Field(None, description="Documents for the chat template, as its variable `documents`.")
    prediction: dict[str, object] | None = Field(None, description="Accepted; nothing is predicted.")
    verbosity: Annotated[object, WithJsonSchema({"enum": ["low", "medium", "high", None]})] = Field(
        None, description="For the chat template, as its variable `verbosity`."
    )
    add_generation_prompt: bool = Rendering.model_fields["add_generation_prompt"]  # type: ignore[assignment]
    continue_final_message: bool = Rendering.model_fields["continue_final_message"]  # type: ignore[assignment]
    chat_template_kwargs: dict[str, object] | None = Rendering.model_fields["chat_template_kwargs"]  # type: ignore[assignment]
    add_special_tokens: bool = Field(
        False, description="Let the tokenizer add its special tokens to what the template wrote."
    )


Conversations = Annotated[
    object, WithJsonSchema({"type": "array", "minItems": 1, "items": TypeAdapter(Messages).json_schema()})
]


class BatchChatRequest(ChatRequest):
    """POST /v1/chat/completions/batch."""

    messages: Conversations = Field(description="The conversations, each a list of messages.")


Prompts = Annotated[
    object,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ]
        }
    ),
]


class CompletionRequest(TextRequest):
    """POST /v1/completions."""

    prompt: Prompts = Field(description="Text or token ids, or a list of either.")
    echo: bool | None = Field(None, description="Begin the text with the prompt.")
    logprobs: Annotated[object, WithJsonSchema({"type": "integer", "minimum": 0})] = Field(
        None, description=RULES["logprobs"].doc
    )
    max_tokens: Annotated[object, WithJsonSchema({"type": "integer", "minimum": 0})] = Field(
        None, description=RULES["max_tokens"].doc + " 0 scores the prompt, with `echo` or `prompt_logprobs`."
    )
    suffix: str | None = Field(
        None, description="What follows the text to be written; for models that were trained to fill in the middle."
    )
    add_special_tokens: bool = Field(True, description="Let the tokenizer add its special tokens to text prompts.")


class TokenizeRequest(Body):
    """POST /tokenize: a prompt, or messages."""

    model: str | None = Field(None, description="Name of a served model.")
    prompt: str | None = Field(None, description="Text to turn into token ids.")
    messages: Messages = Field(None, description="Or a conversation.")
    tools: Objects = Field(None, description="Functions the chat template may offer.")
    add_special_tokens: bool | None = Field(None, description="Default: true for a prompt, false for messages.")
    return_token_strs: bool | None = Field(None, description="Return the tokens' text, too.")
    add_generation_prompt: bool = Rendering.model_fields["add_generation_prompt"]  # type: ignore[assignment]
    continue_final_message: bool = Rendering.model_fields["continue_final_message"]  # type: ignore[assignment]
    chat_template_kwargs: dict[str, object] | None = Rendering.model_fields["chat_template_kwargs"]  # type: ignore[assignment]


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str | None = Field(None, description="Name of a served model.")
    tokens: Annotated[object, WithJsonSchema({"type": "array", "items": {"type": "integer"}})] = Field(
        description="Token ids."
    )


def parse(schema: type[M], body: bytes, limits: Limits) -> M:
    """The body as `schema`; InvalidRequest names the first field that is unknown or of the wrong kind."""
    check_structure(body, limits)
    try:
        data = from_json(body)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest(f"the body must be a JSON object, got {type(data).__name__}")
    check_names(schema, data)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_context=False)[0]) from None


def check_names(schema: type[BaseModel], data: Mapping[str, object]) -> None:
    """Raise InvalidRequest for the first field that `schema` does not have, with the nearest one it has."""
    for name, value in data.items():
        if name in schema.model_fields:
            continue
        if name in REFUSED:
            if value is None:
                continue
            raise InvalidRequest(f"{name} is not supported: {REFUSED[name]}; leave it out", name)
        near = difflib.get_close_matches(name[:64], schema.model_fields, 1)
        hint = f"did you mean {near[0]}?" if near else "see /docs for the fields there are"
        raise InvalidRequest(f"unknown field {shown(name)}; {hint}", name[:64])
    for name in REFUSED.keys() & data.keys() - schema.model_fields.keys():
        del data[name]  # type: ignore[attr-defined]


def explain(error: ErrorDetails) -> InvalidRequest:
    """A pydantic finding as our error: the field's path, what it should be, what it was."""
    path = ""
    for part in error["loc"]:
        name = str(part)[:64]
        path += f"[{name}]" if isinstance(part, int) else f".{name}" if path else name
    if error["type"] == "extra_forbidden":
        return InvalidRequest(f"unknown field {shown(path)}; see /docs for the fields there are", path)
    if error["type"] == "missing":
        return InvalidRequest(f"{path} is required", path)
    what = error["msg"].removeprefix("Input should be ")
    return InvalidRequest(f"{path} should be {what}, got {shown(error['input'])}", path)


def sampling(
    body: TextRequest, defaults: Mapping[str, float | int], limits: Limits, logprobs: int | None, max_tokens: int | None
) -> SamplingParams:
    """The request's SamplingParams: what it names, else the checkpoint's `defaults`, else vLLM's.

    logprobs, and max_tokens when neither names one, are the endpoint's.
    """
    if body.stream and body.prompt_logprobs is not None:  # type: ignore[attr-defined]
        raise InvalidRequest("prompt_logprobs is not available in a stream", "prompt_logprobs")
    count("prompt_logprobs", body.prompt_logprobs, 0, limits.logprobs)  # type: ignore[attr-defined]
    named = ((name, getattr(body, name)) for name in NAMES)
    values = dict(defaults) | {name: value for name, value in named if value is not None}
    values.setdefault("max_tokens", max_tokens)
    kind = RequestOutputKind.DELTA if body.stream else RequestOutputKind.FINAL_ONLY
    params = SamplingParams(**values, logprobs=logprobs, output_kind=kind, extra_args=body.vllm_xargs)  # type: ignore[arg-type]
    params.structured_outputs = structured(body, limits)
    if body.stream and params.is_ranked:
        raise InvalidRequest("best_of above n is not available in a stream: it is known at the end", "best_of")
    return params


def count(name: str, value: object, low: int, high: int) -> int | None:
    """`value` as an integer in [low, high], or None; InvalidRequest names it otherwise."""
    if value is None:
        return None
    if type(value) is not int:
        raise InvalidRequest(f"{name} must be an integer, got {shown(value)}", name)
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be in [{low}, {high}], got {shown(value)}", name)
    return value
