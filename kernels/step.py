"""The gate math of one time step, forward and back, for any H: one launch after a matrix product.

A program owns a tile of sequences by hidden units, of one direction; at the same step the second
direction of a layer is at the other end of time. The same kernels at T = 1 are a recurrent cell.
What lies in padding, beyond a sequence's length, is left alone.
"""

import triton
import triton.language as tl

from .device import OPTIONS, constants, on_device, pair
from .tiles import (
    add_gradients,
    load_before,
    load_bias,
    load_fresh,
    load_gradients,
    load_slots,
    load_state,
    load_tile,
    row_lengths,
    rows_at,
    store_gate_gradients,
    store_tile,
    time_of,
    unless_fresh,
    where_active,
)


@triton.jit(do_not_specialize=["step", "T", "B", "N"])  # they change from call to call
def forward_kernel(
    x_ptr,  # [D, N, SLOTS, H], the input side of the gates in the last slots
    saved_ptr,  # the same, or None
    product_ptr,  # [D, B, GATES, H], W_hh h, or None for h = 0
    b_ptr,  # [D, GATES, H], the recurrent side's, or None
    h_before_ptr,  # [D, B, H], or None
    c_before_ptr,
    h_after_ptr,  # [D, B, H], may be the same as before, or None
    c_after_ptr,
    operand_ptr,  # [D, B, H], h in the dtype of the next product, or None
    h_ptr,  # [N, D, H], the states after every step, or None
    c_ptr,
    lengths_ptr,  # [B], or None
    offsets_ptr,  # [T], or None
    fresh_ptr,  # [D, T, B], or None
    step,
    T,
    B,
    N,
    FORWARD: tl.constexpr,
    GATES: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    STATES: tl.constexpr,
    H: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    d = tl.program_id(1)
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.program_id(2) * BLOCK_H + tl.arange(0, BLOCK_H)
    exists = b < B
    before_ptrs = (h_before_ptr, c_before_ptr)
    after_ptrs = (h_after_ptr, c_after_ptr)
    state_ptrs = (h_ptr, c_ptr)

    t = time_of(step, T, d == 1)
    active = t < row_lengths(lengths_ptr, b, T, B)
    rows = rows_at(t, b, B, offsets_ptr)
    mine = tl.cast(d, tl.int64) * N + rows
    sequences = tl.cast(d, tl.int64) * B + b
    x = load_slots(x_ptr, mine, active, SLOTS - GATES, GATES, SLOTS, units, H)
    has_product = active
    has_before = exists
    if fresh_ptr is not None:
        fresh = load_fresh(fresh_ptr, t, T, b, B, active)
        has_product &= fresh == 0
        has_before &= fresh == 0
    product = load_slots(product_ptr, sequences, has_product, 0, GATES, GATES, units, H)
    h_gates = ()
    for g in tl.static_range(GATES):
        h_gates += (product[g] + load_bias(b_ptr, d * GATES + g, units, H),)
    before = load_state(before_ptrs, units, sequences, has_before, STATES, H)
    after, saved = FORWARD(x, h_gates, before)
    for s in tl.static_range(SAVED):
        store_tile(saved_ptr, saved[s], units, mine * SLOTS + s, active, H)
    for s in tl.static_range(STATES):
        out = rows * tl.num_programs(1) + d
        store_tile(state_ptrs[s], after[s], units, out, active, H)
    if lengths_ptr is not None:
        after = where_active(active, after, before, STATES)
    for s in tl.static_range(STATES):
        store_tile(after_ptrs[s], after[s], units, sequences, exists, H)
    store_tile(operand_ptr, after[0], units, sequences, exists, H)


@triton.jit(do_not_specialize=["step", "T", "B", "N"])
def backward_kernel(
    saved_ptr,  # [D, N, SLOTS, H], or None if nothing is saved
    dgates_ptr,  # the same
    product_ptr,  # [D, B, H], the gradient of h through the step after, or None
    operand_ptr,  # [D, B, GATES, H], the recurrent side's gradients for the next product
    h_0_ptr,  # [D, B, H], or None
    c_0_ptr,
    h_ptr,  # [N, D, H], the states after every step
    c_ptr,
    dh_ptr,  # [N, D, H], of the states after every step by themselves, or None
    dc_ptr,
    dh_after_ptr,  # [D, B, H], the gradient that comes past the product, or None
    dc_after_ptr,
    dh_before_ptr,  # [D, B, H], may be the same as after
    dc_before_ptr,
    lengths_ptr,  # [B], or None
    offsets_ptr,  # [T], or None
    fresh_ptr,  # [D, T, B], or None
    step,
    T,
    B,
    N,
    BACKWARD: tl.constexpr,
    GATES: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    STATES: tl.constexpr,
    H: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    d = tl.program_id(1)
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.program_id(2) * BLOCK_H + tl.arange(0, BLOCK_H)
    exists = b < B
    initial_ptrs = (h_0_ptr, c_0_ptr)
    state_ptrs = (h_ptr, c_ptr)
    dstate_ptrs = (dh_ptr, dc_ptr)
    dafter_ptrs = (dh_after_ptr, dc_after_ptr)
    dbefore_ptrs = (dh_before_ptr, dc_before_ptr)

    t = time_of(step, T, d == 0)
    lengths = row_lengths(lengths_ptr, b, T, B)
    active = t < lengths
    rows = rows_at(t, b, B, offsets_ptr)
    mine = tl.cast(d, tl.int64) * N + rows
    out = rows * tl.num_programs(1) + d
    sequences = tl.cast(d, tl.int64) * B + b
    saved = load_slots(saved_ptr, mine, active, 0, SAVED, SLOTS, units, H)
    after = load_state(state_ptrs, units, out, active, STATES, H)
    has_before = active
    if fresh_ptr is not None:
        fresh = load_fresh(fresh_ptr, t, T, b, B, active)
        has_before &= fresh == 0
    before = load_before(
        state_ptrs, initial_ptrs, t, T, b, B, lengths, has_before, offsets_ptr, units, STATES, H
    )
    dstate = load_state(dafter_ptrs, units, sequences, exists, STATES, H)
    dpast = (dstate[0] + load_tile(product_ptr, units, sequences, exists, H),)
    for s in tl.static_range(1, STATES):
        dpast += (dstate[s],)
    own = load_gradients(dstate_ptrs, units, out, active, STATES, H)
    dafter = add_gradients(dpast, own, dstate_ptrs, STATES)
    if lengths_ptr is not None:
        dafter = where_active(active, dafter, (0.0,) * STATES, STATES)
    dx_gates, dh_gates, dbefore = BACKWARD(dafter, saved, before, after)
    store_gate_gradients(dgates_ptr, dx_gates, dh_gates, units, mine, active, GATES, SLOTS, H)
    if fresh_ptr is not None:
        # What goes to the state before goes by way of the product, too.
        dh_gates = unless_fresh(fresh, dh_gates, GATES)
        dbefore = unless_fresh(fresh, dbefore, STATES)
    for g in tl.static_range(GATES):
        store_tile(operand_ptr, dh_gates[g], units, sequences * GATES + g, exists, H)
    for s in tl.static_range(STATES):
        part = dbefore[s] + tl.zeros([BLOCK_H, BLOCK_B], tl.float32)
        if lengths_ptr is not None:
            part = tl.where(active[None, :], part, dpast[s])
        store_tile(dbefore_ptrs[s], part, units, sequences, exists, H)


def _launch(kernel, B, D, H, *arguments, **constants):
    # A warp's lanes lie along the hidden units, which are next to each other in memory. Four
    # numbers a thread and gate.
    block_h = min(128, max(32, triton.next_power_of_2(H)))
    block_b = 512 // block_h
    grid = (triton.cdiv(B, block_b), D, triton.cdiv(H, block_h))
    kernel[grid](
        *arguments, **constants, H=H, BLOCK_B=block_b, BLOCK_H=block_h, num_warps=4, **OPTIONS
    )


def forward(cell, step, x, saved, product, b, before, after, operand, states, rows):
    """One step of both directions: the first at time `step`, the second as far from the end.

    x (D, N, slots, H) holds the input side of the gates in its last slots; saved is None or like x,
    and may be x itself; product (D, B, G*H) or None for zeros; b (D, G*H) or None; before, after:
    for each state a tensor (D, B, H) or None, may be the same; operand: None or (D, B, H), h once
    more; states: for each state a tensor (N, D, H) or None. All contiguous.
    """
    _launch(
        forward_kernel, rows.B, x.shape[0], x.shape[-1],
        x, saved, product, b, *pair(before), *pair(after), operand, *pair(states),
        rows.lengths, rows.offsets, rows.fresh, step, rows.T, rows.B, rows.N,
        FORWARD=on_device(cell.forward), **constants(cell),
    )  # fmt: skip


def backward(
    cell, step, saved, dgates, product, operand, initial, states, dstates, dafter, dbefore, rows
):
    """The way back through a step, counted from the end of each direction's walk.

    dgates (D, N, slots, H) may be `saved` itself; product (D, B, H) or None: the gradient of h by
    way of the product in the step after; operand (D, B, G*H): the gradient of the product in this
    one; dstates: for each state a tensor (N, D, H) or None, of what it is after every step; dafter,
    dbefore: for each state a tensor (D, B, H) or None, what comes past the product, may be the
    same; the rest is `forward`'s.
    """
    _launch(
        backward_kernel, rows.B, dgates.shape[0], dgates.shape[-1],
        saved, dgates, product, operand, *pair(initial), *pair(states),
        *pair(dstates), *pair(dafter), *pair(dbefore),
        rows.lengths, rows.offsets, rows.fresh, step, rows.T, rows.B, rows.N,
        BACKWARD=on_device(cell.backward), **constants(cell),
    )  # fmt: skip
