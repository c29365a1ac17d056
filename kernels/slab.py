"""A program's share of W_hh on chip, some whole rows of it, and their product with a tile.

The matrix is [gates * H, K], or [H, K] if it is a transpose. The rows are those of BLOCK_H hidden
units, in ROWS blocks of JOINED gates; the K columns are cut into COLUMNS tiles of BLOCK_K. The
first KEPT tiles are loaded before the loop over time and stay in shared memory, the others are read
in each step from the second-level cache.

Few rows do not keep many warps busy. So a tile's columns may be cut into PARTS, which are
multiplied side by side and summed in the end.
"""

import triton
import triton.language as tl

from .device import dot, operand


@triton.jit
def _load_part(
    w_ptr,
    n,
    m,
    mine,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    JOINED: tl.constexpr,
    K: tl.constexpr,
    PARTS: tl.constexpr,
    BATCHED: tl.constexpr,
):
    """Tile n of columns of block m of rows: [rows, BLOCK_K], or [PARTS, rows, BLOCK_K / PARTS].

    The latter if there is more than one part, or if BATCHED.

    As it is in memory: after any arithmetic the compiler would keep it in registers.
    """
    row = tl.arange(0, JOINED * BLOCK_H)
    units = mine * BLOCK_H + row % BLOCK_H
    rows = (m * JOINED + row // BLOCK_H) * H + units
    if PARTS == 1 and not BATCHED:
        rows, units = rows[:, None], units[:, None]
        k = tl.arange(0, BLOCK_K)[None, :]
    else:
        rows, units = rows[None, :, None], units[None, :, None]
        part, k = tl.arange(0, PARTS), tl.arange(0, BLOCK_K // PARTS)
        k = part[:, None, None] * (BLOCK_K // PARTS) + k[None, None, :]
    k += n * BLOCK_K
    return tl.load(w_ptr + rows * K + k, mask=(units < H) & (k < K), other=0.0)


@triton.jit
def keep_slab(
    w_ptr,
    mine,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROWS: tl.constexpr,
    JOINED: tl.constexpr,
    K: tl.constexpr,
    PARTS: tl.constexpr,
    BATCHED: tl.constexpr,
    KEPT: tl.constexpr,
):
    """The first KEPT tiles of slice `mine`, in the order of columns and rows."""
    kept = ()
    for i in tl.static_range(KEPT):
        part = _load_part(
            w_ptr, i // ROWS, i % ROWS, mine, H, BLOCK_H, BLOCK_K, JOINED, K, PARTS, BATCHED
        )
        kept += (part,)
    return kept


@triton.jit
def load_columns(
    rows_ptr,
    mask,
    dtype: tl.constexpr,
    PRECISION: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """What the tiles of columns are to be multiplied by: rows of K numbers at [BLOCK_B] addresses.

    Past the first-level cache, which does not see what other programs store.
    """
    tiles = ()
    for n in tl.static_range(COLUMNS):
        k = n * BLOCK_K + tl.arange(0, BLOCK_K)
        there = mask[None, :] & (k < K)[:, None]
        x = tl.load(rows_ptr[None, :] + k[:, None], mask=there, other=0.0, cache_modifier=".cg")
        if dtype == tl.float32:
            x = operand(x, dtype, PRECISION)
        if PARTS > 1:
            x = tl.reshape(x, [PARTS, BLOCK_K // PARTS, rows_ptr.shape[0]])
        tiles += (x,)
    return tiles


@triton.jit
def products(
    kept,
    w_ptr,
    x,
    mine,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROWS: tl.constexpr,
    JOINED: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    BATCHED: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """ROWS * JOINED tiles [BLOCK_H, BLOCK_B]: the slab times x, a tuple of its columns' tiles."""
    sums = ()
    for m in tl.static_range(ROWS):
        if PARTS == 1:
            sum = tl.zeros([JOINED * BLOCK_H, BLOCK_B], tl.float32)
        else:
            sum = tl.zeros([PARTS, JOINED * BLOCK_H, BLOCK_B], tl.float32)
        for n in tl.static_range(COLUMNS):
            if n * ROWS + m < KEPT:
                w = kept[n * ROWS + m]
            else:
                w = _load_part(w_ptr, n, m, mine, H, BLOCK_H, BLOCK_K, JOINED, K, PARTS, BATCHED)
            sum = dot(w, x[n], sum, PRECISION)
        sums += _apart(sum, JOINED, PARTS, BLOCK_H, BLOCK_B)
    return sums


@triton.jit
def _apart(
    sum,
    JOINED: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """The gates that one product was taken of, each by itself, its parts summed.

    Parts and gates go to the end, where dimensions of two are split: that takes one exchange among
    the program's threads, however many they are.
    """
    if JOINED * PARTS == 1:
        return (sum,)
    else:
        sum = tl.permute(tl.reshape(sum, [PARTS, JOINED, BLOCK_H, BLOCK_B]), (2, 3, 1, 0))
        for i in tl.static_range(5):
            if PARTS >> i > 1:
                sum = tl.reshape(sum, [BLOCK_H, BLOCK_B, JOINED, PARTS >> i + 1, 2])
                one, other = tl.split(sum)
                sum = one + other
        if JOINED == 1:
            return (tl.reshape(sum, [BLOCK_H, BLOCK_B]),)
        else:
            tl.static_assert(JOINED == 4)
            even, odd = tl.split(tl.reshape(sum, [BLOCK_H, BLOCK_B, 2, 2]))
            first, third = tl.split(even)
            second, fourth = tl.split(odd)
            return (first, second, third, fourth)
