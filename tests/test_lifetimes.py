"""After the backward pass nothing of a call is alive but by the caller's hand; until then torch's
hooks for saved tensors know of all that is kept for it."""

import gc
import itertools
import random
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import fastrnn
from fastrnn import torch_engine
from tests.contract import (
    GRU,
    LSTM,
    assert_near,
    each_class,
    normal,
    outcome,
    state_for,
    tensors,
    twins,
)
from tests.functions import flat
from tests.problems import MOST, dtype_of

pytestmark = pytest.mark.usefixtures("ieee", "quick")
T, B, I, H = 6, 3, 20, 4
GROUPS = ("input", "h_0", "c_0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
FORMS = ("dense", "batch_first", "single", "packed", "lengths", "resets", "indices")
# "mended": torch.nn's operators with what cuDNN lacks, see test_native.py.
ENGINES = (*MOST, "mended")
every_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def mended(monkeypatch, request):
    if "engine" in request.fixturenames and request.getfixturevalue("engine") == "mended":
        monkeypatch.setitem(torch_engine.PLANS, "aten", torch_engine.mended)


class Problem:
    """A module, as a function of all its tensors, and these tensors; which of them are trained is
    drawn unless it is given."""

    def __init__(self, kind, engine, form="dense", seed=0, device="cpu", trained=None, **options):
        chance = random.Random(f"{kind} {engine} {form} {seed}")
        dtype = dtype_of("torch.aten" if engine == "mended" else engine)
        drawn = {"num_layers": chance.choice([1, 2]), "bidirectional": chance.random() < 0.5}
        drawn |= {"bias": chance.random() < 0.7, "batch_first": form == "batch_first", **options}
        drawn["bidirectional"] &= engine != "torch.cell"
        self.modules = [m.to(device) for m in twins(kind, I, H, dtype=dtype, **drawn)]
        self.engine, self.form, self.options = engine, form, {}
        self.memory = chance.choice(["save", "recompute"])
        shape = {"batch_first": (B, T), "single": (T,)}.get(form, (T, B))
        x = normal(*shape, I, dtype=dtype).to(device)
        if form == "indices":
            x, self.options = x.argmax(-1), {"one_hot": True}
        if form == "lengths":
            self.options = {"lengths": torch.tensor([T, 3, 0], device=device)}
        if form == "resets":
            self.options = {"resets": normal(T, B, seed=9).to(device) > 0.5}
        states = tensors(state_for(self.modules[1], None if form == "single" else B))
        self.leaves = {"input": x}
        self.leaves |= {n: s.to(device) for n, s in zip(("h_0", "c_0"), states, strict=False)}
        self.leaves |= {n: p.detach().clone() for n, p in self.modules[1].named_parameters()}
        if trained is None:
            trained = {group for group in GROUPS if chance.random() < 0.5} | {"weight_hh"}
        for name, leaf in self.leaves.items():
            if leaf.is_floating_point():
                leaf.requires_grad_(name.partition("_l")[0] in trained)
        self.trained = [leaf for leaf in self.leaves.values() if leaf.requires_grad]

    def __call__(self, own, module=None):
        """All results of our module, or of another, of such tensors."""
        states = [own[name] for name in ("h_0", "c_0") if name in own]
        weights = {n: t for n, t in own.items() if n not in ("input", "h_0", "c_0")}
        x, hx = own["input"], states[0] if len(states) == 1 else tuple(states)
        if self.form == "packed":
            x = pack_padded_sequence(x, torch.tensor([T, 4, 1]))
        engine = "torch.aten" if self.engine == "mended" else self.engine
        with fastrnn.use_engine(engine), fastrnn.use_memory(self.memory):
            module = self.modules[1] if module is None else module
            return flat(functional_call(module, weights, (x, hx), self.options))

    def own(self):
        """Copies of the leaves, connected to these, and weak references to the copies."""
        own = {name: leaf.clone() for name, leaf in self.leaves.items()}
        return own, {name: weakref.ref(tensor) for name, tensor in own.items()}

    def grads(self, results, **options):
        loss = results if torch.is_tensor(results) else square(results)
        return torch.autograd.grad(loss, self.trained, allow_unused=True, **options)


def served(problem, own):
    """The problem's results, or None where its engine cannot serve."""
    found = outcome(lambda: problem(own))
    if found.error and "cannot serve this call" in found.error[1]:
        return None
    assert found.error is None
    return found.value


def square(results):
    return sum(result.square().sum() for result in results if result is not None)


def assert_alike(grads, expected):
    for got, right in zip(grads, expected, strict=True):
        assert (got is None) == (right is None)
        if got is not None:
            torch.testing.assert_close(got, right)


def alive(references):
    return sorted(name for name, reference in references.items() if reference() is not None)


@pytest.fixture(scope="module")
def torch_at_work():
    """What torch imports when it is first needed leaves frames behind, and all that they hold."""
    problem = Problem(GRU, "torch.bptt", trained=["weight_hh"])
    twofold(problem, problem(problem.own()[0]))


@pytest.fixture(autouse=True)
def no_collector(torch_at_work):
    """Nothing is to wait for Python's collector of cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@contextmanager
def allocated(engine):
    """A list that gets the bytes that torch has allocated on the CPU in the block and not freed.

    What was allocated before may not be freed in it, or it would count as well, or not.
    """
    found = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
        if engine not in torch_engine_names():
            # Triton's interpreter leaves cycles that hold its copies of a launch's tensors.
            gc.collect()
    found.append(sum(event.self_cpu_memory_usage for event in profiler.events()))


def size(results):
    return sum(result.numel() * result.element_size() for result in results)


# Ways to be done with the results of a call. Each returns what the caller goes on to hold.


def once(problem, results):
    loss = square(results)
    problem.grads(loss)
    return loss


def twice(problem, results):
    loss = square(results)
    first = problem.grads(loss, retain_graph=True)
    for one, two in zip(first, problem.grads(loss), strict=True):
        assert one is two is None or torch.equal(one, two)
    return loss


def twofold(problem, results):
    """A second derivative, whose first one the caller keeps."""
    loss = square(results)
    first = problem.grads(loss, create_graph=True)
    second = square(first)
    if second.requires_grad:
        problem.grads(second)
    return loss, second


def in_vain(problem, results):
    """A backward pass that fails below the layer, and then is done again."""
    loss = square(results)

    def fail(d):
        raise ZeroDivisionError

    hook = problem.trained[0].register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        torch.autograd.backward(loss, inputs=problem.trained[:1], retain_graph=True)
    hook.remove()
    problem.grads(loss)
    return loss


def dropped(problem, results):
    return None


WAYS = (once, twice, twofold, in_vain, dropped)


def survivors(problem, way, module=None):
    """What of the call's tensors is alive when all that the caller holds is what `way` returns."""
    own, references = problem.own()
    results = problem(own, module)
    del own
    held = way(problem, results)
    del results
    return alive(references), held


def test_a_measure_that_sees_what_is_held():
    problem = Problem(GRU, "torch.bptt", trained=["weight_hh"])
    assert "weight_hh_l0" in survivors(problem, lambda problem, results: results)[0]


@every_engine
@each_class
@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_alive_after_the_backward_pass(kind, engine, form, device):
    ways = WAYS if engine in torch_engine_names() else [random.Random(form).choice(WAYS)]
    for seed, way in enumerate(ways):
        problem = Problem(kind, engine, form, seed, device)
        if served(problem, problem.own()[0]) is not None:
            assert survivors(problem, way)[0] == [], way


def torch_engine_names():
    return [engine for engine in ENGINES if engine.startswith("torch.") or engine == "auto"]


@each_class
def test_nothing_is_alive_for_any_pattern_of_freezing(kind):
    """As with torch.nn, whose modules themselves hold on to the weights that they were lent."""
    groups = [group for group in GROUPS if kind is LSTM or group != "c_0"]
    patterns = itertools.product([False, True], repeat=len(groups))
    for pattern in itertools.islice(patterns, 1, None):
        trained = list(itertools.compress(groups, pattern))
        problem = Problem(kind, "torch.bptt", trained=trained, num_layers=1, bias=True)
        assert survivors(problem, once)[0] == [], trained
        natives = survivors(problem, once, problem.modules[0])[0]
        assert not {"input", "h_0", "c_0"} & set(natives)


@contextmanager
def taken_away():
    """What is saved within the block is kept elsewhere."""
    elsewhere = []

    def pack(tensor):
        elsewhere.append(tensor.detach().cpu().numpy().copy())
        return len(elsewhere) - 1, tensor.device

    def unpack(packed):
        number, device = packed
        return torch.from_numpy(elsewhere[number]).to(device)

    with saved_tensors_hooks(pack, unpack):
        yield


@every_engine
@each_class
@pytest.mark.parametrize("form", FORMS)
def test_hooks_take_all_of_it_away(kind, engine, form, device):
    """Between the passes, nothing but the results is in memory."""
    problem = Problem(kind, engine, form, 1, device)
    results = served(problem, problem.own()[0])
    if results is None:
        return
    expected = problem.grads(results)
    own, references = problem.own()
    with allocated(engine) as kept, taken_away():
        results = problem(own)
        count = size(results)
    del own
    if not torch.cuda.is_available():
        assert kept[0] - count < 100
    loss = square(results)
    del results
    assert alive(references) == []
    assert_alike(problem.grads(loss), expected)
    assert alive(references) == []


@every_engine
@each_class
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_keeps_what_it_was_given(kind, engine, reentrant, device):
    problem = Problem(kind, engine, "dense", 2, device, trained=["input", "bias_ih"], bias=True)
    problem(problem.own()[0])
    own, references = problem.own()

    def function(*given):
        return tuple(problem(dict(zip(references, given, strict=True))))

    with allocated(engine) as kept:
        results = checkpoint(function, *own.values(), use_reentrant=reentrant)
        count = size(results)
    del own
    if not torch.cuda.is_available():
        # torch keeps the generator's state.
        assert kept[0] - count < 2 * torch.get_rng_state().numel() + 100
    loss = square(results)
    del results
    loss.backward(inputs=None if reentrant else problem.trained)
    assert alive(references) == []


@each_class
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_module_keeps_nothing(kind):
    for trained in (["input", "weight_hh"], ["input", "h_0", "weight_ih"]):
        problem = Problem(kind, "torch.bptt", trained=trained)
        module = problem.modules[1]
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(problem.leaves[name].requires_grad)
        compiled = torch.compile(module, backend="aot_eager")
        for _ in range(2):
            own, references = problem.own()
            states = [own[name] for name in ("h_0", "c_0") if name in own]
            results = compiled(own["input"], tuple(states) if len(states) > 1 else states[0])
            loss = square(flat(results))
            del own, states, results
            loss.backward()
        assert alive(references) == []


# What need not be kept may be changed.


@pytest.mark.slow
@each_class
@pytest.mark.parametrize("engine", [e for e in MOST if e not in ("auto", "torch.cell")])
@pytest.mark.parametrize("create_graph", [False, True])
def test_what_frozen_weights_multiply_may_be_changed(kind, engine, create_graph, device):
    """As with torch.nn: the input where W_ih is frozen, h_0 where W_hh is."""
    trained = {"input": ["input", "bias_ih"], "h_0": ["h_0", "bias_ih"]}
    for name, memory in itertools.product(trained, ["save", "recompute"]):
        problem = Problem(kind, engine, device=device, trained=trained[name], bias=True)
        problem.memory = memory
        found = []
        for change in (1.0, 0.0):
            own, _ = problem.own()
            results = problem(own)
            with torch.no_grad():
                own[name].mul_(change)
            found.append(problem.grads(results, create_graph=create_graph))
        for got, right in zip(*found, strict=True):
            torch.testing.assert_close(got, right)


@pytest.mark.parametrize("engine", [engine for engine in MOST if engine != "torch.cell"])
@each_class
def test_resets_and_lengths_may_be_changed(kind, engine, device):
    for form in ("resets", "lengths"):
        grads = []
        for changed in (False, True):
            problem = Problem(kind, engine, form, 3, device)
            results = served(problem, problem.own()[0])
            if results is None:
                return
            if changed:
                problem.options[form].zero_()
            grads.append(problem.grads(results))
        assert_alike(*grads)


@pytest.mark.parametrize("engine", [engine for engine in MOST if "." not in engine])
@each_class
def test_a_backward_pass_tried_again_gives_no_other_numbers(kind, engine, device, monkeypatch):
    """A kernel may have put gradients in the place of what was saved: then there is an error."""
    problem = Problem(kind, engine, "dense", 4, device, trained=["weight_hh", "weight_ih"])
    expected = problem.grads(problem(problem.own()[0]))
    results = problem(problem.own()[0])
    if engine != "auto":
        from fastrnn import triton_engine

        def fail(*arguments):
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(triton_engine.Layer, "_products", fail)
            with pytest.raises(ZeroDivisionError):
                problem.grads(results)
    again = outcome(lambda: problem.grads(results))
    if again.error is None:
        assert_alike(again.value, expected)
    else:
        assert "modified by an inplace operation" in again.error[1]


# Derivatives after the input has changed.


@each_class
@pytest.mark.parametrize("form", ["dense", "packed"])
def test_higher_derivatives_after_a_change_of_the_input(kind, form):
    """Of any order, with W_ih frozen, are torch.nn's."""
    trained = {"frozen input": ["h_0", "weight_hh"], "input": ["input", "bias_ih", "weight_hh"]}
    for names, bias, seed in itertools.product(trained, [False, True], [1, 2]):
        problem = Problem(kind, "torch.bptt", form, seed, trained=trained[names], bias=bias)
        found = []
        for module in (None, problem.modules[0]):
            own, _ = problem.own()
            results, orders = problem(own, module), []
            with torch.no_grad():
                own["input"].zero_()
            for order in range(3):
                grads = problem.grads(results, create_graph=order < 2)
                results = [grad for grad in grads if grad is not None and grad.requires_grad]
                orders += grads
            found.append(orders)
        for got, right in zip(*found, strict=True):
            if got is None or right is None:
                assert got is None or not got.any()
            else:
                assert_near([got], [right], 1e-9)
