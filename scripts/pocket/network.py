"""The network of octavo-pocket as it is trained: Llama, with the tensor names of the Transformers library."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama model; the output head is the embedding."""

    vocabulary: int
    hidden: int = 256
    intermediate: int = 704
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    context: int = 2048
    theta: float = 10000.0
    eps: float = 1e-6


class RMSNorm(nn.Module):
    """x / rms(x) · weight, over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[…, H] -> […, H]."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class SelfAttention(nn.Module):
    """Causal grouped-query attention with rotary positions (Su et al. 2021)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size, kv_size = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, size, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_size, bias=False)
        self.o_proj = nn.Linear(size, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, H]; cos, sin [T, D]."""
        shape, (rows, length, _) = self.shape, x.shape
        q = self.q_proj(x).view(rows, length, shape.heads, shape.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, shape.kv_heads, shape.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, shape.kv_heads, shape.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        share = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channel pairs (i, i + D / 2) of x [B, N, T, D] turned by their position's angles."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Mlp(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[…, H] -> […, H]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward around the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.self_attn = SelfAttention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, H]."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and last norm: the part that a checkpoint calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.eps)


class Llama(nn.Module):
    """A causal language model with tied embeddings."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        frequencies = shape.theta ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.context).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if deep else 0.02)

    def hidden(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, H], after the last norm."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]].to(x.dtype), self.sin[: ids.shape[1]].to(x.dtype)
        for block in self.model.layers:
            x = block(x, cos, sin)
        return self.model.norm(x)

    def loss(self, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Mean cross-entropy of targets [B, T] by their weights; the head is computed only where these are not 0."""
        learned = weights > 0
        logits = F.linear(self.hidden(ids)[learned], self.model.embed_tokens.weight)
        losses = F.cross_entropy(logits.float(), targets[learned], reduction="none")
        return (losses * weights[learned]).sum() / weights[learned].sum()
