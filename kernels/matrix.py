"""W_hh on chip, in square tiles, and the product with a state or with gate gradients.

A gate has TILES x TILES tiles of BLOCK_H x BLOCK_H. The first KEPT of all gates' tiles are loaded
before the loop over time and stay in shared memory; the others, if a layer is too large for that,
are read in each step from the second-level cache.
"""

import triton
import triton.language as tl

from .device import dot
from .tiles import units_of


@triton.jit
def load_weights(
    w_ptr,
    gate,
    m,
    k,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BATCHED: tl.constexpr,
):
    """Tile (m, k) of a gate's square of W_hh, or of its transpose; if BATCHED, a batch of one.

    As it is in memory: after any arithmetic on it the compiler would move it from shared memory
    into registers for every product.
    """
    rows, cols = units_of(m, BLOCK_H), units_of(k, BLOCK_H)
    if BATCHED:
        rows, cols = rows[None, :, None], cols[None, None, :]
    else:
        rows, cols = rows[:, None], cols[None, :]
    mask = (rows < H) & (cols < H)
    if TRANSPOSED:
        rows, cols = cols, rows
    return tl.load(w_ptr + gate * H * H + rows * H + cols, mask=mask, other=0.0)


@triton.jit
def keep_weights(
    w_ptr,
    TILES: tl.constexpr,
    KEPT: tl.constexpr,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BATCHED: tl.constexpr,
):
    """The first KEPT tiles, in the order of gate, row and column."""
    kept = ()
    for n in tl.static_range(KEPT):
        gate, m, k = n // (TILES * TILES), n // TILES % TILES, n % TILES
        kept += (load_weights(w_ptr, gate, m, k, H, BLOCK_H, TRANSPOSED, BATCHED),)
    return kept


@triton.jit
def add_product(
    sum,
    kept,
    w_ptr,
    x,
    GATE: tl.constexpr,
    M: tl.constexpr,
    TILES: tl.constexpr,
    KEPT: tl.constexpr,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BATCHED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sum + (row M of a gate's tiles) · x, a tuple of TILES tiles of units."""
    for k in tl.static_range(TILES):
        if (GATE * TILES + M) * TILES + k < KEPT:
            w = kept[(GATE * TILES + M) * TILES + k]
        else:
            w = load_weights(w_ptr, GATE, M, k, H, BLOCK_H, TRANSPOSED, BATCHED)
        sum = dot(w, x[k], sum, PRECISION)
    return sum
