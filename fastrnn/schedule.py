"""How a sequence is cut up for the loops over time.

Rows of all time steps lie one after another, as in the `data` of a PackedSequence: step t owns the
next `sizes[t]` rows, and these belong to the first `sizes[t]` sequences of the batch. A dense
(T, B, ...) tensor is the case in which all sizes are B.
"""

from itertools import accumulate, groupby
from typing import NamedTuple

import torch

# A chunk is long enough for efficient matrix products over its rows and short enough to stay in the
# second-level cache; at most 64 steps, so that no more than those run before vanishing gradients
# are flushed (see `bptt.py`).
CHUNK_ROWS = 512
CHUNK_STEPS = 64


class Chunk(NamedTuple):
    """Consecutive time steps: their sizes, and where their rows begin and end."""

    first_step: int
    start: int
    stop: int
    sizes: tuple[int, ...]

    def runs(self, backwards, alone=()):
        """(first, last + 1, size, rows) of each stretch of equal size, in the order of the walk.

        alone: the rows of each step that is to be a stretch of its own, by step; `rows` are these,
        or None.
        """
        key = [(size, self.first_step + k) for k, size in enumerate(self.sizes)]
        key = [(size, t if t in alone else None) for size, t in key]
        first = 0
        for (size, t), group in groupby(key[::-1] if backwards else key):
            last = first + len(list(group))
            yield first, last, size, None if t is None else alone[t]
            first = last


def chunks(sizes):
    """Cut the steps into chunks, in the order of time."""
    rows = [0, *accumulate(sizes)]
    steps = max(1, min(CHUNK_STEPS, CHUNK_ROWS // max(1, sizes[0])))
    return [
        Chunk(t, rows[t], rows[min(t + steps, len(sizes))], tuple(sizes[t : t + steps]))
        for t in range(0, len(sizes), steps)
    ]


def before(states, initial, sizes, chunk, reverse):
    """The state that each row of `chunk` came from.

    `states` (rows, H) holds the state after every step, `initial` (B, H) the one before the first
    step of each sequence; `reverse` says that time ran backwards.
    """
    first, last = chunk.first_step, chunk.first_step + len(chunk.sizes)
    if chunk.sizes[0] == chunk.sizes[-1]:
        return _shifted(states, initial, sizes, chunk, first, last, reverse)
    pieces = []
    end = chunk.start  # of the rows of step t - 1, or of step t if time runs backwards
    for t in range(first, last):
        if reverse:
            end += sizes[t]
            after = sizes[t + 1] if t + 1 < len(sizes) else 0
            pieces += [states[end : end + after], initial[after : sizes[t]]]
        else:
            begin = end - sizes[t - 1]
            pieces.append(states[begin : begin + sizes[t]] if t else initial[: sizes[0]])
            end += sizes[t]
    return torch.cat(pieces)


def _shifted(states, initial, sizes, chunk, first, last, reverse):
    """`before` for a chunk of one size: its own rows but for one step, and a step from beyond."""
    size = chunk.sizes[0]
    if reverse:
        after = sizes[last] if last < len(sizes) else 0
        if after == size:
            return states[chunk.start + size : chunk.stop + size]
        beyond = (states[chunk.stop : chunk.stop + after], initial[after:size])
        return torch.cat((states[chunk.start + size : chunk.stop], *beyond))
    if first > 0 and sizes[first - 1] == size:
        return states[chunk.start - size : chunk.stop - size]
    begin = chunk.start - sizes[first - 1]
    beyond = states[begin : begin + size] if first > 0 else initial[:size]
    return torch.cat((beyond, states[chunk.start : chunk.stop - size]))


def resize(carry, size, joining, leaving):
    """Fit the carried rows to the next step's size.

    Rows of sequences that are done go to `leaving`; rows of sequences that begin come from
    `joining`. Both are (B, H).
    """
    rows = carry.shape[0]
    if size < rows:
        leaving[size:rows] = carry[size:]
        return carry[:size]
    return torch.cat((carry, joining[rows:size]))


def steps_of(marked, sizes):
    """The steps with a marked row, and their rows: {step: slice}; marked: (rows,) or None."""
    if marked is None:
        return {}
    rows = [0, *accumulate(sizes)]
    return {
        t: slice(rows[t], rows[t + 1]) for t, marks in enumerate(marked.split(sizes)) if marks.any()
    }


def cleared(states, marked):
    """The states with zeros in marked rows."""
    return tuple(s.masked_fill(marked.unsqueeze(1), 0) for s in states)
