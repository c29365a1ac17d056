"""`resets=`: what torch.nn gives on each episode by itself."""

from itertools import pairwise

import pytest
import torch

import fastrnn
from fastrnn import functional
from tests.contract import (
    GRU,
    LSTM,
    TANH,
    UNPROJECTED,
    Kind,
    assert_same,
    exercise,
    mapped,
    normal,
    packed,
    state_for,
    tensors,
    twins,
    widened,
)
from tests.problems import ENGINES, HERE, by_engine, move, on_cpu

pytestmark = pytest.mark.usefixtures("kernels")
NAMES = tuple(name for name in HERE if name not in ("torch.aten", "torch.cell"))
every_engine = pytest.mark.parametrize("engine", NAMES)
DEEP = {"num_layers": 2, "bidirectional": True}
PROJECTED = Kind("LSTM", {"proj_size": 2})
T, B, I, H = 5, 3, 3, 4
X = normal(T, B, I, dtype=torch.float32)
# At the first step and at the last, in two steps in a row, and nowhere.
RESETS = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
LENGTHS = torch.tensor([4, 5, 0])


def episode_by_episode(resets, lengths=None):
    """A call of torch.nn's module for `exercise`."""

    def call(module, x, hx):
        steps = x.transpose(0, 1) if module.batch_first else x
        D = 2 if module.bidirectional else 1
        outputs, finals = [], []
        for b in range(steps.shape[1]):
            length = len(steps) if lengths is None else int(lengths[b])
            starts = [t for t in range(1, length) if resets[t, b]]
            cuts = [0, *starts, length] if length else []
            given = [] if hx is None else [s[:, b : b + 1] for s in tensors(hx)]
            pieces, last = [], given
            for begin, end in pairwise(cuts):
                first = None
                if given:
                    known = [begin == 0 and not resets[0, b], end == length][:D]
                    mask = torch.tensor(known * module.num_layers).view(-1, 1, 1)
                    first = [s * mask for s in given]
                    first = tuple(first) if len(first) > 1 else first[0]
                output, final = module.forward(form(module, steps[begin:end, b : b + 1]), first)
                pieces.append(form(module, output))
                if begin:
                    # The first direction's last state is the last episode's, the other's the first.
                    way = (torch.arange(len(last[0])) % D).view(-1, 1, 1)
                    pairs = zip(last, tensors(final), strict=True)
                    last = [torch.where(way == 1, old, new) for old, new in pairs]
                else:
                    last = tensors(final)
            width = (module.proj_size or module.hidden_size) * D
            outputs.append(torch.cat([*pieces, x.new_zeros(len(steps) - length, 1, width)]))
            finals.append(last)
        finals = [torch.cat(parts, 1) for parts in zip(*finals, strict=True)]
        return form(module, torch.cat(outputs, 1)), finals

    return call


def form(module, x):
    return x.transpose(0, 1) if module.batch_first else x


def assert_right(pair, engine, x, hx, device, resets=RESETS, lengths=None):
    native, ours = pair
    theirs = episode_by_episode(resets, lengths)
    referee = exercise(*widened(native, x, hx), theirs)
    expected = exercise(native, x, hx, theirs)
    given = resets.t() if native.batch_first else resets
    there = None if lengths is None else lengths.to(device)
    call = by_engine(engine, there, resets=given.to(device))
    seen = exercise(ours.to(device), x.to(device), move(hx, device), call)
    assert_same(on_cpu(seen), expected, referee)


@every_engine
@pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=["one way", "both ways"])
def test_each_episode_by_itself(kind, options, engine, device):
    pair = twins(kind, I, H, **options)
    assert_right(pair, engine, X, state_for(pair[0], B), device)


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_layers_lengths_and_batch_first(kind, engine, device):
    """A second layer sees the first one's outputs: in episodes too they are apart."""
    pair = twins(kind, I, H, **DEEP, batch_first=True)
    hx = state_for(pair[0], B)
    assert_right(pair, engine, X.transpose(0, 1), hx, device, lengths=LENGTHS)


@pytest.mark.parametrize("engine", ["auto", "torch.reference"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["dense", "padded"])
def test_with_projections(engine, lengths):
    pair = twins(PROJECTED, I, H, **DEEP)
    assert_right(pair, engine, X, state_for(pair[0], B), "cpu", lengths=lengths)


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU, TANH], ids=str)
def test_one_sequence_and_no_state(kind, engine, device):
    """Without a batch; a state that is not given is zero anyway."""
    ours = twins(kind, I, H, **DEEP)[1].to(device)
    x, resets = X.to(device), RESETS.to(device)
    together = tensors(by_engine(engine, resets=resets)(ours, x, None))
    alone = tensors(by_engine(engine, resets=resets[:, 1])(ours, x[:, 1], None))
    for part, whole in zip(alone, together, strict=True):
        torch.testing.assert_close(part, whole[:, 1])


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU, TANH], ids=str)
def test_nothing_passes_a_reset(kind, engine, device):
    """No gradient of an earlier step or of the state, exactly; nor does a NaN on the way."""
    ours = twins(kind, I, H)[1].to(device)
    resets = torch.zeros(T, B, dtype=torch.bool, device=device)
    resets[2] = True
    x = X.to(device).requires_grad_()
    hx = mapped(lambda s: s.to(device).requires_grad_(), state_for(ours, B))
    output, _ = by_engine(engine, resets=resets)(ours, x, hx)
    dx, *dstates = torch.autograd.grad(output[2:].sum(), (x, *tensors(hx)))
    assert not dx[:2].any()
    assert not any(d.any() for d in dstates)
    assert dx[2:].ne(0).any(2).all()
    spoiled = X.to(device).index_fill(0, torch.tensor([0, 1], device=device), torch.nan)
    again, _ = by_engine(engine, resets=resets)(ours, spoiled, hx)
    assert again[:2].isnan().all()
    assert torch.equal(again[2:], output[2:])


@every_engine
def test_no_reset_is_nothing(engine, device):
    ours = twins(GRU, I, H, **DEEP)[1].to(device)
    x, hx = X.to(device), move(state_for(ours, B), device)
    nowhere = torch.zeros(T, B, dtype=torch.bool, device=device)
    plain = by_engine("torch.bptt" if engine == "auto" else engine)(ours, x, hx)
    for got, expected in zip(
        tensors(by_engine(engine, resets=nowhere)(ours, x, hx)), tensors(plain), strict=True
    ):
        torch.testing.assert_close(got, expected)


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["time first", "batch first"])
def test_step_by_step(kind, first, engine, device):
    """As a policy acts: one step after the other, some of them the first of an episode."""
    ours = twins(kind, I, H, num_layers=2, batch_first=first)[1].to(device)
    x, resets = X.to(device), RESETS.to(device)
    given = (x.transpose(0, 1), resets.t()) if first else (x, resets)
    output, final = by_engine(engine, resets=given[1])(ours, given[0], None)
    state, steps = None, []
    with fastrnn.use_engine(engine):
        for x_t, resets_t in zip(x, resets, strict=True):
            step, state = ours.step(x_t, state, resets=resets_t)
            steps.append(step)
        one, _ = ours.step(x[0, 0], None, resets=resets[0, 0])
    torch.testing.assert_close(one, steps[0][0])
    torch.testing.assert_close(torch.stack(steps, 1 if first else 0), output)
    for got, expected in zip(tensors(state), tensors(final), strict=True):
        torch.testing.assert_close(got, expected)


@every_engine
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_the_functions_take_them(name, engine, device):
    ours = getattr(fastrnn, name.upper())(I, H, **DEEP).to(device)
    x, marks = X.to(device), {"resets": RESETS.to(device), "lengths": LENGTHS.to(device)}
    with fastrnn.use_engine(engine):
        expected = ours(x, **marks)
        got = getattr(functional, name)(x, None, list(ours.parameters()), **DEEP, **marks)
    assert all(map(torch.equal, tensors(got), tensors(expected)))


@every_engine
def test_resets_may_be_reused_before_the_backward_pass(engine, device):
    """As by a loop that fills the same tensor for every rollout."""
    ours = twins(LSTM, I, H, bidirectional=True)[1].to(device)
    seen = []
    for overwrite in (False, True):
        resets = RESETS.to(device, copy=True)
        results = tensors(by_engine(engine, resets=resets)(ours, X.to(device), None))
        if overwrite:
            resets.fill_(True)
        seen.append(torch.autograd.grad(sum(r.sum() for r in results), list(ours.parameters())))
    assert all(map(torch.equal, *seen))


def test_explain_says_why():
    ours = fastrnn.GRU(I, H)
    text = str(fastrnn.explain(ours, X, resets=RESETS))
    assert "torch.nn has no resets" in text
    assert "torch.aten, torch.cell cannot serve: torch.nn has no resets" in text
    for name in ("torch.aten", "torch.cell"):
        with fastrnn.use_engine(name), pytest.raises(RuntimeError, match="has no resets"):
            ours(X, resets=RESETS)


WRONG = {
    "integers": (RESETS.int(), X, TypeError, "must be a tensor of bool, got torch.int32"),
    "list": (RESETS.tolist(), X, TypeError, "got list"),
    "transposed": (RESETS.t(), X, ValueError, r"the shape \(5, 3\), one for each step, got \(3,"),
    "too few": (RESETS[1:], X, ValueError, r"got \(4, 3\)"),
    "of a sequence": (RESETS[0], X, ValueError, r"got \(3,\)"),
    "of a batch": (RESETS, X[:, 0], ValueError, r"the shape \(5,\), one"),
    "packed": (RESETS, packed([2, 5, 1], I, dtype=torch.float32), ValueError, "PackedSequence"),
    "elsewhere": (RESETS.to("meta"), X, RuntimeError, "resets tensor at meta"),
}


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
@pytest.mark.parametrize("case", WRONG)
def test_resets_that_do_not_fit(case, engine, monkeypatch):
    """An error from modules, functions and `explain` alike, and nothing runs before it."""
    resets, x, error, message = WRONG[case]
    ours, ran = fastrnn.GRU(I, H), []
    for where in ("modules", "functional"):
        monkeypatch.setattr(getattr(fastrnn, where), "run", lambda *args: ran.append(args))
    weights = list(ours.parameters())
    for call in (
        lambda: ours(x, resets=resets),
        lambda: functional.gru(x, None, weights, resets=resets),
        lambda: fastrnn.explain(ours, x, resets=resets),
    ):
        with fastrnn.use_engine(engine), pytest.raises(error, match=message):
            call()
    assert not ran
