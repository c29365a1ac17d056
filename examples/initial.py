"""Where a recurrent layer begins, which decides how far back it can learn; for either library.

Each changes a layer's weights in place and gives the layer back.
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def recurrent(rnn: nn.RNNBase, w_hh: Tensor) -> nn.RNNBase:
    """Put (H, H) in the place of an RNN's W_hh; without biases, it is all that acts over time."""
    rnn.weight_hh_l0.copy_(w_hh)
    rnn.bias_ih_l0.zero_()
    rnn.bias_hh_l0.zero_()
    return rnn


def orthogonal(rnn: nn.RNNBase, gain: float = 1.0) -> nn.RNNBase:
    """W_hh turns the state and makes it `gain` times as long."""
    return recurrent(rnn, nn.init.orthogonal_(torch.empty_like(rnn.weight_hh_l0), gain))


@torch.no_grad()
def forget_bias(lstm: nn.RNNBase, bias: float | Tensor) -> nn.RNNBase:
    """f = σ(W x + U h + bias) of an LSTM: the larger the bias, the more of c is kept each step."""
    H = lstm.hidden_size
    lstm.bias_ih_l0[H : 2 * H] = bias  # gates are in the order i f g o
    lstm.bias_hh_l0[H : 2 * H] = 0
    return lstm


@torch.no_grad()
def chrono(rnn: nn.RNNBase, T: int) -> nn.RNNBase:
    """Unit by unit a memory of 2 to T steps (Tallec & Ollivier 2018, arXiv:1804.11188).

    A gate of σ(b) forgets with a half-life of about exp(b) steps:  b ~ log(uniform(1, T - 1)).
    """
    H = rnn.hidden_size
    bias = (1 + torch.rand(H, device=rnn.bias_ih_l0.device) * (T - 2)).log()
    rnn.bias_ih_l0.zero_()
    rnn.bias_hh_l0.zero_()
    if rnn.mode == "GRU":
        rnn.bias_ih_l0[H : 2 * H] = bias  # r z n: what z is near 1 for is kept
        return rnn
    rnn.bias_ih_l0[:H] = -bias  # what is kept long is written to rarely
    return forget_bias(rnn, bias)
