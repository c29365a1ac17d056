"""Errors that are fastrnn's own: they name the argument as its caller gave it, and what was wanted.

Errors of calls that torch.nn has too are torch.nn's: tests/test_contract_errors.py.
"""

import re

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn import functional  # noqa: F401  for the calls below

T, B, I, H = 5, 3, 4, 6
X, IDS, STATE = torch.zeros(T, B, I), torch.zeros(T, B, dtype=torch.long), torch.zeros(1, B, H)
PACKED = pack_sequence([X[:, 0], X[:2, 1]])
MASK = torch.zeros(T, B, dtype=torch.bool)
LSTM, GRU, RNN = fastrnn.LSTM(I, H), fastrnn.GRU(I, H), fastrnn.RNN(I, H)
BATCH_FIRST = fastrnn.GRU(I, H, batch_first=True)
W, V = list(GRU.parameters()), list(LSTM.parameters())
DEEP = list(fastrnn.GRU(I, H, 2, bidirectional=True).parameters())


def with_weight(weights, k, w):
    return [*weights[:k], w, *weights[k + 1 :]]


INDICES = "one_hot=True takes indices, (T, B), (B, T) if batch_first, or (T,), got "
STEP, STEP_OF_INDICES = (
    "a step takes a tensor, (B, I) or (I,), ",
    "a step takes a tensor, (B,) or ()",
)
WRONG = {
    # Indices.
    "GRU(torch.zeros(5, 3, 4).long(), one_hot=True)": (ValueError, INDICES + "(5, 3, 4)"),
    "GRU(torch.tensor(1), one_hot=True)": (ValueError, INDICES + "()"),
    "LSTM(PACKED._replace(data=IDS), one_hot=True)": (ValueError, "data (N,), got (5, 3)"),
    "functional.gru(X.long(), None, W, one_hot=True)": (ValueError, INDICES + "(5, 3, 4)"),
    "functional.gru(IDS, None, [], one_hot=True)": (ValueError, "got 0 weights; num_layers=1"),
    "GRU(X, one_hot=True)": (
        TypeError,
        "one_hot=True takes a tensor of integer indices, got torch",
    ),
    "GRU(IDS + 4, one_hot=True)": (IndexError, "indices must lie in [0, 4), got 4 to 4"),
    # Single steps.
    "GRU.step(X)": (ValueError, STEP + "got (5, 3, 4)"),
    "BATCH_FIRST.step(X)": (ValueError, STEP + "got (5, 3, 4)"),
    "LSTM.step(X[0, 0, 0])": (ValueError, STEP + "got ()"),
    "LSTM.step([1.0])": (TypeError, STEP + "got a list"),
    "LSTM.step(PACKED)": (ValueError, STEP + "got a PackedSequence"),
    "GRU.step(IDS, one_hot=True)": (ValueError, STEP_OF_INDICES + ", got (5, 3)"),
    "GRU.step(X[0], STATE[0])": (ValueError, "a step is (L, B, H), for a batch, got (3, 6)"),
    "LSTM.step(X[0], (STATE[0], STATE))": (ValueError, "(L, B, H), for a batch, got (3, 6)"),
    "GRU.step(X[0, 0], STATE)": (ValueError, "(L, H), for a single sequence, got (1, 3, 6)"),
    "GRU.step(X[0], resets=MASK)": (ValueError, "a step must have the shape (3,), got (5, 3)"),
    "BATCH_FIRST.step(X[0], resets=MASK[0, 0])": (ValueError, "have the shape (3,), got ()"),
    "GRU.step(IDS[0], resets=MASK[0, :2], one_hot=True)": (ValueError, "shape (3,), got (2,)"),
    "GRU.step(X[0], resets=[True])": (TypeError, "resets must be a tensor of bool, got list"),
    # lengths and resets.
    "GRU(X[0], lengths=IDS[0])": (
        ValueError,
        "(T, B, I) or (B, T, I), got an input of (3, 4) torch",
    ),
    "GRU(IDS[0], lengths=IDS[0], one_hot=True)": (
        ValueError,
        "(T, B) or (B, T), got an input of (3,)",
    ),
    "GRU([1], lengths=IDS[0])": (ValueError, "got an input of a list"),
    "GRU(X, lengths=IDS[0, :2])": (ValueError, "shape (3,), one for each sequence, got (2,)"),
    "GRU(X, lengths=IDS[0] + 6)": (ValueError, "lengths must lie in [0, 5], got 6 to 6"),
    "GRU(X, lengths=[5, 5, 5])": (TypeError, "lengths must be a tensor of integers, got list"),
    "GRU(PACKED, lengths=IDS[0])": (ValueError, "a PackedSequence has its own"),
    "GRU([1], resets=MASK)": (TypeError, "resets come with a tensor as input, got a list"),
    "GRU(X, resets=MASK[0])": (ValueError, "shape (5, 3), one for each step, got (3,)"),
    "BATCH_FIRST(X, resets=MASK.t())": (ValueError, "shape (5, 3), one for each step, got (3, 5)"),
    "GRU(X, return_cell_states=True)": (ValueError, "only an LSTM has cell states"),
    "RNN(X, return_gates=True)": (ValueError, "only an LSTM or a GRU has gates"),
    # Options and weights of functions.
    "functional.gru(X, None, W, layers=2)": (TypeError, "gru() got an unexpected keyword argument"),
    "functional.lstm(X, None, V, 2)": (TypeError, "lstm() takes 3 positional arguments but 4"),
    "functional.gru(X, None, W[:3])": (
        ValueError,
        "got 3 weights; num_layers=1 and bidirectional=False of GRU take 2 (weight_ih, weight_hh) "
        "or 4 (weight_ih, weight_hh, bias_ih, bias_hh)",
    ),
    "functional.gru(X, None, W[:1])": (ValueError, "got 1 weights; num_layers=1"),
    "functional.gru(X, None, W, num_layers=2, bidirectional=True)": (
        ValueError,
        "got 4 weights; num_layers=2 and bidirectional=True of GRU take 8 (",
    ),
    "functional.lstm(X, None, W)": (
        ValueError,
        "weights[0], weight_ih_l0, is (18, 4) torch.float32 on cpu, where (16, 4)",
    ),
    "functional.gru(X, None, with_weight(W, 1, W[2]))": (
        ValueError,
        "must be plain matrices, got ",
    ),
    "functional.gru(X, None, with_weight(W, 2, None))": (
        ValueError,
        "weights[2], bias_ih_l0, is None, not a plain tensor",
    ),
    "functional.gru(X, None, with_weight(W, 3, W[2].double()))": (
        ValueError,
        "weights[3], bias_hh_l0, is (18,) torch.float64 on cpu, where (18,) torch.float32 on cpu",
    ),
    "functional.gru(X, None, with_weight(DEEP, 13, W[1][1:]), num_layers=2, bidirectional=True)": (
        ValueError,
        "weights[13], weight_hh_l1_reverse, is (17, 6) torch.float32 on cpu, where (18, 6)",
    ),
    "functional.gru(X, None, [w.long() for w in W])": (
        ValueError,
        "the weights are torch.int64, not",
    ),
    "functional.gru(X, None, W, dropout=2)": (ValueError, "dropout is 2, not a number in [0, 1]"),
    # Input and states of functions.
    "functional.gru(X[..., :3], None, W)": (ValueError, "dimension is 3, not input_size, 4"),
    "functional.gru(X[None], None, W)": (
        ValueError,
        "the input is (1, 5, 3, 4), not of two or three",
    ),
    "functional.gru(X.double(), None, W)": (
        ValueError,
        "input is torch.float64 and the weights are",
    ),
    "functional.gru([1], None, W)": (ValueError, "the input is a list, not a plain tensor"),
    "functional.gru(X[:0], None, W)": (ValueError, "the input is empty"),
    "functional.gru(PACKED._replace(data=X), None, W)": (
        ValueError,
        "data is (5, 3, 4), where (N, I)",
    ),
    "functional.gru(PACKED._replace(data=X[0]), None, W)": (
        ValueError,
        "numbers of sum 3, the packed",
    ),
    "functional.gru(X, STATE[0], W)": (
        ValueError,
        "hx is (3, 6) torch.float32 on cpu, where (1, 3, 6) torch.float32 on cpu is needed",
    ),
    "functional.gru(X, (STATE,), W)": (ValueError, "hx is a tuple, not a plain tensor"),
    "functional.lstm(X, STATE, V)": (ValueError, "where two tensors, (h_0, c_0), are needed"),
    "functional.lstm(X, [STATE], V)": (ValueError, "hx is 1 tensors, where two tensors"),
    "functional.lstm(X, (STATE, STATE.double()), V)": (
        ValueError,
        "hx[1] is (1, 3, 6) torch.float64 on cpu, where (1, 3, 6) torch.float32",
    ),
    "functional.rnn(X, None, W, nonlinearity='elu')": (ValueError, "Unknown nonlinearity 'elu'."),
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call(call):
    kind, words = WRONG[call]
    with pytest.raises(kind, match=re.escape(words)) as raised:
        eval(call)
    assert type(raised.value) is kind


# What is checked while a graph is made: not values, nor packed input.
IN_GRAPHS = [
    call
    for call, (kind, _) in WRONG.items()
    if "one_hot" in call and call.startswith("GRU") and kind is not IndexError
]


@pytest.mark.parametrize("call", IN_GRAPHS)
def test_the_same_in_a_graph(call):
    kind, words = WRONG[call]
    with pytest.raises(kind, match=re.escape(words)):
        torch.compile(eval(f"lambda: {call}"), backend="eager")()
