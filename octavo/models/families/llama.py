"""Llama 2 and 3, and Mistral: the plain pre-norm decoder."""

from __future__ import annotations

from octavo.models.config import HFConfig, activation, max_length, rope, windows
from octavo.models.registry import family
from octavo.spec import MLP, Attention, Block, Decoder, Norm


@family("LlamaForCausalLM")
def llama(c: HFConfig) -> Decoder:
    """Every layer sees everything; a stray `sliding_window` in the config means nothing, as in Transformers."""
    return plain_decoder(c, (None,) * c.num_hidden_layers)


@family("MistralForCausalLM")
def mistral(c: HFConfig) -> Decoder:
    """Llama with one window for all layers, or with `layer_types`."""
    return plain_decoder(c, windows(c, c.num_hidden_layers))


def plain_decoder(c: HFConfig, layer_windows: tuple[int | None, ...]) -> Decoder:
    """The decoder that Llama's relatives vary: pre-norm, gated MLP, rotary positions."""
    norm = Norm(eps=c.get("rms_norm_eps", 1e-6))
    head_dim = c.head_dim_or_default
    ffn = MLP(c.intermediate_size, activation(c.get("hidden_act", "silu")), bias=c.get("mlp_bias", False))
    rotation = rope(c, head_dim)
    blocks = tuple(
        Block(
            Attention(
                num_heads=c.num_attention_heads,
                num_kv_heads=c.get("num_key_value_heads", c.num_attention_heads),
                head_dim=head_dim,
                scale=head_dim**-0.5,
                rope=rotation,
                window=window,
                bias=c.get("attention_bias", False),
                out_bias=c.get("attention_bias", False),
            ),
            ffn,
            norm,
        )
        for window in layer_windows
    )
    tied = c.get("tie_word_embeddings", False)
    return Decoder(c.vocab_size, c.hidden_size, blocks, norm, tied, max_length(c))
