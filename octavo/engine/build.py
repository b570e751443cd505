"""Assemble an engine core from a config: the one place where the two towers meet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.engine.core import EngineCore
from octavo.engine.executors.executor import Executor
from octavo.engine.executors.fake import FakeExecutor, parse_options
from octavo.engine.executors.fake_pooling import fake_abilities
from octavo.engine.grammars import Nursery
from octavo.engine.trial import tokenizer_folder
from octavo.messages import EngineInfo
from octavo.plan import ELEMENT_BYTES, Hardware, ModelFacts, Plan, resolve
from octavo.platforms import host, reserve
from octavo.pooling import Abilities
from octavo.scheduling.admission import Admission
from octavo.scheduling.cache import CacheManager
from octavo.scheduling.policy import FCFS, Policy, Priority
from octavo.scheduling.scheduler import Scheduler
from octavo.scheduling.swapping import Swapping
from octavo.spec import CacheGroup, CacheSpec

if TYPE_CHECKING:
    from octavo.grammar import masks

Progress = Callable[[str, int, int], None]  # what, done, total

POLICIES: dict[str, type[Policy]] = {"fcfs": FCFS, "priority": Priority}
GPU = Path("/dev/nvidiactl")
QUANTIZED = {"int8": 0.5, "int4": 0.25}  # of 16 bits
FAKE_CONTEXT = 2048  # tokens, when the checkpoint does not say


@dataclass(frozen=True)
class Device:
    """An executor that is ready for steps, and what the scheduler must know of it."""

    executor: Executor
    plan: Plan
    groups: tuple[CacheGroup, ...]
    vocab_size: int
    abilities: Abilities


def build_core(config: EngineConfig, checkpoint: Checkpoint, progress: Progress) -> tuple[EngineCore, EngineInfo]:
    """Open the device, load the model, and put a scheduler in front of it."""
    config.check()
    device = (
        open_fake(config, checkpoint)
        if config.model.device.startswith("fake")
        else open_real(config, checkpoint, progress)
    )
    plan = device.plan
    identity = f"{checkpoint.path}\0{plan.architecture}\0{plan.dtype}".encode()
    cache = CacheManager(device.groups, plan.num_pages, plan.page_size, plan.prefix_caching, identity)
    scheduler = Scheduler(
        cache,
        POLICIES[plan.policy](),
        plan.max_num_seqs,
        plan.max_num_batched_tokens,
        plan.max_model_len,
        plan.whole_prompts,
    )
    scheduler.admission = Admission(config.limits, device.vocab_size)

    def load() -> masks.Grammars:
        # Imported here, not above: a first grammar may wait for these libraries, every start need not.
        from octavo.engine.vocabulary import open_grammars

        return open_grammars(tokenizer_folder(config, checkpoint), checkpoint.eos_ids, device.vocab_size)

    core = EngineCore(scheduler, device.executor, plan.steps_in_flight, nursery=Nursery(load))
    if plan.host_pages:
        cache.swapping = Swapping(plan.host_pages, plan.page_bytes, core.cost)
    info = EngineInfo(
        max_model_len=plan.max_model_len,
        vocab_size=device.vocab_size,
        max_num_seqs=plan.max_num_seqs,
        num_pages=sum(plan.num_pages),
        page_size=plan.page_size,
        plan=plan.lines(),
        abilities=device.abilities,
        step_tokens=plan.max_num_batched_tokens,
    )
    return core, info


def open_real(config: EngineConfig, checkpoint: Checkpoint, progress: Progress) -> Device:
    """The platform's device with the checkpoint's weights on it."""
    with reserve.kept(packed_bytes(config, checkpoint)):
        # Imported here, not above: a fake device must not wait two seconds for torch.
        from octavo.engine.executors.device import open_device

        executor, plan, groups, vocab_size, abilities = open_device(config, checkpoint, progress)
    return Device(executor, plan, groups, vocab_size, abilities)


def packed_bytes(config: EngineConfig, checkpoint: Checkpoint) -> int:
    """What the checkpoint's weights will take in memory at least, going by its files; 0 where that is not for sure.

    It is no use once the libraries are there, nor where a GPU may hold the weights.
    """
    if "torch" in sys.modules or config.model.device not in ("auto", "cpu") or GPU.exists():
        return 0
    path = checkpoint.path
    num_bytes = sum(each.stat().st_size for each in ([path] if path.is_file() else path.glob("model*.safetensors")))
    num_bytes = int(num_bytes * QUANTIZED.get(config.model.quantization or "", 1))
    return num_bytes if 2 * num_bytes < host.memory().free_bytes else 0


def open_fake(config: EngineConfig, checkpoint: Checkpoint) -> Device:
    """The fake device, dressed as a small CPU: next token = f(every visible KV cell)."""
    options = parse_options(config.model.device)
    vocab_size = int(str(checkpoint.config.get("vocab_size", 512)))
    groups = (CacheGroup(CacheSpec(num_kv_heads=1, head_dim=1), (0,)),)
    longest = int(str(checkpoint.config.get("max_position_embeddings", FAKE_CONTEXT)))
    facts = ModelFacts(
        name=checkpoint.name,
        architecture="fake",
        dtype="float32",
        weights="none",
        weights_bytes=0,
        kv_dtype="float32",
        page_bytes=(groups[0].spec.bytes_per_token(ELEMENT_BYTES["float32"]) * config.cache.block_size,),
        token_bytes=0,
        row_bytes=0,
        position_bytes=0,
        max_length=longest,
        groups=groups,
    )
    hardware = Hardware("cpu", "fake device", 2**34, 2**34, 1, ("float32",))
    plan = resolve(config, facts, hardware)
    executor = FakeExecutor(plan.num_pages, plan.page_size, groups, vocab_size, options)
    if options.say:
        # Imported here, not above: no other device needs a tokenizer.
        from octavo.engine.executors.script import Script
        from octavo.frontend.tokenizer import Tokenizer

        executor.script = Script(options.say, Tokenizer.load(checkpoint.path))
    return Device(executor, plan, groups, vocab_size, fake_abilities(options.labels))
