"""Gemma 2 and 3 (text)."""

from __future__ import annotations

from dataclasses import replace

from octavo.errors import UnsupportedModel
from octavo.models.config import HFConfig, activation, max_length, rope, rope_parameters, windows
from octavo.models.registry import family
from octavo.spec import MLP, Attention, Block, Decoder, Norm, Rope


@family("Gemma2ForCausalLM", "Gemma3ForCausalLM")
def gemma(c: HFConfig) -> Decoder:
    """Sliding and full layers in turn, norms around each part with weights stored minus one, scaled embeddings."""
    if c.get("use_bidirectional_attention", False):
        raise UnsupportedModel("use_bidirectional_attention is not supported: octavo's decoder is causal", "model")
    is_gemma3 = "Gemma3ForCausalLM" in c.architectures
    norm = Norm(eps=c.get("rms_norm_eps", 1e-6), offset=1.0)
    head_dim = c.get("head_dim", 256)
    attention = Attention(
        num_heads=c.get("num_attention_heads", 8),
        num_kv_heads=c.get("num_key_value_heads", 4),
        head_dim=head_dim,
        scale=c.get("query_pre_attn_scalar", 256) ** -0.5,
        rope=None,
        # Transformers reads attn_logit_softcapping in Gemma 2 alone; Gemma 3 normalizes q and k instead.
        softcap=None if is_gemma3 else c.get("attn_logit_softcapping"),
        qk_norm=norm if is_gemma3 else None,
        bias=c.get("attention_bias", False),
        out_bias=c.get("attention_bias", False),
    )
    ffn = MLP(c.intermediate_size, activation(c.get("hidden_activation", "gelu_pytorch_tanh")))
    layer_windows = _windows(c, 6 if is_gemma3 else 2)
    ropes = {
        False: rope(c, head_dim, "full_attention", theta=1e6 if is_gemma3 else 1e4),
        True: _local_rope(c, head_dim) if is_gemma3 else rope(c, head_dim),
    }
    blocks = tuple(
        Block(replace(attention, window=window, rope=ropes[window is not None]), ffn, norm, residual="sandwich")
        for window in layer_windows
    )
    return Decoder(
        vocab_size=c.get("vocab_size", 262_208 if is_gemma3 else 256_000),
        hidden_size=c.hidden_size,
        blocks=blocks,
        norm=norm,
        tied=c.get("tie_word_embeddings", True),
        max_length=c.get("max_position_embeddings", 131_072) if is_gemma3 else max_length(c),
        embed_scale=c.hidden_size**0.5,
        logit_softcap=c.get("final_logit_softcapping"),
    )


@family("Gemma3ForConditionalGeneration")
def gemma3_text(c: HFConfig) -> Decoder:
    """The text part of a multimodal Gemma 3; its vision tensors stay unread."""
    text = c.nested("text_config")
    defaults = {"architectures": ["Gemma3ForCausalLM"], "sliding_window": 4096}
    return gemma(text.filled({**defaults, "num_hidden_layers": 26, "hidden_size": 2304, "intermediate_size": 9216}))


def _windows(c: HFConfig, every: int) -> tuple[int | None, ...]:
    """Each n-th layer sees everything, the others a window."""
    count = c.num_hidden_layers
    if c.get("layer_types") is not None:
        return windows(c, count)
    every = c.get("sliding_window_pattern", c.get("_sliding_window_pattern", every))
    return tuple(None if (index + 1) % every == 0 else c.sliding_window for index in range(count))


def _local_rope(c: HFConfig, head_dim: int) -> Rope:
    """Sliding layers of Gemma 3 keep their own, unscaled rotation."""
    local = rope_parameters(c, "sliding_attention") if c.get("rope_parameters") is not None else {}
    return Rope(float(local.get("rope_theta") or c.get("rope_local_base_freq", 10000.0)), head_dim)
