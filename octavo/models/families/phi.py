"""Phi-3 and Phi-4-mini: Llama with fused projections, partial rotation and LongRoPE."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.config import HFConfig
from octavo.models.families.llama import mistral
from octavo.models.registry import family
from octavo.spec import Decoder


@family("Phi3ForCausalLM")
def phi3(c: HFConfig) -> Decoder:
    """As Mistral, under Phi-3's names."""
    # Early checkpoints call LongRoPE "su" or "yarn" and mean the same lists of factors.
    parameters = c.get("rope_parameters") or c.get("rope_scaling")
    if parameters and "short_factor" in parameters:
        c = c.replaced({"rope_parameters": {**parameters, "rope_type": "longrope"}})
    return replace(mistral(c), names="phi3")
