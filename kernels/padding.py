"""Zeros beyond every sequence's length, once the other kernels have written what lies before."""

import triton
import triton.language as tl

from .device import OPTIONS


@triton.jit(do_not_specialize=["B", "N", "count", "width"])
def clear_kernel(ptr, lengths_ptr, B, N, count, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    n = row % N
    t = n // B
    length = tl.load(lengths_ptr + (n - t * B), mask=row < count, other=0)
    mask = (row < count) & (t >= length)
    mask = mask[:, None] & (cols < width)[None, :]
    zeros = tl.zeros([ROWS, COLS], ptr.dtype.element_ty)
    tl.store(ptr + row[:, None] * width + cols[None, :], zeros, mask=mask)


def clear(tensor, rows):
    """Write the padding of `tensor` (.., N, width) if its rows have any: see `rows.py`."""
    if rows.lengths is None or rows.offsets is not None:
        return
    width = tensor.shape[-1]
    count = tensor.numel() // width
    ROWS, COLS = 32, 128
    grid = (triton.cdiv(count, ROWS), triton.cdiv(width, COLS))
    clear_kernel[grid](tensor, rows.lengths, rows.B, rows.N, count, width, ROWS, COLS, **OPTIONS)
