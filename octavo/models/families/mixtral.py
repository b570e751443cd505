"""Mixtral: Llama's blocks with a mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.config import HFConfig, activation, rope
from octavo.models.families.llama import mistral
from octavo.models.registry import family
from octavo.spec import Decoder, MoE, Norm


@family("MixtralForCausalLM")
def mixtral(c: HFConfig) -> Decoder:
    """Two of eight experts, whose weights sum to one."""
    plain = mistral(c)
    norm = Norm(eps=c.get("rms_norm_eps", 1e-5))
    bend = activation(c.get("hidden_act", "silu"))
    experts = MoE(
        c.get("num_experts") or c.num_local_experts, c.num_experts_per_tok, c.intermediate_size, bend, renormalize=True
    )
    rotation = rope(c, c.head_dim_or_default, theta=1e6)
    blocks = tuple(
        replace(block, mixer=replace(block.mixer, rope=rotation), ffn=experts, norm=norm) for block in plain.blocks
    )
    return replace(plain, blocks=blocks, norm=norm, names="mixtral")
