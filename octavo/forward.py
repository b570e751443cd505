"""ForwardBatch: what one forward pass sees, handed explicitly to every layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class GroupInputs:
    """One cache group's share of the step.

    page_table [S, max_pages] int32: page of each P positions of a row; entries a row never reached are -1 or, on a GPU,
    another row's, and those a window has left behind are stale. slots [T] int64: where each token's K and V go,
    page * P + offset; -1: nowhere. page_size: P.
    `plan` is what the attention backend prepared for this step and all layers of the group.
    """

    page_table: Tensor
    slots: Tensor
    page_size: int
    plan: object = None


@dataclass
class ForwardBatch:
    """Rows of tokens: row s owns tokens[starts[s]:starts[s + 1]].

    tokens [T] int32; positions [T] int32; starts [S + 1] int32; lengths [S] int32, the positions visible to row s after
    this step; caches hold one KV tensor per block, shaped by the attention backend, owned by the worker; logit_rows
    [L], the tokens that need logits, in row order.
    The host lists mirror starts and lengths, so that planning never waits for the device.

    A GPU's step that decodes one token per row is recorded for `bucket` rows and replayed. While it `is_recorded`, the
    host lists are bounds: shapes may follow from them, values come from the tensors, which later steps fill anew. Rows
    that pad a bucket have length 0 and one token, which is 0, at position 0 and slot -1.
    """

    tokens: Tensor
    positions: Tensor
    starts: Tensor
    lengths: Tensor
    groups: list[GroupInputs]
    caches: list[Tensor]
    logit_rows: Tensor
    host_starts: list[int] = field(default_factory=list)
    host_lengths: list[int] = field(default_factory=list)
    bucket: int | None = None
    is_recorded: bool = False

    @property
    def num_rows(self) -> int:
        """S."""
        return len(self.host_lengths)

    @property
    def max_query(self) -> int:
        """The most tokens any row computes in this step."""
        return max(b - a for a, b in zip(self.host_starts, self.host_starts[1:], strict=False))

    @property
    def max_length(self) -> int:
        """The longest row, in visible positions."""
        return max(self.host_lengths)
