"""Autocast and scaled losses by each engine; of torch.nn's rules see test_contract_autocast.py."""

import itertools

import pytest
import torch
from torch import nn

import fastrnn
from tests.contract import (
    LSTM,
    each_class,
    exercise,
    normal,
    packed,
    state_for,
    tensors,
    twins,
)
from tests.problems import MOST, assert_near, by_engine, dtype_of, every_engine, move

# In Triton's interpreter numpy warns of what a GPU does in silence.
infinite = pytest.mark.filterwarnings("ignore:invalid value encountered in:RuntimeWarning")
pytestmark = pytest.mark.usefixtures("ieee", "quick", "lstm_under_autocast")
LOW = (torch.bfloat16, torch.float16)
CASTING = [engine for engine in MOST if engine not in ("torch.cell", "torch.bptt")]
OURS = [engine for engine in CASTING if engine not in ("auto", "torch.aten")]
T, B, I, H = 3, 4, 5, 6
FORMS = ("dense", "packed", "lengths", "more")


def module_of(kind, device):
    return twins(kind, I, H, num_layers=2, bidirectional=True)[1].to(device)


@pytest.mark.parametrize("engine", OURS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("low", LOW, ids=str)
@each_class
def test_a_step_under_autocast(kind, engine, form, low, device):
    """Close to the step in float32; results in the dtype asked for, gradients in the parameters'.
    With `more`, all that a call takes and gives beyond torch.nn's.
    """
    module, hx, marks = module_of(kind, device), None, {}
    x = normal(T, B, I, dtype=torch.float32).to(device)
    if form == "packed":
        x = packed([2, 3, 1, 3], I, dtype=torch.float32).to(device)
    if form in ("lengths", "more"):
        marks["lengths"] = torch.tensor([2, 3, 0, 3], device=device)
    if form == "more":
        hx = move(state_for(module, B), device)
        marks["resets"] = normal(T, B, seed=9).to(device) > 0.5
        marks["return_cell_states"] = kind is LSTM
    plain = by_engine(engine, **marks)

    def autocast(module, x, hx):
        with torch.autocast(device, dtype=low):
            results = plain(module, x, hx)
        assert {result.dtype for result in tensors(results)} == {low}
        return results

    expected = exercise(module, x, hx, plain)
    got = exercise(module, x, hx, autocast)
    assert all(d.dtype is torch.float32 for name, d in got.items() if name.startswith("d "))
    exact = [t.double().cpu() for t in expected.values()]
    rounded = [t.to(low) for t in got.values()]
    assert_near(rounded, exact, 16)


@pytest.mark.parametrize("engine", [e for e in MOST if e in ("torch.cell", "torch.bptt")])
@each_class
def test_engines_that_do_not_cast_say_so(kind, engine):
    module = twins(kind, I, H)[1]
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        fastrnn.use_engine(engine),
        pytest.raises(RuntimeError, match="autocast is on: only torch's own operators heed that"),
    ):
        module(torch.zeros(T, B, I))


def scaled_training(module, device, low, scaler, broken=2, steps=4):
    """What four steps leave; in the one that is broken the loss is too large for the gradients."""
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    paths, scales = [], []
    for n in range(steps):
        optimizer.zero_grad()
        x = normal(T, B, I, seed=n, dtype=torch.float32).to(device)
        with torch.autocast(device, dtype=low, enabled=low is not None):
            output, _ = module(x)
            loss = output.float().square().mean() * (1e38 if n == broken else 1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        paths.append([p.detach().clone() for p in module.parameters()])
    return paths, scales


def trained(module, engine, device, low):
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    with fastrnn.use_engine(engine):
        return scaled_training(module, device, low, scaler)


@infinite
@pytest.mark.parametrize(
    ("engine", "low"),
    [
        *((engine, None) for engine in MOST if engine != "torch.cell"),
        *itertools.product(CASTING, LOW),
    ],
    ids=str,
)
@each_class
def test_a_scaled_loss(kind, engine, low, device):
    """A step of infinite gradients is skipped, as by torch.nn's module in float32, and the scale
    halved."""
    native, ours = (
        module.to(device) for module in twins(kind, I, H, num_layers=2, bidirectional=True)
    )
    got, our_scales = trained(ours, engine, device, low)
    expected, scales = trained(native, "auto", device, None)
    assert our_scales == scales == [2.0**10, 2.0**10, 2.0**9, 2.0**9]
    assert all(map(torch.equal, got[2], got[1]))
    assert not any(map(torch.equal, got[3], got[2]))
    tolerance = 1e-5 if low is None else 0.01
    for mine, theirs in zip(got[-1], expected[-1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@infinite
@every_engine
@each_class
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_gradients_that_are_no_numbers_come_through(kind, engine, value, device):
    """In every parameter that they reach under torch.nn, for a scaler to see."""
    options = {"num_layers": 2, "bidirectional": engine != "torch.cell"}
    module = twins(kind, I, H, dtype=dtype_of(engine), **options)[1].to(device)
    with fastrnn.use_engine(engine):
        output, _ = module(normal(T, B, I, dtype=dtype_of(engine)).to(device))
    d = torch.zeros_like(output)
    d[T // 2] = value
    output.backward(d)
    assert not any(p.grad.isfinite().all() for p in module.parameters())


@each_class
def test_a_disabled_scaler(kind):
    module = module_of(kind, "cpu")
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    paths, scales = scaled_training(module, "cpu", None, scaler, broken=None)
    assert scales == [1.0] * 4
    assert not any(map(torch.equal, paths[1], paths[0]))
