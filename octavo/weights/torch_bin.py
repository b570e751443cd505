"""PyTorch .bin files: read with weights_only=True and memory-mapped, or refused; a pickle's code never runs (R57)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from octavo.errors import StartupError
from octavo.weights import shards

SAFE_SINCE = (2, 6)  # before it, weights_only=True could be made to run code (CVE-2025-32434)
PICKLE_BYTES = 256 * 2**20
MAX_ENTRIES = 1_000_000
INSTEAD = "convert it to safetensors where you trust it"


def find(folder: Path) -> shards.Shards | None:
    """The .bin files of a checkpoint folder, or None."""
    return shards.find(folder, "pytorch_model", ".bin", load)


def load(path: Path) -> Mapping[str, Tensor]:
    """The tensors of one .bin file, mapped and not read. Raises StartupError naming the file if it is anything else."""
    check_torch(torch.__version__)
    check_archive(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # an edge: the unpickler raises whatever a damaged or hostile pickle leads it to
        # Around its reason torch wraps advice to load the file with its code; that is not passed on.
        cause = error.__context__ or error
        reason = " ".join(str(cause).split()).partition(" Please ")[0][:120] or type(cause).__name__
        raise StartupError(f"{path} is damaged or holds more than tensors ({reason}); {INSTEAD}", path.name) from None
    if not isinstance(tensors, dict):
        raise StartupError(f"{path} holds a {type(tensors).__name__} and no map of tensors; {INSTEAD}", path.name)
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise StartupError(
                f"{path}: {repr(name)[:60]} is a {type(value).__name__} and no tensor; {INSTEAD}", path.name
            )
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            kind = f"{value.layout} tensor on {value.device}"
            raise StartupError(f"{path}: {name[:60]} is a {kind} and not a dense one; {INSTEAD}", path.name)
    return {name: value.detach() for name, value in tensors.items()}


def check_torch(version: str) -> None:
    """Raise StartupError when this torch cannot read .bin files safely."""
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if release < SAFE_SINCE:
        raise StartupError(f"torch {version} is too old to read .bin files safely; install torch 2.6 or newer", "torch")


def check_archive(path: Path) -> None:
    """Raise StartupError unless `path` is torch's zip format with every entry stored plainly inside the file."""
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        old = "not torch's zip format (torch < 1.6 wrote another), or truncated"
        raise StartupError(f"{path} is {old}; download it again, or {INSTEAD}", path.name) from None
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}", path.name) from None
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > size:
        raise StartupError(f"{path} claims more data than its {size} bytes; download it again", path.name)
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise StartupError(f"{path} has compressed entries, which torch never writes; {INSTEAD}", path.name)
    pickles = [entry.file_size for entry in entries if entry.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0] > PICKLE_BYTES:
        raise StartupError(f"{path} must hold one data.pkl of at most {PICKLE_BYTES} bytes; {INSTEAD}", path.name)
