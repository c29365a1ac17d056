"""`explain` of a call that torch.nn refuses: it says so, in torch.nn's words, and runs no layer."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import fastrnn
from fastrnn.foresight import OPERATORS
from tests.contract import (
    CELLS,
    GRU,
    LSTM,
    PROJECTED,
    TANH,
    each_class,
    normal,
    normalised,
    outcome,
    packed,
    tensors,
    twins,
)
from tests.test_contract_errors import CELL_MISTAKES, LSTM_MISTAKES, MISTAKES, B, H, I, T

# These are mistakes in the call of `explain` too, which raises as any function does.
MISCALLS = {"no input", "unknown keyword", "too many arguments"}
X = normal(T, B, I, dtype=torch.float32)


class Ran(TorchFunctionMode):
    """Where torch's recurrent operators were run."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in OPERATORS:
            self.devices.append(args[0].device.type)
        return func(*args, **(kwargs or {}))


def explained(module, mistake):
    """The explanation that `mistake`, which calls a module, asks for of `module`."""
    asks = {"__call__": lambda self, *args: fastrnn.explain(module, *args)}
    return mistake(type(type(module).__name__, (), asks)())


def assert_foretold(native, ours, mistake, tried=False):
    """Some are none with some modules; tried: only the operator itself knows."""
    expected = outcome(lambda: mistake(native)).error
    random = torch.get_rng_state()
    with Ran() as ran:
        found = explained(ours, mistake)
    assert torch.equal(torch.get_rng_state(), random)
    if expected is None:
        assert found.error is None
        assert tried or set(ran.devices) <= {"meta"}
    else:
        assert normalised(found.error) == f"{expected[0].__name__}: {expected[1]}"
        line = found.error.partition("\n")[0]
        assert f"\n  error   the call raises {line}" in str(found)


@each_class
@pytest.mark.parametrize("mistake", sorted(MISTAKES.keys() - MISCALLS))
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_mistake(kind, mistake, batch_first):
    options = {"bidirectional": True, "batch_first": batch_first, "dropout": 0.5}
    assert_foretold(*twins(kind, I, H, 2, **options), MISTAKES[mistake])


@pytest.mark.parametrize("mistake", LSTM_MISTAKES)
def test_a_mistake_with_two_states(mistake):
    options = {"proj_size": 2} if "projected" in mistake else {}
    assert_foretold(*twins(LSTM, I, H, 2, bidirectional=True, **options), LSTM_MISTAKES[mistake])


@pytest.mark.parametrize("kind", CELLS[:3], ids=str)
@pytest.mark.parametrize("mistake", sorted(CELL_MISTAKES.keys() - MISCALLS))
def test_a_mistake_with_a_cell(kind, mistake):
    tried = mistake == "state a pair"  # of two dtypes, which a cell may promote
    assert_foretold(*twins(kind, I, H), CELL_MISTAKES[mistake], tried)


def altered(name, value):
    """A change of a module: another weight, or another attribute."""

    def alter(module):
        setattr(module, name, nn.Parameter(value) if torch.is_tensor(value) else value)

    return alter


ALTERED = {
    "W_hh of other units": altered("weight_hh_l0", torch.zeros(4 * H, 2)),
    "W_ih of other features": altered("weight_ih_l0", torch.zeros(4 * H, 2)),
    "a double bias": altered("bias_ih_l0", torch.zeros(4 * H).double()),
    "no bias": altered("bias_hh_l0", None),
    "double": lambda module: module.double(),
    "elsewhere": lambda module: module.to("meta"),
}


@pytest.mark.parametrize("change", ALTERED)
@pytest.mark.parametrize("kind", [PROJECTED, GRU], ids=str)
def test_an_altered_module(kind, change):
    """Not of an LSTM: oneDNN's takes weights of any shape."""
    native, ours = twins(kind, I, H)
    for module in (native, ours):
        ALTERED[change](module)
    assert_foretold(native, ours, lambda m: m(X))


class Mine(torch.Tensor):
    pass


# Left to torch.nn, which serves them.
UNUSUAL = {
    "no sequences": (LSTM, {}, X[:, :0]),
    "a subclass": (TANH, {}, X.as_subclass(Mine)),
    "complex": (TANH, {"dtype": torch.complex64}, X.to(torch.complex64)),
    "projected": (PROJECTED, {}, X[:, :0]),
    "packed": (GRU, {"dtype": torch.complex64}, packed([3, 1], I, dtype=torch.complex64)),
}


@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_what_torch_nn_serves_is_not_run(case):
    kind, options, x = UNUSUAL[case]
    native, ours = twins(kind, tensors(x)[0].shape[-1], H, **options)
    native(x)
    with Ran() as ran:
        found = fastrnn.explain(ours, x)
    assert found.reason.startswith("left to torch.nn: ")
    assert found.error is None
    assert set(ran.devices) == {"meta"}


def test_what_torch_nn_lacks():
    _, ours = twins(LSTM, I, H)
    call = {"resets": torch.zeros(T, 0, dtype=torch.bool), "return_gates": True}
    error = outcome(lambda: ours(X[:, :0], **call)).error
    assert fastrnn.explain(ours, X[:, :0], **call).error == f"{error[0].__name__}: {error[1]}"
