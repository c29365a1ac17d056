"""The parameters of one layer in one direction, by the names of torch.nn."""

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """G is the number of gates, R the size of h: the hidden size H, or LSTM's `proj_size`.

    w_ih (G*H, I), w_hh (G*H, R), b_ih and b_hh (G*H,) or None, w_hr (R, H) or None.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None

    @classmethod
    def of_layer(cls, flat, k, count):
        """Those of the k-th of `count` layers and directions, from a module's flat list."""
        per = len(flat) // count
        tensors = flat[k * per : k * per + per]
        if per % 2:  # a projection comes last, with or without biases before it
            *tensors, w_hr = tensors
            return cls(*tensors, w_hr=w_hr)
        return cls(*tensors)
