"""What the tests of the kernels' engines share: the same step by an engine, torch.nn, a referee."""

import contextlib

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

import fastrnn
from fastrnn.call import TORCH_PLANS
from fastrnn.chips import has_triton
from tests.contract import (
    assert_same,
    exercise,
    leaves,
    mapped,
    normal,
    packed,
    roundoff,
    state_for,
    tensors,
    twins,
    wide,
    widened,
)

ENGINES = ("resident", "cooperative", "step")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def move(value, device):
    """The tensors in a value on another device, with the strides that they have."""
    if isinstance(value, PackedSequence):
        return value.to(device)
    return mapped(lambda tensor: tensor.to(device), value)


def one_by_one(module, x, hx, lengths):
    """torch.nn's module on every sequence alone, as long as it is: what `lengths` stands for."""
    dim = 0 if module.batch_first else 1
    T = x.shape[1 - dim]
    outputs, states = [], []
    for b, length in enumerate(lengths.tolist()):
        mine = x.narrow(dim, b, 1).narrow(1 - dim, 0, length)
        state = mapped(lambda s: s[:, b : b + 1].contiguous(), hx)  # noqa: B023
        if length:
            output, state = module(mine, state)
        else:
            output = mine.sum() * x.new_zeros(*mine.shape[:2], width(module))
            state = zeros(module, x) if state is None else state
        padding = [0, 0, 0, T - length] if dim == 0 else [0, 0, 0, 0, 0, T - length]
        outputs.append(torch.nn.functional.pad(output, padding))
        states.append(tensors(state))
    finals = [torch.cat(parts, 1) for parts in zip(*states, strict=True)]
    return torch.cat(outputs, dim), finals


def width(module):
    return module.hidden_size * (2 if module.bidirectional else 1)


def zeros(module, x):
    count = module.num_layers * (2 if module.bidirectional else 1)
    state = x.new_zeros(count, 1, module.hidden_size)
    return (state, state) if "LSTM" in type(module).__name__ else state


def by_engine(engine, lengths=None, memory="save", part=None, **options):
    """A call for `exercise`: the results of our module by an engine, or a part of them."""

    def call(module, x, hx):
        with fastrnn.use_engine(engine), fastrnn.use_memory(memory):
            results = module(x, hx, lengths=lengths, **options)
        return part(tensors(results)) if part else results

    return call


def natively(lengths=None, part=None):
    """The same of torch.nn's module."""

    def call(module, x, hx):
        results = module(x, hx) if lengths is None else one_by_one(module, x, hx, lengths)
        return part(tensors(results)) if part else results

    return call


def on_cpu(seen):
    return {name: None if t is None else t.cpu() for name, t in seen.items()}


def assert_right(twins, call, x, hx=None, device="cpu", lengths=None, part=None):
    """What `call` of our module shows is right by the rule for numbers, against torch.nn's module
    and that in double precision on the CPU."""
    native, ours = twins
    referee = exercise(*widened(native, x, hx), natively(lengths, part))
    here = move(x, device), move(hx, device)
    expected = exercise(native.to(device), *here, natively(lengths, part))
    seen = exercise(ours.to(device), *here, call)
    assert_same(on_cpu(seen), on_cpu(expected), referee)


def assert_near(got, exact, rounding=16):
    """Float32 results, or lower, against exact ones: some roundings of the largest magnitude."""
    for mine, referee in zip(got, exact, strict=True):
        assert mine.shape == referee.shape
        unit = roundoff(mine.dtype) * max(1.0, referee.abs().max().item())
        error = (mine.cpu().to(wide(mine.dtype)) - referee.cpu()).abs().max().item()
        assert error <= rounding * unit, f"error {error:.3g}, allowed {rounding * unit:.3g}"


@contextlib.contextmanager
def launches(monkeypatch):
    """A list that every launch of a kernel is noted in."""
    from fastrnn.kernels import cooperative, resident, step

    noted = []

    def noting(module, name):
        plain = getattr(module, name)

        def launch(*args):
            noted.append(f"{module.__name__.rpartition('.')[2]}.{name}")
            return plain(*args)

        return launch

    with monkeypatch.context() as patch:
        for module in (resident, cooperative, step):
            for name in ("forward", "backward"):
                patch.setattr(module, name, noting(module, name))
        yield noted


def some_input(form, device):
    """x and lengths: four sequences of one length, of several packed, or of several padded."""
    if form == "packed":
        return packed([2, 1, 3, 3], 3, dtype=torch.float32).to(device), None
    lengths = torch.tensor([2, 0, 3, 1], device=device) if form == "padded" else None
    return normal(3, 4, 3, dtype=torch.float32).to(device), lengths


def graph(kind, engine, memory, form, device, **options):
    """Results, and what they are to be differentiated with respect to."""
    module = twins(kind, 3, 6, **options)[1].to(device)
    x, lengths = some_input(form, device)
    x, hx = leaves(x), leaves(move(state_for(module, 4), device))
    results = tensors(by_engine(engine, lengths, memory)(module, x, hx))
    return results, [*tensors((x, hx)), *module.parameters()]


# All that can run here, by the names that `use_engine` takes.
HERE = (
    *(("auto",) if torch.cuda.is_available() else ("auto", *map("torch.{}".format, TORCH_PLANS))),
    *(ENGINES if has_triton() else ()),
)

# `cooperative` takes long in the interpreter, where it says little of programs that wait.
MOST = tuple(engine for engine in HERE if engine != "cooperative" or torch.cuda.is_available())
every_engine = pytest.mark.parametrize("engine", MOST)


def dtype_of(engine):
    """Double precision but for the kernels, which have none, and for the choice of `auto`."""
    return torch.float64 if engine.startswith("torch.") else torch.float32
