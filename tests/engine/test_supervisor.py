"""The engine process is at work before its parent has read the tokenizer, and goes when that fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from octavo.checkpoint import POCKET, Checkpoint
from octavo.config import EngineConfig
from octavo.engine import async_llm, supervisor
from octavo.engine.async_llm import AsyncLLM
from octavo.engine.supervisor import Supervisor
from octavo.errors import StartupError
from octavo.frontend.tokenizer import Tokenizer


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Supervisor]:
    """The supervisors that are made."""
    made: list[Supervisor] = []

    class Noted(Supervisor):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(async_llm, "Supervisor", Noted)
    return made


def test_the_engine_process_lives_while_the_tokenizer_is_read(
    begun: list[Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    load = Tokenizer.load

    def noted(path: Path) -> Tokenizer:
        pid = begun[0].pid
        seen.append(pid is not None and is_alive(pid))
        return load(path)

    monkeypatch.setattr(Tokenizer, "load", noted)

    async def start() -> None:
        llm = AsyncLLM.launch(EngineConfig.of(device="fake"))
        await llm.ready()
        await llm.shutdown()

    asyncio.run(start())
    assert seen == [True]


def test_a_broken_tokenizer_is_said_by_launch_and_leaves_no_process_and_no_folder(
    begun: list[Supervisor], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(POCKET, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).exists():
            (folder / name).write_bytes(b"{")

    async def start() -> int:
        with pytest.raises(StartupError, match="tokenizer"):
            AsyncLLM.launch(EngineConfig.of(model=str(folder), device="fake"))
        pid = begun[0].pid
        assert pid is not None
        limit = time.monotonic() + 10
        while is_alive(pid) and time.monotonic() < limit:
            await asyncio.sleep(0.01)
        return pid

    assert not is_alive(asyncio.run(start()))
    assert not begun[0]._directory.path.exists()


def test_a_process_that_cannot_be_started_is_told_by_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(frame: bytes) -> None:
        raise OSError("no process left")

    monkeypatch.setattr(supervisor, "Child", refuse)

    async def start() -> None:
        kept = Supervisor(EngineConfig.of(device="fake"), Checkpoint.resolve(), 5.0, lambda m: None, lambda e: None)
        try:
            with pytest.raises(StartupError, match="no process left"):
                await asyncio.wait_for(kept.ready(), 10)
        finally:
            await kept.stop()

    asyncio.run(start())


def test_a_killed_engine_process_is_replaced() -> None:
    async def start() -> None:
        llm = AsyncLLM.launch(EngineConfig.of(device="fake"))
        await llm.ready()
        first = llm.supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        limit = time.monotonic() + 20
        while (llm.supervisor.pid in (None, first) or llm.state != "ready") and time.monotonic() < limit:
            await asyncio.sleep(0.01)
        assert llm.state == "ready"
        assert llm.supervisor.restarts == 1
        await llm.shutdown()

    asyncio.run(start())
