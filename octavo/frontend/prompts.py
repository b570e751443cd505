"""Prompts: one checkpoint's tokenizer and chat template, and what they make of texts and chats."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict, TypeVar, Unpack

from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.errors import InvalidRequest
from octavo.frontend.answers import AnswerFormat, AnswerReading
from octavo.frontend.chat import ChatTemplate, Rendered
from octavo.frontend.inputs import InputProcessor, TokensPrompt
from octavo.frontend.rendering import Renderer
from octavo.frontend.tokenizer import LONG_TEXT, Tokenizer
from octavo.messages import EngineInfo
from octavo.processors import registered

T = TypeVar("T")
Messages = Sequence[Mapping[str, Any]]

TOKENIZER_THREADS = min(4, max(1, (os.cpu_count() or 1) // 2))


class ChatOptions(TypedDict, total=False):
    """How messages become a prompt, as ChatTemplate.render takes it."""

    tools: Sequence[Mapping[str, Any]] | None
    add_generation_prompt: bool
    continue_final_message: bool
    kwargs: Mapping[str, Any] | None


class Prompts:
    """The text side of an engine; `LLM` and `AsyncLLM` own one each. `defaults`: the checkpoint's SamplingParams."""

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint) -> None:
        model = config.model
        folder = Checkpoint.resolve(model.tokenizer).path if model.tokenizer else checkpoint.path
        self._config = config
        self._eos_ids = checkpoint.eos_ids
        self.tokenizer = Tokenizer.load(folder)
        self.template = ChatTemplate.load(folder, self.tokenizer, model.chat_template, model.control_tokens_in_messages)
        self.defaults: dict[str, Any] = checkpoint.generation_defaults()
        sources = self.template.sources.values() if self.template is not None else ()
        self.answers = AnswerFormat.of("\n".join(sources), model.tool_call_parser, model.reasoning_parser)
        self._visible = self.answers.visible(self.tokenizer)

    def inputs(self, info: EngineInfo) -> InputProcessor:
        """What turns prompts into sequences for the engine that `info` tells of."""
        model = self._config.model
        return InputProcessor(
            self.tokenizer,
            self._eos_ids,
            info.max_model_len,
            info.vocab_size,
            model.seed,
            self._config.limits,
            registered(model.logits_processors),
        )

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> TokensPrompt:
        """The prompt for `messages`, rendered here; InvalidRequest when there is no template, or it refuses them."""
        return self.tokens(self.checked_template().render(messages, **options))

    def reading(
        self, prompt: TokensPrompt, tools: Sequence[Mapping[str, Any]] | None = None, is_continued: bool = False
    ) -> AnswerReading | None:
        """How the answers to a chat are read; None when there is nothing to be read apart. `is_continued`: the prompt
        ends inside an answer.
        """
        return self.answers.reading(prompt.get("prompt", ""), tools, self._visible, is_continued)

    def tokens(self, rendered: Rendered, add_special_tokens: bool = False) -> TokensPrompt:
        """A rendered chat as a prompt, in which messages only spell control tokens unless the operator trusts them."""
        text = rendered.text
        if self._config.model.control_tokens_in_messages:
            ids = self.tokenizer.encode(text, add_special_tokens)
        else:
            ids = self.tokenizer.encode_chat(text, rendered.spelled, add_special_tokens)
        return {"prompt": text, "prompt_token_ids": ids}

    def checked_template(self) -> ChatTemplate:
        """The chat template; InvalidRequest when there is none."""
        if self.template is None:
            raise InvalidRequest(
                "this model has no chat template; send a prompt instead, or start with --chat-template FILE", "messages"
            )
        return self.template


class PromptsAside:
    """`Prompts` for an event loop, which they never hold for long (R22). Belongs to the running one.

    Chats are rendered by other processes, long texts tokenized by a few threads.
    """

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._renderer = Renderer(prompts.template) if prompts.template is not None else None
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, "octavo-tokenizer")

    def start(self) -> None:
        """Begin the first process, so that the first chat need not wait for it."""
        if self._renderer is not None:
            self._renderer.start()

    def stop(self) -> None:
        """End processes and threads."""
        if self._renderer is not None:
            self._renderer.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, length: int, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)`, on a thread if it is about a text of many characters."""
        if length < LONG_TEXT:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def chat(
        self, messages: Messages, check: Callable[[str], None], add_special_tokens: bool, **options: Unpack[ChatOptions]
    ) -> TokensPrompt:
        """As Prompts.chat; InvalidRequest also when rendering takes too long, and what `check` raises for the text."""
        self._prompts.checked_template()
        assert self._renderer is not None
        rendered = await self._renderer.render(messages, **options)
        check(rendered.text)
        return await self.run(len(rendered.text), self._prompts.tokens, rendered, add_special_tokens)
