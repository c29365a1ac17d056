"""How float32 is multiplied: whose setting counts, and that torch's own is put back."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

import fastrnn
from fastrnn import precision
from fastrnn.flat_weights import current
from tests.contract import (
    UNPROJECTED,
    assert_same,
    each_class,
    exercise,
    normal,
    state_for,
    twins,
    widened,
)
from tests.problems import ENGINES, assert_near, assert_right, by_engine, move, on_cpu

RNN, MATMUL = torch.backends.cudnn.rnn, torch.backends.cuda.matmul
ON_GPU = SimpleNamespace(type="cuda")
TF32 = 2**-10  # the distance of numbers next to each other, as finfo's eps: ten bits are kept
every_name = pytest.mark.parametrize("name", precision.PRECISIONS)


def matmul():
    return torch._C._get_fp32_precision_getter("cuda", "matmul")


@pytest.fixture(autouse=True)
def as_before():
    """Each test leaves torch's settings as it found them; the fixture, too."""
    before = RNN.fp32_precision, MATMUL.fp32_precision
    yield
    RNN.fp32_precision, MATMUL.fp32_precision = before


@pytest.mark.parametrize("name", ["tf32", "ieee"])
def test_torchs_setting_of_rnn_counts(name):
    RNN.fp32_precision = name
    assert precision.fp32_precision() == name
    RNN.fp32_precision = "ieee"
    assert precision.fp32_precision() == "ieee"


def test_torchs_layers_and_ours_start_from_the_same():
    assert precision.fp32_precision() == RNN.fp32_precision


def test_what_no_kernel_has_is_computed_exactly():
    for name in ("none", "ieee"):
        RNN.fp32_precision = name
        assert precision.fp32_precision() == "ieee"


@every_name
def test_use_precision_counts_more(name):
    for other in ("tf32", "ieee"):
        RNN.fp32_precision = other
        with fastrnn.use_precision(name):
            assert precision.fp32_precision() == name
        assert precision.fp32_precision() == other


def test_use_precision_nests_and_restores():
    RNN.fp32_precision = "tf32"
    with fastrnn.use_precision("ieee"):
        with contextlib.suppress(KeyError), fastrnn.use_precision("tf32x3"):
            assert precision.fp32_precision() == "tf32x3"
            raise KeyError
        assert precision.fp32_precision() == "ieee"
    assert precision.fp32_precision() == "tf32"
    assert RNN.fp32_precision == "tf32"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"unknown precision 'fp8'.* tf32, tf32x3, ieee"):
        fastrnn.use_precision("fp8").__enter__()
    with pytest.raises(ValueError, match=r"unknown memory mode 'less'.* save, recompute"):
        fastrnn.use_memory("less").__enter__()


@pytest.mark.parametrize("setting", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("name", [*precision.PRECISIONS, "half"])
@pytest.mark.parametrize("fails", [False, True], ids=["", "raises"])
def test_torchs_products_are_of_the_kernels_precision(setting, name, fails):
    """For as long as ours are launched; of half precision there is nothing to say."""
    MATMUL.fp32_precision = setting
    with contextlib.suppress(KeyError), precision.products(name, ON_GPU):
        within = matmul()
        if fails:
            raise KeyError
    assert matmul() == setting
    if name == "half":
        assert within == setting
    else:
        assert (within == "tf32") == (name == "tf32")


def test_on_a_cpu_nothing_is_switched():
    MATMUL.fp32_precision = "ieee"
    with precision.products("tf32", torch.device("cpu")):
        assert matmul() == "ieee"


def test_the_older_switches_still_answer():
    """torch raises where its two interfaces disagree, so both must stay readable."""
    MATMUL.fp32_precision = "ieee"
    with precision.products("tf32", ON_GPU):
        pass
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_a_call_knows_its_precision():
    model, x = fastrnn.GRU(3, 6), torch.zeros(9, 2, 3)

    def precision_of(x):
        call, *_ = model._planned(current(model), x, None, model._options(False), None, None)
        return call.precision

    for name in precision.PRECISIONS:
        with fastrnn.use_precision(name):
            assert precision_of(x) == name
    for dtype in (torch.bfloat16, torch.float16):
        model.to(dtype)
        assert precision_of(x.to(dtype)) == "half"


@pytest.mark.usefixtures("poisoned", "quick")
@pytest.mark.parametrize("engine", ENGINES)
@every_name
def test_the_kernels_are_told(engine, name, device, monkeypatch):
    """Precision reaches the products, forward and back, even if it is another one by then."""
    pytest.importorskip("triton", reason="needs Triton")
    from fastrnn import triton_engine

    told = []

    @contextlib.contextmanager
    def noting(precision, device):
        told.append(precision)
        yield

    monkeypatch.setattr(triton_engine, "products", noting)
    model, x = fastrnn.GRU(3, 6).to(device), torch.ones(2, 2, 3, device=device)
    with fastrnn.use_engine(engine), fastrnn.use_precision(name):
        loss = model(x)[0].sum()
    loss.backward()
    assert told == [name, name]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
def test_tf32(kind, engine, device):
    """By the rule for numbers with tf32's rounding, which on a GPU torch.nn's own error has too.

    The kernels are cut by the plans of the table, here and in the next test.
    """
    pytest.importorskip("triton", reason="needs Triton")
    RNN.fp32_precision = "tf32"
    native, ours = twins(kind, 9, 40, bidirectional=True)
    x, hx = normal(4, 5, 9, dtype=torch.float32), state_for(native, 5)
    referee = exercise(*widened(native, x, hx))
    here = move(x, device), move(hx, device)
    expected = exercise(native.to(device), *here)
    seen = exercise(ours.to(device), *here, by_engine(engine))
    assert_same(on_cpu(seen), on_cpu(expected), referee, eps=TF32)


@pytest.mark.usefixtures("poisoned")
@each_class
def test_half_precision(kind, device):
    pytest.importorskip("triton", reason="needs Triton")
    pair = twins(kind, 9, 70, bidirectional=True, dtype=torch.bfloat16)
    x = normal(3, 5, 9, dtype=torch.bfloat16)
    assert_right(pair, by_engine("resident"), x, state_for(pair[0], 5), device)


@pytest.mark.usefixtures("poisoned", "quick")
@pytest.mark.parametrize("engine", ENGINES)
@each_class
def test_three_tf32_products_are_nearly_exact(kind, engine, device):
    pytest.importorskip("triton", reason="needs Triton")
    native, ours = twins(kind, 9, 40)
    x = normal(4, 5, 9, dtype=torch.float32)
    exact = exercise(*widened(native, x))
    with fastrnn.use_precision("tf32x3"):
        seen = exercise(ours.to(device), x.to(device), None, by_engine(engine))
    assert_near(seen.values(), [exact[name] for name in seen], 64)
