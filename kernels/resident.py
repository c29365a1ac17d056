"""Whole sequences in one launch, forward and back: W_hh stays on chip, and so does the state.

A program owns BLOCK_B sequences of one direction from their first step to their last; both
directions of a layer are one launch, the second walking backwards. There is nothing to wait for
but the program's own threads. What lies in padding, beyond a sequence's length, is left alone.
"""

import triton
import triton.language as tl

from .device import OPTIONS, bound, constants, of_products, on_device, operand, pair
from .matrix import add_product, keep_weights
from .tiles import (
    add_gradients,
    load_before,
    load_bias,
    load_fresh,
    load_gradients,
    load_slots,
    load_state,
    row_lengths,
    rows_at,
    store_gate_gradients,
    store_tile,
    time_of,
    units_of,
    unless_fresh,
    where_active,
)


@triton.jit(do_not_specialize=["T", "B", "N"])  # they change from call to call
def forward_kernel(
    x_ptr,  # [D, N, SLOTS, H], the input side of the gates in the last slots
    saved_ptr,  # the same, or None
    w_ptr,  # [D, GATES, H, H]
    b_ptr,  # [D, GATES, H], the recurrent side's, or None
    h_0_ptr,  # [D, B, H], or None
    c_0_ptr,
    h_ptr,  # [N, D, H], the states after every step
    c_ptr,  # the same, or None
    h_n_ptr,  # [D, B, H]
    c_n_ptr,
    lengths_ptr,  # [B], or None
    offsets_ptr,  # [T], or None
    fresh_ptr,  # [D, T, B], or None
    T,
    B,
    N,
    FORWARD: tl.constexpr,
    GATES: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    STATES: tl.constexpr,
    H: tl.constexpr,
    PRECISION: tl.constexpr,
    BATCHED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    TILES: tl.constexpr,
    KEPT: tl.constexpr,
):
    d = tl.program_id(1)
    D = tl.num_programs(1)
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    exists = b < B
    lengths = row_lengths(lengths_ptr, b, T, B)
    steps = tl.max(lengths, 0)
    sequences = tl.cast(d, tl.int64) * B + b
    mine = tl.cast(d, tl.int64) * N
    dtype: tl.constexpr = w_ptr.dtype.element_ty
    FIRST: tl.constexpr = SLOTS - GATES
    initial_ptrs = (h_0_ptr, c_0_ptr)
    state_ptrs = (h_ptr, c_ptr)
    final_ptrs = (h_n_ptr, c_n_ptr)

    w_ptr += d * GATES * H * H
    kept = keep_weights(w_ptr, TILES, KEPT, H, BLOCK_H, False, BATCHED)
    state = ()
    for i in tl.static_range(TILES):
        units = units_of(i, BLOCK_H)
        state += (load_state(initial_ptrs, units, sequences, exists, STATES, H),)

    t = time_of(0, steps, d == 1)
    rows = rows_at(t, b, B, offsets_ptr)
    x = ()
    for i in tl.static_range(TILES):
        units = units_of(i, BLOCK_H)
        x += (load_slots(x_ptr, mine + rows, t < lengths, FIRST, GATES, SLOTS, units, H),)
    if fresh_ptr is not None:
        fresh = load_fresh(fresh_ptr, t, T, b, B, t < lengths)
    for step in range(bound(steps)):
        # The next step's gates are on their way while this step is worked out.
        t_next = time_of(step + 1, steps, d == 1)
        rows_next = rows_at(t_next, b, B, offsets_ptr)
        x_next = ()
        for i in tl.static_range(TILES):
            units = units_of(i, BLOCK_H)
            slots = load_slots(
                x_ptr, mine + rows_next, t_next < lengths, FIRST, GATES, SLOTS, units, H
            )
            x_next += (slots,)
        active = t < lengths
        before = state
        if fresh_ptr is not None:
            fresh_next = load_fresh(fresh_ptr, t_next, T, b, B, t_next < lengths)
            before = ()
            for i in tl.static_range(TILES):
                before += (unless_fresh(fresh, state[i], STATES),)
        h = ()
        for k in tl.static_range(TILES):
            part = before[k][0]
            if TILES * BLOCK_H > H:
                # Of the units that do not exist: 0 x inf, if a plain RNN overflows, is no number.
                part = tl.where((units_of(k, BLOCK_H) < H)[:, None], part, 0.0)
            h += (operand(part, dtype, PRECISION),)
        new = ()
        for i in tl.static_range(TILES):
            units = units_of(i, BLOCK_H)
            h_gates = ()
            for g in tl.static_range(GATES):
                bias = load_bias(b_ptr, d * GATES + g, units, H)
                sum = tl.zeros([BLOCK_H, BLOCK_B], tl.float32) + bias
                sum = add_product(
                    sum, kept, w_ptr, h, g, i, TILES, KEPT, H, BLOCK_H, False, BATCHED, PRECISION
                )
                h_gates += (sum,)
            after, saved = FORWARD(x[i], h_gates, before[i])
            for s in tl.static_range(SAVED):
                store_tile(saved_ptr, saved[s], units, (mine + rows) * SLOTS + s, active, H)
            for s in tl.static_range(STATES):
                store_tile(state_ptrs[s], after[s], units, rows * D + d, active, H)
            if lengths_ptr is not None:
                after = where_active(active, after, state[i], STATES)
            new += (after,)
        state = new
        x = x_next
        if fresh_ptr is not None:
            fresh = fresh_next
        rows = rows_next
        t = t_next
    for i in tl.static_range(TILES):
        units = units_of(i, BLOCK_H)
        for s in tl.static_range(STATES):
            store_tile(final_ptrs[s], state[i][s], units, sequences, exists, H)


@triton.jit
def _load_step(
    t,
    steps,
    b,
    B,
    N,
    lengths,
    offsets_ptr,
    saved_ptr,
    dstate_ptrs,
    initial_ptrs,
    state_ptrs,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    STATES: tl.constexpr,
    TILES: tl.constexpr,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """What the way back needs of time t: for each tile (saved, its own gradients, state before)."""
    d = tl.program_id(1)
    rows = rows_at(t, b, B, offsets_ptr)
    active = t < lengths
    mine = tl.cast(d, tl.int64) * N + rows
    tiles = ()
    for i in tl.static_range(TILES):
        units = units_of(i, BLOCK_H)
        saved = load_slots(saved_ptr, mine, active, 0, SAVED, SLOTS, units, H)
        before = load_before(
            state_ptrs, initial_ptrs, t, steps, b, B, lengths, active, offsets_ptr, units, STATES, H
        )
        own = load_gradients(dstate_ptrs, units, rows * tl.num_programs(1) + d, active, STATES, H)
        tiles += ((saved, own, before),)
    return tiles


@triton.jit(do_not_specialize=["T", "B", "N"])
def backward_kernel(
    saved_ptr,  # [D, N, SLOTS, H], or None if nothing is saved
    dgates_ptr,  # the same
    w_ptr,  # [D, GATES, H, H]
    h_0_ptr,  # [D, B, H], or None
    c_0_ptr,
    h_ptr,  # [N, D, H], the states after every step
    c_ptr,
    dh_ptr,  # [N, D, H], of the states after every step by themselves, or None
    dc_ptr,
    dh_n_ptr,  # [D, B, H], or None
    dc_n_ptr,
    dh_0_ptr,  # [D, B, H], or None
    dc_0_ptr,
    lengths_ptr,  # [B], or None
    offsets_ptr,  # [T], or None
    fresh_ptr,  # [D, T, B], or None
    T,
    B,
    N,
    BACKWARD: tl.constexpr,
    GATES: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    STATES: tl.constexpr,
    H: tl.constexpr,
    PRECISION: tl.constexpr,
    BATCHED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    TILES: tl.constexpr,
    KEPT: tl.constexpr,
):
    d = tl.program_id(1)
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    exists = b < B
    lengths = row_lengths(lengths_ptr, b, T, B)
    steps = tl.max(lengths, 0)
    sequences = tl.cast(d, tl.int64) * B + b
    mine = tl.cast(d, tl.int64) * N
    dtype: tl.constexpr = w_ptr.dtype.element_ty
    initial_ptrs = (h_0_ptr, c_0_ptr)
    state_ptrs = (h_ptr, c_ptr)
    dstate_ptrs = (dh_ptr, dc_ptr)
    dfinal_ptrs = (dh_n_ptr, dc_n_ptr)
    dinitial_ptrs = (dh_0_ptr, dc_0_ptr)

    w_ptr += d * GATES * H * H
    kept = keep_weights(w_ptr, TILES, KEPT, H, BLOCK_H, True, BATCHED)
    t_last = tl.where(d == 0, tl.maximum(lengths - 1, 0), 0)
    rows_last = rows_at(t_last, b, B, offsets_ptr) * tl.num_programs(1) + d
    after = ()
    dstate = ()
    for i in tl.static_range(TILES):
        units = units_of(i, BLOCK_H)
        after += (load_state(state_ptrs, units, rows_last, lengths > 0, STATES, H),)
        dstate += (load_state(dfinal_ptrs, units, sequences, exists, STATES, H),)

    t = time_of(0, steps, d == 0)
    loaded = _load_step(
        t, steps, b, B, N, lengths, offsets_ptr, saved_ptr, dstate_ptrs, initial_ptrs, state_ptrs,
        SAVED, SLOTS, STATES, TILES, H, BLOCK_H,
    )  # fmt: skip
    if fresh_ptr is not None:
        fresh = load_fresh(fresh_ptr, t, T, b, B, t < lengths)
    for step in range(bound(steps)):
        t_next = time_of(step + 1, steps, d == 0)
        loaded_next = _load_step(
            t_next, steps, b, B, N, lengths, offsets_ptr, saved_ptr, dstate_ptrs, initial_ptrs,
            state_ptrs, SAVED, SLOTS, STATES, TILES, H, BLOCK_H,
        )  # fmt: skip
        if fresh_ptr is not None:
            fresh_next = load_fresh(fresh_ptr, t_next, T, b, B, t_next < lengths)
        active = t < lengths
        rows = mine + rows_at(t, b, B, offsets_ptr)
        dgates = ()
        dbefore = ()
        before = ()
        for i in tl.static_range(TILES):
            saved, own, before_i = loaded[i]
            dafter = add_gradients(dstate[i], own, dstate_ptrs, STATES)
            from_i = before_i
            if fresh_ptr is not None:
                from_i = unless_fresh(fresh, before_i, STATES)
            dx_gates, dh_gates, dbefore_i = BACKWARD(dafter, saved, from_i, after[i])
            units = units_of(i, BLOCK_H)
            store_gate_gradients(
                dgates_ptr, dx_gates, dh_gates, units, rows, active, GATES, SLOTS, H
            )
            gates = ()
            for g in tl.static_range(GATES):
                gates += (operand(dh_gates[g], dtype, PRECISION),)
            dgates += (gates,)
            dbefore += (dbefore_i,)
            if lengths_ptr is not None:
                before_i = where_active(active, before_i, after[i], STATES)
            before += (before_i,)
        dnew = ()
        for i in tl.static_range(TILES):
            sum = tl.zeros([BLOCK_H, BLOCK_B], tl.float32)
            for g in tl.static_range(GATES):
                dgate = ()
                for k in tl.static_range(TILES):
                    dgate += (dgates[k][g],)
                sum = add_product(
                    sum, kept, w_ptr, dgate, g, i, TILES, KEPT, H, BLOCK_H, True, BATCHED,
                    PRECISION,
                )  # fmt: skip
            dparts = (sum + dbefore[i][0],)
            for s in tl.static_range(1, STATES):
                dparts += (dbefore[i][s],)
            if fresh_ptr is not None:
                dparts = unless_fresh(fresh, dparts, STATES)
            if lengths_ptr is not None:
                dparts = where_active(active, dparts, dstate[i], STATES)
            dnew += (dparts,)
        dstate = dnew
        after = before
        loaded = loaded_next
        if fresh_ptr is not None:
            fresh = fresh_next
        t = t_next
    for i in tl.static_range(TILES):
        units = units_of(i, BLOCK_H)
        for s in tl.static_range(STATES):
            store_tile(dinitial_ptrs[s], dstate[i][s], units, sequences, exists, H)


def forward(cell, plan, precision, x, saved, w, b, initial, states, final, rows):
    """Run a layer's recurrence over all of its steps.

    x (D, N, slots, H) holds the input side of the gates in its last slots; saved is None or like x,
    and may be x itself; w (D, G*H, H); b (D, G*H) or None; initial, final: for each state a tensor
    (D, B, H) or None; states: for each state a tensor (N, D, H) or None. All contiguous.
    """
    D, H = w.shape[0], w.shape[2]
    forward_kernel[triton.cdiv(rows.B, plan.block_b), D](
        x, saved, w, b, *pair(initial), *pair(states), *pair(final),
        rows.lengths, rows.offsets, rows.fresh, rows.T, rows.B, rows.N,
        FORWARD=on_device(cell.forward), **constants(cell), H=H,
        **of_products(precision, plan), **plan.constants(), num_warps=plan.warps,
        num_stages=1, **OPTIONS,
    )  # fmt: skip


def backward(
    cell, plan, precision, saved, dgates, w, initial, states, dstates, dfinal, dinitial, rows
):
    """The way back: dgates (D, N, slots, H), which may be `saved` itself, and dinitial.

    dstates: for each state a tensor (N, D, H) or None, of what it is after every step; dfinal,
    dinitial as `initial` in `forward`; the rest is `forward`'s.
    """
    D, H = w.shape[0], w.shape[2]
    backward_kernel[triton.cdiv(rows.B, plan.block_b), D](
        saved, dgates, w, *pair(initial), *pair(states), *pair(dstates), *pair(dfinal),
        *pair(dinitial),
        rows.lengths, rows.offsets, rows.fresh, rows.T, rows.B, rows.N,
        BACKWARD=on_device(cell.backward), **constants(cell), H=H,
        **of_products(precision, plan), **plan.constants(), num_warps=plan.warps,
        num_stages=1, **OPTIONS,
    )  # fmt: skip
