"""octavo: an inference and serving engine for large language models. The public names, spelled as vLLM users know them."""

__version__ = "0.1.0"
