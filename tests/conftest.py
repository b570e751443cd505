"""What every test may ask for, and the line that says which octavo was under test."""

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first import of torch: tests run side by side on few cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported: kernels then run on CPU tensors

import pytest
from hypothesis import settings

import octavo
from octavo.platforms import native

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHORT = {"frontend", "grammar", "layers", "platforms", "quant", "scheduling", "weights"}  # folders

settings.register_profile("octavo", deadline=None)  # a machine that is busy for a moment is no fault of an example
settings.load_profile("octavo")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models, tokenizers and prompts beside the checkout; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs real test data in ../shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture(autouse=True, scope="module")
def reference_ops() -> Generator[None]:
    """What a file's models bind ops to does not stay: the next file's references are references again."""
    yield
    if "octavo.ops" in sys.modules:
        from octavo.ops import registry

        registry.bind((registry.REFERENCE,))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tests are found without collections of garbage, and what they brought stays: later collections pass it over."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would begin the files with few tests last, which have the long ones


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders of short files come last, so that no worker begins a long one while the others run out of work."""
    items.sort(key=lambda item: not SHORT.isdisjoint(item.path.parts))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than cores, because tests of processes, deadlines and restarts wait as much as they work."""
    return len(native.report().allowed_cpus) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    library = native.missing or "yes"
    terminalreporter.write_line(f"octavo {octavo.__version__} from {octavo.__file__}, native library: {library}")
