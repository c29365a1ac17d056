"""Whole sequences in one launch for layers too large for one multiprocessor, forward and back.

A program owns all gates of BLOCK_H hidden units, whose rows of W_hh (forward) or of its transpose
(back) it keeps on chip for all steps. The SLICES programs that own a layer's units together are a
group; groups share the sequences, TILES tiles of BLOCK_B at a time. In each step the programs of a
group exchange their parts of the state (or of the gate gradients) by way of the tensors that hold
these for all steps anyway, and wait for one another (`barrier.py`): a tile is worked on while the
others are waited for. Both directions of a layer are one launch.

Programs that wait for each other have to run at the same time, so the launch is a cooperative one,
which a GPU refuses if they can't. Without counters a launch does no more than one step: then the
launches are the barriers, in any number of programs, and the state goes from one to the next.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .barrier import arrive, sign_in, spoiled, wait
from .cooperative_plans import slab_of
from .device import OPTIONS, bound, constants, of_products, on_device, pair
from .slab import keep_slab, load_columns, products
from .tiles import (
    add_gradients,
    load_before,
    load_bias,
    load_fresh,
    load_gradients,
    load_slots,
    load_state,
    origin_of,
    row_lengths,
    rows_at,
    store_gate_gradients,
    store_tile,
    time_of,
    units_of,
    unless_fresh,
    where_active,
)


@triton.jit
def _sequences_of(chunk, lengths_ptr, T, B, BLOCK_B: tl.constexpr, TILES: tl.constexpr):
    """Of each tile of a chunk (sequences, lengths), and the number of steps of the longest."""
    tiles = ()
    steps = 0
    for j in tl.static_range(TILES):
        b = (chunk * TILES + j) * BLOCK_B + tl.arange(0, BLOCK_B)
        lengths = row_lengths(lengths_ptr, b, T, B)
        tiles += ((b, lengths),)
        steps = tl.maximum(steps, tl.max(lengths, 0))
    return tiles, steps


@triton.jit
def _load_states(
    ptrs,
    units,
    tiles,
    B,
    STATES: tl.constexpr,
    H: tl.constexpr,
    TILES: tl.constexpr,
):
    """A state (or its gradient) of [D, B, H] of every tile."""
    states = ()
    for j in tl.static_range(TILES):
        b = tiles[j][0]
        sequences = tl.cast(tl.program_id(1), tl.int64) * B + b
        states += (load_state(ptrs, units, sequences, b < B, STATES, H),)
    return states


@triton.jit
def _store_states(
    ptrs,
    states,
    units,
    tiles,
    B,
    STATES: tl.constexpr,
    H: tl.constexpr,
    TILES: tl.constexpr,
):
    for j in tl.static_range(TILES):
        b = tiles[j][0]
        sequences = tl.cast(tl.program_id(1), tl.int64) * B + b
        for s in tl.static_range(STATES):
            store_tile(ptrs[s], states[j][s], units, sequences, b < B, H)


@triton.jit(do_not_specialize=["T", "B", "N", "begin", "end", "patience_at_first", "patience"])
def forward_kernel(
    x_ptr,  # [D, N, SLOTS, H], the input side of the gates in the last slots
    saved_ptr,  # the same, or None
    w_ptr,  # [D, GATES, H, H]
    b_ptr,  # [D, GATES, H], the recurrent side's, or None
    h_0_ptr,  # [D, B, H], or None
    h_before_ptr,  # [D, B, H], before step `begin`, or None
    c_before_ptr,
    h_ptr,  # [N, D, H], the states after every step
    c_ptr,  # the same, or None
    h_after_ptr,  # [D, B, H], after the last step
    c_after_ptr,
    lengths_ptr,  # [B], or None
    offsets_ptr,  # [T], or None
    fresh_ptr,  # [D, T, B], or None
    counters_ptr,  # [1 + D * groups * TILES, SPACING], or None for one step
    vain_ptr,  # [1], where a program says so that has waited in vain, or None
    T,
    B,
    N,
    begin,
    end,
    patience_at_first,
    patience,
    FORWARD: tl.constexpr,
    GATES: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    STATES: tl.constexpr,
    H: tl.constexpr,
    PRECISION: tl.constexpr,
    BATCHED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    JOINED: tl.constexpr,
    KEPT: tl.constexpr,
):
    d = tl.program_id(1)
    D = tl.num_programs(1)
    SLICES: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    ROWS: tl.constexpr = GATES // JOINED
    mine = tl.program_id(0) % SLICES
    group = tl.program_id(0) // SLICES
    groups = tl.num_programs(0) // SLICES
    dtype: tl.constexpr = w_ptr.dtype.element_ty
    before_ptrs = (h_before_ptr, c_before_ptr)
    after_ptrs = (h_after_ptr, c_after_ptr)
    state_ptrs = (h_ptr, c_ptr)

    vain = 0
    if counters_ptr is not None:
        counters = sign_in(counters_ptr, d * groups + group, TILES, SLICES)
        vain = spoiled(counters_ptr)
        arrived = 0
    units = units_of(mine, BLOCK_H)
    w_ptr += d * GATES * H * H
    kept = keep_slab(w_ptr, mine, H, BLOCK_H, BLOCK_K, ROWS, JOINED, H, PARTS, BATCHED, KEPT)
    bias = ()
    for g in tl.static_range(GATES):
        bias += (load_bias(b_ptr, d * GATES + g, units, H),)
    chunks = tl.cdiv(B, TILES * BLOCK_B)
    for chunk in range(bound(group), bound(chunks), bound(groups)):
        tiles, steps = _sequences_of(chunk, lengths_ptr, T, B, BLOCK_B, TILES)
        state = _load_states(before_ptrs, units, tiles, B, STATES, H, TILES)
        for step in range(bound(begin), bound(tl.minimum(end, steps))):
            t = time_of(step, steps, d == 1)
            new = ()
            for j in tl.static_range(TILES):
                b, lengths = tiles[j]
                active = t < lengths
                rows = rows_at(t, b, B, offsets_ptr)
                mine_rows = tl.cast(d, tl.int64) * N + rows
                # Under way while the others are waited for.
                x = load_slots(x_ptr, mine_rows, active, SLOTS - GATES, GATES, SLOTS, units, H)
                neighbours, sequences, first = origin_of(t, steps, b, B, lengths, offsets_ptr)
                source = h_ptr + neighbours * H
                if h_0_ptr is None:
                    has_source = active & (first == 0)
                else:
                    has_source = active
                    source = tl.where(first, h_0_ptr + sequences * H, source)
                    if H * dtype.primitive_bitwidth % 128 == 0:
                        # Both tensors begin at multiples of 16 bytes; of a choice between addresses
                        # Triton 3.9 would not know that of itself.
                        source = tl.multiple_of(source, 16)
                before = state[j]
                if fresh_ptr is not None:
                    fresh = load_fresh(fresh_ptr, t, T, b, B, active)
                    has_source &= fresh == 0
                    before = unless_fresh(fresh, before, STATES)
                if counters_ptr is not None:
                    microseconds = tl.where(arrived == 0, patience_at_first, patience)
                    vain = wait(
                        counters_ptr, counters[j], arrived, SLICES, microseconds, vain, vain_ptr
                    )
                h = load_columns(source, has_source, dtype, PRECISION, H, BLOCK_K, COLUMNS, PARTS)
                product = products(
                    kept, w_ptr, h, mine, H, BLOCK_H, BLOCK_K, ROWS, JOINED, H, COLUMNS, PARTS,
                    BATCHED, KEPT, BLOCK_B, PRECISION,
                )  # fmt: skip
                h_gates = ()
                for g in tl.static_range(GATES):
                    # What comes after a wait in vain is no number.
                    h_gates += (product[g] + (bias[g] + tl.where(vain > 0, float("nan"), 0.0)),)
                after, saved = FORWARD(x, h_gates, before)
                out = rows * D + d
                store_tile(h_ptr, after[0], units, out, active, H)
                if counters_ptr is not None:
                    arrive(counters[j][0])
                # The others don't wait for these.
                for s in tl.static_range(1, STATES):
                    store_tile(state_ptrs[s], after[s], units, out, active, H)
                for s in tl.static_range(SAVED):
                    store_tile(saved_ptr, saved[s], units, mine_rows * SLOTS + s, active, H)
                if lengths_ptr is not None:
                    after = where_active(active, after, state[j], STATES)
                new += (after,)
            state = new
            if counters_ptr is not None:
                arrived += 1
        _store_states(after_ptrs, state, units, tiles, B, STATES, H, TILES)


@triton.jit(do_not_specialize=["T", "B", "N", "begin", "end", "patience_at_first", "patience"])
def backward_kernel(
    saved_ptr,  # [D, N, SLOTS, H], or None if nothing is saved
    dgates_ptr,  # the same
    w_ptr,  # [D, H, GATES, H], the transpose of W_hh, gates in the order of the slots
    h_0_ptr,  # [D, B, H], or None
    c_0_ptr,
    h_ptr,  # [N, D, H], the states after every step
    c_ptr,
    dh_ptr,  # [N, D, H], of the states after every step by themselves, or None
    dc_ptr,
    dh_after_ptr,  # [D, B, H], before step `begin` of the way back, or None
    dc_after_ptr,
    dh_before_ptr,  # [D, B, H], after the last step, or None
    dc_before_ptr,
    lengths_ptr,  # [B], or None
    offsets_ptr,  # [T], or None
    fresh_ptr,  # [D, T, B], or None
    counters_ptr,  # [1 + D * groups * TILES, SPACING], or None for one step
    vain_ptr,  # [1], where a program says so that has waited in vain, or None
    T,
    B,
    N,
    begin,
    end,
    patience_at_first,
    patience,
    BACKWARD: tl.constexpr,
    GATES: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    STATES: tl.constexpr,
    H: tl.constexpr,
    PRECISION: tl.constexpr,
    BATCHED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    JOINED: tl.constexpr,
    KEPT: tl.constexpr,
):
    d = tl.program_id(1)
    D = tl.num_programs(1)
    SLICES: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    mine = tl.program_id(0) % SLICES
    group = tl.program_id(0) // SLICES
    groups = tl.num_programs(0) // SLICES
    dtype: tl.constexpr = w_ptr.dtype.element_ty
    initial_ptrs = (h_0_ptr, c_0_ptr)
    state_ptrs = (h_ptr, c_ptr)
    dstate_ptrs = (dh_ptr, dc_ptr)
    dafter_ptrs = (dh_after_ptr, dc_after_ptr)
    dbefore_ptrs = (dh_before_ptr, dc_before_ptr)

    vain = 0
    if counters_ptr is not None:
        counters = sign_in(counters_ptr, d * groups + group, TILES, SLICES)
        vain = spoiled(counters_ptr)
        arrived = 0
    units = units_of(mine, BLOCK_H)
    w_ptr += d * GATES * H * H
    kept = keep_slab(w_ptr, mine, H, BLOCK_H, BLOCK_K, 1, JOINED, GATES * H, PARTS, BATCHED, KEPT)
    chunks = tl.cdiv(B, TILES * BLOCK_B)
    for chunk in range(bound(group), bound(chunks), bound(groups)):
        tiles, steps = _sequences_of(chunk, lengths_ptr, T, B, BLOCK_B, TILES)
        dstate = _load_states(dafter_ptrs, units, tiles, B, STATES, H, TILES)
        # A step begins with the product of the one before it on the way; the last is only that.
        for step in range(bound(begin), bound(tl.minimum(end, steps + 1))):
            t = time_of(step, steps, d == 0)
            t_product = time_of(tl.maximum(step - 1, 0), steps, d == 0)
            new = ()
            for j in tl.static_range(TILES):
                b, lengths = tiles[j]
                # At time T no sequence is active. (A tile & a condition on `step` would be integers
                # in Triton's interpreter, which takes only bools as a mask since 3.9.)
                active = tl.where(step < steps, t, T) < lengths
                rows = rows_at(t, b, B, offsets_ptr)
                out = rows * D + d
                rows += tl.cast(d, tl.int64) * N
                # Under way while the others are waited for.
                saved = load_slots(saved_ptr, rows, active, 0, SAVED, SLOTS, units, H)
                after = load_state(state_ptrs, units, out, active, STATES, H)
                has_before = t < lengths
                has_source = tl.where(step > 0, t_product, T) < lengths
                if fresh_ptr is not None:
                    fresh = load_fresh(fresh_ptr, t, T, b, B, active)
                    has_before &= fresh == 0
                    has_source &= load_fresh(fresh_ptr, t_product, T, b, B, has_source) == 0
                before = load_before(
                    state_ptrs, initial_ptrs, t, steps, b, B, lengths, has_before, offsets_ptr,
                    units, STATES, H,
                )  # fmt: skip
                own = load_gradients(dstate_ptrs, units, out, active, STATES, H)
                source = rows_at(t_product, b, B, offsets_ptr) + tl.cast(d, tl.int64) * N
                if counters_ptr is not None:
                    microseconds = tl.where(arrived == 0, patience_at_first, patience)
                    vain = wait(
                        counters_ptr, counters[j], arrived, SLICES, microseconds, vain, vain_ptr
                    )
                dgates = load_columns(
                    dgates_ptr + source * (SLOTS * H), has_source, dtype, PRECISION, GATES * H,
                    BLOCK_K, COLUMNS, PARTS,
                )  # fmt: skip
                product = products(
                    kept, w_ptr, dgates, mine, H, BLOCK_H, BLOCK_K, 1, JOINED, GATES * H, COLUMNS,
                    PARTS, BATCHED, KEPT, BLOCK_B, PRECISION,
                )  # fmt: skip
                # What comes after a wait in vain is no number.
                dpast = (dstate[j][0] + product[0] + tl.where(vain > 0, float("nan"), 0.0),)
                for s in tl.static_range(1, STATES):
                    dpast += (dstate[j][s],)
                dafter = add_gradients(dpast, own, dstate_ptrs, STATES)
                dx_gates, dh_gates, dbefore = BACKWARD(dafter, saved, before, after)
                store_gate_gradients(
                    dgates_ptr, dx_gates, dh_gates, units, rows, active, GATES, SLOTS, H
                )
                if counters_ptr is not None:
                    arrive(counters[j][0])
                if fresh_ptr is not None:
                    dbefore = unless_fresh(fresh, dbefore, STATES)
                new += (where_active(active, dbefore, dpast, STATES),)
            dstate = new
            if counters_ptr is not None:
                arrived += 1
        _store_states(dbefore_ptrs, dstate, units, tiles, B, STATES, H, TILES)


class Waiting(NamedTuple):
    """What programs need to wait for one another.

    counters: int64, as many as `barrier.slots` says; vain: int32, in memory that the host sees, not
    zero once a program has waited in vain; how many µs a program waits before it gives up, before
    the first step and before the others.
    """

    counters: Tensor
    vain: Tensor
    patience_at_first: int
    patience: int


def forward(
    cell, plan, precision, x, saved, w, b, h_0, before, states, after, rows, steps, waiting
):
    """Run a layer's recurrence over the steps range(*steps) of each direction's walk.

    x (D, N, slots, H) holds the input side of the gates in its last slots; saved is None or like x,
    and may be x itself; w (D, G*H, H); b (D, G*H) or None; h_0 (D, B, H), the initial h, at a
    multiple of 16 bytes, or None;
    before, after: for each state a tensor (D, B, H) or None, what it is at the begin and the end of
    the steps, may be the same; states: for each state a tensor (N, D, H) or None. All contiguous.
    waiting: a Waiting, or None for a single step.

    Raises:
        RuntimeError: the GPU can't run so many programs at the same time.
    """
    D, H = w.shape[0], w.shape[2]
    _launch(
        forward_kernel, plan, slab_of(cell, "forward", H), H, D, rows, steps, waiting,
        x, saved, w, b, h_0, *pair(before), *pair(states), *pair(after),
        FORWARD=on_device(cell.forward), **constants(cell), **of_products(precision, plan),
    )  # fmt: skip


def backward(
    cell, plan, precision, saved, dgates, w, initial, states, dstates, dafter, dbefore, rows,
    steps, waiting,
):  # fmt: skip
    """The way back over steps counted from the end of each direction's walk, up to rows.T + 1.

    The last of all only takes the product that the gradient of the initial h needs.
    dgates (D, N, slots, H) may be `saved` itself; w (D, H, G*H) is the transpose of W_hh, its gates
    in the order of the slots; dstates: for each state a tensor (N, D, H) or None, of what it is
    after every step; dafter, dbefore: for each state a tensor (D, B, H) or None, its gradient at
    the begin and the end of the steps; the rest is `forward`'s.
    """
    D, H = w.shape[:2]
    _launch(
        backward_kernel, plan, slab_of(cell, "backward", H), H, D, rows, steps, waiting,
        saved, dgates, w, *pair(initial), *pair(states), *pair(dstates), *pair(dafter),
        *pair(dbefore),
        BACKWARD=on_device(cell.backward), **constants(cell),
        **of_products(precision, plan),
    )  # fmt: skip


def _launch(kernel, plan, slab, H, D, rows, steps, waiting, *arguments, **constants):
    chunks, together = plan.chunks(rows.B), {}
    counters, vain, *patience = waiting or (None, None, 0, 0)
    if waiting is not None:
        chunks, together = plan.groups, {"launch_cooperative_grid": True}
    kernel[plan.slices(H) * chunks, D](
        *arguments, rows.lengths, rows.offsets, rows.fresh, counters, vain, rows.T, rows.B, rows.N,
        *steps, *patience, **constants, H=H, **plan.constants(slab), num_warps=plan.warps,
        num_stages=1, **together, **OPTIONS,
    )  # fmt: skip
