"""What leaves a module is laid out as torch.nn's and is no view where torch.nn's is none: it can be
detached in place, keeps its hooks, and takes in gradients."""

import itertools

import pytest
import torch

import fastrnn
from tests.contract import (
    CELLS,
    GRU,
    LSTM,
    TANH,
    every_module,
    mapped,
    normal,
    packed,
    state_for,
    tensors,
    twins,
)
from tests.functions import flat
from tests.problems import ENGINES, MOST, dtype_of, move

pytestmark = pytest.mark.usefixtures("ieee", "quick")
SIZES = {"input_size": 5, "hidden_size": 6}
FORMS = ("dense", "batch_first", "single", "packed", "packed, batch_first")
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}
every_engine = pytest.mark.parametrize("engine", MOST)
every_mode = pytest.mark.parametrize("mode", MODES)
each_class = pytest.mark.parametrize("kind", [LSTM, GRU, TANH], ids=str)
# The backward pass of kernels reads their output, as cuDNN's does.
KERNELS = ("auto", *ENGINES)


def pair_of(kind, engine, form, device, layers=1, directions=1):
    """torch.nn's module and ours, their input, and a state."""
    one = engine == "torch.cell" or directions == 1
    options = {"num_layers": layers, "bidirectional": not one, "batch_first": "first" in form}
    dtype = dtype_of(engine)
    pair = [m.to(device) for m in twins(kind, **SIZES, dtype=dtype, **options)]
    T, B = (5, 3) if engine in ENGINES else (7, 3)
    if "packed" in form:
        x = packed([T, 2, 3], 5, dtype=dtype)
    else:
        x = normal(*{"single": (T,), "batch_first": (B, T)}.get(form, (T, B)), 5, dtype=dtype)
    hx = state_for(pair[0], None if form == "single" else B)
    return pair, move(x, device), move(hx, device)


def called(module, x, hx, engine="auto", **options):
    """All results, or None where the engine cannot serve."""
    try:
        with fastrnn.use_engine(engine):
            return flat(module(x, hx, **options))
    except RuntimeError as error:
        if "cannot serve this call" in str(error):
            return None
        raise


@every_engine
@every_module
@pytest.mark.parametrize("form", FORMS)
@every_mode
def test_results_are_laid_out_as_torch_nns(kind, engine, form, mode, device):
    for layers, directions in itertools.product((1, 2), (1, 2)):
        pair, x, hx = pair_of(kind, engine, form, device, layers, directions)
        given = [(t, t._version) for t in tensors((x, hx))]
        with MODES[mode]():
            ours = called(pair[1], x, hx, engine)
            if ours is None:
                return
            natives = called(pair[0], x, hx)
        assert all(t._version == version for t, version in given)
        for mine, native in zip(ours, natives, strict=True):
            assert mine.shape == native.shape
            assert mine.stride() == native.stride()
            assert not mine._is_view() or native._is_view()
            assert mine.is_inference() == native.is_inference()
            assert mine.requires_grad == native.requires_grad
        assert len({t.untyped_storage().data_ptr() for t in (*tensors((x, hx)), *ours)}) == len(
            [*tensors((x, hx)), *ours]
        )


BEYOND = {
    "lengths": lambda device: {"lengths": torch.tensor([4, 5, 2], device=device)},
    "an empty one": lambda device: {"lengths": torch.tensor([4, 0, 2], device=device)},
    "resets": lambda device: {"resets": normal(5, 3, seed=9).to(device) > 0.5},
    "inner": lambda device: {"return_gates": True},
}


@every_engine
@each_class
@pytest.mark.parametrize("beyond", BEYOND)
@every_mode
def test_what_torch_nn_lacks_gives_no_views(kind, engine, beyond, mode, device):
    if kind is TANH and beyond == "inner":
        return
    for batch_first, directions in itertools.product((False, True), (1, 2)):
        form = "batch_first" if batch_first else "dense"
        pair, x, hx = pair_of(kind, engine, form, device, 1, directions)
        x, options = x.narrow(1 if batch_first else 0, 0, 5), BEYOND[beyond](device)
        if batch_first and "resets" in options:
            options["resets"] = options["resets"].t()
        if beyond == "inner" and kind is LSTM:
            options["return_cell_states"] = True
        with MODES[mode]():
            results = called(pair[1], x, hx, engine, **options)
        for result in results or ():
            assert not result._is_view()


@every_engine
@each_class
@every_mode
def test_a_step_gives_no_views(kind, engine, mode, device):
    for batch_first in (False, True):
        form = "batch_first" if batch_first else "dense"
        (_, ours), x, hx = pair_of(kind, engine, form, device)
        x_t = x.select(1 if batch_first else 0, 0)
        with MODES[mode](), fastrnn.use_engine(engine):
            outputs = flat(ours.step(x_t, hx))
            again = flat(ours(x_t.unsqueeze(1 if batch_first else 0), hx))
        for result in outputs:
            assert not result._is_view()
        assert outputs[0].is_contiguous()
        if mode == "grad":
            got, expected = (
                torch.autograd.grad(o[0].sum(), [*ours.parameters()]) for o in (outputs, again)
            )
            for mine, right in zip(got, expected, strict=True):
                torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("kind", CELLS, ids=str)
@pytest.mark.parametrize("engine", [e for e in MOST if e in ("auto", "step", "resident")])
@every_mode
def test_cells_give_what_torch_nns_give(kind, engine, mode, device):
    for batch in (3, None):
        pair = [m.to(device) for m in twins(kind, **SIZES)]
        shape = [] if batch is None else [batch]
        x = normal(*shape, 5, dtype=torch.float32).to(device)
        hx = move(state_for(pair[0], batch), device)
        with MODES[mode]():
            ours, natives = called(pair[1], x, hx, engine), called(pair[0], x, hx)
        for mine, native in zip(ours, natives, strict=True):
            assert mine.stride() == native.stride()
            assert not mine._is_view() or native._is_view()


# What a caller does with results that are no views.


@every_engine
@each_class
@pytest.mark.parametrize("form", ["dense", "batch_first", "lengths", "step"])
def test_results_can_be_detached_in_place(kind, engine, form, device):
    for result in made(kind, engine, form, device):
        assert result.requires_grad
        assert not result.detach_().requires_grad


@every_engine
@each_class
@pytest.mark.parametrize("form", ["dense", "batch_first", "lengths", "step"])
def test_hooks_survive_a_change_in_place(kind, engine, form, device):
    results, seen = made(kind, engine, form, device), []
    for n, result in enumerate(results):
        result.register_hook(lambda d, n=n: seen.append(n))
        if n or engine not in KERNELS:
            result.mul_(2)
    sum(result.sum() for result in results).backward()
    assert sorted(seen) == [*range(len(results))]


@every_engine
@each_class
@pytest.mark.parametrize("form", ["dense", "batch_first", "lengths", "step"])
def test_results_without_gradients_take_some_in(kind, engine, form, device):
    with torch.no_grad():
        results = made(kind, engine, form, device)
        if form == "batch_first":  # of an LSTM on a CPU torch.nn's own operator gives a view
            (native, _), x, hx = pair_of(kind, engine, form, device)
            natives = called(native, x, hx)
            views = [mine._is_view() for mine in results]
            assert not any(views) or views == [native._is_view() for native in natives]
            results = [mine.clone() if mine._is_view() else mine for mine in results]
    factor = torch.ones((), dtype=results[0].dtype, device=device, requires_grad=True)
    expected = sum(result.sum() for result in results)
    sum(result.mul_(factor).sum() for result in results).backward()
    torch.testing.assert_close(factor.grad, expected)
    for result in results:
        with torch.no_grad():
            assert result.detach_().requires_grad_().is_leaf


def made(kind, engine, form, device):
    (_, ours), x, hx = pair_of(kind, engine, form.replace("lengths", "batch_first"), device)
    with fastrnn.use_engine(engine):
        if form == "step":
            return flat(ours.step(x[0], hx))
        if form == "lengths" and engine != "torch.cell":
            return flat(ours(x, hx, lengths=torch.tensor([4, 3, 2], device=device)))
        return flat(ours(x, hx))


@every_engine
@each_class
@pytest.mark.parametrize("form", FORMS)
def test_results_may_be_changed_in_place(kind, engine, form, device):
    """Gradients are torch.nn's then, or torch notices the change."""
    pair, x, hx = pair_of(kind, engine, form, device)
    for changed in range(len(called(pair[0], x, hx))):
        found = []
        for module, name in zip(pair, ("auto", engine), strict=True):
            hx = mapped(lambda s: s.detach().requires_grad_(), hx)
            results = called(module, x, hx, name)
            if results is None:
                return
            unchanged = [r.detach().clone() for r in results]
            results[changed].sigmoid_()
            others = [r for n, r in enumerate(results) if n != changed]
            assert all(
                torch.equal(r, was)
                for n, (r, was) in enumerate(zip(results, unchanged, strict=True))
                if n != changed
            )
            loss = results[changed].sum() + sum(r.square().sum() for r in others)
            try:
                found.append(torch.autograd.grad(loss, [*tensors(hx), *module.parameters()]))
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # noqa: PT017
                assert name in KERNELS
                break
        for native, mine in zip(*found, strict=True) if len(found) == 2 else ():
            torch.testing.assert_close(mine, native, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["dense", "batch_first"])
@each_class
def test_a_compiled_module_gives_no_views(kind, form):
    (native, ours), x, hx = pair_of(kind, "torch.bptt", form, "cpu")
    results = flat(torch.compile(ours, backend="aot_eager")(x, hx))
    for mine, theirs in zip(results, called(native, x, hx), strict=True):
        assert not mine._is_view()
        assert mine.stride() == theirs.stride()
        mine.register_hook(lambda d: None)
        mine.mul_(2).detach_()
