"""Chat templates: messages to a prompt, in a sandbox."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from octavo.errors import InvalidRequest, StartupError
from octavo.frontend.control import NAMED_TOKENS, control_pattern, spelled
from octavo.frontend.remembering import remembering
from octavo.frontend.said import Said, joined, said
from octavo.frontend.template import CompiledTemplate, sandbox

if TYPE_CHECKING:  # a process that renders does not load the tokenizers library
    from octavo.frontend.tokenizer import Tokenizer

MAX_DEPTH = 64

CONTINUE_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
RESERVED = frozenset(
    ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")
)


@dataclass(frozen=True)
class Rendered:
    """A chat as prompt text. `spelled` are its ranges in which messages, not the template, spell control tokens."""

    text: str
    spelled: list[tuple[int, int]]


class ChatTemplate:
    """One checkpoint's chat template: renders messages as Transformers' apply_chat_template does.

    Rendering happens in this process, in Jinja's immutable sandbox. Bounded: the output and every string on the way
    (8 MiB of characters), loop iterations plus eight times the calls (1,000,000), range() and the widths given to
    filters and string methods (100,000), recursion (Python's own limit). Not bounded: wall time and memory inside
    those limits, so a hostile template can still take seconds; servers render in another process (rendering.py).
    Templates come from the checkpoint or the operator, never from a request.
    source is the template, or several by name ("default", "tool_use"); special_tokens are what templates see as
    bos_token and so on; control are the tokens that messages may only spell (R41); clock answers strftime_now.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        *,
        control: Collection[str] = (),
        origin: str = "chat template",
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        sources = {"default": source} if isinstance(source, str) else dict(source)
        if not sources:
            raise StartupError(f"{origin}: it holds no template", "chat_template")
        self.sources = sources
        self.control = list(control)
        self.special_tokens = dict(special_tokens or {})
        environment = remembering(clock) if control else sandbox(clock)
        self._templates = {name: CompiledTemplate(environment, text, origin) for name, text in sources.items()}
        self._reserved = RESERVED | set(NAMED_TOKENS) | set(environment.globals) | set(self.special_tokens)
        self._pattern = control_pattern(control) if control else None

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: Tokenizer,
        override: str | None = None,
        trusts_messages: bool = False,
        clock: Callable[[], datetime] = datetime.now,
    ) -> ChatTemplate | None:
        """Return the chat template of `folder`, or None when it has none.

        Looks at chat_template.jinja, chat_template.json and tokenizer_config.json, in this order, or into a GGUF file's
        metadata. override: the path of a template, or a template itself. trusts_messages: what they spell may be a
        control token. StartupError, naming the origin, when a template is missing or does not compile.
        """
        found = _find(Path(folder), tokenizer.config) if override is None else _override(override)
        if found is None:
            return None
        source, origin = found
        control = () if trusts_messages else tokenizer.control_tokens
        return cls(source, tokenizer.special_tokens, control=control, origin=origin, clock=clock)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, object] | None = None,
        until: float = math.inf,
    ) -> Rendered:
        """Return the prompt for `messages`.

        kwargs are further variables of the template; they cannot replace its own. Content parts become one string,
        joined by newlines, unless the template walks over parts itself. InvalidRequest, naming the field, for what the
        template refuses (with its message), for parts that are not text and for renders over the limits. TooLong when
        the clock (time.monotonic) passes `until`.
        """
        if add_generation_prompt and continue_final_message:
            message = "add_generation_prompt and continue_final_message are both set; choose one"
            raise InvalidRequest(message, "continue_final_message")
        template = self._choose(tools)
        brought: Any = (_plain(list(messages), "messages"), _plain(tools, "tools"), self._variables(kwargs))
        given, offered, named = said(brought) if self._pattern is not None else brought
        chat = _prepare(given, template)
        final = _mark_final(chat) if continue_final_message else None
        variables: dict[str, object] = {
            "messages": chat,
            "tools": offered,
            "add_generation_prompt": add_generation_prompt,
        }
        text = template.render({"documents": None} | named | self.special_tokens | variables, until)
        text = text if final is None else _cut_at_mark(text, final)
        return Rendered(str.__str__(text), spelled(text, self._pattern) if self._pattern else [])

    def _choose(self, tools: Sequence[Mapping[str, object]] | None) -> CompiledTemplate:
        if tools and "tool_use" in self._templates:
            return self._templates["tool_use"]
        if "default" in self._templates:
            return self._templates["default"]
        if len(self._templates) == 1:
            return next(iter(self._templates.values()))
        raise InvalidRequest(
            f"the chat template has no 'default' among {sorted(self._templates)}; name one with --chat-template",
            "messages",
        )

    def _variables(self, kwargs: Mapping[str, object] | None) -> dict[str, object]:
        for name in kwargs or {}:
            if name in self._reserved or not isinstance(name, str) or name.startswith("_"):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidRequest(
                    f"chat_template_kwargs cannot set {name!r}; it belongs to the server", "chat_template_kwargs"
                )
        return {name: _plain(value, "chat_template_kwargs") for name, value in (kwargs or {}).items()}


def _find(folder: Path, config: Mapping[str, object]) -> tuple[str | dict[str, str], str] | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read(path), str(path)
    last = folder if folder.is_file() else folder / "tokenizer_config.json"
    for path, source in ((folder / "chat_template.json", None), (last, config)):
        if source is None:
            source = _read_object(path) if path.is_file() else {}
        template = source.get("chat_template")
        if template is None:
            continue
        if isinstance(template, str):
            return template, str(path)
        try:
            named = {entry["name"]: entry["template"] for entry in cast(Iterable[dict[str, Any]], template)}
        except (TypeError, KeyError) as error:
            raise StartupError(f"{path}: chat_template is neither a string nor a list of named ones") from error
        if not all(isinstance(text, str) for text in named.values()):
            raise StartupError(f"{path}: chat_template holds a template that is not a string", "chat_template")
        return named, str(path)
    return None


def _override(value: str) -> tuple[str, str]:
    # A template has braces or line ends; a path, as a rule, has neither.
    if any(mark in value for mark in "{}\n"):
        return value, "--chat-template"
    return _read(Path(value)), value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StartupError(f"{path}: cannot read the chat template ({error.strerror})", "chat_template") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{path}: the chat template is not UTF-8", "chat_template") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path}: not valid JSON: {error}", "chat_template") from error
    if not isinstance(data, dict):
        raise StartupError(f"{path}: expected a JSON object, found {type(data).__name__}", "chat_template")
    return data


def _plain(value: object, field: str, depth: int = 0) -> object:
    """Return a copy of `value` made of JSON's types only, which is all that a template may touch."""
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"{field} is nested deeper than {MAX_DEPTH} levels", field)
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, field, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, field, depth + 1) for item in value]
    raise InvalidRequest(f"{field} holds a {type(value).__name__}; only JSON values can be rendered", field)


def _prepare(messages: Sequence[object], template: CompiledTemplate) -> list[dict[str, Any]]:
    """Return messages as `template` wants them: content as text or as parts, reasoning under every usual name."""
    chat: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(f"messages[{index}] is {type(message).__name__}, not an object", "messages")
        copy: dict[str, Any] = dict(cast(dict[str, Any], message))
        content = copy.get("content")
        if isinstance(content, list):
            _check_parts(content, index)
            if not template.walks_parts:
                copy["content"] = _lines([part["text"] for part in content])
        elif isinstance(content, str) and template.needs_parts:
            copy["content"] = [{"type": "text", "text": content}]
        reasoning = next((copy[name] for name in REASONING_FIELDS if copy.get(name) is not None), None)
        if reasoning is not None:
            copy = {"thinking": reasoning, **copy, "reasoning_content": reasoning}
        chat.append(copy)
    return chat


def _lines(texts: list[str]) -> str:
    """The texts, a line end between each two."""
    return joined(texts, "\n") if any(isinstance(text, Said) for text in texts) else "\n".join(texts)


def _check_parts(parts: list[Any], index: int) -> None:
    for place, part in enumerate(parts):
        where = f"messages[{index}].content[{place}]"
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise InvalidRequest(f"{where} has type {kind!r}; this model takes 'text' only", "messages")
        if not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{where}.text is missing or not a string", "messages")


def _mark_final(chat: list[dict[str, Any]]) -> str:
    """Put a mark after the last message's text, in place, and return that text."""
    content = chat[-1].get("content") if chat else None
    if isinstance(content, str):
        chat[-1]["content"] = content + CONTINUE_MARK
        return content
    if isinstance(content, list) and content:
        text = content[-1]["text"]
        content[-1]["text"] = text + CONTINUE_MARK
        return text
    raise InvalidRequest("continue_final_message is set, but the last message has no content to continue", "messages")


def _cut_at_mark(text: str, final: str) -> str:
    mark = CONTINUE_MARK.strip()
    at = text.rfind(mark)
    if at < 0 or final.strip() not in text:
        raise InvalidRequest(
            "continue_final_message is set, but the chat template leaves the final message out",
            "continue_final_message",
        )
    # A template that trims content took the mark's space along, and then the text's own trailing space too.
    return text[:at] if text.startswith(CONTINUE_MARK, at) else text[:at].rstrip()
