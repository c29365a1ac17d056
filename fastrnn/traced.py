"""The forward of LSTM, GRU and RNN while torch records it: checks that look at no value, and forms.

What carries the layers out is handed in: `stack`(x, states, lengths, resets) -> Results, with x
(T, B, ...), states a tuple of (L*D, B, ...) or None, lengths (B,) and resets (T, B) or None.
"""

from torch import Tensor

from .functional import integers
from .kernels.cell import CELLS
from .lengths import check_form
from .resets import check_resets


def sequences(module, weights, input, hx, options, lengths, resets, stack):
    """With a module's arguments and results, and the errors of torch.nn.

    weights: the module's, for this call.
    """
    if options.one_hot:
        integers(input)
    dims, name = input.dim() + options.one_hot, module.native.__name__
    if dims not in (2, 3):
        raise ValueError(f"{name}: Expected input to be 2D or 3D, got {dims}D instead")
    states = None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    single = dims == 2
    like = input.unsqueeze(0 if options.batch_first else 1) if single else input
    if options.one_hot:
        like = weights[0].new_empty(()).expand(*like.shape, module.input_size)
    module.check_input(like, None)
    if states is not None:
        if module.mode == "LSTM" and len(states) != 2:
            raise RuntimeError("lstm expects two hidden states")
        given = tuple(s.unsqueeze(1) for s in states) if single else states
        module.check_forward_args(like, given if len(given) > 1 else given[0], None)
    return laid_out(CELLS[module.mode], input, states, options, lengths, resets, stack)


def laid_out(cell, input, states, options, lengths, resets, stack):
    """`stack` of an input in any of the forms that a caller may give it."""
    options.check(cell)
    if lengths is not None:
        check_form(lengths, input, options)
    if resets is not None:
        check_resets(resets, input, options)
    single = input.dim() + options.one_hot == 2
    if single:
        input, resets = (None if t is None else t.unsqueeze(1) for t in (input, resets))
        states = None if states is None else tuple(s.unsqueeze(1) for s in states)
    elif options.batch_first:
        input, resets = (None if t is None else t.transpose(0, 1) for t in (input, resets))
    results = stack(input, states, lengths, resets)
    if single:
        final = tuple(s.squeeze(1) for s in results.final)
        return results._replace(final=final).given(lambda steps: steps.squeeze(1))
    if options.batch_first:
        return results.given(lambda steps: steps.transpose(0, 1))
    return results.given(lambda steps: steps)
