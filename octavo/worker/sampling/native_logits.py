"""Logits in this machine's memory, worked on by the native library (csrc/kernels/sampling.cpp) and its thread team."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.platforms import native
from octavo.worker.rows import IntArray
from octavo.worker.sampling.logits import ALL, Add, Draws, Edit, Exclude, KeepOnly, Mask, TopLogprobs
from octavo.worker.sampling.torch_logits import TorchLogits

KEEP_ONLY, EXCLUDE, ADD, PENALIZE = range(4)  # csrc/kernels/sampling.h


class NativeLogits:
    """Implements `StepLogits`. A weight is made by the library's exp, which may differ from torch's in the last bit."""

    def __init__(self, logits: Tensor, team: native.Team | None = None) -> None:
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        assert logits.dtype == torch.float32, logits.dtype
        library, (rows, vocab_size) = native.load(), logits.shape
        self._logits, self._team = logits, native.team() if team is None else team
        # The largest logit of every stretch of tokens: what follows reads only the stretches that matter.
        self._maxima = np.empty((rows, -(-vocab_size // library.STRETCH)), np.float32)
        maxima = self._maxima.ctypes.data
        self._view = library.LogitsView(logits.data_ptr(), logits.stride(0), rows, vocab_size, maxima)
        # Between two steps everything has left the caches: numpy's calls touch less memory than torch's.
        self._top = np.empty(rows, np.float32)
        self.ids, self.top = torch.from_numpy(np.empty(rows, np.int64)), torch.from_numpy(self._top)
        self.refresh()

    def row(self, row: int) -> Tensor:
        return self._logits[row]

    def refresh(self) -> None:
        self._view.likeliest(self._team, self.ids.data_ptr(), self.top.data_ptr())

    def broken(self) -> Tensor:
        return torch.from_numpy((~np.isfinite(self._top)).view(np.int8))

    def copy(self, rows: IntArray) -> NativeLogits:
        return NativeLogits(self._logits[torch.from_numpy(rows)], self._team)

    def edit(self, edits: Sequence[Edit], mask: Mask | None) -> None:
        address, stride = 0, 0
        if mask is not None:
            mask = np.ascontiguousarray(mask, np.int32)
            address, stride = mask.ctypes.data, mask.shape[1]
        self._view.edit(
            self._team, address, stride, [_tuple(edit) for edit in edits], self.ids.data_ptr(), self.top.data_ptr()
        )

    def draw(self, draws: Draws) -> None:
        record = native.load().Draws()
        record.count = len(draws.rows)
        record.ids = self.ids.data_ptr()
        arrays = (
            ("rows", np.int64),
            ("temperature", np.float32),
            ("top_k", np.int64),
            ("top_p", np.float64),
            ("min_p", np.float64),
            ("seeds", np.uint64),
            ("positions", np.int64),
        )
        kept = [np.ascontiguousarray(getattr(draws, name), dtype) for name, dtype in arrays]
        for (name, _), array in zip(arrays, kept, strict=True):
            setattr(record, name, array.ctypes.data)
        self._view.draw(self._team, record)

    def top_logprobs(self, rows: IntArray, tokens: Tensor, count: int) -> TopLogprobs:
        vocab_size = self._logits.shape[1]
        if count == ALL:  # a sort of everything, which torch does as well as any
            return TorchLogits(self._logits).top_logprobs(rows, tokens, count)
        rows, tokens = np.ascontiguousarray(rows, np.int64), tokens.to(torch.int64).contiguous()
        shape = (len(rows), 1 + min(count, vocab_size))
        ids, values = torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.float64)
        ranks = torch.empty(len(rows), dtype=torch.int64)
        record = native.load().Logprobs()
        record.count, record.alternatives = len(rows), shape[1] - 1
        record.rows, record.tokens = rows.ctypes.data, tokens.data_ptr()
        record.ids, record.values, record.ranks = ids.data_ptr(), values.data_ptr(), ranks.data_ptr()
        self._view.logprobs(self._team, record)
        return TopLogprobs(ids, values, ranks)


def _tuple(edit: Edit) -> tuple[int, int, int, int, int, float, float, float]:
    count, ids = len(edit.ids), address(edit.ids, np.int32)
    if isinstance(edit, KeepOnly):
        return KEEP_ONLY, edit.row, count, ids, 0, 0.0, 0.0, 1.0
    if isinstance(edit, Exclude):
        return EXCLUDE, edit.row, count, ids, 0, 0.0, 0.0, 1.0
    if isinstance(edit, Add):
        return ADD, edit.row, count, ids, address(edit.values, np.float32), 0.0, 0.0, 1.0
    counts = address(edit.counts, np.float32)
    return PENALIZE, edit.row, count, ids, counts, edit.presence, edit.frequency, edit.repetition


def address(array: NDArray[np.generic], dtype: type[np.generic]) -> int:
    """Where the elements of a contiguous array of `dtype` begin."""
    assert array.dtype == dtype and array.flags.c_contiguous, (array.dtype, dtype, array.strides)
    return array.ctypes.data
