"""Who answers `octavo chat` and `octavo complete`: a model opened here, or a server somewhere."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import httpx
from rich.console import Console
from rich.markup import escape

from octavo import env, log
from octavo.engine.async_llm import AsyncLLM
from octavo.errors import OctavoError, StartupError
from octavo.frontend.inputs import Prompt
from octavo.sampling import RequestOutputKind, SamplingParams

Wish = Mapping[str, Any]  # generation parameters, by their SamplingParams names

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "repetition_penalty")


class Answerer(Protocol):
    """Streams text for a conversation or a prompt."""

    name: str

    def chat(self, messages: list[dict[str, str]], wish: Wish) -> AsyncGenerator[str, None]: ...

    def complete(self, prompt: str, wish: Wish) -> AsyncGenerator[str, None]: ...

    async def close(self) -> None: ...


class Local:
    """An engine of our own."""

    def __init__(self, llm: AsyncLLM) -> None:
        self.llm = llm
        self.name = llm.model_name

    def chat(self, messages: list[dict[str, str]], wish: Wish) -> AsyncGenerator[str, None]:
        return self._answer(messages, wish)

    async def _answer(self, messages: list[dict[str, str]], wish: Wish) -> AsyncGenerator[str, None]:
        prompt = await self.llm.prompt(messages)
        async with aclosing(self._stream(prompt, wish, add_special_tokens=False)) as texts:
            async for text in texts:
                yield text

    def complete(self, prompt: str, wish: Wish) -> AsyncGenerator[str, None]:
        return self._stream(prompt, wish, add_special_tokens=True)

    async def _stream(self, prompt: Prompt, wish: Wish, add_special_tokens: bool) -> AsyncGenerator[str, None]:
        settings: dict[str, Any] = {"max_tokens": None, **self.llm.default_params, **wish}
        params = SamplingParams(**settings, output_kind=RequestOutputKind.DELTA)
        async with aclosing(self.llm.generate(prompt, params, add_special_tokens=add_special_tokens)) as outputs:
            async for output in outputs:
                yield output.outputs[0].text

    async def close(self) -> None:
        await self.llm.shutdown()


class Remote:
    """An OpenAI-compatible server."""

    def __init__(self, url: str, key: str | None, name: str) -> None:
        self.name = name
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=httpx.Timeout(600, connect=10))

    @classmethod
    async def connect(cls, url: str, key: str | None, name: str | None) -> Remote:
        """Ask the server which model it serves unless `name` says; StartupError when it does not answer."""
        remote = cls(url.rstrip("/").removesuffix("/v1") + "/v1/", key, name or "")
        if not name:
            try:
                reply = await remote._client.get("models")
                reply.raise_for_status()
                remote.name = reply.json()["data"][0]["id"]
            except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                raise StartupError(
                    f"no model list from {url}: {error}; is `octavo serve` running there?", "url"
                ) from error
        return remote

    async def chat(self, messages: list[dict[str, str]], wish: Wish) -> AsyncGenerator[str, None]:
        async for choice in self._events("chat/completions", {"messages": messages, **wish}):
            yield choice["delta"].get("content") or ""

    async def complete(self, prompt: str, wish: Wish) -> AsyncGenerator[str, None]:
        async for choice in self._events("completions", {"prompt": prompt, **wish}):
            yield choice["text"]

    async def _events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        body = {"model": self.name, "stream": True, **body}
        try:
            async with self._client.stream("POST", path, json=body) as reply:
                if reply.is_error:
                    raise OctavoError(f"the server answered {reply.status_code}: {error_line(await reply.aread())}")
                async for line in reply.aiter_lines():
                    data = line.removeprefix("data: ")
                    if line.startswith("data: ") and data != "[DONE]":
                        event = json.loads(data)
                        if "error" in event:
                            raise OctavoError(f"the server ended the answer: {event['error'].get('message')}")
                        for choice in event.get("choices", ()):
                            yield choice
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise OctavoError(
                f"lost the server at {self._client.base_url}: {type(error).__name__} {error}".rstrip()
            ) from error

    async def close(self) -> None:
        await self._client.aclose()


def error_line(body: bytes) -> str:
    """The message of an OpenAI error object, or the body's beginning."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which server, and how to sample."""
    server = parser.add_argument_group("server")
    server.add_argument("--url", metavar="URL", help="talk to this server instead of opening a model here")
    server.add_argument("--model-name", metavar="NAME", help="model to ask the server for; default: its first")
    server.add_argument("--api-key", metavar="KEY", help="the server's key; also OCTAVO_API_KEY")
    sampling = parser.add_argument_group("sampling")
    kinds: dict[str, type] = {"top_k": int, "seed": int, "max_tokens": int}
    for name in SAMPLING:
        kind = kinds.get(name, float)
        sampling.add_argument(
            f"--{name.replace('_', '-')}", type=kind, metavar="N" if kind is int else "X", dest=f"sampling_{name}"
        )


def wish(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters given on the command line."""
    given = {name: getattr(args, f"sampling_{name}") for name in SAMPLING}
    return {name: value for name, value in given.items() if value is not None}


async def answerer(args: argparse.Namespace, config: Any) -> Answerer:
    """The server named by --url, else an engine for the model."""
    if args.url:
        return await Remote.connect(args.url, args.api_key or env.api_key(), args.model_name)
    log.get("octavo").setLevel("WARNING")  # the conversation belongs to the terminal
    llm = AsyncLLM.launch(config)
    try:
        await loaded(llm)
    except BaseException:
        await llm.shutdown()
        raise
    return Local(llm)


async def loaded(llm: AsyncLLM) -> None:
    """Wait for the engine and show on a terminal how far it is; StartupError when it cannot start."""
    ready = asyncio.ensure_future(llm.ready())
    with Console(stderr=True).status(f"Starting {escape(llm.model_name)}") as status:
        while not ready.done():
            await asyncio.wait([ready], timeout=0.1)
            loading = llm.supervisor.loading
            if loading is not None and loading.total:
                status.update(f"{loading.what}: {loading.done / loading.total:.0%}")
    ready.result()
