"""Broken, late, doubled and foreign messages between frontend and engine are dropped and counted (R11, R47)."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq

import octavo
from octavo import AsyncLLM, RequestOutputKind, SamplingParams
from octavo.checkpoint import POCKET
from octavo.config import EngineConfig
from octavo.engine.ipc import Directory
from octavo.engine.launch import Launch, launch_frame
from octavo.messages import (
    Abort,
    Add,
    AskStats,
    Deltas,
    Finish,
    Loading,
    Logprobs,
    Ready,
    SequenceSpec,
    Stats,
    StatsReply,
    Stop,
    Tick,
    ToCore,
    ToFrontend,
    TokenDelta,
    pack_ids,
)

from ..embedded import VOCAB_SIZE
from .harness import reference, run

ENCODE = msgspec.msgpack.encode
LIVES_S = 20.0


class Frontend:
    """The other end of a real engine process: a raw socket that may send anything."""

    def __init__(self, device: str) -> None:
        self.directory = Directory()
        address = self.directory.address()
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(address)
        config = EngineConfig.of(device=device, max_model_len=192)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, model=str(POCKET)))
        path = str(Path(octavo.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "octavo.engine.process"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(launch_frame(Launch(config, "octavo-pocket", address, "CRITICAL")))
        self.process.stdin.flush()
        self.until(Ready)

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def until(self, kind: type) -> list[ToFrontend]:
        """What the engine says up to the first message of this kind, which is the last."""
        said: list[ToFrontend] = []
        end_s = time.monotonic() + LIVES_S
        while time.monotonic() < end_s:
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read().decode()[-2000:]
            if self.socket.poll(200):
                said.append(msgspec.msgpack.decode(self.socket.recv(), type=ToFrontend))
                if isinstance(said[-1], kind):
                    return said
        raise AssertionError(f"no {kind.__name__} within {LIVES_S} s")

    def stats(self) -> tuple[Stats, list[TokenDelta]]:
        """The engine's counters, and the deltas that came before them."""
        self.send(ENCODE(AskStats()))
        said = self.until(StatsReply)
        reply = said[-1]
        assert isinstance(reply, StatsReply)
        return reply.stats, [delta for message in said if isinstance(message, Deltas) for delta in message.deltas]

    def answer(self, wanted: SequenceSpec) -> list[int]:
        """The tokens of a sequence, whatever else is told meanwhile."""
        self.send(ENCODE(Add([wanted])))
        tokens: list[int] = []
        while True:
            said = self.until(Deltas)[-1]
            assert isinstance(said, Deltas)
            for delta in said.deltas:
                if delta.id == wanted.id:
                    tokens += delta.tokens
                    if delta.finish is not None:
                        assert delta.finish.reason == "length", delta.finish
                        return tokens

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.socket.close()
        self.context.term()
        self.directory.remove()


@contextmanager
def frontend(device: str = "fake") -> Iterator[Frontend]:
    """A frontend whose engine is ready."""
    it = Frontend(device)
    try:
        yield it
    finally:
        it.close()


def spec(id: int, tokens: bytes | list[int], max_tokens: int = 8, **fields: object) -> SequenceSpec:
    """A greedy sequence."""
    data = tokens if isinstance(tokens, bytes) else pack_ids(tokens)
    return SequenceSpec(id, data, SamplingParams(temperature=0, ignore_eos=True), max_tokens, seed=1, **fields)  # type: ignore[arg-type]


def foreign(draw: random.Random) -> list[object]:
    """Messages that decode, and that no honest frontend would send."""
    id = draw.randrange(-5, 40)
    return [
        Abort([id, id, 10**9, -1]),
        Abort([-(2**63), 2**63 - 1]),
        Abort([]),
        Add([]),
        Add([spec(id, [5, 6, 7], 20)] * 3),
        Add([spec(id, b"")]),
        Add([spec(id, b"\1\0\0")]),
        Add([spec(id, [10**6, 5])]),
        Add([spec(id, [-1])]),
        Add([spec(id, [5] * 100_000)]),
        Add([spec(id, [5], 0)]),
        Add([spec(id, [5], -(2**62))]),
        Add([spec(id, [5], 2**62)]),
        Add([spec(id, [5], leader=id)]),
        Add([spec(id, [5], leader=10**12)]),
        Add([spec(id, [5], leader=id + 1), spec(id + 1, [5, 6], leader=id)]),
        Add([spec(id, [5], priority=2**62)]),
        Add([spec(id, [5], eos=(-1, 2**40))]),
        Add([spec(id, [5], bad_words=((), (-1,), (2**40, 5)))]),
        Add([spec(id, [5], salt=b"\xff" * 1000)]),
        AskStats(),
        Deltas([TokenDelta(id, [5])]),
        Tick(1e308),
        Loading("weights", -1, 0),
        StatsReply(Stats()),
    ]


def frames(draw: random.Random, count: int) -> Iterator[bytes]:
    """Frames of every broken kind, never a Stop."""
    while count:
        frame = ENCODE(draw.choice(foreign(draw)))
        kind = draw.randrange(6)
        if kind == 0:
            frame = draw.randbytes(draw.randrange(200))
        elif kind == 1:
            frame = frame[: draw.randrange(len(frame) + 1)]
        elif kind == 2:
            changed = bytearray(frame)
            for _ in range(draw.randrange(1, 5)):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            frame = bytes(changed)
        elif kind == 3:
            frame += draw.randbytes(5)
        elif kind == 4 and draw.random() < 0.1:
            frame = b"\x91" * 50_000 + frame  # nested
        try:
            if isinstance(msgspec.msgpack.decode(frame, type=ToCore), Stop):
                continue
        except Exception:  # broken, as it should be
            pass
        count -= 1
        yield frame


def check_engine(seed: int, count: int) -> None:
    """Send broken frames; the engine answers in between and afterwards, and holds nothing at the end."""
    draw = random.Random(seed)
    with frontend() as it:
        for number, frame in enumerate(frames(draw, count)):
            it.send(frame)
            if number % 200 == 100:
                wanted = spec(10_000 + number, [5, 9, number % 90 + 3] * 7, 12)
                assert it.answer(wanted) == reference(wanted, VOCAB_SIZE)
        it.send(ENCODE(Abort(list(range(-10, 60)))))
        end_s = time.monotonic() + LIVES_S
        while True:
            stats, _ = it.stats()
            if stats.running == stats.waiting == 0:
                break
            assert time.monotonic() < end_s, stats
            time.sleep(0.02)
        assert stats.pages_free == stats.pages_total
        assert stats.books_wrong == 0
        assert stats.late > 0


def test_five_hundred_broken_frames_do_not_end_the_engine():
    check_engine(1, 500)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_million_broken_frames_do_not_end_the_engine(seed: int):
    check_engine(seed, 100_000)


ROGUE = """#!{python}
import random, sys
sys.path.insert(0, {path!r})
import msgspec
from octavo.engine import process
from octavo.messages import *

draw = random.Random(7)
encode = msgspec.msgpack.encode
NOISE = [
    lambda: draw.randbytes(draw.randrange(100)),
    lambda: encode(Abort([1, 2])),
    lambda: encode(Add([])),
    lambda: encode(["deltas", [[7, ["a"]]]]),
    lambda: encode(["ready", 5]),
    lambda: encode(["failed", 5, 5]),
    lambda: encode(["loading", "x"]),
    lambda: encode({{"type": "deltas"}}),
    lambda: b"\\x92\\xa6failed\\xa2\\xff\\xfe",
    lambda: b"\\x91" * 50_000,
    lambda: encode(Deltas([TokenDelta(draw.randrange(10**6, 10**9), [5])])),
    lambda: encode(Deltas([TokenDelta(-(2**63), [2**63 - 1], Logprobs([], [], []), None, Finish("abort"))])),
    lambda: encode(StatsReply(Stats())),
    lambda: encode(Tick(-1e9)),
]


class Pipe(process.CorePipe):
    said_ready = False

    def send(self, message):
        if self.said_ready:
            for _ in range(draw.randrange(3)):
                self._socket.send(draw.choice(NOISE)())
        self.said_ready |= isinstance(message, Ready)
        super().send(message)


process.CorePipe = Pipe
process.main()
"""


def test_an_engine_that_also_talks_nonsense_is_understood_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rogue = tmp_path / "rogue"
    rogue.write_text(ROGUE.format(python=sys.executable, path=str(Path(octavo.__file__).parents[1])))
    rogue.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(rogue))

    async def tokens(llm: AsyncLLM, prompt: list[int]) -> list[int]:
        params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
        return [id async for output in llm.generate(prompt, params) for id in output.outputs[0].token_ids]

    async def main() -> None:
        llm = AsyncLLM.launch(device="fake")
        try:
            await llm.ready()
            prompts = [[3 + i, 9, 11] for i in range(40)]
            found = await asyncio.gather(*(tokens(llm, prompt) for prompt in prompts))
            assert found == [reference(spec(0, prompt, 40), VOCAB_SIZE) for prompt in prompts]
            assert llm.supervisor._pipe is not None and llm.supervisor._pipe.dropped > 10
            assert llm.supervisor.restarts == 0 and llm.state == "ready"
            assert await llm.stats()
        finally:
            await llm.shutdown()

    run(main(), 60)


def test_a_delta_that_breaks_a_request_ends_that_request_only(tmp_path: Path):
    async def main() -> None:
        llm = AsyncLLM.launch(device="fake:step_ms=5")
        try:
            await llm.ready()
            params = SamplingParams(
                max_tokens=60, temperature=0, ignore_eos=True, output_kind=RequestOutputKind.DELTA, logprobs=1
            )
            first = llm.generate([5, 6], params)
            other = asyncio.create_task(collect(llm.generate([7, 8], params)))
            await anext(first)
            await asyncio.sleep(0.02)
            # The first sequence's id is 0; its log-probabilities are missing, its finish is none of those there are.
            llm._on_message(Deltas([TokenDelta(0, [10**9], Logprobs([], [], []), None, Finish("length"))]))
            with pytest.raises(octavo.OctavoError):
                await collect(first)
            assert await other == reference(spec(0, [7, 8], 60), VOCAB_SIZE)
        finally:
            await llm.shutdown()

    async def collect(outputs) -> list[int]:
        return [id async for output in outputs for id in output.outputs[0].token_ids]

    run(main(), 60)
