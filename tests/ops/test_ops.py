"""Every op × implementation × case: implementations against the reference, references against float64 formulas."""

from __future__ import annotations

import importlib
import importlib.util
import math
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from octavo import ops
from octavo.errors import StartupError
from octavo.ops import registry
from octavo.ops.linear import DensePacked
from octavo.ops.qkv import QKNorm
from octavo.ops.quantized import Quantized
from octavo.ops.registry import Case, Op
from octavo.platforms import native

Array = np.ndarray

if importlib.util.find_spec("triton") is not None:
    importlib.import_module("octavo.ops.triton")
if native.library is not None:
    importlib.import_module("octavo.ops.cpu")  # registers the native implementations beside the references


def _phi(x: Array) -> Array:
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _mul(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: function(x[:, : x.shape[1] // 2]) * x[:, x.shape[1] // 2 :]


def _rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _layer_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight
    return scaled if bias is None else scaled + bias


def _rotate(x: Array, angles: Array) -> Array:
    """Complex multiplication: channel i is the real part, channel i + R/2 the imaginary part."""
    half = angles.shape[1] // 2
    turn = angles[:, None, :half] + 1j * angles[:, None, half:]
    turned = (x[..., :half] + 1j * x[..., half : 2 * half]) * turn
    return np.concatenate((turned.real, turned.imag, x[..., 2 * half :]), -1)


def _write_cache(cache: Array, slots: Array, k: Array, v: Array) -> Array:
    out = cache.copy()
    for i, slot in enumerate(slots):
        if slot < 0:
            continue
        page, offset = divmod(int(slot), cache.shape[2])
        out[0, page, offset], out[1, page, offset] = k[i], v[i]
    return out


def _attend(q: Array, k: Array, v: Array, mask: Array, scale: float, softcap: float | None) -> Array:
    out = np.zeros_like(q)
    for i, h in np.ndindex(q.shape[:2]):
        head = h // (q.shape[1] // k.shape[1])
        seen = np.flatnonzero(mask[i])
        scores = k[seen, head] @ q[i, h] * scale
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max())
        out[i, h] = weights / weights.sum() @ v[seen, head]
    return out


def _lay_out(
    rows: Array,
    starts: Array,
    lengths: Array,
    given: Array,
    last: Array,
    tables: Array,
    page_size: int,
    tokens: Array,
    positions: Array,
    slots: Array,
    step_tables: Array,
) -> tuple[Array, ...]:
    tokens, positions, slots, step_tables = (x.copy() for x in (tokens, positions, slots, step_tables))
    for s, row in enumerate(rows):
        for t in range(starts[s], starts[s + 1]):
            p = positions[t] = max(0, lengths[s] - starts[s + 1] + t)
            tokens[t] = (given[t] if given[t] >= 0 else last[row]) if lengths[s] else 0
            slots[:, t] = tables[:, row, p // page_size] * page_size + p % page_size if lengths[s] else -1
        step_tables[:, s] = tables[:, row]
    return tokens, positions, slots, step_tables


def _extend_tables(tables: Array, at: Array, pages: Array) -> Array:
    out = tables.copy()
    out.reshape(-1)[at] = pages
    return out


def _route(logits: Array, top_k: int, renormalize: bool) -> tuple[Array, Array]:
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ids = np.argsort(-probabilities, -1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(probabilities, ids, -1)
    return ids, weights / weights.sum(-1, keepdims=True) if renormalize else weights


def _expert_mlps(x: Array, gate_up: Array, down: Array, ids: Array, weights: Array, activation: str) -> Array:
    assert activation == "silu"
    out = np.zeros_like(x)
    for token, slot in np.ndindex(ids.shape):
        e = ids[token, slot]
        out[token] += weights[token, slot] * (down[e] @ _mul(_silu)((gate_up[e] @ x[token])[None])[0])
    return out


def _quantize(x: Array, dtype: torch.dtype) -> Array:
    """What the codes stand for; the formats' own rounding is torch's."""
    limit = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}[dtype]
    scales = np.maximum(np.abs(x).max(-1, keepdims=True) / limit, 1e-12)
    scaled = x / scales
    codes = np.round(scaled) if dtype == torch.int8 else torch.from_numpy(scaled).to(dtype).double().numpy()
    return codes * scales


def _add_norm(norm: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
    return lambda x, y, *rest: (x + y, norm(x + y, *rest))


def _rms_norm_add_rms_norm(
    x: Array, y: Array, inner: Array, inner_eps: float, weight: Array, eps: float
) -> tuple[Array, Array]:
    total = x + _rms_norm(y, inner, inner_eps)
    return total, _rms_norm(total, weight, eps)


def _add_rms_norm_linear(
    x: Array, y: Array, norm: Array, eps: float, weight: Array, bias: Array | None, activation: str | None
) -> tuple[Array, Array]:
    product = _rms_norm(x + y, norm, eps) @ weight.T + (0 if bias is None else bias)
    return x + y, product if activation is None else np.asarray(FORMULAS[f"{activation}_mul"](product))


def _prepare_qkv(
    qkv: Array, heads: int, norm: tuple[Array, float, str] | None, bound: float | None, angles: Array | None, *_: object
) -> tuple[Array, ...]:
    kv_heads = (qkv.shape[1] - heads) // 2
    parts = [qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]]
    if norm is not None:
        weight, eps, span = norm
        axes = -1 if span == "head" else (-2, -1)
        for i, own in enumerate((weight[:heads], weight[heads:])):
            parts[i] = parts[i] / np.sqrt((parts[i] ** 2).mean(axes, keepdims=True) + eps) * own
    if bound is not None:
        parts = [np.minimum(np.maximum(part, -bound), bound) for part in parts]
    if angles is not None:
        parts[:2] = [_rotate(part, angles) for part in parts[:2]]
    return tuple(parts)


def _lora_shrink(x: Array, a: Array, adapters: Array) -> Array:
    return np.stack([a[n] @ row if n >= 0 else np.zeros(a.shape[1]) for row, n in zip(x, adapters, strict=True)])


def _lora_expand(y: Array, h: Array, b: Array, adapters: Array, scales: Array, start: int) -> Array:
    out = y.copy()
    for row, n, inner in zip(out, adapters, h, strict=True):
        if n >= 0:
            row[start : start + b.shape[1]] += scales[n] * (b[n] @ inner)
    return out


FORMULAS: dict[str, Callable[..., object]] = {
    "add": lambda x, y: x + y,
    "add_layer_norm": _add_norm(_layer_norm),
    "add_rms_norm": _add_norm(_rms_norm),
    "add_rms_norm_linear": _add_rms_norm_linear,
    "add_rms_norm_quantized": lambda x, y, weight, eps, dtype: (x + y, _quantize(_rms_norm(x + y, weight, eps), dtype)),
    "attend": _attend,
    "concat": lambda parts: np.concatenate(parts, -1),
    "clip": lambda x, bound: np.minimum(np.maximum(x, -bound), bound),
    "embed": lambda table, ids: table[ids],
    "expert_mlps": _expert_mlps,
    "extend_tables": _extend_tables,
    "gate_quantized": lambda x, activation, dtype: _quantize(np.asarray(FORMULAS[f"{activation}_mul"](x)), dtype),
    "gelu": lambda x: x * _phi(x),
    "gelu_mul": _mul(lambda x: x * _phi(x)),
    "gelu_tanh": _gelu_tanh,
    "gelu_tanh_mul": _mul(_gelu_tanh),
    "head_rms_norm": _rms_norm,
    "lay_out": _lay_out,
    "layer_norm": _layer_norm,
    "linear": lambda x, weight, bias: x @ weight.T + (0 if bias is None else bias),
    "prepare_qkv": _prepare_qkv,
    "quantize": _quantize,
    "lora_expand": _lora_expand,
    "lora_shrink": _lora_shrink,
    "relu": lambda x: x * (x > 0),
    "relu2": lambda x: (x * (x > 0)) ** 2,
    "relu2_mul": _mul(lambda x: (x * (x > 0)) ** 2),
    "relu_mul": _mul(lambda x: x * (x > 0)),
    "rms_norm": _rms_norm,
    "rms_norm_add": lambda x, y, weight, eps: x + _rms_norm(y, weight, eps),
    "rms_norm_add_rms_norm": _rms_norm_add_rms_norm,
    "rms_norm_quantized": lambda x, weight, eps, dtype: _quantize(_rms_norm(x, weight, eps), dtype),
    "rotate": _rotate,
    "route": _route,
    "scale": lambda x, factor: x * factor,
    "silu": _silu,
    "silu_mul": _mul(_silu),
    "softcap": lambda x, cap: cap * np.tanh(x / cap),
    "write_cache": _write_cache,
}


def _every_case() -> Iterator[object]:
    for op in registry.all_ops():
        for case in op.cases:
            name = "-".join(f"{axis}={str(value).removeprefix('torch.')}" for axis, value in case.items())
            yield pytest.param(op, case, id=f"{op.name}-{name}")


def _wide(value: object) -> object:
    if isinstance(value, list):
        return [_wide(each) for each in value]
    if isinstance(value, DensePacked):
        return _wide(value.weight)
    if isinstance(value, Quantized):
        return _wide(value.dequantize(torch.float64))
    if isinstance(value, QKNorm):
        return _wide(value.weight), value.eps, value.span
    if not isinstance(value, Tensor):
        return value
    return value.double().numpy() if value.is_floating_point() else value.numpy()


def _inputs(op: Op, case: Case) -> tuple[object, ...]:
    return op.inputs(case, torch.Generator().manual_seed(zlib.crc32(op.name.encode())))


def _copies(inputs: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)


def _same(actual: object, expected: object, tolerance: float) -> None:
    actual = actual if isinstance(actual, tuple) and not isinstance(actual, Quantized) else (actual,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(_wide(a), _wide(e), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("op", "case"), list(_every_case()))
def test_each_implementation_computes_the_formula(op: Op, case: Case) -> None:
    inputs = _inputs(op, case)
    dtype = case.get("dtype", torch.float32)
    expected = FORMULAS[op.name](*map(_wide, inputs))
    for implementation in op.implementations.values():
        if implementation.backend == "triton" and torch.cuda.is_available():
            continue  # its kernels then take tensors of the GPU: tests/gpu has them
        if implementation.refuses(dtype) is None:
            _same(implementation.function(*_copies(inputs)), expected, op.tolerance[dtype])


def test_every_op_has_a_formula_and_a_name_in_the_namespace() -> None:
    names = {op.name for op in registry.all_ops()}
    assert names == set(FORMULAS)
    assert names <= set(ops.__all__)


def test_binding_takes_the_first_backend_that_accepts_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    op = next(op for op in registry.all_ops() if op.name == "add")
    reference = op.implementations["reference"].function

    def faster(x: Tensor, y: Tensor) -> Tensor:
        return y + x

    monkeypatch.setattr(registry, "_import_backend", lambda backend: None)
    monkeypatch.setitem(op.implementations, "fast", registry.Implementation("fast", faster, (torch.bfloat16,)))
    try:
        assert registry.bind(("fast", "reference"), torch.bfloat16)["add"] == "fast"
        assert ops.add is faster
        assert registry.bind(("fast", "reference"), torch.float32)["add"] == "reference"
        assert ops.add is reference
    finally:
        registry.bind(("reference",))


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(StartupError, match="'quantum' cannot be imported"):
        registry.bind(("quantum",))


def test_rotation_by_a_quarter_turn_swaps_the_halves() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]])
    assert ops.rotate(x, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).tolist() == [[[-3.0, -4.0, 1.0, 2.0, 5.0]]]
