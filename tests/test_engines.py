"""The kernels' engines behind the modules: results and every gradient, against torch.nn.

Without a GPU in Triton's interpreter. Whatever the package allocates is NaN until it is written.
"""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from fastrnn import functional
from tests.contract import (
    LSTM,
    UNPROJECTED,
    each_class,
    exercise,
    normal,
    packed,
    reseed,
    state_for,
    tensors,
    twins,
)
from tests.problems import (
    DTYPES,
    ENGINES,
    assert_near,
    assert_right,
    by_engine,
    launches,
    natively,
    on_cpu,
)

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("kernels")
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_cell = pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
DEEP = {"num_layers": 2, "bidirectional": True}
LENGTHS = torch.tensor([2, 0, 4, 1, 4])


def inputs(mode, dtype=torch.float32):
    """x, and lengths: five sequences of one length, of several packed, or of several padded."""
    if mode == "packed":
        return packed([2, 1, 4, 4, 1], 3, dtype=dtype), None
    return normal(4, 5, 3, dtype=dtype), LENGTHS if mode == "padded" else None


@every_engine
@every_cell
@every_dtype
@pytest.mark.parametrize("mode", ["dense", "packed", "padded"])
def test_every_cell_in_every_dtype_and_form(kind, engine, dtype, mode, device):
    pair = twins(kind, 3, 7, bidirectional=True, dtype=dtype)
    x, lengths = inputs(mode, dtype)
    call = by_engine(engine, None if lengths is None else lengths.to(device))
    assert_right(pair, call, x, state_for(pair[0], 5), device, lengths)


SIZES = [(1, 1, 1, 1), (1, 17, 5, 3), (3, 1, 17, 1), (6, 2, 63, 4), (2, 20, 16, 3), (3, 2, 100, 9)]


@every_engine
@every_cell
@pytest.mark.parametrize(("T", "B", "H", "I"), SIZES)
def test_odd_sizes(kind, engine, T, B, H, I, device):
    """Of inputs that saturate the gates, too."""
    pair = twins(kind, I, H)
    x = 3 * normal(T, B, I, dtype=torch.float32)
    assert_right(pair, by_engine(engine), x, state_for(pair[0], B), device)


@every_engine
@each_class
@pytest.mark.parametrize("mode", ["dense", "packed", "padded"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
def test_layers_from_zeros(kind, engine, mode, bias, device):
    pair = twins(kind, 3, 6, bias=bias, **DEEP)
    x, lengths = inputs(mode)
    call = by_engine(engine, None if lengths is None else lengths.to(device))
    assert_right(pair, call, x, None, device, lengths)


PARTS = {
    "output": lambda results: results[:1],
    "h_n": lambda results: results[1:2],
    "last state": lambda results: results[-1:],
    "first step": lambda results: [results[0][:1]],
    "last step": lambda results: [results[0][-1:]],
    "one state of one sequence": lambda results: [results[-1][:, 0]],
    "expanded": lambda results: [results[0].sum()],
    "transposed": lambda results: [r.transpose(0, -1) for r in results],
}


@every_engine
@each_class
@pytest.mark.parametrize("part", PARTS)
def test_a_loss_on_part_of_the_results(kind, engine, part, device):
    pair = twins(kind, 3, 6, bidirectional=True)
    part = PARTS[part]
    x, _ = inputs("packed" if part is PARTS["h_n"] else "dense")
    call = by_engine(engine, part=part)
    assert_right(pair, call, x, state_for(pair[0], 5), device, part=part)


FROZEN = {
    "all but x": lambda name: True,
    "w_ih": lambda name: "weight_ih" in name,
    "w_hh": lambda name: "weight_hh" in name,
    "all but b_ih": lambda name: "bias_ih" not in name,
    "all but b_hh": lambda name: "bias_hh" not in name,
    "the second direction": lambda name: name.endswith("_reverse"),
    "the second layer": lambda name: "l1" in name,
}


@every_engine
@pytest.mark.parametrize("kind", [LSTM, UNPROJECTED[1]], ids=str)
@pytest.mark.parametrize("frozen", FROZEN)
def test_only_some_need_gradients(kind, engine, frozen, device):
    """Where x does not either, in every other case."""
    pair = twins(kind, 3, 6, **DEEP)
    for module in pair:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not FROZEN[frozen](name))
    x, _ = inputs("dense")
    needs = list(FROZEN).index(frozen) % 2 == 0

    def through(call):
        return lambda module, x, hx: call(module, x if needs else x.detach(), hx)

    native, ours = (
        exercise(module.to(device), x.to(device), None, through(call))
        for module, call in zip(pair, (natively(), by_engine(engine)), strict=True)
    )
    for name, exact in native.items():
        assert (ours[name] is None) == (exact is None), name
        if exact is not None:
            assert_near([ours[name]], [exact.double()], 64)


@every_engine
@each_class
def test_one_state_needs_gradients(kind, engine, device):
    _, ours = twins(kind, 3, 6)
    ours, x = ours.to(device), normal(4, 5, 3, dtype=torch.float32).to(device)
    states = [s.to(device) for s in tensors(state_for(ours, 5, dtype=torch.float32))]
    whole = by_engine(engine)
    alone = []
    for n in range(len(states)):
        given = [s.clone().requires_grad_(k == n) for k, s in enumerate(states)]
        results = tensors(whole(ours, x, tuple(given) if len(given) > 1 else given[0]))
        alone += torch.autograd.grad(sum(r.sum() for r in results), given[n : n + 1])
    given = [s.clone().requires_grad_() for s in states]
    results = tensors(whole(ours, x, tuple(given) if len(given) > 1 else given[0]))
    together = torch.autograd.grad(sum(r.sum() for r in results), given)
    assert all(map(torch.equal, alone, together))


@every_engine
@each_class
@pytest.mark.parametrize("mode", ["dense", "packed", "padded"])
def test_batch_first(kind, engine, mode, device):
    pair = twins(kind, 3, 6, batch_first=True, **DEEP)
    x, lengths = inputs(mode)
    x = x if mode == "packed" else x.transpose(0, 1).contiguous()
    call = by_engine(engine, None if lengths is None else lengths.to(device))
    assert_right(pair, call, x, state_for(pair[0], 5), device, lengths)


@every_engine
@each_class
def test_a_single_sequence_without_a_batch(kind, engine, device):
    pair = twins(kind, 3, 6, **DEEP)
    x = normal(4, 3, dtype=torch.float32)
    assert_right(pair, by_engine(engine), x, state_for(pair[0]), device)


@every_engine
@each_class
def test_any_strides(kind, engine, device):
    """Of x, the state and every weight; torch.nn takes none such of weights on a GPU in cuDNN."""
    native, ours = twins(kind, 3, 6, **DEEP)
    x = normal(3, 5, 8, dtype=torch.float32).transpose(0, 2)[::2]
    hx = state_for(native, 5)
    strided = tuple(s.transpose(0, 2).contiguous().transpose(0, 2) for s in tensors(hx))
    strided = strided if len(strided) > 1 else strided[0]
    for parameter in ours.parameters():
        twice = torch.stack([parameter.detach()] * 2, -1).to(device)
        parameter.data = twice[..., 0]
        assert not parameter.is_contiguous()
    assert_right((native, ours), by_engine(engine), x, strided, device)


@every_engine
def test_a_sequence_given_to_all_by_expansion(engine, device):
    pair = twins(LSTM, 3, 6)
    x = normal(4, 1, 3, dtype=torch.float32).expand(4, 5, 3)
    assert_right(pair, by_engine(engine), x, None, device)


@every_engine
@each_class
@pytest.mark.parametrize("mode", ["dense", "packed"])
def test_dropout_is_torchs(kind, engine, mode, device):
    """Zeros where torch.nn has them: the stream of random numbers is used alike."""
    native, ours = (m.to(device) for m in twins(kind, 3, 6, dropout=0.4, **DEEP))
    x, _ = inputs(mode)
    x = x.to(device)
    results = []
    for module, call in ((native, lambda m, x, hx: m(x, hx)), (ours, by_engine(engine))):
        reseed(7)
        if device == "cuda":
            torch.cuda.manual_seed(7)
        seen = exercise(module, x, None, call)
        results.append((seen, torch.rand(3, device=device)))
    (expected, after), (got, after_ours) = results
    if device == "cpu":  # cuDNN has a stream of its own
        assert torch.equal(after, after_ours)
        assert_near(got.values(), [t.double() for t in expected.values()], 64)
    assert (ours.eval()(x)[0].data if mode == "packed" else ours.eval()(x)[0]).ne(0).all()


@every_engine
@each_class
@pytest.mark.parametrize(
    ("mode", "integer"),
    [
        ("dense", torch.int64),
        ("packed", torch.int64),
        ("padded", torch.int64),
        ("single", torch.int32),
        ("single", torch.uint8),
    ],
    ids=str,
)
def test_one_hot(kind, engine, mode, integer, device):
    """Indices give what the vectors give that they stand for."""
    _, ours = twins(kind, 5, 6, bidirectional=True)
    indices = torch.arange(20).remainder(5).view(4, 5).to(integer)
    lengths = LENGTHS.to(device) if mode == "padded" else None
    if mode == "packed":
        each = torch.tensor([2, 1, 4, 4, 1])
        indices = pack_padded_sequence(indices, each, enforce_sorted=False)
        dense = indices._replace(data=torch.nn.functional.one_hot(indices.data.long(), 5).float())
    else:
        indices = indices[:, 0] if mode == "single" else indices
        dense = torch.nn.functional.one_hot(indices.long(), 5).float()
    indices, dense, ours = indices.to(device), dense.to(device), ours.to(device)
    of_vectors = exercise(
        ours, None, None, lambda m, x, hx: by_engine(engine, lengths)(m, dense, hx)
    )
    of_indices = exercise(
        ours, None, None, lambda m, x, hx: by_engine(engine, lengths, one_hot=True)(m, indices, hx)
    )
    assert_near(of_indices.values(), [t.double() for t in on_cpu(of_vectors).values()])


FUNCTIONS = {"LSTM": functional.lstm, "GRU": functional.gru, "RNN": functional.rnn}


@every_engine
@each_class
@pytest.mark.parametrize("mode", ["dense", "packed", "padded"])
def test_the_functions_are_the_modules(kind, engine, mode, device, monkeypatch):
    _, ours = twins(kind, 3, 6, **DEEP)
    x, lengths = inputs(mode)
    ours, x = ours.to(device), x.to(device)
    lengths = None if lengths is None else lengths.to(device)
    call = by_engine(engine, lengths, num_layers=2, bidirectional=True)
    with launches(monkeypatch) as noted:
        weights = list(ours.parameters())
        got = call(lambda x, hx, **how: FUNCTIONS[kind.name](x, hx, weights, **how), x, None)
    assert noted
    assert set(noted) == {f"{engine}.forward"}
    expected = by_engine(engine, lengths)(ours, x, None)
    assert all(map(torch.equal, tensors(got), tensors(expected)))


@every_engine
@each_class
@pytest.mark.parametrize("mode", ["dense", "packed", "padded"])
def test_two_runs_give_equal_bits(kind, engine, mode, device):
    ours = twins(kind, 3, 17, bidirectional=True)[1].to(device)
    x, lengths = inputs(mode)
    call = by_engine(engine, None if lengths is None else lengths.to(device))
    runs = [exercise(ours, x.to(device), None, call) for _ in range(2)]
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
