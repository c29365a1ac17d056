"""Episodes that begin on the way, and gradients of every step's states: the kernels' engines.

Against the step formulas of every sequence by itself under autograd, in double precision. Without
a GPU in Triton's interpreter. Whatever is allocated is NaN until it is written, and so is padding.
"""

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton")

from fastrnn import cooperation, stepping
from fastrnn.autograd import Recurrence
from fastrnn.kernels import padding, resident
from fastrnn.kernels.cell import CELLS, Cell
from fastrnn.kernels.cooperative_plans import CooperativePlan
from fastrnn.kernels.plans import Plan
from fastrnn.kernels.rows import Rows
from fastrnn.neighbours import product_with_before
from tests.contract import assert_same, mapped, normal
from tests.problems import assert_near, move
from tests.test_kernels import layer_for, shown, tensors_for

pytestmark = pytest.mark.usefixtures("kernels")
# Of up to 32 units; `cooperative` has two slices of them.
ENGINES = {
    "step": None,
    "resident": Plan(16, 32, 1, 2, 4),
    "cooperative": CooperativePlan(8, 1, 16, 32, 2, 1, 4),
}
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_cell = pytest.mark.parametrize("cell", CELLS)
T, B, H = 4, 5, 19
LENGTHS = [2, 0, 4, 1, 3]


class Problem(NamedTuple):
    """A layer behind the product with W_ih, and the gradients of what comes out of it."""

    cell: Cell
    rows: Rows
    inputs: list  # the gates (D, N, G, H); w (D, G*H, H); b (D, G*H); states (D, B, H), or None
    dstates: list  # (N, D, H), or None
    dfinal: list  # (D, B, H), or None

    @property
    def active(self):
        """(N, 1, 1), without padding."""
        rows = self.rows
        if rows.lengths is None:
            return torch.ones(rows.N, 1, 1, dtype=torch.bool)
        return (torch.arange(rows.T)[:, None] < rows.lengths.cpu()).view(-1, 1, 1)


def problem(cell, D=2, T=T, B=B, H=H, lengths=None, chance=0.4, dtype=torch.float32, seed=0):
    """With episodes that begin by chance at each step, of each direction for itself."""
    cell, size = CELLS[cell], 1 / math.sqrt(H)
    G, S = len(cell.gates), len(cell.states)
    made = partial(normal, dtype=dtype)
    state = [made(D, B, H, seed=seed + n) for n in range(S)]
    weights = [size * made(D, G * H, H, seed=seed + 2), size * made(D, G * H, seed=seed + 3)]
    rows = Rows(T, B, T * B, None if lengths is None else torch.tensor(lengths))
    begins = torch.rand(D, T, B, generator=torch.Generator().manual_seed(seed)) < chance
    return Problem(
        cell,
        # Any number but zero says so.
        rows._replace(fresh=begins.byte() * torch.arange(1, T + 1).byte()[:, None]),
        [made(D, T * B, G, H, seed=seed + 4), *weights, *state],
        [made(T * B, D, H, seed=seed + 5 + n) for n in range(S)],
        [made(D, B, H, seed=seed + 7 + n) for n in range(S)],
    )


def named(cell, states, final, gradients):
    """What both ways show, by name; gradients as `Problem.inputs` has them."""
    seen = {f"result {s} of every step": t for s, t in zip(cell.states, states, strict=True)}
    seen |= {f"result last {s}": t for s, t in zip(cell.states, final, strict=True)}
    names = ["d gates", "d w", "d b", *(f"d first {s}" for s in cell.states)]
    seen |= dict(zip(names, gradients, strict=True))
    return {name: t.detach().cpu() for name, t in seen.items() if t is not None}


def by_formulas(problem, dtype):
    """A sequence and a step after the other."""
    cell, rows = problem.cell, problem.rows
    inputs = mapped(lambda t: t.to(dtype).requires_grad_(), [*map(copied, problem.inputs)])
    gates, w, b, *initial = inputs
    D, _, G, H = gates.shape
    zero = gates.new_zeros(H)
    states = [[[zero] * D for _ in range(rows.N)] for _ in cell.states]
    final = [[[None] * rows.B for _ in range(D)] for _ in cell.states]
    for d in range(D):
        for k in range(rows.B):
            state = tuple(zero if s is None else s[d, k] for s in initial)
            steps = range(rows.T if rows.lengths is None else int(rows.lengths[k]))
            for t in reversed(steps) if d else steps:
                if rows.fresh is not None and rows.fresh[d, t, k]:
                    state = (zero,) * len(state)
                h = (w[d] @ state[0] + b[d]).view(G, H)
                state, _ = cell.forward(gates[d, t * rows.B + k], h, state)
                for s, part in enumerate(state):
                    states[s][t * rows.B + k][d] = part
            for s, part in enumerate(state):
                final[s][d][k] = part
    results = [torch.stack([torch.stack(row) for row in s]) for s in (*states, *final)]
    pairs = [
        (result, d.to(dtype))
        for result, d in zip(results, (*problem.dstates, *problem.dfinal), strict=True)
        if d is not None
    ]
    torch.autograd.backward(*zip(*pairs, strict=True))
    # Where an episode begins at the first step, nothing reads the initial state.
    gradients = [
        t if t is None else torch.zeros_like(t) if t.grad is None else t.grad for t in inputs
    ]
    return named(cell, results[: len(states)], results[len(states) :], gradients)


def copied(tensor):
    return None if tensor is None else tensor.detach().clone()


def by_kernels(problem, engine, device, plan=None):
    """By `forward` and `backward` of an engine; the gradients of the weights as a layer takes them.

    plan: in place of the one in ENGINES.
    """
    cell, plan = problem.cell, plan or ENGINES[engine]
    rows = Rows(*(t.to(device) if torch.is_tensor(t) else t for t in problem.rows))
    active, own = problem.active.to(device), cell.slots - len(cell.gates)
    x, w, b, *initial = mapped(lambda t: t.to(device), problem.inputs)
    dstates, dfinal = mapped(lambda t: t.to(device), [problem.dstates, problem.dfinal])
    dstates = mapped(lambda t: t.where(active, math.nan), dstates)
    D, N, G, H = x.shape
    gates = x.new_full((D, N, cell.slots, H), math.nan)
    gates[:, :, own:] = x.where(active, math.nan)
    states = [x.new_full((N, D, H), math.nan) for _ in cell.states]
    final = [x.new_full((D, rows.B, H), math.nan) for _ in cell.states]
    saved = gates if cell.saved else None
    precision = "ieee" if x.dtype is torch.float32 else "half"
    if plan is None:
        forward, backward = partial(stepping.forward, cell, rows), partial(stepping.backward, cell)
        backward = partial(backward, rows)
    else:
        module = resident if engine == "resident" else cooperation
        forward, backward = (
            lambda *tensors, way=way: way(cell, plan, precision, *tensors, rows)
            for way in (module.forward, module.backward)
        )
    forward(gates, saved, w, b, initial, states, final)
    dgates = torch.full_like(gates, math.nan)
    dinitial = [None if s is None else torch.full_like(s, math.nan) for s in initial]
    backward(saved, dgates, w, initial, states, dstates, dfinal, dinitial)
    for tensor in (*(s.flatten(1) for s in states), dgates.flatten(2)):
        padding.clear(tensor, rows)
    recurrent = torch.cat((dgates[:, :, own:G], dgates[:, :, :own]), 2).flatten(2)
    dw = [
        product_with_before(
            recurrent[d],
            rows,
            states[0][:, d],
            None if initial[0] is None else initial[0][d],
            d == 1,
        )
        for d in range(D)
    ]
    gradients = [dgates[:, :, own:], torch.stack(dw), recurrent.sum(1), *dinitial]
    return named(cell, states, final, gradients)


def assert_right(problem, engine, device, plan=None):
    """No more than twice the error of the same formulas in torch, by the rule for numbers."""
    expected = by_formulas(problem, problem.inputs[0].dtype)
    exact = by_formulas(problem, torch.float64)
    assert_same(by_kernels(problem, engine, device, plan), expected, exact)


@every_cell
@every_engine
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["dense", "padded"])
def test_episodes_and_gradients_of_every_state(cell, engine, D, lengths, device):
    assert_right(problem(cell, D, lengths=lengths), engine, device)


@every_engine
@pytest.mark.parametrize("chance", [0, 1])
def test_no_episode_begins_or_all_do(engine, chance, device):
    """None is nothing new; where one begins at each step, the steps are without each other."""
    made = problem("LSTM", T=3, B=3, chance=chance)
    assert made.rows.fresh.all() if chance else not made.rows.fresh.any()
    assert_right(made, engine, device)
    if chance:
        seen = by_kernels(made, engine, device)
        assert not any(seen[name].any() for name in ("d w", "d first h", "d first c"))


@every_cell
@every_engine
def test_a_single_step(cell, engine, device):
    """That some sequences begin with, whatever state they are given."""
    made = problem(cell, T=1)
    begins = made.rows.fresh[:, 0] != 0
    assert begins.any()
    assert not begins.all()
    for state in made.inputs[3:]:
        state[begins] = 1e30
    assert_right(made, engine, device)


@every_engine
def test_from_no_state(engine, device):
    """And with a gradient of the last states alone, or of none of the last."""
    made = problem("LSTM", lengths=LENGTHS)
    made = made._replace(inputs=[*made.inputs[:3], None, None], dstates=[None, None])
    assert_right(made, engine, device)
    made = problem("GRU", lengths=LENGTHS)
    assert_right(made._replace(dfinal=[None]), engine, device)


@every_engine
@pytest.mark.parametrize("fresh", [True, False], ids=["episodes", "without"])
def test_a_gradient_of_every_cell_state_alone(engine, fresh, device):
    made = problem("LSTM", T=3, lengths=[3, 0, 1, 2, 3])
    rows = made.rows if fresh else made.rows._replace(fresh=None)
    assert_right(made._replace(rows=rows, dstates=[None, made.dstates[1]]), engine, device)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@every_engine
def test_in_half_precision(cell, engine, device):
    assert_right(problem(cell, T=3, lengths=[3, 0, 1, 2, 3], dtype=torch.bfloat16), engine, device)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    ("engine", "plan"),
    [
        ("resident", Plan(16, 16, 2, 5, 4)),
        ("cooperative", CooperativePlan(8, 2, 16, 16, 1, 1, 4)),
    ],
)
def test_several_tiles(cell, engine, plan, device):
    """Of hidden units, or of columns and sequences; more sequences than a program takes."""
    assert_right(problem(cell, T=2, B=17, H=20), engine, device, plan)


@every_engine
def test_an_episode_ends_what_went_wrong_before(engine, device):
    """What is no number stays in its episode, on the way back too."""
    made = problem("GRU", D=1, chance=0)
    made.rows.fresh[:, 2] = 1
    rows = slice(0, B)
    made.inputs[0][:, rows] = math.nan
    seen = by_kernels(made, engine, device)
    states, gates = seen["result h of every step"], seen["d gates"][0]
    assert states[: 2 * B].isnan().all()
    assert gates[: 2 * B].isnan().any()
    assert not states[2 * B :].isnan().any()
    assert not gates[2 * B :].isnan().any()
    made = problem("GRU", D=1, chance=0)
    made.rows.fresh[:, 2] = 1
    made.dstates[0][2 * B :] = math.nan
    seen = by_kernels(made, engine, device)
    assert not seen["d gates"][0, : 2 * B].isnan().any()
    assert not seen["d first h"].isnan().any()


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("mode", ["dense", "padded"])
def test_gates_made_anew_for_the_way_back(cell, mode, device):
    """From the states before every step, which are zero where an episode begins."""
    seen = []
    for recompute in (True, False):
        layer = layer_for(CELLS[cell], mode, None, T, LENGTHS, device, recompute)
        fresh = problem(cell).rows.fresh.to(device)
        layer = replace(layer, rows=layer.rows._replace(fresh=fresh))

        def run(inputs, layer=layer):
            h, *final = Recurrence.apply(layer, None, *inputs)
            return h, final[: len(layer.cell.states)]

        seen.append(shown(run, move(tensors_for(layer, 2, 20, 2), device)))
    assert_near(seen[0].values(), [t.double() for t in seen[1].values()])
