"""What ptxas makes of kernels, without a GPU: their wrappers run on CPU tensors, and every launch only compiles.

    def launches(capability: int) -> None:            # at the top of a test file, which imports no neighbors
        norm.rms_norm(torch.empty(7, 4096, dtype=torch.bfloat16), torch.empty(4096), 1e-6)

    for kernel in compiled(launches): …

So the configurations are those that a GPU would run. A process of its own does it: Triton reads TRITON_INTERPRET, which
the other tests here need, when it is imported.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that a block may have, by capability
SECONDS = 240


@dataclass(frozen=True)
class Kernel:
    """One compiled launch. `spilled` and `shared` are bytes, per thread and per block."""

    name: str
    capability: int
    warps: int
    registers: int
    spilled: int
    shared: int
    constants: str

    @property
    def fits(self) -> bool:
        """Whether a GPU of its capability could launch it."""
        return self.shared <= SHARED_LIMITS[self.capability] and self.registers * self.warps * 32 <= 65536


@cache
def compiled(launches: Callable[[int], None], capabilities: tuple[int, ...] = (80, 90)) -> list[Kernel]:
    """Every kernel that `launches(capability)` launches, for each capability."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {"TRITON_CACHE_DIR": folder, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        wanted = [inspect.getfile(launches), launches.__name__, *map(str, capabilities)]
        done = subprocess.run(
            [sys.executable, __file__, *wanted],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return [Kernel(**each) for each in json.loads(done.stdout.splitlines()[-1])]


class NoDriver:
    """The parts of a driver that compiling needs. Each capability is a device, because Triton caches by device."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.device = capability
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> object:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_all(launches: Callable[[int], None], capability: int) -> list[Kernel]:
    """Run `launches` with launching replaced by compiling."""
    import torch
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(NoDriver(capability))  # type: ignore[arg-type]
    torch.cuda.get_device_capability = lambda device=None: divmod(capability, 10)  # type: ignore[assignment]
    found: list[Kernel] = []
    original = JITFunction.run

    def run(self: Any, *args: object, **options: object) -> object:
        kernel = original(self, *args, **{**options, "warmup": True})
        shown = {name: value for name, value in options.items() if name not in ("grid", "warmup")}
        found.append(measured(kernel, capability, str(shown)))
        return kernel

    JITFunction.run = run
    try:
        launches(capability)
    finally:
        JITFunction.run = original
    return found


def measured(kernel: Any, capability: int, constants: str) -> Kernel:
    """Assemble once more, for what ptxas tells on the way."""
    from triton.backends.nvidia.compiler import get_ptxas

    ptx = kernel.asm["ptx"]
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        assembler = get_ptxas(capability).path
        command = [assembler, "-v", "--gpu-name", target[1], str(source), "-o", f"{source}.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    registers = re.search(r"Used (\d+) registers", told)
    spilled = re.search(r"(\d+) bytes spill stores", told)
    assert registers is not None and spilled is not None, told
    metadata = kernel.metadata
    return Kernel(
        name=metadata.name,
        capability=capability,
        warps=metadata.num_warps,
        registers=int(registers[1]),
        spilled=int(spilled[1]),
        shared=metadata.shared,
        constants=constants,
    )


def main(path: str, name: str, *capabilities: str) -> None:
    spec = importlib.util.spec_from_file_location("launches", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [kernel for each in capabilities for kernel in compile_all(getattr(module, name), int(each))]
    print(json.dumps([asdict(kernel) for kernel in found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
