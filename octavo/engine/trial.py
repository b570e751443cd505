"""What the process that tries grammars is told and what it tells: apart from both sides, which share nothing else."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from octavo.checkpoint import Checkpoint
from octavo.config import EngineConfig
from octavo.limits import Limits


class Setup(Struct, frozen=True):
    """What the process is told at its start: the model's tokenizer, and what is allowed."""

    folder: str
    eos_ids: tuple[int, ...]
    vocab_size: int
    limits: Limits

    @classmethod
    def of(cls, config: EngineConfig, checkpoint: Checkpoint, vocab_size: int) -> Setup:
        """That of an engine."""
        return cls(str(tokenizer_folder(config, checkpoint)), checkpoint.eos_ids, vocab_size, config.limits)


class Verdict(Struct, frozen=True):
    """The grammar in the library's form and about what it takes, or why it is refused."""

    text: str = ""
    num_bytes: int = 0
    message: str | None = None


def tokenizer_folder(config: EngineConfig, checkpoint: Checkpoint) -> Path:
    """Where the tokenizer of an engine is: the checkpoint's own, unless another was asked for."""
    return Checkpoint.resolve(config.model.tokenizer).path if config.model.tokenizer else checkpoint.path
