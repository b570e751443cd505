"""What bench/compare.py can compare: engines with a model and options, and the rows made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ENGINES = ("octavo", "llama.cpp", "vllm", "openvino", "transformers")


@dataclass(frozen=True)
class Variant:
    """An engine with a model, relative to --models ({shape} is replaced), and options of its own."""

    engine: str
    label: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.engine}:{self.label}"


@dataclass(frozen=True)
class Cell:
    """One comparison; `target` is the ratio to reach, if one is. Without `theirs`, one engine alone."""

    work: str
    ours: str
    theirs: str | None = None
    target: float | None = None

    def __str__(self) -> str:
        return f"{self.work}, {self.ours}" + (f" beside {self.theirs}" if self.theirs else "")


def by_name(*variants: Variant) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants}


GGUF_TYPES = ("q4_k_m", "q4_0", "q8_0")
VARIANTS = by_name(
    Variant("octavo", "bf16", "{shape}", {"dtype": "bfloat16"}),
    Variant("octavo", "int8", "{shape}", {"dtype": "bfloat16", "quantization": "int8", "kv_cache_dtype": "int8"}),
    Variant("octavo", "int4", "{shape}", {"dtype": "bfloat16", "quantization": "int4"}),
    Variant("octavo", "w8a8", "{shape}-w8a8", {"dtype": "bfloat16"}),
    *(Variant("octavo", kind, f"{{shape}}-{kind}.gguf") for kind in GGUF_TYPES),
    *(Variant("llama.cpp", kind, f"{{shape}}-{kind}.gguf") for kind in ("bf16", *GGUF_TYPES)),
    Variant("vllm", "bf16", "{shape}", {"dtype": "bfloat16"}),
    Variant("vllm", "w8a8", "{shape}-w8a8", {"dtype": "bfloat16"}),
    *(Variant("openvino", kind, f"{{shape}}-ov-{kind}") for kind in ("fp16", "int8", "int4")),
    Variant("transformers", "batch8", "{shape}", {"batch": 8}),
    Variant("transformers", "batch16", "{shape}", {"batch": 16}),
)
PREFILLS = ("prefill-512", "prefill-2048")
ROWS: dict[str, list[Cell]] = {
    "decode-gguf": [Cell("decode", f"octavo:{kind}", f"llama.cpp:{kind}", 1.4) for kind in GGUF_TYPES],
    "decode-bf16": [
        Cell("decode", "octavo:bf16", "llama.cpp:bf16", 1.2),
        Cell("decode", "octavo:bf16", "vllm:bf16", 1.03),
    ],
    "decode-int4": [Cell("decode", "octavo:int4", "vllm:bf16", 2.5)],
    "decode-bandwidth": [
        Cell("decode", name) for name in VARIANTS if name.startswith("octavo:")
    ],
    "prefill-gguf": [
        Cell(work, f"octavo:{kind}", f"llama.cpp:{kind}", 2.5) for kind in GGUF_TYPES for work in PREFILLS
    ],
    "prefill": [
        Cell("prefill-2048", "octavo:bf16", "vllm:bf16", 1.1),
        Cell("prefill-2048", "octavo:int8", "vllm:bf16", 1.6),
    ],
    "mixed": [Cell("mixed", "octavo:bf16", "vllm:bf16", 1.4), Cell("mixed", "octavo:int8", "vllm:bf16", 2.0)],
    "shared-prefix": [Cell("shared-prefix", "octavo:bf16", "vllm:bf16", 1.4)],
    "w8a8": [
        Cell("decode", "octavo:w8a8", "vllm:w8a8", 1.7),
        *(Cell(work, "octavo:w8a8", "vllm:w8a8", 1.2) for work in PREFILLS),
        Cell("mixed", "octavo:w8a8", "vllm:w8a8", 1.6),
    ],
    "openvino-decode": [
        Cell("decode", "octavo:int8", "openvino:int8", 1.4),
        Cell("decode", "octavo:int4", "openvino:int4", 2.0),
    ],
    "openvino-prefill": [
        Cell(work, f"octavo:{ours}", f"openvino:{theirs}", target)
        for ours, theirs, target in (("bf16", "fp16", 1.1), ("int8", "int8", 1.3))
        for work in PREFILLS
    ],
    "openvino-mixed": [
        Cell("mixed", "octavo:bf16", "openvino:fp16", 1.25),
        Cell("mixed", "octavo:int8", "openvino:int8", 1.8),
    ],
    "transformers": [
        Cell("mixed", "octavo:bf16", "transformers:batch8", 6.0),
        Cell("mixed", "octavo:bf16", "transformers:batch16", 6.0),
    ],
    "batch": [Cell(f"batch-{n}", "octavo:bf16") for n in (1, 2, 4, 8, 16, 32, 64)],
}  # fmt: skip
