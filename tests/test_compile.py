"""torch.compile and torch.jit.trace see torch.nn's own operators; torch.jit.script is refused."""

import pytest
import torch

import fastrnn

SEQUENCES = [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN]
CELLS = [fastrnn.LSTMCell, fastrnn.GRUCell, fastrnn.RNNCell]


def first(result):
    return first(result[0]) if isinstance(result, tuple) else result


@pytest.mark.parametrize("kind", SEQUENCES + CELLS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiles_to_one_graph(kind):
    module = kind(3, 4)
    x = torch.randn(20, 3) if kind in CELLS else torch.randn(20, 2, 3)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(first(compiled(x)), first(module(x)))


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traces(kind):
    module, x = kind(3, 4), torch.randn(20, 2, 3)
    traced = torch.jit.trace(module, (x,), check_trace=False)
    torch.testing.assert_close(first(traced(x)), first(module(x)))


class Model(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("kind", SEQUENCES + CELLS)
def test_scripts_when_restored(kind):
    model, x = Model(kind(3, 4)), torch.randn(20, 3) if kind in CELLS else torch.randn(20, 2, 3)
    expected = first(model(x))
    with pytest.raises(
        RuntimeError, match=rf"{kind.__name__}: call fastrnn.restore\(model\) first"
    ):
        torch.jit.script(model)
    assert type(model.module) is kind
    scripted = torch.jit.script(fastrnn.restore(model, report=None))
    torch.testing.assert_close(first(scripted(x)), expected)


def test_one_hot_input_is_checked_while_compiling():
    compiled = torch.compile(fastrnn.GRU(3, 4), backend="eager")
    with pytest.raises(TypeError, match="integer indices"):
        compiled(torch.rand(20, 2), one_hot=True)
