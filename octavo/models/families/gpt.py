"""GPT-2 and GPT-NeoX (Pythia): LayerNorm, biases, a plain MLP."""

from __future__ import annotations

from octavo.errors import UnsupportedModel
from octavo.models.config import HFConfig, activation, max_length, rope
from octavo.models.registry import family
from octavo.spec import MLP, Attention, Block, Decoder, Norm


@family("GPT2LMHeadModel")
def gpt2(c: HFConfig) -> Decoder:
    """Learned positions; matrices are stored transposed."""
    if c.get("add_cross_attention", False):
        raise UnsupportedModel("GPT-2 with add_cross_attention is not supported", "model")
    norm = Norm(eps=c.get("layer_norm_epsilon", 1e-5), kind="layer", bias=True)
    head_dim = c.n_embd // c.n_head
    scale = head_dim**-0.5 if c.get("scale_attn_weights", True) else 1.0
    by_depth = c.get("scale_attn_by_inverse_layer_idx", False)
    bend = activation(c.get("activation_function", "gelu_new"))
    ffn = MLP(c.get("n_inner", 4 * c.n_embd), bend, gated=False, bias=True)
    blocks = tuple(
        Block(
            Attention(
                num_heads=c.n_head,
                num_kv_heads=c.n_head,
                head_dim=head_dim,
                scale=scale / (index + 1) if by_depth else scale,
                rope=None,
                bias=True,
                out_bias=True,
            ),
            ffn,
            norm,
        )
        for index in range(c.n_layer)
    )
    tied = c.get("tie_word_embeddings", True)
    return Decoder(
        c.vocab_size, c.n_embd, blocks, norm, tied, max_length=c.n_positions, names="gpt2", positions=c.n_positions
    )


@family("GPTNeoXForCausalLM")
def gpt_neox(c: HFConfig) -> Decoder:
    """Attention and MLP side by side (`use_parallel_residual`) or one after the other; a quarter of D rotates."""
    norm = Norm(eps=c.get("layer_norm_eps", 1e-5), kind="layer", bias=True)
    head_dim = c.hidden_size // c.num_attention_heads
    has_bias = c.get("attention_bias", True)
    attention = Attention(
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_attention_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope(c, head_dim, theta=c.get("rotary_emb_base", 10000.0), partial=c.get("rotary_pct", 0.25)),
        bias=has_bias,
        out_bias=has_bias,
    )
    ffn = MLP(c.intermediate_size, activation(c.get("hidden_act", "gelu")), gated=False, bias=True)
    residual = "parallel" if c.get("use_parallel_residual", True) else "pre"
    blocks = (Block(attention, ffn, norm, residual),) * c.num_hidden_layers
    tied = c.get("tie_word_embeddings", False)
    return Decoder(c.vocab_size, c.hidden_size, blocks, norm, tied, max_length(c), names="gpt_neox")
