"""BERT, RoBERTa, XLM-RoBERTa, DistilBERT and ModernBERT: encoders that embed and classify."""

from __future__ import annotations

from dataclasses import replace

from octavo import spec
from octavo.errors import UnsupportedModel
from octavo.models.config import HFConfig, activation, rope
from octavo.models.labels import plain_classifier
from octavo.models.registry import family
from octavo.spec import MLP, Attention, Classifier, Encoder, EncoderBlock, Norm, Rope

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")


def each(*families: str) -> tuple[str, ...]:
    """The architectures of these families that can be run."""
    return tuple(name + head for name in families for head in HEADS)


@family(*each("Bert", "Roberta", "XLMRoberta"))
def bert(c: HFConfig) -> Encoder:
    """Learned positions, norms behind each part. RoBERTa's positions begin after the padding's row."""
    if c.get("is_decoder", False) or c.get("add_cross_attention", False):
        raise UnsupportedModel("BERT as a decoder is not supported; is_decoder must be false", "is_decoder")
    if c.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModel(
            f"position_embedding_type={c.position_embedding_type} is not supported; absolute is", "model"
        )
    architecture = known(c)
    is_bert = architecture.startswith("Bert")
    norm = Norm(eps=c.get("layer_norm_eps", 1e-12), kind="layer", bias=True)
    head_dim = c.hidden_size // c.num_attention_heads
    attention = Attention(
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_attention_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=None,
        bias=True,
        out_bias=True,
    )
    ffn = MLP(c.intermediate_size, activation(c.get("hidden_act", "gelu")), gated=False, bias=True)
    first = 0 if is_bert else c.get("pad_token_id", 1) + 1
    is_sequence = architecture.endswith("ForSequenceClassification")
    return Encoder(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        blocks=(EncoderBlock(attention, ffn, norm, "after"),) * c.num_hidden_layers,
        embed_norm=norm,
        norm=None,
        max_length=c.max_position_embeddings - first,
        names="roberta" if is_sequence and not is_bert else "bert",
        positions=c.max_position_embeddings,
        first_position=first,
        num_types=c.get("type_vocab_size", 2),
        classifier=classifier(c, architecture),
    )


@family(*each("DistilBert"))
def distilbert(c: HFConfig) -> Encoder:
    """BERT with half the layers and without token types; the config has names of its own."""
    named = {
        "architectures": [known(c).removeprefix("Distil")],
        "hidden_size": c.dim,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "intermediate_size": c.hidden_dim,
        "hidden_act": c.get("activation", "gelu"),
    }
    model = replace(bert(c.replaced(named)), names="distilbert", num_types=0)
    if model.classifier is None or model.classifier.per_token:
        return model
    return replace(model, classifier=replace(model.classifier, activation="relu"))


@family(*each("ModernBert"))
def modernbert(c: HFConfig) -> Encoder:
    """Rotary positions, a gated MLP, norms before each part, and windows in all layers but every third."""
    norm = Norm(eps=c.get("norm_eps", 1e-5), kind="layer", bias=c.get("norm_bias", False))
    head_dim = c.hidden_size // c.num_attention_heads
    bias = c.get("attention_bias", False)
    full = Attention(
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_attention_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=_rope(c, head_dim, "full_attention", c.get("global_rope_theta", 160_000.0)),
        bias=bias,
        out_bias=bias,
    )
    reach = c.get("local_attention", 128) // 2
    sliding = replace(
        full, window=reach + 1, rope=_rope(c, head_dim, "sliding_attention", c.get("local_rope_theta", 10_000.0))
    )
    ffn = MLP(c.intermediate_size, activation(c.get("hidden_activation", "gelu")), bias=c.get("mlp_bias", False))
    every = c.get("global_attn_every_n_layers", 3)
    kinds = c.get("layer_types") or [
        "sliding_attention" if i % every else "full_attention" for i in range(c.num_hidden_layers)
    ]
    blocks = tuple(
        EncoderBlock(sliding if kind == "sliding_attention" else full, ffn, norm, "pre", bare=index == 0)
        for index, kind in enumerate(kinds)
    )
    found = classifier(c, known(c))
    if found is not None:
        found = replace(
            found,
            pooled=_pooled(c),
            dense=True,
            dense_bias=c.get("classifier_bias", False),
            activation=activation(c.get("classifier_activation", "gelu")),
            norm=norm,
        )
    return Encoder(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        blocks=blocks,
        embed_norm=norm,
        norm=norm,
        max_length=c.get("max_position_embeddings", 8192),
        names="modernbert",
        classifier=found,
    )


def known(c: HFConfig) -> str:
    """The architecture among those of this file that the config names."""
    return next(name for name in c.architectures if name.endswith(HEADS))


def classifier(c: HFConfig, architecture: str) -> Classifier | None:
    """BERT's classifiers: over a dense layer on the first token, or over every token."""
    if architecture.endswith("ForTokenClassification"):
        return plain_classifier(c, "cls", per_token=True)
    if not architecture.endswith("ForSequenceClassification"):
        return None
    return replace(plain_classifier(c, "cls"), dense=True)


def _pooled(c: HFConfig) -> spec.Pooled:
    pooled = c.get("classifier_pooling", "cls")
    if pooled not in ("cls", "mean"):
        raise UnsupportedModel(
            f"classifier_pooling={pooled!r} is not supported; cls and mean are", "classifier_pooling"
        )
    return pooled


def _rope(c: HFConfig, head_dim: int, layer_type: str, theta: float) -> Rope:
    return rope(c, head_dim, layer_type, theta=theta)
