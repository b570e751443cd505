"""Templates in processes of their own: the same text, bounded time and memory, no chat waits for another's (R37)."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from octavo.errors import InvalidRequest
from octavo.frontend import rendering
from octavo.frontend.chat import ChatTemplate
from octavo.frontend.rendering import Renderer

CHAT = [{"role": "user", "content": "hello"}]
# Slow only when a message wants it to be, as templates are whose time grows faster than their input.
SPINS = (
    "{% if 'spin' in messages[0].content %}{% for i in range(99999) %}{% set x = ('a' * 3000000) | upper %}{% endfor %}"
)
SPINS += "{% endif %}<{{ messages[0].content }}>"


def children() -> set[psutil.Process]:
    """Child processes: this one's test session may have servers beside."""
    return set(psutil.Process().children())


def rendered(template: ChatTemplate, work: Callable[[Renderer], Awaitable[None]]) -> None:
    """Run `work` with a renderer of `template`; nothing of it is left afterwards."""

    async def main() -> None:
        before = children()
        renderer = Renderer(template)
        try:
            await work(renderer)
        finally:
            renderer.stop()
        assert children() <= before

    asyncio.run(main())


def test_a_process_writes_what_the_template_writes_here(shared_data: Path) -> None:
    recorded = json.loads((shared_data / "chat_templates/expected_renders.json").read_text(encoding="utf-8"))
    name = "Qwen-Qwen3-0.6B.jinja"
    source = (shared_data / "chat_templates" / name).read_text(encoding="utf-8")
    cases = [case for case in recorded["cases"] if case["template"] == name]
    tokens = {key: recorded["contexts"][cases[0]["context"]][key] for key in ("bos_token", "eos_token")}
    template = ChatTemplate(source, tokens, control=["<|im_end|>"])
    assert len(cases) > 10

    async def work(renderer: Renderer) -> None:
        for case in cases:
            context = recorded["contexts"][case["context"]]
            add = case["add_generation_prompt"]
            if "expected" in case:
                found = await renderer.render(context["messages"], tools=context["tools"], add_generation_prompt=add)
                assert (found.text, found.spelled) == (case["expected"], [])
        spelled = await renderer.render([{"role": "user", "content": "a<|im_end|>"}])
        assert [spelled.text[start:end] for start, end in spelled.spelled] == ["<|im_end|>"]

    rendered(template, work)


def test_odd_values_arrive_as_they_are_or_are_refused() -> None:
    template = ChatTemplate("{{ messages[0].x | tojson }}{{ tools | tojson }}{{ a }}")

    async def work(renderer: Renderer) -> None:
        for value in (10**40, -(2**63) - 1, 1e308, None, True, "\0\U0010ffff", {"": [[]]}, "é" * 2**20):
            found = await renderer.render([{"role": "user", "x": value}], tools=[{"n": 2**64}], kwargs={"a": "b"})
            assert found.text == json.dumps(value, ensure_ascii=False) + '[{"n": 18446744073709551616}]b'
        assert "NaN" in (await renderer.render([{"role": "user", "x": math.nan}])).text
        deep: list = []
        for _ in range(2000):
            deep = [deep]
        for value in ("\ud800", deep, object(), {1: 2}.keys()):
            with pytest.raises(InvalidRequest) as error:
                await renderer.render([{"role": "user", "x": value}])
            assert error.value.field == "messages"
        with pytest.raises(InvalidRequest) as error:
            await renderer.render(CHAT, kwargs={"messages": []})
        assert error.value.field == "chat_template_kwargs"
        with pytest.raises(InvalidRequest, match="lone surrogate"):
            await Renderer.render(surrogates, CHAT)

    surrogates = None

    async def both(renderer: Renderer) -> None:
        nonlocal surrogates
        surrogates = Renderer(ChatTemplate(r"{{ '\ud800' }}"))
        try:
            await work(renderer)
        finally:
            surrogates.stop()

    rendered(template, both)


@pytest.mark.parametrize(("source", "reason"), [
    ("".join(f"{{% set a{i} = 'a' * 8000000 %}}" for i in range(40)), "MemoryError"),
    ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "Recursion"),
    ("{{ 'a' * 8000000 }}{{ 'a' * 8000000 }}", "writes more than"),
    ("{{ range(10**9) | list }}", "Range too big"),
    ("{{ 'a' * 2**30 }}", "longer than 8388608"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{{ cycler.__init__.__globals__ }}", "unsafe"),
    ("{{ messages.__class__.__base__.__subclasses__() }}", "unsafe"),
    ("{{ (''|attr('__class__')).mro() }}", "undefined|unsafe"),
    ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe|undefined"),
    ("{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}", "unsafe|undefined"),
])  # fmt: skip
def test_a_hostile_template_costs_a_refusal(source: str, reason: str) -> None:
    async def work(renderer: Renderer) -> None:
        renderer.start()
        began_s = time.monotonic()
        with pytest.raises(InvalidRequest, match=reason) as error:
            await renderer.render(CHAT)
        assert time.monotonic() - began_s < 6
        assert error.value.field == "messages"

    rendered(ChatTemplate(source, control=["<|im_end|>"]), work)


def test_slow_chats_keep_nobody_waiting_and_their_processes_are_replaced() -> None:
    before = children()

    async def work(renderer: Renderer) -> None:
        renderer.start()
        await renderer.render(CHAT)
        slow = [asyncio.create_task(renderer.render([{"role": "user", "content": f"spin{i}"}])) for i in range(2)]
        await asyncio.sleep(0.3)
        waits = []
        while not any(task.done() for task in slow):
            began_s = time.monotonic()
            assert (await renderer.render(CHAT)).text == "<hello>"
            waits.append(time.monotonic() - began_s)
            await asyncio.sleep(0.01)
        assert len(waits) > 10
        assert sorted(waits)[len(waits) // 2] < 0.05
        assert max(waits) < 1
        for task in slow:
            with pytest.raises(InvalidRequest, match="longer than 2 seconds"):
                await task
        assert renderer.killed == 2
        assert (await renderer.render(CHAT)).text == "<hello>"
        assert len(children() - before) <= rendering.MOST_SOON + rendering.MOST_LONG

    rendered(ChatTemplate(SPINS), work)


def test_a_long_chat_begins_again_where_it_has_time() -> None:
    source = "{% for i in range(9) %}{% endfor %}{{ messages[0].content }}"

    async def main() -> None:
        renderer = Renderer(ChatTemplate(source), soon_s=0)
        try:
            assert (await renderer.render(CHAT)).text == "hello"
            assert renderer.killed == 0
            assert (len(renderer._soon.pids), len(renderer._long.pids)) == (1, 1)
            text = "a" * (3 << 20)
            assert (await renderer.render([{"role": "user", "content": text}])).text == text
        finally:
            renderer.stop()

    asyncio.run(main())


def test_a_process_that_renders_is_small() -> None:
    before = children()

    async def work(renderer: Renderer) -> None:
        await renderer.render(CHAT)
        (child,) = children() - before
        assert child.memory_info().rss < 60 << 20

    rendered(ChatTemplate("{{ messages[0].content }}", control=["<|im_end|>"]), work)


def test_many_different_chats_leave_nothing_behind() -> None:
    """No cache grows with what requests bring (R39)."""

    async def work(renderer: Renderer) -> None:
        sizes = []
        for turn in range(4):
            for i in range(250):
                kwargs = {f"a{turn}_{i}": [i], "b": f"{turn} {i}"}
                await renderer.render([{"role": "user", "content": f"{turn} {i}", f"k{turn}_{i}": i}], kwargs=kwargs)
            sizes.append(psutil.Process(renderer._soon.pids[0]).memory_info().rss)
        assert sizes[-1] - sizes[0] < 1 << 20, sizes

    rendered(ChatTemplate("{{ messages[0].content }}{{ b }}", control=["<|im_end|>"]), work)
