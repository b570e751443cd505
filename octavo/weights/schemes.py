"""Naming schemes: what a family's checkpoints call their tensors, and which modules they keep in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from octavo import spec

Pieces = tuple[tuple[int, int], ...]
Block = spec.Block | spec.EncoderBlock
Split = Callable[[Block, int], Pieces]


def stacked_qkv(block: Block, part: int) -> Pieces:
    """All rows of q, then of k, then of v."""
    mixer = block.mixer
    sizes = (mixer.num_heads * mixer.head_dim, *(mixer.num_kv_heads * mixer.head_dim,) * 2)
    return ((sum(sizes[:part]), sum(sizes[: part + 1])),)


def _qkv_by_head(block: Block, part: int) -> Pieces:
    """Head by head: its q, its k, its v (GPT-NeoX)."""
    dim = block.mixer.head_dim
    starts = ((3 * head + part) * dim for head in range(block.mixer.num_heads))
    return tuple((start, start + dim) for start in starts)


def stacked_gate_up(block: Block, part: int) -> Pieces:
    """All rows of gate, then of up."""
    return ((part * block.ffn.size, (part + 1) * block.ffn.size),)


@dataclass(frozen=True)
class Fused:
    """Several canonical modules kept in one tensor: module `parts[i]` is the rows that `split(block, i)` gives."""

    parts: tuple[str, ...]
    name: str
    split: Split


@dataclass(frozen=True)
class Names:
    """A naming scheme. `renames` are regular expressions tried in order on a canonical name without its root, the first
    match wins; `older` are spellings of the result that old files have; `transposed` matches the file names of matrices
    stored [I, O]; `ignored` matches file tensors that are no parameters.
    """

    roots: tuple[str, ...] = ("model.", "", "language_model.model.", "model.language_model.")
    head: tuple[str, ...] = ("lm_head", "language_model.lm_head")
    renames: tuple[tuple[str, str], ...] = ()
    older: tuple[tuple[str, str], ...] = ()
    fused: tuple[Fused, ...] = ()
    transposed: str | None = None
    ignored: str = r"rotary_emb\.inv_freq$"


_BERT = Names(
    roots=("bert.", "roberta.", "", "model."),
    renames=(
        (r"^embed_tokens\.", "embeddings.word_embeddings."),
        (r"^embed_positions\.", "embeddings.position_embeddings."),
        (r"^embed_types\.", "embeddings.token_type_embeddings."),
        (r"^embed_norm\.", "embeddings.LayerNorm."),
        (r"^layers\.(\d+)\.self_attn\.q_proj\.", r"encoder.layer.\1.attention.self.query."),
        (r"^layers\.(\d+)\.self_attn\.k_proj\.", r"encoder.layer.\1.attention.self.key."),
        (r"^layers\.(\d+)\.self_attn\.v_proj\.", r"encoder.layer.\1.attention.self.value."),
        (r"^layers\.(\d+)\.self_attn\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
        (r"^layers\.(\d+)\.mixer_norm\.", r"encoder.layer.\1.attention.output.LayerNorm."),
        (r"^layers\.(\d+)\.mlp\.up_proj\.", r"encoder.layer.\1.intermediate.dense."),
        (r"^layers\.(\d+)\.mlp\.down_proj\.", r"encoder.layer.\1.output.dense."),
        (r"^layers\.(\d+)\.ffn_norm\.", r"encoder.layer.\1.output.LayerNorm."),
        (r"^score_dense\.", "pooler.dense."),
        (r"^score\.", "classifier."),
    ),
    older=((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta")),
    # A pooler is trained with BERT and of use to its classifiers alone.
    ignored=r"position_ids$|^(bert\.|roberta\.)?pooler\.|^cls\.|^lm_head\.",
)

SCHEMES: Mapping[str, Names] = MappingProxyType(
    {
        "bert": _BERT,
        "roberta": replace(
            _BERT,
            renames=((r"^score_dense\.", "classifier.dense."), (r"^score\.", "classifier.out_proj."), *_BERT.renames),
        ),
        "distilbert": Names(
            roots=("distilbert.", ""),
            renames=(
                (r"^embed_tokens\.", "embeddings.word_embeddings."),
                (r"^embed_positions\.", "embeddings.position_embeddings."),
                (r"^embed_norm\.", "embeddings.LayerNorm."),
                (r"^layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"transformer.layer.\1.attention.\2_lin."),
                (r"^layers\.(\d+)\.self_attn\.o_proj\.", r"transformer.layer.\1.attention.out_lin."),
                (r"^layers\.(\d+)\.mixer_norm\.", r"transformer.layer.\1.sa_layer_norm."),
                (r"^layers\.(\d+)\.mlp\.up_proj\.", r"transformer.layer.\1.ffn.lin1."),
                (r"^layers\.(\d+)\.mlp\.down_proj\.", r"transformer.layer.\1.ffn.lin2."),
                (r"^layers\.(\d+)\.ffn_norm\.", r"transformer.layer.\1.output_layer_norm."),
                (r"^score_dense\.", "pre_classifier."),
                (r"^score\.", "classifier."),
            ),
            older=_BERT.older,
            ignored=r"position_ids$|^vocab_",
        ),
        "modernbert": Names(
            roots=("model.", ""),
            renames=(
                (r"^embed_tokens\.", "embeddings.tok_embeddings."),
                (r"^embed_norm\.", "embeddings.norm."),
                (r"^norm\.", "final_norm."),
                (r"\.self_attn\.qkv_proj\.", ".attn.Wqkv."),
                (r"\.self_attn\.o_proj\.", ".attn.Wo."),
                (r"\.mlp\.down_proj\.", ".mlp.Wo."),
                (r"\.mixer_norm\.", ".attn_norm."),
                (r"\.ffn_norm\.", ".mlp_norm."),
                (r"^score_dense\.", "head.dense."),
                (r"^score_norm\.", "head.norm."),
                (r"^score\.", "classifier."),
            ),
            fused=(
                Fused(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.qkv_proj", stacked_qkv),
                Fused(("mlp.gate_proj", "mlp.up_proj"), "mlp.Wi", stacked_gate_up),
            ),
            ignored=r"rotary_emb\.|^head\.|^decoder\.",
        ),
        "llama": Names(),
        "phi3": Names(
            fused=(
                Fused(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.qkv_proj", stacked_qkv),
                Fused(("mlp.gate_proj", "mlp.up_proj"), "mlp.gate_up_proj", stacked_gate_up),
            )
        ),
        "mixtral": Names(
            renames=(
                (r"mlp\.gate\.", "block_sparse_moe.gate."),
                (r"mlp\.experts\.(\d+)\.gate_proj\.", r"block_sparse_moe.experts.\1.w1."),
                (r"mlp\.experts\.(\d+)\.down_proj\.", r"block_sparse_moe.experts.\1.w2."),
                (r"mlp\.experts\.(\d+)\.up_proj\.", r"block_sparse_moe.experts.\1.w3."),
            )
        ),
        "gpt2": Names(
            roots=("transformer.", ""),
            renames=(
                (r"^embed_tokens\.", "wte."),
                (r"^embed_positions\.", "wpe."),
                (r"^norm\.", "ln_f."),
                (r"^layers\.(\d+)\.input_layernorm\.", r"h.\1.ln_1."),
                (r"^layers\.(\d+)\.post_attention_layernorm\.", r"h.\1.ln_2."),
                (r"^layers\.(\d+)\.self_attn\.c_attn\.", r"h.\1.attn.c_attn."),
                (r"^layers\.(\d+)\.self_attn\.o_proj\.", r"h.\1.attn.c_proj."),
                (r"^layers\.(\d+)\.mlp\.up_proj\.", r"h.\1.mlp.c_fc."),
                (r"^layers\.(\d+)\.mlp\.down_proj\.", r"h.\1.mlp.c_proj."),
            ),
            fused=(
                Fused(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.c_attn", stacked_qkv),
            ),
            transposed=r"\.(c_attn|c_proj|c_fc)\.weight$",
            ignored=r"\.attn\.(masked_)?bias$",
        ),
        "gpt_neox": Names(
            roots=("gpt_neox.", ""),
            head=("embed_out", "lm_head"),
            renames=(
                (r"^embed_tokens\.", "embed_in."),
                (r"^norm\.", "final_layer_norm."),
                (r"\.self_attn\.query_key_value\.", ".attention.query_key_value."),
                (r"\.self_attn\.o_proj\.", ".attention.dense."),
                (r"\.mlp\.up_proj\.", ".mlp.dense_h_to_4h."),
                (r"\.mlp\.down_proj\.", ".mlp.dense_4h_to_h."),
            ),
            fused=(
                Fused(
                    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    "self_attn.query_key_value",
                    _qkv_by_head,
                ),
            ),
            ignored=r"rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$",
        ),
    }
)
