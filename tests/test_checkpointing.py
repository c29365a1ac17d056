"""Activations worked out again, or kept elsewhere. Of dropout and packed input under checkpoints
see test_reproducibility.py."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

import fastrnn
from tests.contract import (
    LSTM,
    assert_same_outcome,
    each_class,
    exercise,
    normal,
    packed,
    state_for,
    tensors,
    twins,
)
from tests.problems import MOST, assert_near, by_engine, dtype_of, every_engine, move

pytestmark = pytest.mark.usefixtures("ieee", "quick")
T, B, I, H = 3, 4, 5, 6
FORMS = ("dense", "packed", "lengths", "more")


def every(engines, forms=FORMS):
    """Engines and forms of input, where an engine has the form."""
    dense_only = {"torch.cell": ("dense",), "torch.aten": ("dense", "packed", "lengths")}
    pairs = [(e, f) for e in engines for f in forms if f in dense_only.get(e, forms)]
    return pytest.mark.parametrize(("engine", "form"), pairs, ids=map("-".join, pairs))


def module_of(kind, engine, device, **options):
    bidirectional = engine != "torch.cell"
    options = {"num_layers": 2, "bidirectional": bidirectional, **options}
    return twins(kind, I, H, dtype=dtype_of(engine), **options)[1].to(device)


def problem(kind, engine, form, device):
    """Module, input, state, and the call of it by the engine: with `more`, all that a call takes
    and gives beyond torch.nn's."""
    module, x = module_of(kind, engine, device), normal(T, B, I, dtype=dtype_of(engine)).to(device)
    marks = {}
    if form == "packed":
        x = packed([2, 3, 1, 3], I, dtype=x.dtype).to(device)
    if form in ("lengths", "more"):
        marks["lengths"] = torch.tensor([2, 3, 0, 3], device=device)
    if form == "more":
        marks["resets"] = normal(T, B, seed=9).to(device) > 0.5
        marks["return_cell_states"] = kind is LSTM
    return module, x, move(state_for(module, B), device), by_engine(engine, **marks)


def assert_same_bits(got, expected):
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@every(MOST, ("lengths", "more"))
@each_class
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint(kind, engine, form, reentrant, device):
    module, x, hx, call = problem(kind, engine, form, device)

    def checkpointed(module, x, hx):
        def flat(data, *states):
            inner = x if torch.is_tensor(x) else x._replace(data=data)
            return tuple(tensors(call(module, inner, states if len(states) > 1 else states[0])))

        return list(checkpoint(flat, *tensors((x, hx)), use_reentrant=reentrant))

    assert_same_bits(exercise(module, x, hx, checkpointed), exercise(module, x, hx, call))


@every_engine
@each_class
def test_a_chain_of_checkpoints(kind, engine, device):
    """Modules one after the other, each recomputed in its turn, with dropout in and between."""

    class Output(nn.Module):
        def __init__(self, rnn):
            super().__init__()
            self.rnn = rnn

        def forward(self, x):
            with fastrnn.use_engine(engine):
                return self.rnn(x)[0]

    first = module_of(kind, engine, device, dropout=0.5)
    made = partial(getattr(fastrnn, kind.name), H * (2 if first.bidirectional else 1), H)
    second = made(dtype=dtype_of(engine), device=device)
    model = nn.Sequential(Output(first), nn.Dropout(0.3), Output(second))
    seen = []
    for chained in (False, True):
        torch.manual_seed(4)
        model.zero_grad()
        x = normal(T, B, I, dtype=dtype_of(engine)).to(device).requires_grad_()
        output = checkpoint_sequential(model, 3, x, use_reentrant=False) if chained else model(x)
        output.square().sum().backward()
        seen.append([output.detach(), x.grad, *[p.grad for p in model.parameters()]])
    assert all(map(torch.equal, *seen))


# Selective checkpointing goes by operator, under a dispatch mode, so torch.nn's operators run.

PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]


def keeping(operators):
    """A call whose checkpoint keeps what these operators give."""

    def policy(context, operator, *args, **kwargs):
        kept = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE
        return kept[operator not in operators]

    def selective(module, x, hx):
        contexts = partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(module, x, use_reentrant=False, context_fn=contexts)[0]

    return selective


@each_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_selective_checkpoints_that_keep_none_of_its_operators(kind, dtype, device):
    module = twins(kind, I, H, num_layers=2, bidirectional=True, dtype=dtype)[1].to(device)
    x = normal(20, B, I, dtype=dtype).to(device)
    expected = exercise(module, x, None, lambda module, x, hx: module(x)[0])
    got = exercise(module, x, None, keeping([]))
    assert_near(got.values(), [t.double() for t in expected.values()], 64)


@each_class
def test_selective_checkpoints_that_keep_products(kind, device):
    """Where torch.nn's operators change in place what they kept, torch raises, or of the GRU gives
    wrong gradients; so it is here, as long as these operators run. The reference changes nothing.
    """
    native, ours = (m.to(device) for m in twins(kind, I, H, dtype=torch.float64))
    x, selective = normal(20, B, I).to(device), keeping(PRODUCTS)
    expected, got = assert_same_outcome(
        lambda: exercise(native, x, None, selective), lambda: exercise(ours, x, None, selective)
    )
    if expected is not None:
        assert_near(got.values(), expected.values(), 64)
    plain = exercise(native, x, None, lambda module, x, hx: module(x)[0])
    with fastrnn.use_engine("torch.reference"):
        right = exercise(ours, x, None, selective)
    assert_near(right.values(), plain.values(), 64)


# Saved tensors elsewhere.


def elsewhere(call, hooks):
    def call_under_hooks(module, x, hx):
        with hooks:
            return call(module, x, hx)

    return call_under_hooks


@every(MOST)
@each_class
def test_saved_tensors_may_be_put_on_the_cpu(kind, engine, form, device):
    module, x, hx, call = problem(kind, engine, form, device)
    got = exercise(module, x, hx, elsewhere(call, save_on_cpu()))
    assert_same_bits(got, exercise(module, x, hx, call))


@every_engine
@each_class
def test_saved_tensors_may_be_put_on_a_disk(kind, engine, device, tmp_path):
    module, x, hx, call = problem(kind, engine, "dense", device)

    def pack(tensor):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.pt"
        torch.save(tensor, path)
        return path

    got = exercise(module, x, hx, elsewhere(call, saved_tensors_hooks(pack, torch.load)))
    assert_same_bits(got, exercise(module, x, hx, call))


@every([engine for engine in MOST if engine != "auto"], ("dense", "more"))
@each_class
def test_saved_tensors_may_have_other_strides(kind, engine, form, device):
    """Every second number of a memory twice as large, and not from its beginning.

    Not with `auto`: the backward pass of torch.nn's LSTM in float32 on a CPU, oneDNN's, reads what
    was saved as if it were contiguous.
    """

    def unpack(tensor):
        wide = tensor.new_empty((*tensor.shape, 2)).fill_(7)
        wide[..., 1] = tensor
        return wide[..., 1]

    module, x, hx, call = problem(kind, engine, form, device)
    got = exercise(module, x, hx, elsewhere(call, saved_tensors_hooks(torch.clone, unpack)))
    # Other routines of torch's products may round otherwise.
    expected = exercise(module, x, hx, call)
    assert_near(got.values(), [t.double() for t in expected.values()], 64)
