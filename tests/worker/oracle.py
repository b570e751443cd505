"""What sampling means, in float64 NumPy, one row at a time: the definition the sampler must agree with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.messages import SequenceSpec

Row = NDArray[np.float64]
EPSILON = 1e-5  # float32's share: cases closer than this to a filter's border are not decided


def processed(logits: Row, spec: SequenceSpec, outputs: list[int]) -> Row:
    """Logits after allowed ids, bad words, minimum length, bias and penalties, in that order."""
    p, x = spec.sampling, logits.astype(np.float64).copy()
    if p.allowed_token_ids is not None:
        x[[i for i in range(len(x)) if i not in p.allowed_token_ids]] = -np.inf
    for word in spec.bad_words:
        if len(word) == 1 or outputs[-(len(word) - 1) :] == list(word[:-1]):
            x[word[-1]] = -np.inf
    if len(outputs) < p.min_tokens:
        x[[*spec.eos, *(p.stop_token_ids or [])]] = -np.inf
    for id, bias in (p.logit_bias or {}).items():
        x[id] += bias
    prompt = np.frombuffer(spec.tokens, np.int32).tolist()
    for id in set(prompt) | set(outputs):
        x[id] = x[id] / p.repetition_penalty if x[id] > 0 else x[id] * p.repetition_penalty
        x[id] -= p.frequency_penalty * outputs.count(id) + p.presence_penalty * (id in outputs)
    return x


def distribution(x: Row, spec: SequenceSpec) -> tuple[Row, bool]:
    """Probabilities after temperature, min-p, top-k and top-p, and whether a border is too close to call."""
    p = spec.sampling
    scaled = (x - x.max()) / p.temperature
    weights = np.exp(scaled)
    keep = weights >= p.min_p  # the likeliest token's weight is 1
    blur = EPSILON * (1 + np.abs(x[np.isfinite(x)]).max() / p.temperature)
    close = bool(0 < p.min_p < 1 and (np.abs(scaled - np.log(p.min_p)) < blur).any())
    if 0 < p.top_k < len(x):
        keep &= x >= np.sort(x)[-p.top_k]
    mass = np.where(keep, weights, 0) / weights[keep].sum()
    if p.top_p < 1:
        order = np.argsort(-x, kind="stable")
        first_equal = np.searchsorted(-x[order], -x, side="left")
        before = np.concatenate(([0.0], np.cumsum(mass[order])))[first_equal]  # the mass of all likelier tokens
        keep &= before < p.top_p
        close |= bool(((mass > 0) & (np.abs(before - p.top_p) < EPSILON)).any())
    final = np.where(keep, weights, 0)
    return final / final.sum(), close


def pick(probabilities: Row, uniform: float) -> tuple[int, bool]:
    """The token whose stretch of [0, 1) holds `uniform`, and whether a border is too close to call."""
    ends = np.cumsum(probabilities)
    inside = int(np.searchsorted(ends, uniform * ends[-1], side="right"))
    return inside, bool((np.abs(ends[probabilities > 0] - uniform) < EPSILON).any())
