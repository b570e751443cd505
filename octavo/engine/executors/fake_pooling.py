"""What a fake device makes of a prompt that is pooled: values drawn by the hash of every visible KV cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octavo.pooling import Abilities, PoolingWork

DIMENSIONS = 32


def fake_abilities(num_labels: int) -> Abilities:
    """A fake model embeds; with labels it classifies instead. It generates in either case."""
    if num_labels:
        return Abilities(("classify",), labels=tuple(f"LABEL_{i}" for i in range(num_labels)))
    return Abilities(("embed", "token_embed"), "last", DIMENSIONS)


def fake_values(work: PoolingWork, digests: Sequence[int], num_labels: int) -> bytes:
    """The float32 bytes of one prompt; `digests` are those of its last token, or of all tokens."""
    drawn = np.stack([np.random.default_rng(digest).standard_normal(num_labels or DIMENSIONS) for digest in digests])
    if num_labels:
        values = scores(drawn) if work.activate else drawn
    else:
        values = drawn[:, : work.dimensions] if work.dimensions else drawn
        if work.activate:
            values = values / np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype("<f4").tobytes()


def scores(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of each row's logits, softmax; sigmoid of a single one."""
    if logits.shape[1] == 1:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
