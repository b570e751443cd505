"""OLMo 2 and OLMoE: norms over all heads of q and k at once."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.config import HFConfig, activation
from octavo.models.families.llama import llama
from octavo.models.registry import family
from octavo.spec import Decoder, MoE, Norm


@family("Olmo2ForCausalLM", "OlmoeForCausalLM")
def olmo(c: HFConfig) -> Decoder:
    """OLMo 2 norms what a part puts out, not what it takes in; OLMoE is a pre-norm mixture of experts."""
    is_moe = "OlmoeForCausalLM" in c.architectures
    plain = llama(c)
    norm = Norm(eps=c.get("rms_norm_eps", 1e-5))
    experts = None
    if is_moe:
        experts = MoE(
            num_experts=c.get("num_experts") or c.num_local_experts,
            top_k=c.num_experts_per_tok,
            size=c.intermediate_size,
            activation=activation(c.get("hidden_act", "silu")),
            renormalize=c.get("norm_topk_prob", False),
        )
    blocks = tuple(
        replace(
            block,
            mixer=replace(block.mixer, qk_norm=norm, qk_norm_span="all", clip=c.get("clip_qkv") if is_moe else None),
            ffn=experts or block.ffn,
            norm=norm,
            residual="pre" if is_moe else "post",
        )
        for block in plain.blocks
    )
    return replace(plain, blocks=blocks, norm=norm)
