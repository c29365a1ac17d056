"""The kernels of a layer as plans cut them: tiles, weights kept or read anew, sequences a program.

Against the formulas step by step under autograd, in double precision. Without a GPU in Triton's
interpreter. Whatever is allocated is NaN until it is written.
"""

import math
from dataclasses import replace

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs Triton")
tl = pytest.importorskip("triton.language", reason="needs Triton")

from fastrnn.autograd import Recurrence  # noqa: E402
from fastrnn.kernels import device as tile_functions  # noqa: E402
from fastrnn.kernels import tiles  # noqa: E402
from fastrnn.kernels.cell import CELLS  # noqa: E402
from fastrnn.kernels.cooperative_plans import CooperativePlan  # noqa: E402
from fastrnn.kernels.device import OPTIONS  # noqa: E402
from fastrnn.kernels.plans import Plan  # noqa: E402
from fastrnn.kernels.rows import Rows  # noqa: E402
from fastrnn.reference import recurrence  # noqa: E402
from fastrnn.triton_engine import Layer, packed_rows  # noqa: E402
from fastrnn.weights import Weights  # noqa: E402
from tests.contract import assert_same, cotangents, mapped, normal  # noqa: E402
from tests.problems import move  # noqa: E402

pytestmark = pytest.mark.usefixtures("kernels")
ENGINES = ("step", "resident", "cooperative")
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


def layer_for(cell, mode, plan, T, lengths, device, recompute=False):
    """A Layer, and the number of rows it has: dense, packed or padded."""
    B, sizes = len(lengths), None
    if mode == "packed":
        steps = torch.tensor([sum(n > t for n in lengths) for t in range(T)])
        rows, sizes = packed_rows(steps, torch.device(device)), tuple(steps.tolist())
    elif mode == "padded":
        rows = Rows(T, B, T * B, torch.tensor(lengths, device=device))
    else:
        rows = Rows(T, B, T * B)
    plans = plan if plan is None else (plan, plan)
    return Layer(cell, rows, sizes, plans, "ieee", recompute)


def tensors_for(layer, I, H, D, dtype=torch.float32, bias=True, std=1.0):
    """x, the states and the weights of a layer."""
    gates, per = len(layer.cell.gates), 1 / math.sqrt(H)
    shapes = [(layer.rows.N, I)] + [(D, layer.rows.B, H)] * len(layer.cell.states)
    made = [std * normal(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]
    for d in range(D):
        shapes = [(gates * H, I), (gates * H, H)] + [(gates * H,)] * (2 if bias else 0)
        made += [per * normal(*s, seed=10 * d + n + 5, dtype=dtype) for n, s in enumerate(shapes)]
        made += [None] * (1 if bias else 3)
    return made


def shown(run, inputs):
    """The results, and every gradient, of random gradients into each result."""
    inputs = mapped(lambda t: t.detach().clone().requires_grad_(), inputs)
    h, final = run(inputs)
    results = [h, *final]
    torch.autograd.backward(results, cotangents(results))
    seen = {f"result {n}": result.detach() for n, result in enumerate(results)}
    seen |= {f"d {n}": t.grad for n, t in enumerate(inputs) if t is not None}
    return {name: t.cpu() for name, t in seen.items()}


def by_formulas(layer, inputs):
    """A layer's h and final states, step by step."""
    rows, states, weights = layer.rows, inputs[1 : 1 + len(layer.cell.states)], split(inputs, layer)
    sizes = layer.sizes or (rows.B,) * rows.T
    lengths = rows.lengths if layer.sizes is None else None
    zeros = weights[0].w_hh.new_zeros(rows.B, weights[0].w_hh.shape[1])
    outputs, finals = [], []
    for d, w in enumerate(weights):
        initial = tuple(zeros if s is None else s[d] for s in states)
        h, final, _ = recurrence(layer.cell, inputs[0], initial, w, sizes, d == 1, lengths)
        outputs.append(h)
        finals.append(final)
    return torch.cat(outputs, 1), [torch.stack(s) for s in zip(*finals, strict=True)]


def assert_layer_is_right(layer, inputs):
    """No more than twice the error of the same formulas in torch, by the rule for numbers."""

    def kernels(inputs):
        h, *final = Recurrence.apply(layer, None, *inputs)
        return h, final[: len(layer.cell.states)]

    def formulas(inputs):
        return by_formulas(layer, inputs)

    exact = shown(formulas, mapped(lambda t: t.double(), inputs))
    assert_same(shown(kernels, inputs), shown(formulas, inputs), exact)


PLANS = {
    "one tile": Plan(16, 32, 1, 9, 4),
    "streamed": Plan(16, 32, 1, 0, 4),
    "two tiles": Plan(16, 16, 2, 16, 4),
    "two tiles, some kept": Plan(16, 16, 2, 5, 4),
    "wide batch": Plan(32, 32, 1, 1, 4),
    "three tiles": Plan(16, 16, 3, 9, 4),
    "three tiles, streamed": Plan(32, 16, 3, 0, 4),
}
# For 37 units. Without a GPU there are as many groups as there are chunks, whatever a plan says.
COOPERATIVE = {
    "three slices": CooperativePlan(32, 1, 16, 64, 1, 9, 4),
    "two groups, three chunks": CooperativePlan(8, 1, 32, 64, 2, 9, 4, groups=2),
    "two tiles at a time": CooperativePlan(8, 2, 32, 64, 2, 9, 4),
    "columns in tiles, some kept": CooperativePlan(32, 1, 64, 16, 1, 2, 4),
    "streamed in four parts": CooperativePlan(32, 1, 64, 64, 4, 0, 4),
}
# Of 20 units, 5 sequences: two slices.
SMALL = CooperativePlan(8, 1, 16, 32, 2, 1, 4)
RAGGED = [3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]  # the second tile ends early


@every_cell
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("mode", ["dense", "packed"])
def test_every_plan(cell, plan, mode, device):
    """More sequences than a program takes, and the last program is not full."""
    plan = PLANS[plan]
    layer = layer_for(cell, mode, plan, 3, RAGGED, device)
    inputs = tensors_for(layer, 2, plan.block_h * plan.tiles - 7, 1)
    assert_layer_is_right(layer, move(inputs, device))


@every_cell
@pytest.mark.parametrize("plan", COOPERATIVE)
@pytest.mark.parametrize("mode", ["dense", "packed"])
def test_every_cooperative_plan(cell, plan, mode, device):
    """The last slice, chunk, tile and column are not full."""
    layer = layer_for(cell, mode, COOPERATIVE[plan], 3, RAGGED, device)
    assert_layer_is_right(layer, move(tensors_for(layer, 2, 37, 1), device))


@every_cell
@pytest.mark.parametrize(
    "plan",
    [Plan(8, 16, 2, 5, 4, tcgen05=True), CooperativePlan(8, 1, 16, 16, 1, 1, 4, tcgen05=True)],
    ids=ENGINES[1:],
)
def test_products_of_batches_of_one_matrix(cell, plan, device, monkeypatch):
    """As from Triton 3.9 on, for Blackwell."""
    monkeypatch.setattr(tile_functions, "BATCHES", True)
    layer = replace(layer_for(cell, "dense", plan, 3, [3] * 5, device), precision="tf32x3")
    assert tile_functions.of_products(layer.precision, plan)["BATCHED"]
    assert_layer_is_right(layer, move(tensors_for(layer, 2, 20, 1), device))


@every_cell
@pytest.mark.parametrize("plan", [None, PLANS["two tiles, some kept"], SMALL], ids=ENGINES)
@pytest.mark.parametrize("mode", ["dense", "packed", "padded"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
def test_both_directions(cell, plan, mode, bias, device):
    """Of sequences that end at different times, in any order and at once where they are padded."""
    lengths = [0, 2, 0, 3, 1] if mode == "padded" else [3, 2, 2, 1, 1]
    layer = layer_for(cell, mode, plan, 3, lengths, device)
    assert_layer_is_right(layer, move(tensors_for(layer, 2, 20, 2, bias=bias, std=3.0), device))


@pytest.mark.parametrize("plan", [None, PLANS["one tile"], SMALL], ids=ENGINES)
@pytest.mark.parametrize("lengths", [[0] * 17, [3] + [0] * 16, [0] * 16 + [3], [1] * 17], ids=str)
def test_programs_with_nothing_to_do(plan, lengths, device):
    """A tile of sequences without a step keeps its state and zeroes its rows."""
    layer = layer_for(CELLS["GRU"], "padded", plan, 3, lengths, device)
    assert_layer_is_right(layer, move(tensors_for(layer, 2, 5, 2), device))


@pytest.mark.parametrize("integer", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_lengths_out_of_range_lead_nowhere(integer, device):
    """The host can't see them on a GPU without waiting: kernels take the nearest in range."""
    for plan in (None, PLANS["one tile"], SMALL):
        wild = layer_for(CELLS["LSTM"], "padded", plan, 3, [100, 2, 0], device)
        lengths = torch.tensor([100, 2, 0 if integer is torch.uint8 else -9])
        rows = wild.rows._replace(lengths=lengths.to(integer).to(device))
        wild = replace(wild, rows=rows)
        tame = layer_for(CELLS["LSTM"], "padded", plan, 3, [3, 2, 0], device)
        inputs = move(tensors_for(tame, 2, 5, 2), device)
        weights = split(inputs, tame)
        got, expected = (
            layer.forward(inputs[0], inputs[1:3], weights, keep_all=False) for layer in (wild, tame)
        )
        for mine, theirs in zip((got[0], *got[1]), (expected[0], *expected[1]), strict=True):
            assert torch.equal(mine, theirs)


@triton.jit
def _rows_kernel(t_ptr, b_ptr, offsets_ptr, out_ptr, B, PACKED: tl.constexpr):
    t = tl.load(t_ptr).to(tl.int32)
    b = tl.load(b_ptr).to(tl.int32) + tl.arange(0, 16)
    rows = tiles.rows_at(t, b, B, offsets_ptr if PACKED else None)
    tl.store(out_ptr + tl.arange(0, 16), rows)


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_rows_beyond_32_bits(packed, device):
    """An int32 ends at 2^31; t and b themselves are less."""
    t, b, B = 70_000, 60_000, 65_536
    first = t * B
    offsets = torch.zeros(t + 1, dtype=torch.int64, device=device)
    offsets[t] = first
    out = torch.zeros(16, dtype=torch.int64, device=device)
    at = [torch.tensor([n], device=device) for n in (t, b)]
    _rows_kernel[(1,)](*at, offsets, out, B, packed, **OPTIONS)
    assert first > 2**31
    assert out.tolist() == [first + b + k for k in range(16)]


@triton.jit
def _address_kernel(out_ptr, t, B, N, SLOTS: tl.constexpr, H: tl.constexpr):
    d = tl.program_id(1)
    rows = tiles.rows_at(t, tl.arange(0, 16), B, None)
    mine = tl.cast(d, tl.int64) * N + rows
    tl.store(out_ptr + d * 16 + tl.arange(0, 16), (mine * SLOTS + SLOTS - 1) * H + H - 1)


def test_addresses_beyond_32_bits(device):
    """Of a gate in the last slot, as the kernels work them out, with all of its factors."""
    T, B, SLOTS, H = 4096, 8192, 4, 1024
    out = torch.zeros(2, 16, dtype=torch.int64, device=device)
    _address_kernel[1, 2](out, T - 1, B, T * B, SLOTS, H, **OPTIONS)
    for d in range(2):
        row = d * T * B + (T - 1) * B
        assert out[d].tolist() == [((row + b) * SLOTS + 4) * H - 1 for b in range(16)]


@triton.jit
def _time_kernel(out_ptr, steps, backwards):
    for step in range(9):
        tl.store(out_ptr + step, tiles.time_of(step, steps, backwards == 1))


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_a_walk_through_time_stays_within_it(steps, device):
    """Beyond its end, where a program loads ahead, and where there is no step at all."""
    for backwards in (0, 1):
        out = torch.full((9,), -5, dtype=torch.int32, device=device)
        _time_kernel[(1,)](out, steps, backwards, **OPTIONS)
        walk = list(range(steps))[:: -1 if backwards else 1] or [0]
        assert out.tolist() == [*walk, *[walk[-1]] * 9][:9]


@triton.jit
def _round_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    value = tile_functions.rounded(tl.load(x_ptr + cols), out_ptr.dtype.element_ty)
    tl.store(out_ptr + cols, value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in the interpreter
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_is_torchs(dtype, device):
    """To nearest, ties to even; zeros stay zeros, whose sign a relu's gradient hangs on."""
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11])
    odd = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 65504, 3.38e38, 1.0])
    x = torch.cat([ties, -ties, odd, torch.randn(240) * 10])[:256].to(device)
    out = torch.empty(256, dtype=dtype, device=device)
    _round_kernel[(1,)](x, out, 256, **OPTIONS)
    torch.testing.assert_close(out, x.to(dtype), rtol=0, atol=0, equal_nan=True)


@every_cell
@pytest.mark.parametrize("plan", [None, PLANS["two tiles"], SMALL], ids=ENGINES)
def test_sequences_do_not_mix(cell, plan, device):
    """A NaN in one stays there."""
    layer = layer_for(cell, "dense", plan, 3, [3] * 5, device)
    inputs = move(tensors_for(layer, 2, 20, 2), device)
    weights = split(inputs, layer)
    inputs[0].view(3, 5, 2)[1, 2] = math.nan
    states = inputs[1 : 1 + len(cell.states)]
    h, final, *_ = layer.forward(inputs[0], states, weights, keep_all=False)
    h = h.view(3, 5, 2, 20)
    spoiled = h.isnan().any(3)
    assert spoiled[:, 2].tolist() == [[False, True], [True, True], [True, False]]
    assert h[:, 2].isnan().all(2).equal(spoiled[:, 2])
    assert not spoiled[:, [0, 1, 3, 4]].any()
    assert all(f[:, 2].isnan().all() and not f[:, [0, 1, 3, 4]].isnan().any() for f in final)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in the interpreter
@pytest.mark.parametrize("plan", [None, PLANS["one tile"], SMALL], ids=ENGINES)
def test_what_overflows_stays_infinite(plan, device):
    """A relu layer of fewer units than its tile has: 0 · inf of those that are not there is NaN."""
    layer = layer_for(CELLS["RNN_RELU"], "dense", plan, 5, [5], device)
    inputs = move([t if t is None else t.abs() for t in tensors_for(layer, 2, 5, 1)], device)
    inputs[2:4] = [1e20 * t for t in inputs[2:4]]
    h, *_ = layer.forward(inputs[0], inputs[1:2], split(inputs, layer), keep_all=False)
    assert h.isposinf().any(1).tolist() == [False, True, True, True, True]
    assert not h.isnan().any()


def split(inputs, layer):
    """The `Weights` of each direction."""
    states = len(layer.cell.states)
    return [Weights(*inputs[k : k + 5]) for k in range(1 + states, len(inputs), 5)]
