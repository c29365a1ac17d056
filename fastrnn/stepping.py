"""The engine `step`: for each step a matrix product and a launch, for layers of any size."""

import torch

from .kernels import step


def forward(cell, rows, gates, saved, w, b, initial, states, final):
    """As `kernels/resident.py`'s, without a plan."""
    exact = rows.T == 1 or w.dtype is torch.float32
    # The state is carried in float32; a product takes it in the dtype of the weights.
    carry = final if exact else [torch.empty_like(f, dtype=torch.float32) for f in final]
    operand = None if exact else torch.empty_like(final[0])
    transposed = w.transpose(1, 2)
    product = w.new_empty(w.shape[0], rows.B, w.shape[1])
    before, h = initial, initial[0]
    for k in range(rows.T):
        if h is not None:
            _multiply(h, transposed, product)
        filled = None if h is None else product
        step.forward(cell, k, gates, saved, filled, b, before, carry, operand, states, rows)
        before, h = carry, carry[0] if exact else operand
    if not exact:
        for whole, part in zip(final, carry, strict=True):
            whole.copy_(part)


def backward(cell, rows, saved, dgates, w, initial, states, dstates, dfinal, dinitial):
    """As `kernels/resident.py`'s, without a plan."""
    D, H = w.shape[0], w.shape[2]
    dcarry = [w.new_empty(D, rows.B, H, dtype=torch.float32) for _ in cell.states]
    operand = w.new_empty(D, rows.B, w.shape[1])
    product = w.new_empty(D, rows.B, H)
    dafter = dfinal
    for k in range(rows.T):
        filled = None if k == 0 else product
        step.backward(
            cell, k, saved, dgates, filled, operand, initial, states, dstates, dafter, dcarry, rows
        )
        dafter = dcarry
        if k < rows.T - 1 or dinitial[0] is not None:
            _multiply(operand, w, product)
    if dinitial[0] is not None:
        torch.add(dcarry[0], product, out=dcarry[0])
    for whole, part in zip(dinitial, dcarry, strict=True):
        if whole is not None:
            whole.copy_(part)


def _multiply(a, b, out):
    if a.shape[0] == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)
