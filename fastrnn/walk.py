"""One direction's way through time, as dense (T, B, ...) tensors in the order of the walk."""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Walk(NamedTuple):
    """Rows of T steps and B sequences, and how one direction walks through them.

    active: (T, B) in the order of the walk, which of the steps a sequence has, or None for all.
    fresh: (T, B) likewise, where the state before the step counts as zero, or None for nowhere.
    of_row, of_place: where not all steps have B rows, for each row its place among the T*B, and for
    each place its row, N for none.
    """

    T: int
    B: int
    reverse: bool
    active: Tensor | None = None
    fresh: Tensor | None = None
    of_row: Tensor | None = None
    of_place: Tensor | None = None

    def dense(self, rows):
        """(N, ...) -> (T, B, ...), zero where there is no row."""
        if self.of_place is None:
            return self._turned(rows.unflatten(0, (self.T, self.B)))
        rows = torch.cat((rows, rows.new_zeros(1, *rows.shape[1:])))
        return rows.index_select(0, self.of_place).unflatten(0, (self.T, self.B))

    def rows(self, dense):
        """The way back."""
        if self.of_row is None:
            return self._turned(dense).flatten(0, 1)
        return dense.flatten(0, 1).index_select(0, self.of_row)

    def states(self, rows, initial=None):
        """(N, K) -> (T, B, K), the state after each step; where a sequence is not active, `initial`
        (B, K) or zero, whatever the rows hold there."""
        states = self.dense(rows)
        if self.active is None:
            return states
        return torch.where(self.active.unsqueeze(2), states, 0.0 if initial is None else initial)

    def before(self, rows, initial):
        """The state before each step, from the rows (N, K) after it; initial: (B, K) or None."""
        states = self.states(rows, initial)
        if initial is None:
            initial = states.new_zeros(states.shape[1:])
        before = torch.cat((initial.unsqueeze(0), states[:-1]))
        return before if self.fresh is None else before.masked_fill(self.fresh.unsqueeze(2), 0)

    def _turned(self, dense):
        return dense.flip(0) if self.reverse else dense


def walk_of(sizes, reverse, lengths, fresh, device):
    """The Walk of one direction.

    sizes: the rows of every step, in the order of time. lengths: None, or (B,) integers where all
    sizes are B: sequence b has the steps t < lengths[b]. fresh: (N,) of rows, or None.
    """
    T, B = len(sizes), max(sizes)
    if min(sizes) == B:
        return padded_walk(T, B, reverse, lengths, fresh)
    starts = [0, *accumulate(sizes)]
    steps = torch.arange(T).unsqueeze(1)
    counts, starts, N = torch.tensor(sizes).unsqueeze(1), torch.tensor(starts[:-1]), starts[-1]
    if reverse:
        steps, counts, starts = steps.flip(0), counts.flip(0), starts.flip(0)
    b = torch.arange(B)
    active = b < counts
    of_place = torch.where(active, starts.unsqueeze(1) + b, N).flatten()
    of_row = torch.empty(N, dtype=torch.int64)
    of_row[of_place[active.flatten()]] = torch.arange(T * B)[active.flatten()]
    active, of_row, of_place = (t.to(device) for t in (active, of_row, of_place))
    walk = Walk(T, B, reverse, active, None, of_row, of_place)
    return walk if fresh is None else walk._replace(fresh=walk.dense(fresh))


def padded_walk(T, B, reverse, lengths, fresh):
    """The same where every step has B rows."""
    walk, active = Walk(T, B, reverse), None
    if lengths is not None:
        active = walk._turned(torch.arange(T, device=lengths.device).unsqueeze(1) < lengths)
    return walk._replace(active=active, fresh=None if fresh is None else walk.dense(fresh))
