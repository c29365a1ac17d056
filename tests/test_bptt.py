"""The loops over time written by hand, against the formulas step by step under autograd."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import fastrnn
from benchmarks.memory import peak_bytes
from fastrnn import bptt, reference, schedule
from fastrnn.autograd import Recurrence
from fastrnn.bptt import Layer
from fastrnn.kernels.cell import CELLS, GRU
from fastrnn.weights import Weights
from tests.contract import (
    MODULES,
    assert_same,
    cotangents,
    exercise,
    leaves,
    normal,
    our_class,
    packed,
    state_for,
    tensors,
)

DOUBLE = torch.float64
KINDS = [kind for kind in MODULES if "proj_size" not in kind.options]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
RAGGED = [130, 129, 70, 64, 3, 1, 1]


def build(kind, I=3, H=5, std=None, **options):
    """A module of ours in double precision; with `std`, weights as large as saturates the gates."""
    module = our_class(kind)(I, H, **{"dtype": DOUBLE, **kind.options, **options})
    for parameter in module.parameters() if std else ():
        nn.init.normal_(parameter, std=std)
    return module


def by_loop(module, x, hx=None, **options):
    with fastrnn.use_engine("torch.bptt"):
        return module(x, hx, **options)


def by_reference(module, x, hx=None, **options):
    with fastrnn.use_engine("torch.reference"):
        return module(x, hx, **options)


def assert_loop_is_reference(module, x, hx=None, part=lambda results: results):
    seen, expected = (
        exercise(module, x, hx, lambda *args: part(tensors(run(*args))))  # noqa: B023
        for run in (by_loop, by_reference)
    )
    assert_same(seen, expected)


@every_kind
@pytest.mark.parametrize(
    ("T", "B"), [(1, 1), (2, 1), (64, 1), (65, 1), (200, 3), (1, 70), (12, 100), (3, 600)]
)
def test_dense(kind, T, B):
    """Within one chunk of time, at its edge, over several, and with a chunk for every step."""
    module = build(kind, std=0.5)
    assert_loop_is_reference(module, 2 * normal(T, B, 3), state_for(module, B))


@every_kind
@pytest.mark.parametrize("H", [1, 17])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
def test_layers_directions_and_saturation(kind, H, bias):
    """The recurrent weights are small: large ones make chaos, in which no two programs agree."""
    module = build(kind, 3, H, 0.2, num_layers=2, bidirectional=True, bias=bias)
    nn.init.normal_(module.weight_ih_l0, std=3)
    assert_loop_is_reference(module, 3 * normal(70, 2, 3), state_for(module, 2))


@every_kind
@pytest.mark.parametrize("lengths", [RAGGED, [1], [70, 1], [65, 65, 65], [1, 1, 2], [64, 128, 192]])
def test_ragged(kind, lengths):
    """Sequences that end within a chunk, at its edge, and all at once; in both directions."""
    module = build(kind, std=0.4, bidirectional=True)
    assert_loop_is_reference(module, packed(lengths, 3), state_for(module, len(lengths)))


PARTS = {
    "output": lambda results: results[:1],
    "h_n": lambda results: results[1:2],
    "last state": lambda results: results[-1:],
    "first step": lambda results: [results[0][:1]],
    "middle step": lambda results: [results[0][70:72]],
    "last step": lambda results: [results[0][-1:]],
    "one state of one sequence": lambda results: [results[-1][:, 0]],
    "sum": lambda results: [results[0].sum()],
}


@every_kind
@pytest.mark.parametrize("part", PARTS)
def test_a_loss_on_part_of_the_results(kind, part):
    module = build(kind, num_layers=2)
    assert_loop_is_reference(module, normal(130, 2, 3), state_for(module, 2), PARTS[part])
    module = build(kind, bidirectional=True)
    assert_loop_is_reference(module, packed(RAGGED, 3), None, PARTS[part])


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=9).map(lambda s: sorted(s, reverse=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    cell=st.sampled_from(list(CELLS.values())),
    sizes=SIZES,
    chunk=st.integers(1, 4),
    reverse=st.booleans(),
    bias=st.booleans(),
    used=st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
    seed=st.integers(0, 99),
)
def test_any_sizes_in_any_chunks(cell, sizes, chunk, reverse, bias, used, seed):
    torch.manual_seed(seed)
    inputs = arguments(cell, sizes, bias)

    def derivatives(recurrence):
        h, final = recurrence()
        results = [t for t, u in zip((h, *final), used, strict=False) if u] or [h]
        wanted = [t for t in inputs if t is not None]
        grads = torch.autograd.grad(results, wanted, cotangents(results), allow_unused=True)
        return [h, *final, *grads]

    def loop():
        h, *final = Recurrence.apply(Layer(cell, tuple(sizes), reverse), None, *inputs)
        return h, final[: len(cell.states)]

    def steps():
        x, *rest = inputs
        states = len(cell.states)
        state, weights = [s[0] for s in rest[:states]], Weights(*rest[states:])
        h, final, _ = reference.recurrence(cell, x, state, weights, tuple(sizes), reverse)
        return h, [s[None] for s in final]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "CHUNK_STEPS", chunk)
        seen = derivatives(loop)
    for mine, exact in zip(seen, derivatives(steps), strict=True):
        mine, exact = (torch.zeros(()) if t is None else t for t in (mine, exact))
        assert (mine - exact).abs().max() <= 1e-12 * max(1, exact.abs().max())


def arguments(cell, sizes, bias=True, I=3, H=2):
    """Random tensors for Recurrence: x, the states and the weights."""
    rows = len(cell.gates) * H
    shapes = [(sum(sizes), I), *[(1, sizes[0], H)] * len(cell.states), (rows, I), (rows, H)]
    shapes += [(rows,), (rows,)] if bias else []
    made = [torch.randn(shape, dtype=DOUBLE).requires_grad_() for shape in shapes]
    return [*made, *[None] * (1 if bias else 3)]


@every_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 2, 1)], ids=["dense", "ragged"])
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_gradcheck(cell, reverse, sizes, check, monkeypatch):
    """Two chunks long, so that the step from one to the next is checked too."""
    monkeypatch.setattr(schedule, "CHUNK_STEPS", 2)
    *inputs, _ = arguments(cell, sizes)
    assert check(
        lambda *tensors: Recurrence.apply(Layer(cell, sizes, reverse), None, *tensors, None), inputs
    )


def forgetful(kind, dtype, strength):
    """A module whose state fades: by `strength`, 0 to 1, each step's weight on the one before."""
    module = build(kind, dtype=dtype)
    H = module.hidden_size
    with torch.no_grad():
        module.weight_hh_l0.mul_(strength)
        gate = {"LSTM": 1, "GRU": 1}.get(module.mode)
        if gate is not None:
            logit = torch.logit(torch.tensor(strength))
            module.bias_hh_l0[gate * H : (gate + 1) * H] = logit
            module.bias_ih_l0[gate * H : (gate + 1) * H] = 0
            module.weight_ih_l0[gate * H : (gate + 1) * H] = 0
    return module


def gradients_of_last_step(run, module, x):
    """The gradient of x, and those of the parameters, of a loss on the last step alone."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(run(module, x)[0][-1].sum(), [x, *module.parameters()])


@every_kind
def test_gradients_that_vanish_in_double_precision(kind):
    """Below 1e-290 they are flushed, and chunks without any are skipped: nobody can tell."""
    module = forgetful(kind, DOUBLE, 0.002)
    x = normal(400, 2, 3)
    seen, exact = (gradients_of_last_step(run, module, x) for run in (by_loop, by_reference))
    for mine, theirs in zip(seen, exact, strict=True):
        assert (mine - theirs).abs().max() <= 1e-12 * theirs.abs().max()
    assert exact[0][300:].any()
    assert exact[0][:200].abs().max() < 1e-290
    assert not seen[0][:200].any()


@every_kind
@pytest.mark.parametrize("strength", [0.5, 0.2, 0.002])
def test_gradients_that_vanish_in_single_precision(kind, strength):
    module = forgetful(kind, torch.float32, strength)
    x = normal(400, 2, 3, dtype=torch.float32)
    seen = gradients_of_last_step(by_loop, module, x)
    exact = gradients_of_last_step(by_reference, copy.deepcopy(module).double(), x.double())
    for mine, theirs in zip(seen, exact, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    dx = seen[0]
    assert exact[0][:128].abs().max() < 1e-30
    assert not dx[:128].any()
    # Denormal numbers arise in no more than the one chunk in which the gradients vanish.
    denormal = ((dx != 0) & (dx.abs() < torch.finfo(dx.dtype).tiny)).flatten(1).any(1)
    assert denormal.sum() <= schedule.CHUNK_STEPS
    assert not any(d.ne(0).logical_and(d.abs() < 1e-38).any() for d in seen[1:])


@every_kind
def test_a_gradient_of_a_past_step_ends_a_skip(kind):
    """A loss on the last step and on one long before, with nothing to carry in between."""
    module = forgetful(kind, torch.float32, 0.01)
    x = normal(400, 2, 3, dtype=torch.float32)

    def part(results):
        return [results[0][-1], results[0][100]]

    seen, expected = (
        exercise(module, x, None, lambda *args: part(run(*args)))  # noqa: B023
        for run in (by_loop, by_reference)
    )
    for name, exact in expected.items():
        assert (seen[name] - exact).abs().max() <= 1e-5 * exact.abs().max(), name
    assert seen["d input 0"][90:101].any()
    assert not seen["d input 0"][128:300].any()


@every_kind
def test_vanished_gradients_of_the_first_state(kind):
    module = forgetful(kind, torch.float32, 0.01)
    x, hx = normal(400, 2, 3, dtype=torch.float32), leaves(state_for(module, 2))
    grads = torch.autograd.grad(by_loop(module, x, hx)[0][-1].sum(), tensors(hx))
    assert not any(d.any() for d in grads)


FORMS = {
    "padded": normal(70, 3, 3),
    "one step": normal(1, 3, 3),
    "packed": packed([70, 2, 64], 3),
}
every_form = pytest.mark.parametrize("form", FORMS)
DEEP = {"num_layers": 2, "bidirectional": True}
every_depth = pytest.mark.parametrize("options", [{}, DEEP], ids=["shallow", "deep"])


def step(module, x, hx=None):
    """Results, and what they are to be differentiated with respect to."""
    x, hx = leaves(x), leaves(hx)
    results = tensors(by_loop(module, x, hx))
    return results, [*tensors((x, hx)), *module.parameters()]


@every_kind
@every_form
@every_depth
def test_a_graph_gives_the_same_gradients_again(kind, form, options):
    module = build(kind, **options)
    results, inputs = step(module, FORMS[form], state_for(module, 3))
    first = torch.autograd.grad(results, inputs, cotangents(results), retain_graph=True)
    kept = [d.clone() for d in first]
    second = torch.autograd.grad(results, inputs, cotangents(results))
    for one, two, was in zip(first, second, kept, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, was)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(results, inputs, cotangents(results))


@every_kind
@every_form
@every_depth
def test_two_runs_give_equal_bits(kind, form, options):
    module = build(kind, dtype=torch.float32, **options)
    x = (
        PackedSequence(*FORMS[form])._replace(data=FORMS[form].data.float())
        if (form == "packed")
        else FORMS[form].float()
    )
    first, second = (exercise(module, x, state_for(module, 3), by_loop) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@every_kind
@every_form
@every_depth
def test_results_may_be_changed_in_place(kind, form, options):
    module = build(kind, **options)
    hx = state_for(module, 3)

    def doubled(module, x, hx):
        results = tensors(by_loop(module, x, hx))
        return [result.mul_(2) for result in results]

    def twice(module, x, hx):
        return [2 * result for result in tensors(by_reference(module, x, hx))]

    assert_same(
        exercise(module, FORMS[form], hx, doubled), exercise(module, FORMS[form], hx, twice)
    )


@every_kind
@every_form
@every_depth
def test_nobody_elses_tensors_are_changed(kind, form, options):
    """Input, state and weights are not, nor are the gradients that the caller hands in."""
    module = build(kind, **options)
    results, inputs = step(module, FORMS[form], state_for(module, 3))
    theirs = [*inputs, *cotangents(results)]
    before = [(t.detach().clone(), t._version) for t in theirs]
    grads = torch.autograd.grad(results, inputs, theirs[len(inputs) :], retain_graph=True)
    for tensor, (was, version) in zip(theirs, before, strict=True):
        assert torch.equal(tensor, was)
        assert tensor._version == version
    memory = {t.untyped_storage().data_ptr() for t in (*theirs, *results)}
    assert not memory & {d.untyped_storage().data_ptr() for d in grads}
    assert len({d.untyped_storage().data_ptr() for d in grads}) == len(grads)


@every_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("sizes", [(3,), (3, 3, 3), (3, 2, 2, 1)], ids=str)
def test_gradients_of_the_final_states_are_not_changed(cell, reverse, sizes):
    """Past the module: there the stacking of final states would hide it."""
    inputs = arguments(cell, sizes)
    results = Recurrence.apply(Layer(cell, sizes, reverse), None, *inputs)
    dresults = cotangents(results)
    before = [d.clone() for d in dresults]
    grads = torch.autograd.grad(results, inputs[:-1], dresults)
    assert all(map(torch.equal, dresults, before))
    memory = {d.untyped_storage().data_ptr() for d in dresults}
    assert not memory & {d.untyped_storage().data_ptr() for d in grads}


@every_kind
def test_later_calls_leave_earlier_results_alone(kind):
    """Working memory that calls share must not show through what they return."""
    module, x = build(kind, H=7), normal(70, 3, 3)
    first = exercise(module, x, None, by_loop)
    kept = {name: t.clone() for name, t in first.items()}
    results, inputs = step(module, x)
    graph = [r.detach().clone() for r in results]
    exercise(module, 5 * x, state_for(module, 3), by_loop)
    with torch.no_grad():
        by_loop(module, -x)
    assert all(torch.equal(first[name], kept[name]) for name in kept)
    assert all(map(torch.equal, results, graph))
    grads = torch.autograd.grad(results, inputs, cotangents(results))
    assert all(
        torch.equal(d, kept[n]) for d, n in zip(grads, list(kept)[len(results) :], strict=True)
    )


@every_kind
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
def test_nothing_of_a_call_stays_for_the_next(kind, bias):
    module, x = build(kind, H=7, bias=bias), normal(70, 3, 3)
    expected = exercise(module, x, None, by_loop)
    exercise(module, torch.full_like(x, torch.nan), None, by_loop)
    seen = exercise(module, x, None, by_loop)
    assert all(torch.equal(seen[name], expected[name]) for name in expected)


@every_kind
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
def test_no_memory_is_read_before_it_is_written(kind, bias):
    """All memory that comes uninitialised is NaN here. The odd H is no other test's."""
    module = build(kind, H=11, bias=bias, bidirectional=True)
    torch.use_deterministic_algorithms(True)
    try:
        for x in (normal(70, 3, 3), packed([70, 2, 64], 3)):
            assert_loop_is_reference(module, x, state_for(module, 3))
            assert_loop_is_reference(module, x, None, lambda results: results[1:2])
    finally:
        torch.use_deterministic_algorithms(False)


@every_kind
def test_an_input_made_in_inference_mode_trains_what_does_not_read_it(kind):
    """With W_ih frozen no gradient needs the input, so it need not be an ordinary tensor."""
    module = build(kind)
    module.weight_ih_l0.requires_grad_(False)
    with torch.inference_mode():
        x = normal(9, 2, 3)
    wanted = [p for p in module.parameters() if p.requires_grad]
    grads = torch.autograd.grad(by_loop(module, x)[0].sum(), wanted)
    expected = torch.autograd.grad(by_loop(module, x.clone())[0].sum(), wanted)
    assert all(map(torch.equal, grads, expected))


@every_kind
def test_strides_make_no_difference(kind):
    """Transposed, expanded and sliced arguments, and weights that are views."""
    module = build(kind)
    T, B = 70, 3
    weights = [p.detach() for p in module.parameters()]
    odd = [torch.stack((w, w), -1)[..., 0] for w in weights]
    x = normal(B, T, 6)[..., ::2].transpose(0, 1)
    state = normal(1, 1, 5).expand(1, B, 5)
    hx = (state, state) if module.mode == "LSTM" else state
    function = getattr(fastrnn.functional, type(module).__name__.lower())
    options = {} if module.mode in ("LSTM", "GRU") else {"nonlinearity": module.nonlinearity}

    def run(x, hx, weights):
        x, hx, weights = leaves(x), leaves(hx), leaves(list(weights))
        with fastrnn.use_engine("torch.bptt"):
            results = tensors(function(x, hx, weights, **options))
        grads = torch.autograd.grad(
            [results[0].transpose(0, 1).sum(0), *results[1:]],
            [x, *tensors(hx), *weights],
            [d.flip(0) for d in cotangents([results[0].transpose(0, 1).sum(0), *results[1:]])],
        )
        return [*results, *grads]

    plain = [[w.clone() for w in weights], x.contiguous(), state.contiguous()]
    plain_hx = (plain[2], plain[2].clone()) if module.mode == "LSTM" else plain[2]
    for mine, expected in zip(run(x, hx, odd), run(plain[1], plain_hx, plain[0]), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def indices(T=70, B=3, I=4, dtype=torch.int64):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(I, (T, B), generator=generator).to(dtype)


def one_hot(x):
    if isinstance(x, PackedSequence):
        return x._replace(data=one_hot(x.data))
    return nn.functional.one_hot(x.long(), 4).double()


LAYOUTS = {
    "padded": (indices(), {}),
    "int32": (indices(dtype=torch.int32), {}),
    "one step": (indices(1), {}),
    "two steps": (indices(2), {}),
    "seven steps": (indices(7), {}),
    "batch first": (indices().t(), {"batch_first": True}),
    "unbatched": (indices()[:, 0], {}),
    "packed": (pack_sequence([indices()[:, 0], indices()[:64, 1], indices()[:1, 2]]), {}),
    "deep": (indices(), DEEP),
    "bare": (indices(), {"bias": False}),
}


def given_indices(module, x, hx):
    return module(x, hx, one_hot=True)


@every_kind
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("engine", ["auto", "torch.bptt", "torch.reference", "torch.aten"])
def test_one_hot_indices_stand_for_one_hot_vectors(kind, layout, engine):
    x, options = LAYOUTS[layout]
    module = build(kind, 4, **options)
    hx = state_for(module, None if layout == "unbatched" else 3)
    with fastrnn.use_engine(engine):
        seen = exercise_indices(module, x, hx)
    expected = exercise(module, one_hot(x), hx, by_reference)
    del expected["d input 0"]
    assert_same(seen, dict(zip(seen, expected.values(), strict=True)))


def exercise_indices(module, x, hx):
    """As `exercise`, for an input without gradients."""
    hx = leaves(hx)
    results = tensors(module(x, hx, one_hot=True))
    inputs = [*tensors(hx), *module.parameters()]
    grads = torch.autograd.grad(results, inputs, cotangents(results))
    return {f"result {n}": r.detach() for n, r in enumerate(results)} | {
        f"d {n}": d for n, d in enumerate(grads)
    }


@every_kind
@pytest.mark.parametrize("T", [1, 2, 4, 7, 8, 130])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_one_hot_inference_at_any_length(kind, T, dtype):
    module = build(kind, 4, dtype=dtype)
    x = indices(T)
    with torch.no_grad():
        torch.testing.assert_close(
            module(x, one_hot=True), by_reference(module, one_hot(x).to(dtype))
        )


@every_kind
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_indices_of_every_integer_type(kind, dtype):
    module = build(kind, 4)
    seen = module(indices(dtype=dtype), one_hot=True)
    torch.testing.assert_close(seen, module(indices(), one_hot=True))
    tensors(seen)[0].sum().backward()


@every_kind
def test_second_derivatives_with_one_hot_indices(kind):
    module = build(kind, 4)

    def penalty(output):
        grads = torch.autograd.grad(output.pow(2).sum(), module.parameters(), create_graph=True)
        return torch.autograd.grad(sum(d.pow(2).sum() for d in grads), module.parameters())

    x = indices(9)
    seen = penalty(by_loop(module, x, one_hot=True)[0])
    expected = penalty(by_reference(module, one_hot(x))[0])
    torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


@every_kind
@pytest.mark.parametrize("engine", ["auto", "torch.bptt", "torch.reference", "torch.aten"])
def test_wrong_indices_are_refused(kind, engine):
    module = build(kind, 4)
    with fastrnn.use_engine(engine):
        for wrong in (indices() + 1, indices() - 1):
            with pytest.raises(IndexError, match=r"must lie in \[0, 4\), got -?\d to \d"):
                module(wrong, one_hot=True)
        with pytest.raises(IndexError):
            module(pack_padded_sequence(indices() + 1, [70, 70, 1]), one_hot=True)
        for dtype in (torch.float32, torch.complex64):
            with pytest.raises(TypeError, match=f"integer indices, got {dtype}"):
                module(indices().to(dtype), one_hot=True)
        with pytest.raises(TypeError, match="got list"):
            module([1, 2], one_hot=True)


@every_kind
@pytest.mark.parametrize("form", ["padded", "packed"])
def test_training_takes_no_more_memory_than_torch_does(kind, form):
    """Nor do working memory and weights in another order, at a size that is not tiny."""
    T, B, I, H = 128, 32, 64, 128
    ours = build(kind, I, H, dtype=torch.float32)
    native = fastrnn.restore(copy.deepcopy(ours), None)
    x = torch.randn(T, B, I)
    if form == "packed":
        x = pack_padded_sequence(x, torch.arange(T, 0, -T // B))

    def train(run, module):
        results = tensors(run(module, x))
        torch.autograd.backward(results, [torch.ones_like(r) for r in results])

    loop = peak_bytes(lambda: train(by_loop, ours), "cpu")
    assert loop <= peak_bytes(lambda: train(nn.Module.__call__, native), "cpu")


def test_a_float32_loop_is_as_good_as_its_dtype():
    """Against double precision, over a thousand steps and all gradients: a few roundings."""
    module = build(KINDS[1], 8, 16, dtype=torch.float32)
    assert module.mode == GRU.name
    x = normal(1000, 1, 8, dtype=torch.float32)
    seen = exercise(module, x, None, by_loop)
    exact = exercise(copy.deepcopy(module).double(), x.double(), None, by_reference)
    for name, tensor in exact.items():
        error = (seen[name] - tensor).abs().max() / tensor.abs().max()
        assert error < 1e-5, name


def test_every_cell_of_the_table_has_a_loop():
    assert set(bptt.LOOPS) == set(CELLS.values())


@every_kind
@pytest.mark.parametrize("mode", ["first", "create_graph", "batched"])
def test_tied_weights_have_the_gradient_of_both_uses(kind, mode):
    ours = build(kind, 6, 6)
    tied = {"bias_hh_l0": "bias_ih_l0", "weight_hh_l0": "weight_ih_l0"}
    for name, other in tied.items():
        setattr(ours, name, getattr(ours, other))
    native = fastrnn.restore(copy.deepcopy(ours), None)
    x = normal(40, 3, 6)
    seen = []
    for module, run in ((ours, by_loop), (native, nn.Module.__call__)):
        output = tensors(run(module, x))[0]
        d = torch.ones_like(output)
        options = {"create_graph": {"create_graph": True}, "batched": {"is_grads_batched": True}}
        if mode == "batched":
            d = torch.stack((d, 2 * d))
        wanted = [module.bias_ih_l0, module.weight_ih_l0]
        seen.append(torch.autograd.grad(output, wanted, d, **options.get(mode, {})))
    for mine, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
