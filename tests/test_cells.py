"""The gate math, on torch tensors: every formula against torch.nn, every derivative against it."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn.functional import linear

from fastrnn.kernels.cell import CELLS, GRU, LSTM, RNN_RELU, RNN_TANH

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
every_std = pytest.mark.parametrize("std", [1, 2, 3])
NATIVE = {
    LSTM: nn.LSTMCell,
    GRU: nn.GRUCell,
    RNN_TANH: nn.RNNCell,
    RNN_RELU: lambda *args, **options: nn.RNNCell(*args, nonlinearity="relu", **options),
}


class Step(torch.autograd.Function):
    """A cell whose every derivative comes from its own `backward`."""

    @staticmethod
    def forward(ctx, cell, *tensors):
        x, h, before = tiles(cell, tensors)
        after, saved = cell.forward(x, h, before)
        ctx.cell = cell
        ctx.save_for_backward(*saved, *before, *after)
        return after

    @staticmethod
    def backward(ctx, *dafter):
        states = len(ctx.cell.states)
        kept = ctx.saved_tensors
        saved, before, after = kept[: -2 * states], kept[-2 * states : -states], kept[-states:]
        dx, dh, dbefore = ctx.cell.backward(dafter, saved, before, after)
        return None, *dx, *dh, *(d if isinstance(d, Tensor) else None for d in dbefore)


def tiles(cell, tensors):
    """The x, h and state of a cell, from a flat list."""
    gates = len(cell.gates)
    return tensors[:gates], tensors[gates : 2 * gates], tensors[2 * gates :]


def drawn(cell, std=1.0, shape=(3, 4), dtype=torch.float64):
    """Random tiles for a cell: x, h and the states, flat. A GRU's and an RNN's h lie in (-1, 1)."""
    count = 2 * len(cell.gates) + len(cell.states)
    made = [std * torch.randn(shape, dtype=dtype) for _ in range(count)]
    made[2 * len(cell.gates)].tanh_()
    return [tensor.requires_grad_() for tensor in made]


def constant(cell, value, state=0.0, dtype=torch.float64):
    """All gates' tiles of one value, and the states of another."""
    gates = 2 * len(cell.gates)
    values = [value] * gates + [state] * len(cell.states)
    return [torch.full((1, 1), float(v), dtype=dtype, requires_grad=True) for v in values]


def derivatives(function, cell, tensors, dafter):
    after = function(cell, *tensors)
    grads = torch.autograd.grad(after, tensors, dafter, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, grads, strict=True)]


def by_autograd(cell, *tensors):
    return cell.forward(*tiles(cell, tensors))[0]


def test_the_table_names_what_the_functions_take_and_give():
    assert {cell.name: (cell.gates, cell.states) for cell in CELLS.values()} == {
        "LSTM": ("ifgo", "hc"),
        "GRU": ("rzn", "h"),
        "RNN_TANH": ("h", "h"),
        "RNN_RELU": ("h", "h"),
    }
    for name, cell in CELLS.items():
        assert name == cell.name
        x, h, before = tiles(cell, drawn(cell))
        after, saved = cell.forward(x, h, before)
        dx, dh, dbefore = cell.backward(after, saved, before, after)
        assert len(after) == len(before) == len(dbefore) == len(cell.states)
        assert len(dx) == len(dh) == len(cell.gates)


@every_cell
@every_std
def test_gradcheck(cell, std):
    assert gradcheck(lambda *tensors: Step.apply(cell, *tensors), drawn(cell, std))


@every_cell
@every_std
def test_backward_is_autograd_of_forward(cell, std):
    tensors = drawn(cell, std, (40, 7))
    dafter = [std * torch.randn(40, 7, dtype=torch.float64) for _ in cell.states]
    ours, expected = (derivatives(f, cell, tensors, dafter) for f in (Step.apply, by_autograd))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@every_cell
def test_a_state_that_the_cell_does_not_read_has_no_direct_gradient(cell):
    """Of LSTM and RNN, h enters by the matrix product only, which is not the cell's."""
    x, h, before = tiles(cell, drawn(cell))
    after, saved = cell.forward(x, h, before)
    _, _, dbefore = cell.backward(after, saved, before, after)
    direct = [s for s, d in zip(cell.states, dbefore, strict=True) if isinstance(d, Tensor)]
    assert "".join(direct) == {"LSTM": "c", "GRU": "h"}.get(cell.name, "")


@every_cell
@every_std
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
def test_forward_is_that_of_torch(cell, std, bias):
    native = NATIVE[cell](5, 7, bias=bias, dtype=torch.float64)
    for parameter in native.parameters():
        nn.init.normal_(parameter, std=std)
    x = std * torch.randn(30, 5, dtype=torch.float64)
    state = tuple(torch.randn(30, 7, dtype=torch.float64) for _ in cell.states)
    expected = native(x, state if len(state) > 1 else state[0])
    gates = len(cell.gates)
    x_gates = linear(x, native.weight_ih, native.bias_ih).chunk(gates, 1)
    h_gates = linear(state[0], native.weight_hh, native.bias_hh).chunk(gates, 1)
    after, _ = cell.forward(x_gates, h_gates, state)
    expected = expected if isinstance(expected, tuple) else (expected,)
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)


def test_the_reset_gate_of_a_gru_acts_after_the_product_on_its_bias_too():
    """With all weights zero only biases are left: n = tanh(b_in + r·b_hn), r = σ(b_ir)."""
    native = nn.GRUCell(1, 1, dtype=torch.float64).requires_grad_(False)
    for parameter in native.parameters():
        parameter.zero_()
    native.bias_ih[0], native.bias_ih[1], native.bias_ih[2], native.bias_hh[2] = 0.3, -0.7, 0.2, 1.1
    r, z, b_in = native.bias_ih.view(3, 1, 1).unbind()
    _, none, b_hn = native.bias_hh.view(3, 1, 1).unbind()
    h = torch.full((1, 1), 0.5, dtype=torch.float64)

    def step(x, h_gates):
        return GRU.forward(x, h_gates, (h,))[0][0]

    got = step((r, z, b_in), (none, none, b_hn))
    torch.testing.assert_close(got, native(torch.zeros_like(h), h), rtol=1e-12, atol=0)
    n, z_open = torch.tanh(b_in + r.sigmoid() * b_hn), z.sigmoid()
    torch.testing.assert_close(got, (1 - z_open) * n + z_open * h, rtol=1e-12, atol=0)
    # So the sides are not exchangeable for n; for r and z they are.
    assert abs(step((r, z, b_hn), (none, none, b_in)) - got) > 0.01
    torch.testing.assert_close(step((none, none, b_in), (r, z, b_hn)), got, rtol=1e-12, atol=0)


@every_cell
@pytest.mark.parametrize("value", [-50.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_saturated(cell, value, dtype):
    tensors = constant(cell, value, state=0.5, dtype=dtype)
    after = by_autograd(cell, *tensors)
    values = {
        ("LSTM", 50.0): (torch.tensor(1.5).tanh().item(), 1.5),
        ("LSTM", -50.0): (0.0, 0.0),
        ("GRU", 50.0): (0.5,),
        ("GRU", -50.0): (-1.0,),
        ("RNN_TANH", 50.0): (1.0,),
        ("RNN_TANH", -50.0): (-1.0,),
        ("RNN_RELU", 50.0): (100.0,),
        ("RNN_RELU", -50.0): (0.0,),
    }
    expected = values[cell.name, value]
    assert [a.item() for a in after] == pytest.approx(expected, rel=1e-6, abs=1e-20)
    dafter = [torch.ones_like(a) for a in after]
    ours, exact = (derivatives(f, cell, tensors, dafter) for f in (Step.apply, by_autograd))
    assert all(d.isfinite() for d in ours)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-20)


@every_cell
def test_zeros(cell):
    """Of all-zero tiles come zero states, and the gradients of the middle of every gate."""
    tensors = constant(cell, 0.0)
    assert not any(after.any() for after in by_autograd(cell, *tensors))
    dafter = [torch.ones(1, 1, dtype=torch.float64) for _ in cell.states]
    got = [d.item() for d in derivatives(Step.apply, cell, tensors, dafter)]
    # With i = f = o = 1/2, g = c = 0: dc = 1 + 1/2. With r = z = 1/2, n = 0.
    expected = {
        "LSTM": [0, 0, 0.75, 0] * 2 + [0, 0.75],
        "GRU": [0, 0, 0.5] + [0, 0, 0.25] + [0.5],
        "RNN_TANH": [1, 1, 0],
        "RNN_RELU": [0, 0, 0],
    }
    assert got == expected[cell.name]


def test_relu_at_zero_and_beside_it():
    x = torch.tensor([[-1e-30, -0.0, 0.0, 1e-30]], requires_grad=True)
    zero = torch.zeros(1, 4, requires_grad=True)
    dx, dh, _ = derivatives(Step.apply, RNN_RELU, [x, zero, zero], [torch.ones(1, 4)])
    assert dx.tolist() == dh.tolist() == [[0, 0, 0, 1]]
    (native,) = torch.autograd.grad(x.relu().sum(), x)
    torch.testing.assert_close(dx, native)


@every_cell
def test_nan_passes_through_and_stays_where_it_is(cell):
    clean = [t.detach() for t in drawn(cell)]
    expected = by_autograd(cell, *clean)
    read = 2 * len(cell.gates)
    for k in range(len(clean)):
        dirty = [t.clone() for t in clean]
        dirty[k][1, 2] = torch.nan
        after = by_autograd(cell, *dirty)
        is_read = k < read or cell.states[k - read] in {"LSTM": "c", "GRU": "h"}.get(cell.name, "")
        assert after[0][1, 2].isnan() == is_read
        # The output gate has no part in c.
        others = [torch.isfinite(a) for a in after]
        assert all(finite.sum() >= 11 for finite in others)
        for a, e in zip(after, expected, strict=True):
            torch.testing.assert_close(a[a.isfinite()], e[a.isfinite()])


@every_cell
def test_nan_gradients_pass_through_and_stay_where_they_are(cell):
    tensors = drawn(cell)
    for k in range(len(cell.states)):
        dafter = [torch.randn(3, 4, dtype=torch.float64) for _ in cell.states]
        dafter[k][1, 2] = torch.nan
        grads = derivatives(Step.apply, cell, tensors, dafter)
        assert any(d[1, 2].isnan() for d in grads)
        assert all(d.isfinite().sum() >= 11 for d in grads)
