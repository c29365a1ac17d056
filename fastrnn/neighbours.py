"""The state that every row of a layer came from, and products with it, without waiting for a GPU.

Rows lie as `kernels/rows.py` says; `states` is (N, H), the state after each row's step, `initial`
(B, H) the one before a sequence's first step, or None for zeros; `reverse` says that time ran
backwards. Where `rows.fresh` says that an episode begins, the state before is zero.
"""

import torch


def before(rows, states, initial, reverse):
    """(N, H), the state before each row's step."""
    if initial is None:
        initial = states.new_zeros(rows.B, states.shape[1])
    if _ragged(rows, reverse):
        neighbours = _rows_before(rows, reverse, states.device)
        found = torch.cat((states, initial)).index_select(0, neighbours)
    else:
        B = rows.B
        found = torch.cat((states[B:], initial) if reverse else (initial, states[:-B]))
    if rows.fresh is not None:
        found.masked_fill_(rows.fresh[int(reverse)].view(-1, 1) != 0, 0)
    return found


def product_with_before(d, rows, states, initial, reverse):
    """dᵀ · before, for d (N, K): (K, H)."""
    copied = _ragged(rows, reverse) and not (rows.offsets is None and initial is None)
    if copied or rows.fresh is not None:
        return d.t() @ before(rows, states, initial, reverse)
    # The rows of neighbouring steps lie B apart. Where a sequence is padded, d is zero.
    B = rows.B
    later, first = (d[:-B], d[-B:]) if reverse else (d[B:], d[:B])
    product = later.t() @ (states[B:] if reverse else states[:-B])
    return product if initial is None else product.addmm_(first.t(), initial)


def _ragged(rows, reverse):
    """Whether sequences begin at different times, or steps have different numbers of rows."""
    return rows.offsets is not None or (rows.lengths is not None and reverse)


def _rows_before(rows, reverse, device):
    """For each row, that of the step before it; N + b if it is the first step of sequence b."""
    row = torch.arange(rows.N, device=device)
    if rows.offsets is None:
        t = row // rows.B
        b = row - t * rows.B
    else:
        t = torch.searchsorted(rows.offsets, row, right=True) - 1
        b = row - rows.offsets[t]
    if reverse:
        neighbour = (t + 1).clamp(max=rows.T - 1)
        exists = t + 1 < rows.lengths[b]
    else:
        neighbour = (t - 1).clamp(min=0)
        exists = t > 0
    start = neighbour * rows.B if rows.offsets is None else rows.offsets[neighbour]
    return torch.where(exists, start + b, rows.N + b)
