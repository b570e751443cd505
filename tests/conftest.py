"""What every test may ask for, and the line that says which octavo was under test."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first import of torch: tests run side by side on few cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported: kernels then run on CPU tensors

import pytest

import octavo
from octavo.platforms import native

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models, tokenizers and prompts beside the checkout; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs real test data in ../shared/data beside the checkout")
    return SHARED_DATA


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    library = native.missing or "yes"
    terminalreporter.write_line(f"octavo {octavo.__version__} from {octavo.__file__}, native library: {library}")
