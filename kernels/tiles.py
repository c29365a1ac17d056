"""Where things lie in memory: rows of time, tiles of a layer's state and of its recurrent weights.

Rows of all time steps lie one after another; step t owns the rows from t·B (a dense tensor) or from
offsets[t] (a PackedSequence). A tile is [BLOCK_H, BLOCK_B], hidden units by sequences: weights are
the left operand of every product, so the matrix units are full even at a small batch.

Sequence b is active at the times t < lengths[b]. A layer's hidden units are cut into TILES tiles of
BLOCK_H; what lies beyond H, B or a length is masked.
"""

import triton
import triton.language as tl

from .device import rounded


@triton.jit
def row_lengths(lengths_ptr, b, T, B):
    """The length of every sequence of a tile; 0 where there is no sequence."""
    if lengths_ptr is None:
        return tl.where(b < B, T, 0)
    else:
        length = tl.load(lengths_ptr + b, mask=b < B, other=0)
        # A length out of range, which the host can't see without waiting, must not lead astray.
        return tl.minimum(tl.maximum(length, 0), T).to(tl.int32)


@triton.jit
def rows_at(t, b, B, offsets_ptr):
    """The rows of sequences b at time t (one for all, or one for each)."""
    if offsets_ptr is None:
        return tl.cast(t, tl.int64) * B + b
    else:
        return tl.load(offsets_ptr + t) + b


@triton.jit
def load_fresh(fresh_ptr, t, T, b, B, active):
    """Which of the active sequences begin an episode at time t: their state before it is zero."""
    row = tl.cast(tl.program_id(1), tl.int64) * T + t
    return tl.load(fresh_ptr + row * B + b, mask=active, other=0) != 0


@triton.jit
def time_of(step, steps, backwards):
    """The time of a step of a walk through `steps` times, from the last to the first if backwards.

    Beyond its end the walk stays where it is, so that what is loaded ahead is always there.
    """
    last = tl.maximum(steps, 1) - 1
    step = tl.minimum(step, last)
    return tl.where(backwards, last - step, step)


@triton.jit
def units_of(tile, BLOCK_H: tl.constexpr):
    return tile * BLOCK_H + tl.arange(0, BLOCK_H)


@triton.jit
def load_tile(ptr, units, rows, mask, H: tl.constexpr):
    """[BLOCK_H, BLOCK_B] of rows of H, in float32; 0 where masked, and all if ptr is None."""
    if ptr is None:
        return tl.zeros([units.shape[0], rows.shape[0]], tl.float32)
    else:
        mask = mask[None, :] & (units < H)[:, None]
        tile = tl.load(ptr + rows[None, :] * H + units[:, None], mask=mask, other=0.0)
        return tile.to(tl.float32)


@triton.jit
def store_tile(ptr, value, units, rows, mask, H: tl.constexpr):
    """The reverse, rounded to the dtype of the tensor; nothing happens if ptr is None."""
    if ptr is not None:
        mask = mask[None, :] & (units < H)[:, None]
        value = rounded(value, ptr.dtype.element_ty)
        tl.store(ptr + rows[None, :] * H + units[:, None], value, mask=mask)


@triton.jit
def load_slots(
    ptr,
    rows,
    mask,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    SLOTS: tl.constexpr,
    units,
    H: tl.constexpr,
):
    """Of rows of [SLOTS, H], a tuple of COUNT tiles."""
    slots = ()
    for s in tl.static_range(FIRST, FIRST + COUNT):
        slots += (load_tile(ptr, units, rows * SLOTS + s, mask, H),)
    return slots


@triton.jit
def load_state(ptrs, units, rows, mask, STATES: tl.constexpr, H: tl.constexpr):
    """One tile of each of a cell's states."""
    state = ()
    for s in tl.static_range(STATES):
        state += (load_tile(ptrs[s], units, rows, mask, H),)
    return state


@triton.jit
def origin_of(t, steps, b, B, lengths, offsets_ptr):
    """Whose state step t came from.

    Its neighbour's in time, in these rows of [N, D], or where `first` the initial one, in these
    rows of [D, B].
    """
    d = tl.program_id(1)
    neighbour = tl.where(d == 0, tl.maximum(t - 1, 0), tl.minimum(t + 1, steps - 1))
    first = tl.where(d == 0, t, lengths - 1 - t) == 0
    rows = rows_at(neighbour, b, B, offsets_ptr) * tl.num_programs(1) + d
    return rows, tl.cast(d, tl.int64) * B + b, first


@triton.jit
def load_before(
    state_ptrs,
    initial_ptrs,
    t,
    steps,
    b,
    B,
    lengths,
    active,
    offsets_ptr,
    units,
    STATES: tl.constexpr,
    H: tl.constexpr,
):
    """The state that step t came from: of the neighbour in time, or at first the initial one.

    Zero where not `active`.
    """
    rows, sequences, first = origin_of(t, steps, b, B, lengths, offsets_ptr)
    before = ()
    for s in tl.static_range(STATES):
        part = load_tile(state_ptrs[s], units, rows, active & (first == 0), H)
        if initial_ptrs[s] is not None:
            part += load_tile(initial_ptrs[s], units, sequences, active & first, H)
        before += (part,)
    return before


@triton.jit
def load_bias(b_ptr, gate, units, H: tl.constexpr):
    """[BLOCK_H, 1]; 0 if b_ptr is None."""
    if b_ptr is None:
        return tl.zeros([units.shape[0], 1], tl.float32)
    else:
        bias = tl.load(b_ptr + gate * H + units, mask=units < H, other=0.0)
        return bias.to(tl.float32)[:, None]


@triton.jit
def store_gate_gradients(
    ptr, dx, dh, units, rows, mask, GATES: tl.constexpr, SLOTS: tl.constexpr, H: tl.constexpr
):
    """Of the input side in the last slots; before them the recurrent side's, where it differs."""
    for s in tl.static_range(SLOTS - GATES):
        store_tile(ptr, dh[2 * GATES - SLOTS + s], units, rows * SLOTS + s, mask, H)
    for g in tl.static_range(GATES):
        store_tile(ptr, dx[g], units, rows * SLOTS + SLOTS - GATES + g, mask, H)


@triton.jit
def load_gradients(ptrs, units, rows, mask, STATES: tl.constexpr, H: tl.constexpr):
    """A step's own gradients of the state after it: of h, and of another where there are any."""
    gradients = (load_tile(ptrs[0], units, rows, mask, H),)
    for s in tl.static_range(1, STATES):
        if ptrs[s] is not None:
            gradients += (load_tile(ptrs[s], units, rows, mask, H),)
    return gradients


@triton.jit
def add_gradients(past, gradients, ptrs, STATES: tl.constexpr):
    """The gradient of the state after a step: what came past the step, and those of its own."""
    sums = (past[0] + gradients[0],)
    for s in tl.static_range(1, STATES):
        if ptrs[s] is None:
            sums += (past[s],)
        else:
            sums += (past[s] + gradients[s],)
    return sums


@triton.jit
def unless_fresh(fresh, state, STATES: tl.constexpr):
    """A state before a step, or its gradient: zero where an episode begins."""
    kept = ()
    for s in tl.static_range(STATES):
        kept += (tl.where(fresh[None, :], 0.0, state[s]),)
    return kept


@triton.jit
def where_active(active, new, old, STATES: tl.constexpr):
    """A sequence that is not active keeps its state."""
    state = ()
    for s in tl.static_range(STATES):
        state += (tl.where(active[None, :], new[s], old[s]),)
    return state
