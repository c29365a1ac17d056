"""The same gate math as tiles in a Triton kernel: the very lines of `cells.py`, run and compiled.

Without a GPU the kernels run in Triton's interpreter, and are compiled for GPUs that are not there.
"""

import math

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="needs Triton")
tl = pytest.importorskip("triton.language", reason="needs Triton")
tiles = pytest.importorskip("fastrnn.kernels.device", reason="needs Triton")
cells = pytest.importorskip("fastrnn.kernels.cell")
compiling = pytest.importorskip("benchmarks.compiling", reason="needs Triton")

EPS = torch.finfo(torch.float32).eps
TINY = torch.finfo(torch.float32).tiny
BLOCK = 128
every_cell = pytest.mark.parametrize("cell", cells.CELLS.values(), ids=cells.CELLS)


@triton.jit
def _load(ptr, COUNT: tl.constexpr, n, cols, mask):
    loaded = ()
    for k in tl.static_range(COUNT):
        loaded += (tl.load(ptr + k * n + cols, mask=mask),)
    return loaded


@triton.jit
def _store(ptr, values, COUNT: tl.constexpr, n, cols, mask):
    for k in tl.static_range(COUNT):
        if values[k] is not None:
            tl.store(ptr + k * n + cols, values[k], mask=mask)


@triton.jit
def _step_kernel(
    x_ptr,
    h_ptr,
    before_ptr,
    dafter_ptr,
    after_ptr,
    dx_ptr,
    dh_ptr,
    dbefore_ptr,
    n,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A cell forward and back on n numbers for each gate and state."""
    cols = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < n
    x = _load(x_ptr, GATES, n, cols, mask)
    h = _load(h_ptr, GATES, n, cols, mask)
    before = _load(before_ptr, STATES, n, cols, mask)
    dafter = _load(dafter_ptr, STATES, n, cols, mask)
    after, saved = CELL.forward(x, h, before)
    dx, dh, dbefore = CELL.backward(dafter, saved, before, after)
    _store(after_ptr, after, STATES, n, cols, mask)
    _store(dx_ptr, dx, GATES, n, cols, mask)
    _store(dh_ptr, dh, GATES, n, cols, mask)
    _store(dbefore_ptr, dbefore, STATES, n, cols, mask)


@triton.jit
def _map_kernel(x_ptr, y_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < n
    tl.store(y_ptr + cols, FUNCTION(tl.load(x_ptr + cols, mask=mask)), mask=mask)


def mapped(function, x):
    """A tile function of every number of a tensor, as float64 on the CPU, NaN where not written."""
    y = torch.full_like(x, torch.nan)
    grid = (triton.cdiv(x.numel(), BLOCK),)
    _map_kernel[grid](x, y, x.numel(), function, BLOCK, **tiles.OPTIONS)
    return y.double().cpu()


def rebound(cell):
    return cell._replace(
        forward=tiles.on_device(cell.forward), backward=tiles.on_device(cell.backward)
    )


VALUES = [0.0, 1e-6, 1e-4, 0.01, 0.2499, math.nextafter(0.25, 0), 0.25, 0.2501, 0.5]
VALUES += [1.0, 5.0, 20.0, 45.0, 87.0, 100.0, 1e4, math.inf]
every_function = pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu"])


def assert_accurate(name, x):
    """To eight roundings, and those of the argument of exp far out; below TINY it may be zero."""
    got = mapped(getattr(tiles, name), x)
    x = x.double().cpu()
    exact = getattr(torch, name)(x)
    allowed = torch.full_like(x, 8 * EPS)
    if name == "sigmoid":
        allowed += EPS * x.clamp(-200, 0).abs()
    wrong = (got != exact) & ~((got - exact).abs() <= allowed * exact.abs() + TINY)
    assert not wrong.any(), f"at {x[wrong].tolist()}: {got[wrong]}, exact {exact[wrong]}"


@every_function
def test_a_tile_function_is_that_of_torch(device, name):
    assert_accurate(name, torch.tensor(VALUES + [-v for v in VALUES], device=device))


@every_function
def test_a_tile_function_is_accurate_everywhere(device, name):
    """On an even grid, and on one that is dense at zero."""
    even = torch.linspace(-12, 12, 4097, device=device)
    dense = torch.logspace(-30, 1, 1000, device=device)
    assert_accurate(name, torch.cat((even, dense, -dense)))


@every_function
def test_a_tile_function_lets_nan_through(device, name):
    x = torch.tensor([0.5, math.nan, -0.5], device=device)
    assert mapped(getattr(tiles, name), x).isnan().tolist() == [False, True, False]


def test_tanh_is_odd_and_neither_leaves_its_range(device):
    x = torch.linspace(0, 30, 3001, device=device)
    tanh, sigmoid = mapped(tiles.tanh, x), mapped(tiles.sigmoid, torch.cat((x, -x)))
    assert torch.equal(mapped(tiles.tanh, -x), -tanh)
    for top in (tanh.max(), sigmoid.max()):
        assert 1 - EPS <= top <= 1
    assert sigmoid.min() >= 0
    # A jump where polynomial and exp meet is no larger than rounding.
    assert (tanh.diff() > -8 * EPS).all()


@every_cell
@pytest.mark.parametrize("std", [1, 3])
@pytest.mark.parametrize("n", [1, 300])
def test_the_lines_of_a_cell_run_in_a_kernel(device, cell, std, n):
    gates, states = len(cell.gates), len(cell.states)
    x, h, before, dafter = (std * torch.randn(c, n) for c in (gates, gates, states, states))
    results = [torch.zeros(c, n, device=device) for c in (states, gates, gates, states)]
    arguments = [t.to(device) for t in (x, h, before, dafter)]
    grid = (triton.cdiv(n, BLOCK),)
    constants = (rebound(cell), gates, states, BLOCK)
    _step_kernel[grid](*arguments, *results, n, *constants, **tiles.OPTIONS)

    x, h, before, dafter = (t.double().unbind() for t in (x, h, before, dafter))
    after, saved = cell.forward(x, h, before)
    dx, dh, dbefore = cell.backward(dafter, saved, before, after)
    for got, expected in zip(results, (after, dx, dh, dbefore), strict=True):
        for mine, exact in zip(got.cpu(), expected, strict=True):
            exact = exact if isinstance(exact, Tensor) else torch.zeros(n)
            # 1 - y² of a y near one cancels, so the unit is that of the largest gradient.
            unit = EPS * max(1, exact.abs().max().item())
            assert (mine - exact).abs().max() <= 8 * unit


@every_cell
def test_a_cell_is_not_copied_for_the_device(cell):
    """`on_device` has no lines of its own: what is compiled is what `cells.py` says."""
    for function in (cell.forward, cell.backward):
        twin = tiles.on_device(function)
        assert twin.fn.__code__ is function.__code__
        assert twin.fn.__name__ == function.__name__


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The step kernel of every cell for every target, made where no interpreter is."""
    return compiling.in_compiler(compile_all, cache=tmp_path_factory.mktemp("triton"))


TARGETS = [80, 90, 100]


def compile_all():
    """What the compiler makes of every cell: PTX target, exponentials, what it needs."""
    report = {}
    for arch in TARGETS:
        for cell in cells.CELLS.values():
            constants = {
                "CELL": rebound(cell),
                "GATES": len(cell.gates),
                "STATES": len(cell.states),
                "BLOCK": BLOCK,
            }
            made = compiling.compiled(_step_kernel, constants, "fp32", arch)
            ptx = made.asm["ptx"]
            report[f"{cell.name} sm_{arch}"] = {
                "target": next(line for line in ptx.splitlines() if line.startswith(".target")),
                "exponentials": ptx.count("ex2.approx"),
                "numbers a thread": BLOCK // (32 * made.metadata.num_warps),
                "needs": compiling.needs(made),
            }
    return report


@every_cell
@pytest.mark.parametrize("arch", TARGETS)
def test_a_cell_compiles_without_a_gpu(compiled, cell, arch):
    made = compiled[f"{cell.name} sm_{arch}"]
    assert made["target"].split()[1].rstrip("a,") == f"sm_{arch}"
    # No more of them than the formulas have: sigmoid and tanh take one each, and LSTM's backward
    # takes tanh(c) again, which the compiler finds to be the same.
    needed = {"LSTM": 5, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 0}[cell.name]
    assert made["exponentials"] <= needed * made["numbers a thread"]


@every_cell
@pytest.mark.parametrize("arch", TARGETS)
def test_a_cell_stays_in_registers(compiled, cell, arch):
    needs = compiled[f"{cell.name} sm_{arch}"]["needs"]
    if needs is None:
        pytest.skip("this Triton has no cuobjdump")
    assert compiling.Needs(*needs).spills == 0
