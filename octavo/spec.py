"""What a model is, as data: a family file maps a Hugging Face config to a `Decoder` or an `Encoder`, and shared layers
run it.

Variation is in values, never in flags that exclude each other, and every block has its own value.
Dimension letters: T tokens, H hidden, N query heads, K KV heads, D head size, V vocabulary, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
Residual = Literal["pre", "post", "sandwich", "parallel"]
Pooled = Literal["last", "mean", "cls"]


@dataclass(frozen=True)
class Linear:
    """Position interpolation: positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Dynamic:
    """NTK-aware base that grows with the sequence once it passes `original` positions.

    The base depends on the length, so octavo fixes it for the engine's longest context: a token's rotation must not
    depend on how steps are cut. Up to `original` positions it equals no scaling, as in Transformers.
    """

    factor: float
    original: int


@dataclass(frozen=True)
class Llama3:
    """Llama 3.1's frequency-dependent interpolation between `low` and `high` frequency factors."""

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True)
class Yarn:
    """YaRN (Peng et al. 2023, arXiv:2309.00071). `attention_factor` multiplies cos and sin."""

    factor: float
    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class LongRope:
    """Phi-3's factors by frequency (Ding et al. 2024, arXiv:2402.13753): short up to `original`, else long."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    attention_factor: float


RopeScaling = Linear | Dynamic | Llama3 | Yarn | LongRope


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of the first `dim` of each head's D channels (Su et al. 2021, arXiv:2104.09864)."""

    theta: float
    dim: int
    scaling: RopeScaling | None = None


@dataclass(frozen=True)
class Norm:
    """RMSNorm or LayerNorm over the last axis. `offset` is added to the stored weight (Gemma stores weight - 1)."""

    eps: float
    kind: Literal["rms", "layer"] = "rms"
    offset: float = 0.0
    bias: bool = False


@dataclass(frozen=True)
class Attention:
    """Softmax attention with N query heads over K KV heads of D channels.

    `window` W sees the token itself and the W - 1 before it (R73), in an encoder also the W - 1 behind it. `softcap` c
    bends scores to c·tanh(score / c).
    `qk_norm` is applied before rotation, over each head ("head") or over all heads at once ("all").
    `clip` bounds q, k and v to [-clip, clip] (OLMo).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    softcap: float | None = None
    qk_norm: Norm | None = None
    qk_norm_span: Literal["head", "all"] = "head"
    bias: bool = False
    out_bias: bool = False
    clip: float | None = None

    @property
    def cache(self) -> CacheSpec:
        """What this layer keeps per token."""
        return CacheSpec(self.num_kv_heads, self.head_dim, self.window)


@dataclass(frozen=True)
class MLP:
    """down(activation(gate(x)) * up(x)) when `gated`, else down(activation(up(x)))."""

    size: int
    activation: Activation
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True)
class MoE:
    """A gated MLP for each of E experts, `top_k` of them per token, weighed by the softmax over all E router logits.

    `renormalize` makes the chosen weights sum to one.
    """

    num_experts: int
    top_k: int
    size: int
    activation: Activation
    renormalize: bool


@dataclass(frozen=True)
class Block:
    """One mixer and one ffn around a residual stream.

    pre:      x += mixer(norm(x));  x += ffn(norm(x))
    post:     x += norm(mixer(x));  x += norm(ffn(x))                       (OLMo 2)
    sandwich: x += norm(mixer(norm(x)));  x += norm(ffn(norm(x)))           (Gemma 2, 3)
    parallel: x += mixer(norm(x)) + ffn(norm'(x))                           (GPT-NeoX)
    """

    mixer: Attention
    ffn: MLP | MoE
    norm: Norm
    residual: Residual = "pre"


@dataclass(frozen=True)
class Classifier:
    """Logits for `labels` of hidden states: score(norm(activation(dense(x)))), or score(x) without `dense`.

    `x` is one vector of a text, made as `pooled` says, or each token's (`per_token`). `link` makes scores of logits.
    """

    labels: tuple[str, ...]
    link: Literal["softmax", "sigmoid", "identity"]
    pooled: Pooled
    per_token: bool = False
    bias: bool = True
    dense: bool = False
    dense_bias: bool = True
    activation: Literal["tanh", "gelu", "gelu_tanh", "relu", "silu"] = "tanh"
    norm: Norm | None = None


@dataclass(frozen=True)
class Decoder:
    """A causal language model. `names` is its checkpoints' naming scheme (weights/schemes.py); `positions` is the
    number of learned position embeddings, None when positions are rotary; `max_length` the longest context in tokens.
    One with `headless` or a `classifier` has no weights to predict tokens with.
    """

    vocab_size: int
    hidden_size: int
    blocks: tuple[Block, ...]
    norm: Norm
    tied: bool
    max_length: int
    names: str = "llama"
    embed_scale: float = 1.0
    logit_softcap: float | None = None
    positions: int | None = None
    head_bias: bool = False
    headless: bool = False
    classifier: Classifier | None = None

    @property
    def caches(self) -> tuple[CacheSpec, ...]:
        """One per block, in order; blocks with equal specs share a cache group."""
        return tuple(block.mixer.cache for block in self.blocks)


@dataclass(frozen=True)
class EncoderBlock:
    """One mixer and one ffn around a residual stream.

    pre:   x += mixer(norm(x));  x += ffn(norm(x))            (ModernBERT; without the first norm when `bare`)
    after: x = norm(x + mixer(x));  x = norm(x + ffn(x))      (BERT)
    """

    mixer: Attention
    ffn: MLP
    norm: Norm
    residual: Literal["pre", "after"]
    bare: bool = False


@dataclass(frozen=True)
class Encoder:
    """A model in which every token sees every other. `names`, `positions` and `max_length` as in Decoder.

    Position p has row `first_position` + p of its table. `num_types` tells the two texts of a pair apart.
    """

    vocab_size: int
    hidden_size: int
    blocks: tuple[EncoderBlock, ...]
    embed_norm: Norm
    norm: Norm | None
    max_length: int
    names: str
    positions: int | None = None
    first_position: int = 0
    num_types: int = 0
    classifier: Classifier | None = None
    tied: bool = False

    @property
    def caches(self) -> tuple[CacheSpec, ...]:
        """One per block: nothing is kept, so that pages are only counted."""
        return (CacheSpec(0, 0),) * len(self.blocks)


Model = Decoder | Encoder


@dataclass(frozen=True)
class CacheSpec:
    """What one layer keeps for one token: K and V, [K, D] each; with a window, only for the last `window` tokens."""

    num_kv_heads: int
    head_dim: int
    window: int | None = None

    def bytes_per_token(self, element_bytes: int) -> int:
        """Bytes for one token in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * element_bytes


@dataclass(frozen=True)
class CacheGroup:
    """The layers (indices into `Decoder.blocks`) that share one page table and one page pool."""

    spec: CacheSpec
    layers: tuple[int, ...]


def group_caches(caches: tuple[CacheSpec, ...]) -> tuple[CacheGroup, ...]:
    """Groups of layers with equal cache specs; the groups without a window come first."""
    order = sorted(dict.fromkeys(caches), key=lambda spec: (spec.window is not None, caches.index(spec)))
    return tuple(CacheGroup(spec, tuple(i for i, c in enumerate(caches) if c == spec)) for spec in order)
