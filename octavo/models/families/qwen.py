"""Qwen2, Qwen3 and Qwen3-MoE."""

from __future__ import annotations

from octavo.models.config import HFConfig, activation, max_length, rope, windows
from octavo.models.registry import family
from octavo.spec import MLP, Attention, Block, Decoder, MoE, Norm


@family("Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
def qwen(c: HFConfig) -> Decoder:
    """Qwen2 has biases on q, k and v; Qwen3 normalizes each head instead."""
    is_qwen2 = "Qwen2ForCausalLM" in c.architectures
    is_moe = "Qwen3MoeForCausalLM" in c.architectures
    norm = Norm(eps=c.get("rms_norm_eps", 1e-6))
    head_dim = c.head_dim_or_default if is_qwen2 or is_moe else c.get("head_dim", 128)
    rotation = rope(c, head_dim)
    dense = MLP(c.intermediate_size, activation(c.get("hidden_act", "silu")))
    blocks = tuple(
        Block(
            Attention(
                num_heads=c.num_attention_heads,
                num_kv_heads=c.get("num_key_value_heads", c.num_attention_heads),
                head_dim=head_dim,
                scale=head_dim**-0.5,
                rope=rotation,
                window=window,
                qk_norm=None if is_qwen2 else norm,
                bias=is_qwen2 or c.get("attention_bias", False),
                out_bias=not is_qwen2 and c.get("attention_bias", False),
            ),
            _experts(c) if is_moe and _is_sparse(c, index) else dense,
            norm,
        )
        for index, window in enumerate(_windows(c, is_moe))
    )
    return Decoder(c.vocab_size, c.hidden_size, blocks, norm, c.get("tie_word_embeddings", False), max_length(c))


def _windows(c: HFConfig, is_moe: bool) -> tuple[int | None, ...]:
    """Windows only with `use_sliding_window`: in all layers of Qwen3-MoE, else from layer `max_window_layers` on."""
    count = c.num_hidden_layers
    if not c.get("use_sliding_window", False) or c.get("sliding_window") is None:
        return (None,) * count
    if is_moe or c.get("layer_types") is not None:
        return windows(c, count)
    return tuple(c.sliding_window if index >= c.get("max_window_layers", 28) else None for index in range(count))


def _is_sparse(c: HFConfig, index: int) -> bool:
    dense = c.get("mlp_only_layers", [])
    return index not in dense and _num_experts(c) > 0 and (index + 1) % c.get("decoder_sparse_step", 1) == 0


def _num_experts(c: HFConfig) -> int:
    """`num_experts` on the hub, `num_local_experts` as Transformers 5 saves it."""
    return c.get("num_experts") or c.num_local_experts


def _experts(c: HFConfig) -> MoE:
    return MoE(
        num_experts=_num_experts(c),
        top_k=c.num_experts_per_tok,
        size=c.moe_intermediate_size,
        activation=activation(c.get("hidden_act", "silu")),
        renormalize=c.get("norm_topk_prob", False),
    )
