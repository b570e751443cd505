"""Attention whose results have the same bits in any batch and however prompts are cut: Triton's, of whole contexts."""

from __future__ import annotations

from octavo.attention.triton import TritonAttention


def create() -> TritonAttention:
    """A backend without state."""
    return TritonAttention(whole_contexts=True)
