"""What the contract tests share: twin modules, what one step shows, and the rule for numbers.

The contract is torch.nn itself, as installed: every test does the same thing to a torch.nn module
and to its fastrnn twin, and compares. Nothing here knows what an RNN computes.
"""

import contextlib
import copy
import io
import re
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn


class Kind(NamedTuple):
    """A class that torch.nn and fastrnn share, with the options that make it this kind."""

    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.options.values())])


LSTM, PROJECTED, GRU, TANH, RELU = MODULES = (
    Kind("LSTM", {}),
    Kind("LSTM", {"proj_size": 3}),
    Kind("GRU", {}),
    Kind("RNN", {}),
    Kind("RNN", {"nonlinearity": "relu"}),
)
CELLS = (
    Kind("LSTMCell", {}),
    Kind("GRUCell", {}),
    Kind("RNNCell", {}),
    Kind("RNNCell", {"nonlinearity": "relu"}),
)
UNPROJECTED = (LSTM, GRU, TANH, RELU)
every_module = pytest.mark.parametrize("kind", MODULES, ids=str)
every_cell = pytest.mark.parametrize("kind", CELLS, ids=str)
every_kind = pytest.mark.parametrize("kind", [*MODULES, *CELLS], ids=str)
each_class = pytest.mark.parametrize("kind", [LSTM, GRU, TANH], ids=str)


def native_class(kind: Kind) -> type:
    return getattr(nn, kind.name)


def our_class(kind: Kind) -> type:
    return getattr(fastrnn, kind.name)


def insist_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run our modules by fastrnn's own loop wherever it can serve, however small the call.

    By default such calls go to torch.nn's operators, which would be compared with themselves.
    """
    for name in ("LSTM", "GRU", "RNN"):
        cls = getattr(fastrnn, name)

        def forward(self, *args, plain=cls.forward, **kwargs):
            try:
                with fastrnn.use_engine("torch.bptt"):
                    return plain(self, *args, **kwargs)
            except RuntimeError as error:
                if "cannot serve this call" not in str(error):
                    raise
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(cls, "forward", forward)


@contextlib.contextmanager
def without_onednn():
    """torch.nn's LSTM in float32 on a CPU by its plain formulas, which have all derivatives."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags warns of Intel's GPUs
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def lstm_lacks(low: torch.dtype) -> bool:
    """Whether torch.nn's LSTM fails under autocast to `low`: oneDNN, which it then goes to on a
    CPU, has kernels in 16 bits for some CPUs alone."""
    try:
        with torch.autocast("cpu", dtype=low), torch.no_grad():
            nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):
            raise
        return True
    return False


def saved_and_loaded(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def reseed(seed: int) -> None:
    """torch.manual_seed for the CPU alone: the rest of it takes a traceback for absent devices."""
    torch.default_generator.manual_seed(seed)


def twins(kind: Kind, *args, seed: int = 0, **options) -> tuple[nn.Module, nn.Module]:
    """The native module and ours, each built after the same seed."""
    made = []
    for cls in (native_class(kind), our_class(kind)):
        reseed(seed)
        made.append(cls(*args, **{**kind.options, **options}))
    return made[0], made[1]


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers of eight significant bits: every dtype holds the same ones, exactly."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn((2, *shape), generator=generator).bfloat16().double()
    if dtype.is_complex:
        return torch.complex(parts[0], parts[1]).to(dtype)
    return parts[0].to(dtype)


def state_for(module: nn.Module, batch: int | None = None, seed: int = 2, dtype=None):
    """A random initial state for a module (unbatched if `batch` is None) or for a cell."""
    dtype = dtype or next(module.parameters()).dtype
    sizes = [module.hidden_size]
    shape = [] if batch is None else [batch]
    if isinstance(module, nn.RNNBase):
        sizes = [module.proj_size or module.hidden_size]
        shape = [module.num_layers * (2 if module.bidirectional else 1), *shape]
    if "LSTM" in type(module).__name__:
        sizes.append(module.hidden_size)
    states = [normal(*shape, size, seed=seed + n, dtype=dtype) for n, size in enumerate(sizes)]
    return tuple(states) if len(states) == 2 else states[0]


def packed(lengths: list[int], size: int, seed: int = 1, dtype=torch.float64) -> PackedSequence:
    padded = normal(max(lengths), len(lengths), size, seed=seed, dtype=dtype)
    return pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=False)


# The usual inputs: three sequences of nine steps, a single step, and three lengths packed.
DOUBLE = torch.float64
DEEP = {"num_layers": 2, "bidirectional": True, "dtype": DOUBLE}
X = normal(9, 3, 5)
STEP = X[:1]
PACKED = packed([4, 9, 2], 5)
every_form = pytest.mark.parametrize("x", [X, STEP, PACKED], ids=["padded", "step", "packed"])


def mapped(function: Callable[[Tensor], Tensor], value):
    """`function` of every floating tensor in a tensor, a packed sequence, a tuple, a list, None."""
    if isinstance(value, PackedSequence):
        return PackedSequence(function(value.data), *value[1:])
    if isinstance(value, Tensor):
        return function(value)
    return None if value is None else type(value)(mapped(function, item) for item in value)


def tensors(value) -> list[Tensor]:
    """The floating tensors in such a value, in order."""
    found: list[Tensor] = []
    mapped(lambda tensor: found.append(tensor) or tensor, value)
    return found


def leaves(value):
    """The same memory and strides, as tensors that collect their own gradients."""
    return mapped(lambda tensor: tensor.detach().requires_grad_(), value)


def cotangents(results: list[Tensor], seed: int = 5) -> list[Tensor]:
    return [
        normal(*r.shape, seed=seed + n, dtype=r.dtype).to(r.device) for n, r in enumerate(results)
    ]


def exercise(module: nn.Module, x, hx=None, call: Callable | None = None) -> dict[str, Tensor]:
    """All that a caller sees of one training step: the results, then every gradient.

    Random gradients enter the output and each final state. `call(module, x, hx)` replaces the
    plain call.
    """
    module.zero_grad(set_to_none=True)
    x, hx = leaves(x), leaves(hx)
    results = tensors(call(module, x, hx) if call else module(x, hx))
    torch.autograd.backward(results, cotangents(results))
    seen = {f"result {n}": result.detach() for n, result in enumerate(results)}
    seen |= {f"d input {n}": tensor.grad for n, tensor in enumerate(tensors((x, hx)))}
    seen |= {f"d {name}": parameter.grad for name, parameter in module.named_parameters()}
    module.zero_grad(set_to_none=True)
    return seen


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def assert_same(
    ours: dict[str, Tensor],
    native: dict[str, Tensor],
    referee: dict[str, Tensor] | None = None,
    eps: float | None = None,
) -> None:
    """The rule for numbers, tensor by tensor.

    In double precision (no referee): equal to 1e-12 of the largest magnitude. Below: at most twice
    native's own error against the double precision referee, plus four roundings (`eps`) of the
    largest magnitude among the results, or among the gradients. Those four are for luck: native's
    error in a single number, or in a sum that cancels, may be zero; `test_accuracy` averages luck
    away. A gradient of None counts as zero, since native's choice between the two depends on which
    of its implementations ran.
    """
    assert ours.keys() == native.keys()
    magnitudes = {}
    for name, exact in (referee or {}).items():
        if exact is not None and exact.numel():
            group = name[0]
            magnitudes[group] = max(magnitudes.get(group, 0.0), exact.abs().max().item())
    for name, theirs in native.items():
        mine = ours[name]
        if mine is None or theirs is None:
            assert mine is None or not mine.count_nonzero(), f"{name}: native gives None"
            assert theirs is None or not theirs.count_nonzero(), f"{name}: ours gives None"
            continue
        assert mine.shape == theirs.shape, name
        assert mine.dtype == theirs.dtype, name
        if not mine.numel():
            continue
        if referee is None:
            error = (mine - theirs).abs().max().item()
            bound = 1e-12 * theirs.abs().max().item()
        else:
            error, native_error = ((t - referee[name]).abs().max().item() for t in (mine, theirs))
            bound = 2 * native_error + 4 * (eps or roundoff(theirs.dtype)) * magnitudes[name[0]]
        assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g}"


def roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def assert_twins_agree(native: nn.Module, ours: nn.Module, x, hx=None, call=None) -> None:
    """One training step of each shows the same, by the rule for numbers."""
    seen = [exercise(module, x, hx, call) for module in (native, ours)]
    dtype = tensors(x)[0].dtype
    referee = None
    if dtype != wide(dtype):
        referee = exercise(*widened(native, x, hx), call)
    assert_same(seen[1], seen[0], referee)


def widened(module: nn.Module, x, hx=None) -> tuple:
    """The same module, input and state in double precision: the referee's."""
    dtype = wide(tensors(x)[0].dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Complex modules are a new feature", UserWarning)
        referee = copy.deepcopy(module).to(dtype)
    x, hx = (mapped(lambda tensor: tensor.to(dtype), value) for value in (x, hx))
    return referee, x, hx


class Outcome(NamedTuple):
    value: Any
    error: tuple[type, str] | None
    warnings: list[tuple[type, str]]


def outcome(call: Callable[[], Any]) -> Outcome:
    """What a call returns or raises, and its warnings; texts without addresses and origins."""
    value = error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Of torch's own, at the first dual number of a process.
        warnings.filterwarnings("ignore", ".torch.jit.script. is", DeprecationWarning)
        try:
            value = call()
        except (ImportError, NameError, Warning):
            raise  # a fault of the test, not what a library says to a call
        except Exception as raised:
            if isinstance(raised, AssertionError) and not is_torch_nns(raised):
                raise
            error = (type(raised), normalised(str(raised)))
    return Outcome(value, error, [(w.category, normalised(str(w.message))) for w in caught])


def is_torch_nns(raised: Exception) -> bool:
    """Whether torch.nn.RNN has raised it, which answers an unknown mode by an AssertionError."""
    *_, (frame, _) = traceback.walk_tb(raised.__traceback__)
    return frame.f_code.co_filename == nn.modules.rnn.__file__


def normalised(text: str) -> str:
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    text = re.sub(r"\b(torch\.nn\.modules\.rnn|fastrnn(\.\w+)*)\.(?=[A-Z])", "", text)
    return re.sub(r"\w+\.(?=(__init__|forward)\(\))", "", text)


def assert_same_outcome(native: Callable[[], Any], ours: Callable[[], Any]) -> tuple[Any, Any]:
    """Both return, or both raise the same; either way with the same warnings."""
    expected, got = outcome(native), outcome(ours)
    assert got.error == expected.error, f"ours: {got.error}, native: {expected.error}"
    assert got.warnings == expected.warnings, f"ours: {got.warnings}, native: {expected.warnings}"
    return expected.value, got.value


def assert_same_call(native: nn.Module, ours: nn.Module, call: Callable[[nn.Module], Any]) -> None:
    """`call` of each module fails alike, or gives results of equal dtype and nearly equal value."""
    expected, got = assert_same_outcome(lambda: call(native), lambda: call(ours))
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(mine, theirs)


def assert_near(got, expected, rtol=1e-12):
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=1e-12)


def both(kind, function, **options):
    """`function` of native modules and of ours, two layers and directions deep: equal to 1e-12."""
    deep = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    native, ours = twins(kind, 5, 6, **{**deep, **options})
    expected, got = function(native), function(ours)
    assert_near(got, expected)
    return got


def described(module: nn.Module) -> tuple:
    """What a constructor decides, with types: attributes, parameters, text."""
    names = [*module.__constants__, "nonlinearity", "training"]
    attributes = {
        n: (type(getattr(module, n)), getattr(module, n)) for n in names if n in vars(module)
    }
    parameters = [
        (name, p if p is None else (type(p), p.shape, p.dtype, p.device, p.requires_grad))
        for name, p in module._parameters.items()
    ]
    return attributes, parameters, repr(module)


def assert_same_construction(kind: Kind, args: tuple, kwargs: dict[str, Any]) -> None:
    """Both classes refuse the arguments alike, or build the same."""
    native, ours = assert_same_outcome(
        lambda: native_class(kind)(*args, **kwargs), lambda: our_class(kind)(*args, **kwargs)
    )
    assert (native is None) == (ours is None)
    if native is not None:
        assert described(ours) == described(native)
