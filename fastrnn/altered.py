"""Modules that a program has altered after they were made: these are left to torch.nn.

torch.nn's forward calls helper methods, which a program may replace by its own, and it goes by the
attributes, whatever the weights are. fastrnn's engines know neither.
"""

import torch
from torch import nn

# torch.nn's own classes, whatever `patch` puts in their place later.
BY_MODE = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}

HELPERS = (
    "_init_flat_weights",
    "_update_flat_weights",
    "_weights_have_changed",
    "check_forward_args",
    "check_hidden_size",
    "check_input",
    "get_expected_cell_size",
    "get_expected_hidden_size",
    "permute_hidden",
)


def own_helper(kind, base):
    """The name of a helper that the class `kind`, derived from `base`, has of its own, or None."""
    own = (name for name in HELPERS if getattr(kind, name, None) is not getattr(base, name, None))
    return next(own, None)


def altered(module, native, own):
    """Why (str) torch.nn's forward of the module may do what the engines do not, or None.

    native: the class of torch.nn that has that forward. own: `own_helper` of the module's class.
    """
    if torch.compiler.is_compiling():  # which reads no dict's keys
        own = own or next((name for name in HELPERS if name in module.__dict__), None)
    elif own is None and not module.__dict__.keys().isdisjoint(HELPERS):
        own = next(name for name in HELPERS if name in module.__dict__)
    if own is not None:
        return f"the module has a {own} of its own"
    if BY_MODE.get(module.mode) is not native or type(module.num_layers) is not int:
        return f"its mode is {module.mode!r}, its num_layers are {module.num_layers!r}"
    return None


def misfit(module, weights, I, H, R):
    """Why (str) weights of these sizes are not what the attributes say, or None."""
    if I != module.input_size or H != module.hidden_size or R != (module.proj_size or H):
        return "the weights are not those of input_size, hidden_size and proj_size"
    D = 2 if module.bidirectional else 1
    per = (4 if module.bias else 2) + (1 if module.proj_size else 0)
    if len(weights) != module.num_layers * D * per:
        return f"{len(weights)} weights are not those of num_layers, bidirectional and bias"
    return None
