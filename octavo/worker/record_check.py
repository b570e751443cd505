"""OCTAVO_RECORD_CHECK: every native record of every step beside torch, and the first that differs named."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import log
from octavo.attention.cpu import AttentionNode
from octavo.attention.reference import ReferenceAttention, ReferencePlan
from octavo.errors import OctavoError
from octavo.forward import ForwardBatch
from octavo.ops.cpu.pointwise import call
from octavo.ops.tape import Node, Program
from octavo.platforms import native

ATTENTION_TOLERANCE = 3e-2  # of a cache in bfloat16 or int8
logger = log.get(__name__)


class RecordCheck:
    """Runs a program record by record and compares each output with the torch reference of the same inputs.

    Attention is compared over a cache of its own, which holds in float32 what every step wrote.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._attention = ReferenceAttention()
        self._caches: dict[AttentionNode, Tensor] = {}
        logger.warning("every record is compared with torch: this is very slow")

    def run(self, step: native.Step, batch: ForwardBatch | None) -> None:
        """As Program.run; OctavoError naming the record that is wrong."""
        rows = step.num_tokens
        before: tuple[int, Node, Tensor | None] | None = None
        for index, node in enumerate(self.program.walk(step)):
            if before is not None:
                compare(*before, rows)
            before = (index, node, self._expected(node, rows, batch))
        if before is not None:
            compare(*before, rows)

    def _expected(self, node: Node, rows: int, batch: ForwardBatch | None) -> Tensor | None:
        if not isinstance(node, AttentionNode):
            return node.reference(rows)
        assert batch is not None
        cache = self._caches.get(node)
        if cache is None:
            shape = self._attention.cache_shape(
                node.layer.cache, node.cache.shape[0], node.plan.page_size, torch.float32
            )
            cache = self._caches[node] = torch.zeros(shape)
        plan = ReferencePlan(batch, batch.groups[node.plan.group])
        q, k, v = (value.tensor(rows).clone() for value in (node.q, node.k, node.v))
        call("write_cache", cache, plan.inputs.slots, k, v)
        return self._attention.run(node.layer, q, k, v, cache, plan)


def compare(index: int, node: Node, expected: Tensor | None, rows: int) -> None:
    """Raise when the record's output is further from `expected` than its tolerance, relative to its largest value."""
    if expected is None or rows == 0:
        return
    actual = node.out.tensor(rows)
    tolerance = ATTENTION_TOLERANCE if isinstance(node, AttentionNode) else node.tolerance
    scale = expected.abs().amax().clamp(min=1e-6)
    worst = ((actual - expected).abs() / scale).amax().item()
    if not worst <= tolerance:
        raise OctavoError(
            f"record {index} ({node.name}, {rows} rows, {node.out.columns} columns) differs from torch by {worst:.3g} "
            f"of its largest value; {tolerance:.3g} is allowed"
        )
    logger.debug("record %d (%s): %.2g of %.2g", index, node.name, worst, tolerance)
