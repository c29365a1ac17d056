"""LSTM, GRU and RNN: torch.nn's modules with another forward.

They derive from torch.nn.RNNBase, not from torch.nn.LSTM, GRU and RNN, since torch.compile gives up
on any subclass of those. Parameters, initialisation, state_dict, attributes and helpers are
RNNBase's; whatever else torch.nn's classes define is borrowed from them.
"""

import inspect
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from . import flat_weights, foreign, torchscript
from .altered import altered, misfit, own_helper
from .at_once import at_once
from .call import TORCH_NN
from .describe import asked_of, describe, missing, mixed, weights_problem
from .dispatch import choose, forced_engine, require_torch_nn
from .functional import Options, integers, prepared, run
from .kernels.cell import CELLS
from .leaf import Leaf
from .lengths import by_packing, check, without_padding
from .results import squeezed
from .single_step import check_step


class _Recurrent(nn.RNNBase):
    """What the three modules share. `native` is the class of torch.nn that each replaces."""

    native: ClassVar[type[nn.RNNBase]]
    __prepare_scriptable__ = torchscript.refuse
    _is_fastrnn = True
    _own_helper = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not getattr(cls, "_is_fastrnn", False):
            return  # It derives from torch.nn's class, while `patch` is in force.
        base = next((kind for kind in cls.__mro__[1:] if "native" in vars(kind)), None)
        cls._own_helper = base and own_helper(cls, base)

    def forward(
        self,
        input,
        hx=None,
        *,
        lengths=None,
        resets=None,
        one_hot=False,
        return_cell_states=False,
        return_gates=False,
    ):
        if not foreign.is_ours(self):
            asked = {"lengths": lengths, "resets": resets, "one_hot": one_hot}
            asked |= {"return_cell_states": return_cell_states, "return_gates": return_gates}
            return foreign.forward(self, input, hx, **asked)
        if torch.jit.is_tracing():
            options = self._options(one_hot, return_cell_states, return_gates)
            return self._as_torch(input, hx, options, lengths, resets)
        if torch.compiler.is_compiling():
            from . import compiled  # brings in much of torch that is of no use elsewhere

            options = self._options(one_hot, return_cell_states, return_gates)
            return compiled.sequences(self, input, hx, options, lengths, resets)
        weights, reason = None, self._altered()
        if reason is None:
            weights = flat_weights.current(self)
            if lengths is resets is None and not (one_hot or return_cell_states or return_gates):
                results = at_once(self, weights, input, hx)
                if results is not None:
                    return results
        options = self._options(one_hot, return_cell_states, return_gates)
        planned = reason or self._planned(weights, input, hx, options, lengths, resets)
        if type(planned) is str:
            return self._left_to_torch(planned, input, hx, options, lengths, resets, weights)
        call, choice, input = planned
        return run(call, choice, input, hx, weights, options, lengths, resets)

    def step(self, input, hx=None, *, resets=None, one_hot=False):
        """One step of a stream: (output, hx) from this moment's input and the state before it.

        input: (B, I), or (I,) for a single sequence; with `one_hot` indices, without I. hx: the
            state that the last step, or a whole sequence, returned; None to begin. resets: (B,)
            bool, or () for a single sequence: True where the state before is to count as zero.

        Returns output (B, H), or (H,), and the state after. The kernels are those that run whole
        sequences. What is added up in another order is the input's product with W_ih, for which
        torch may choose another routine for B rows than for T*B: outputs agree to that rounding.
        In 16 bits the state that is handed over is rounded at every step, while a whole sequence
        carries it in float32: outputs differ by about a unit in the last place.

        Raises:
            ValueError: the module is bidirectional, so has to see a sequence's end first; else as
                the module itself does.
        """
        check_step(self, input, hx, resets, one_hot)
        dim = 1 if self.batch_first and input.dim() == (1 if one_hot else 2) else 0
        if torch.is_tensor(resets):
            resets = resets.unsqueeze(dim)
        output, hx = self(input.unsqueeze(dim), hx, resets=resets, one_hot=one_hot)
        return squeezed(output, dim), hx

    def _options(self, one_hot, return_cell_states=False, return_gates=False):
        return Options(
            self.num_layers,
            self.dropout,
            self.training,
            bool(self.bidirectional),
            self.batch_first,
            one_hot,
            return_cell_states,
            return_gates,
        )

    def _altered(self):
        """Why (str) the call is left to torch.nn whatever its arguments are, or None."""
        return altered(self, self.native, self._own_helper)

    def _planned(self, weights, input, hx, options, lengths, resets):
        """(call, choice, input), or why (str) the call is left to torch.nn."""
        cell = CELLS[self.mode]
        options.check(cell)
        input = prepared(input, weights, options, lengths, resets)
        call = describe(cell, input, hx, weights, options, lengths, resets)
        if type(call) is str:
            return call
        problem = misfit(self, weights, call.I, call.H, call.proj_size or call.H)
        if problem:
            return problem
        choice = choose(call)
        if choice.plan == "aten" and call.autocast and mixed(input, hx, weights):
            return choice.reason
        if choice.plan != "aten":
            step = choice.plan == "cell"
            problem = missing(weights) if step else weights_problem(call, weights)
            if problem:
                return problem
        return call, choice, input

    def _left_to_torch(self, reason, input, hx, options, lengths, resets, weights):
        if forced_engine() in TORCH_NN:
            return self._as_torch(input, hx, options, lengths, resets, weights)
        with torch.random.fork_rng(devices=[]):
            # For torch.nn's own error, if it has one.
            self._as_torch(input, hx, options, lengths, resets, weights)
        require_torch_nn(reason)

    def _weights_have_changed(self):
        if not torch.compiler.is_compiling() and flat_weights.just_read(self):
            return False
        return super()._weights_have_changed()

    def _as_torch(self, input, hx, options, lengths, resets, weights=None):
        """The forward of torch.nn's class: for the calls it alone serves, and for its errors.

        weights: those that this call has read already, or None.
        """
        if lengths is not None:
            check(lengths, input, options)
            if 0 not in input.shape[:2]:
                input = without_padding(input, lengths, options)
                rest = options, None, resets, weights
                return by_packing(
                    lambda packed, hx, _: self._as_torch(packed, hx, *rest),
                    input, hx, lengths, options,
                )  # fmt: skip
        if options.one_hot:
            data = integers(input)
            dense = nn.functional.one_hot(data.long(), self.input_size)
            first = weights[0] if weights else getattr(self, self._flat_weights_names[0])
            dense = dense.to(first.dtype)
            input = input._replace(data=dense) if isinstance(input, PackedSequence) else dense
        if weights is None:
            results = self.native.forward(self, input, hx)
        else:
            results = flat_weights.by_torch(self, weights, input, hx)
        if asked := asked_of(options, resets):
            raise ValueError(
                f"{' and '.join(asked)}: torch.nn, which alone takes such an input, has none"
            )
        return results


class LSTM(_Recurrent):
    """Drop-in replacement of torch.nn.LSTM.

    i, f, o = σ(W_i x + b_i + W_h h + b_h), g = tanh(likewise); c' = f·c + i·g; h' = o·tanh(c').

    Constructor, parameters, state_dict, inputs, outputs and errors are torch.nn.LSTM's. `forward`
    takes more arguments, by keyword only:

        lengths: (B,) integers in [0, T] on the input's device, for padded sequences of different
            lengths, in any order: what lies beyond is not read, the output there is zero, and the
            final states are those after each sequence's last step. TypeError if it is not a tensor
            of integers, ValueError if shape or values do not fit, RuntimeError if it is on another
            device. On a GPU, values out of range are found by a device-side assertion.
        resets: bools of the shape (T, B), or (B, T), or (T,), as the input: where True an episode
            begins, so the state before that step is zero and no gradient passes. A second direction
            starts from zero at the step before. TypeError if it is not a tensor of bool, ValueError
            if the shape does not fit, RuntimeError if it is on another device.
        return_cell_states: after output and (h_n, c_n) the last layer's every c_t comes too,
            (T, B, D*H), laid out as the output. ValueError if the module is no LSTM.
        return_gates: then also the last layer's gates, a dict of "i", "f", "g" and "o" (of a GRU
            "r", "z" and "n"), each as the cell states. ValueError if the module is an RNN.
        one_hot: `input` holds integer indices in [0, input_size) in place of one-hot vectors, so
            its last dimension is dropped, as (T, B). The product with W_ih becomes a look-up.
            TypeError if `input` is not of integers, IndexError if an index is out of range (on a
            GPU a device-side assertion).
    """

    __module__ = Leaf(__name__)
    native = nn.LSTM
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args
    permute_hidden = nn.LSTM.permute_hidden

    def __init__(self, *args, **kwargs):
        if not foreign.is_ours(self):
            return LSTM.native.__init__(self, *args, **kwargs)
        super().__init__("LSTM", *args, **kwargs)


class GRU(_Recurrent):
    """Drop-in replacement of torch.nn.GRU.

    r, z = σ(W_i x + b_i + W_h h + b_h); n = tanh(W_in x + b_in + r·(W_hn h + b_hn));
    h' = (1 - z)·n + z·h. `forward` also takes `lengths`, `resets`, `return_gates` and `one_hot`, as
    LSTM's does.
    """

    __module__ = Leaf(__name__)
    native = nn.GRU

    def __init__(self, *args, **kwargs):
        if not foreign.is_ours(self):
            return GRU.native.__init__(self, *args, **kwargs)
        _refuse_projection(args, kwargs)
        super().__init__("GRU", *args, **kwargs)


class RNN(_Recurrent):
    """Drop-in replacement of torch.nn.RNN.

    h' = φ(W_i x + b_i + W_h h + b_h), φ = tanh or relu by `nonlinearity`. `forward` also takes
    `lengths`, `resets` and `one_hot`, as LSTM's does.
    """

    __module__ = Leaf(__name__)
    native = nn.RNN

    def __init__(self, *args, **kwargs):
        if not foreign.is_ours(self):
            return RNN.native.__init__(self, *args, **kwargs)
        nonlinearity = args[3] if len(args) > 3 else kwargs.pop("nonlinearity", "tanh")
        args = args[:3] + args[4:]
        _refuse_projection(args, kwargs)
        self.nonlinearity = nonlinearity
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{self.nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(f"RNN_{self.nonlinearity.upper()}", *args, **kwargs)


def _refuse_projection(args, kwargs):
    # RNNBase takes proj_size as its eighth argument after `mode`; torch.nn.GRU and RNN overlook it
    # there, and build a module whose forward pass makes no sense.
    if "proj_size" in kwargs or (len(args) > 7 and args[7] != 0):
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


def _signature(**parameters):
    """The constructor's arguments as torch.nn documents them.

    At run time they are (*args, **kwargs), so that RNNBase raises its own errors about them.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = {"self": inspect.Parameter.empty, **parameters}
    return inspect.Signature(
        [inspect.Parameter(name, kind, default=value) for name, value in parameters.items()]
    )


_REQUIRED = inspect.Parameter.empty
_SIZES = {"input_size": _REQUIRED, "hidden_size": _REQUIRED, "num_layers": 1}
_LAYOUT = {"bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
_PLACE = {"device": None, "dtype": None}
LSTM.__init__.__signature__ = _signature(**_SIZES, **_LAYOUT, proj_size=0, **_PLACE)
GRU.__init__.__signature__ = _signature(**_SIZES, **_LAYOUT, **_PLACE)
RNN.__init__.__signature__ = _signature(**_SIZES, nonlinearity="tanh", **_LAYOUT, **_PLACE)
