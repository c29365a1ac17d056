"""The same bits, forward and backward: again, in another process, with torch's deterministic
algorithms, and with dropout from the same state of the generator."""

import gc
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastrnn
from tests.contract import (
    GRU,
    LSTM,
    UNPROJECTED,
    cotangents,
    each_class,
    exercise,
    normal,
    packed,
    state_for,
    tensors,
    twins,
)
from tests.problems import ENGINES, HERE, MOST, assert_near, by_engine, dtype_of, move, on_cpu

every_kind = pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
DENSE_ONLY = {"torch.cell"} | {*HERE}.difference(MOST)
FORMS = ("dense", "packed", "padded", "one-hot", "more")


def every(engines, forms):
    """Of the engines and forms those that go together; in kernels cut for the interpreter."""
    pairs = [(e, f) for e in engines for f in forms if f == "dense" or e not in DENSE_ONLY]
    pairs = [pair for pair in pairs if pair != ("torch.aten", "more")]
    names = ["-".join(pair) for pair in pairs]
    each = pytest.mark.parametrize(("engine", "form"), pairs, ids=names)
    return lambda test: pytest.mark.usefixtures("ieee", "quick")(each(test))


DEEP = {"num_layers": 2, "bidirectional": True, "dropout": 0.5}
T, B, I, H = 3, 4, 5, 6
LENGTHS = [2, 0, 3, 1]


def problem(kind, engine, form, device, T=T, **options):
    """Module, input, state, and the call of it by an engine, from the same seed each time."""
    dtype = dtype_of(engine)
    deep = {**DEEP, "bidirectional": engine != "torch.cell", **options}
    module = twins(kind, I, H, dtype=dtype, **deep)[1].to(device)
    x, marks = normal(T, B, I, dtype=dtype), {}
    if form == "packed":
        x = packed([min(n or 3, T) for n in LENGTHS], I, dtype=dtype)
    elif form == "padded":
        marks = {"lengths": torch.tensor(LENGTHS, device=device)}
    elif form == "more":  # all that a call takes and gives beyond torch.nn's
        marks = {
            "lengths": torch.tensor(LENGTHS, device=device),
            "return_cell_states": kind is LSTM,
        }
        marks["resets"] = normal(T, B, seed=9).to(device) > 0.5
    elif form == "one-hot":
        x, marks = (x.sum(2).abs() * 10).long() % I, {"one_hot": True}
    plain = by_engine(engine, **marks)

    def seeded(module, x, hx):
        torch.manual_seed(5)
        return plain(module, x, hx)

    x = x.to(device) if form in ("packed", "one-hot") else move(x, device)
    return module, x, move(state_for(module, B), device), seeded


def step_of(kind, engine, form, device, **options):
    """All that one training step shows, by name."""
    module, x, hx, call = problem(kind, engine, form, device, **options)
    if form != "one-hot":
        return exercise(module, x, hx, call)
    results = tensors(call(module, x, hx))
    torch.autograd.backward(results, cotangents(results))
    seen = {f"result {n}": result.detach() for n, result in enumerate(results)}
    return seen | {f"d {name}": p.grad for name, p in module.named_parameters()}


def assert_same_bits(got, expected):
    assert got.keys() == expected.keys()
    for name, theirs in expected.items():
        assert torch.equal(got[name], theirs), name


def disturb(device):
    """Other calls, other shapes, other memory, another state of the generator."""
    kept = [torch.randn(n, device=device) for n in (3, 77, 1001)]
    for cls in (fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN):
        module = cls(3, 9, 2, dropout=0.1, device=device)
        module(torch.randn(17, 2, 3, device=device))[0].sum().backward()
    del kept
    gc.collect()


@every(HERE, FORMS)
@every_kind
def test_again(kind, engine, form, device):
    first = step_of(kind, engine, form, device)
    disturb(device)
    assert_same_bits(step_of(kind, engine, form, device), first)


@every([engine for engine in MOST if engine in ENGINES], FORMS[:1])
@each_class
def test_with_recomputed_gates(kind, engine, form, device):
    with fastrnn.use_memory("recompute"):
        test_again(kind, engine, form, device)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every(MOST, FORMS)
@each_class
def test_with_deterministic_algorithms(kind, engine, form, device, request):
    """No operator that torch would refuse then, or warn of, and the bits that are without, though
    torch fills memory that is not yet written with NaN."""
    expected = step_of(kind, engine, form, device)
    request.getfixturevalue("deterministic")
    assert_same_bits(step_of(kind, engine, form, device), expected)


@pytest.mark.slow
@every([engine for engine in MOST if engine != "torch.aten"], FORMS[:1])
@each_class
def test_second_derivatives(kind, engine, form, device, deterministic):
    seen = []
    for _ in range(2):
        module, x, hx, call = problem(kind, engine, form, device)

        def penalty(module, x, hx, call=call):
            outputs = tensors(call(module, x, hx))
            inputs = [x, *tensors(hx), *module.parameters()]
            loss = sum(output.square().sum() for output in outputs)
            return list(torch.autograd.grad(loss, inputs, create_graph=True))

        seen.append(exercise(module, x, hx, penalty))
        disturb(device)
    assert_same_bits(*seen)


@pytest.mark.slow
@each_class
@pytest.mark.parametrize("threads", [1, 2])
def test_loops_in_chunks_and_threads(kind, threads):
    """Of many steps, and of products that torch shares out over threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = normal(150, 16, 40, dtype=torch.float32)
        module = twins(kind, 40, 96, dropout=0.5, num_layers=2)[1]
        seen = []
        for _ in range(3):
            torch.manual_seed(0)
            seen.append(exercise(module, x, None, by_engine("torch.bptt")))
            disturb("cpu")
        assert_same_bits(seen[1], seen[0])
        assert_same_bits(seen[2], seen[0])
    finally:
        torch.set_num_threads(before)


def digest(device):
    """Of the bits of a training step by each engine, of some kinds and forms."""
    found = {}
    for engine in MOST:
        for kind, form in ((LSTM, "dense"), (GRU, "dense"), (GRU, "packed")):
            if engine == "torch.cell" and form == "packed":
                continue
            seen = on_cpu(step_of(kind, engine, form, device))
            data = b"".join(t.contiguous().numpy().tobytes() for t in seen.values())
            found[f"{engine} {kind} {form}"] = hashlib.sha256(data).hexdigest()
    return found


ELSEWHERE = """
import json, sys, torch
from tests import conftest, test_reproducibility as here
if sys.argv[2] == "busy":
    torch.manual_seed(123)
    here.disturb(sys.argv[1])
print(json.dumps(here.digest(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["fresh", "busy"])
def test_in_another_process(state, device):
    command = [sys.executable, "-c", ELSEWHERE, device, state]
    root = Path(__file__).parent.parent
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == digest(device)


@every(MOST, FORMS[:1])
@each_class
def test_dropout_from_a_state_of_the_generator(kind, engine, form, device):
    """get_rng_state and set_rng_state, as torch.utils.checkpoint uses them."""
    module, x, hx, _ = problem(kind, engine, form, device)
    get, put = torch.get_rng_state, torch.set_rng_state
    if device == "cuda":
        get, put = torch.cuda.get_rng_state, torch.cuda.set_rng_state
    call = by_engine(engine)
    state = get()
    first = exercise(module, x, hx, call)
    after = get()
    second = exercise(module, x, hx, call)
    assert not torch.equal(first["result 0"], second["result 0"])
    put(state)
    assert_same_bits(exercise(module, x, hx, call), first)
    assert torch.equal(get(), after)


@every(MOST, FORMS[:2])
@each_class
@pytest.mark.parametrize("reentrant", [False, True])
def test_dropout_under_checkpointing(kind, engine, form, reentrant, device):
    module, x, hx, call = problem(kind, engine, form, device)

    def checkpointed(module, x, hx):
        def flat(data, *states):
            inner = x if torch.is_tensor(x) else x._replace(data=data)
            state = states if len(states) > 1 else states[0]
            return tuple(tensors(by_engine(engine)(module, inner, state)))

        torch.manual_seed(5)
        return list(checkpoint(flat, *tensors((x, hx)), use_reentrant=reentrant))

    expected = exercise(module, x, hx, call)
    if reentrant:  # the first forward pass is without gradients, where oneDNN may round otherwise
        with torch.no_grad():
            results = tensors(call(module, x, hx))
        expected |= {f"result {n}": result for n, result in enumerate(results)}
    assert_same_bits(exercise(module, x, hx, checkpointed), expected)


@every(HERE, FORMS[:2])
@each_class
@pytest.mark.skipif(torch.cuda.is_available(), reason="cuDNN has a generator of its own")
def test_dropout_draws_as_torch_nn(kind, engine, form):
    module, x, hx, call = problem(kind, engine, form, "cpu")
    got = exercise(module, x, hx, call)
    after = torch.get_rng_state()
    fastrnn.restore(module, report=None)
    assert type(module) is getattr(nn, kind.name)
    torch.manual_seed(5)
    expected = exercise(module, x, hx)
    assert torch.equal(torch.get_rng_state(), after)
    assert_near(got.values(), [expected[name].double() for name in got], 64)
