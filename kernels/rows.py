"""The rows of a batch of sequences, as every kernel takes them."""

from typing import NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """N rows of T steps and B sequences, those of a step next to each other, time upwards.

    lengths: None, or (B,) integers: sequence b has the steps t < lengths[b].
    offsets: None where every step has B rows, or (T,) int64: the first row of each step. Then the
        sequences go by falling length, and rows that are not active do not exist.
    fresh: None, or where there are no offsets (D, T, B) uint8, contiguous: not zero where the state
        of direction d before step t of sequence b counts as zero, as an episode begins there.
    """

    T: int
    B: int
    N: int
    lengths: Tensor | None = None
    offsets: Tensor | None = None
    fresh: Tensor | None = None
