"""Tensors and weights as error messages name them."""

from torch import Tensor
from torch.nn import Parameter

# The classes of plain tensors: a subclass of theirs may do anything at a call.
PLAIN = (Tensor, Parameter)
# The weights of a layer in one direction, by their number; those with an odd one are an LSTM's.
NAMES = {
    2: ("weight_ih", "weight_hh"),
    3: ("weight_ih", "weight_hh", "weight_hr"),
    4: ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
    5: ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"),
}


def numbers_of_weights(cell):
    """How many weights a layer of the cell may have in one direction."""
    return tuple(NAMES) if cell.name == "LSTM" else (2, 4)


def weight_name(k, per, directions):
    """The k-th weight of a flat list: its place, and torch.nn's name for it."""
    place, kind = divmod(k, per)
    layer, second = divmod(place, directions)
    return f"weights[{k}], {NAMES[per][kind]}_l{layer}{'_reverse' * second},"


def wrong_number(cell, weights, layers, directions):
    """The message for a flat list of weights that is too short or too long."""
    wanted = " or ".join(
        f"{per * layers * directions} ({', '.join(NAMES[per])})" for per in numbers_of_weights(cell)
    )
    return (
        f"got {len(weights)} weights; num_layers={layers} and bidirectional={directions > 1} of "
        f"{cell.name} take {wanted}"
    )


def described(value):
    """What a tensor, or what is none, is."""
    if not isinstance(value, Tensor):
        return "None" if value is None else f"a {type(value).__name__}"
    kind = "" if type(value) in PLAIN else f"a {type(value).__name__} "
    return f"{kind}{tuple(value.shape)} {value.dtype} on {value.device}"
