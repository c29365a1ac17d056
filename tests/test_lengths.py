"""`lengths=`: what a PackedSequence gives, for padded sequences, by kernels and by packing."""

import math

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import functional
from tests.contract import (
    UNPROJECTED,
    assert_same,
    each_class,
    exercise,
    normal,
    packed,
    state_for,
    tensors,
    twins,
    widened,
)
from tests.problems import ENGINES, assert_right, by_engine, move, on_cpu

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("kernels")
NAMES = ("auto", "torch.aten", *ENGINES)
every_name = pytest.mark.parametrize("engine", NAMES)
every_cell = pytest.mark.parametrize("kind", UNPROJECTED, ids=str)
DEEP = {"num_layers": 2, "bidirectional": True}
T = 4
SOME = torch.tensor([2, 4, 1, 3])
NONE = torch.tensor([2, 0, 4, 0])
X = normal(T, 4, 3, dtype=torch.float32)


@every_name
@every_cell
def test_a_packed_sequence_gives_the_same(kind, engine, device):
    """Of a torch.nn module, in any order of lengths."""
    native, ours = twins(kind, 3, 6, **DEEP)
    hx = state_for(native, 4)

    def packing(module, x, hx):
        sequence = pack_padded_sequence(x, SOME, enforce_sorted=False)
        output, final = module(sequence, hx)
        return pad_packed_sequence(output, total_length=T)[0], final

    referee = exercise(*widened(native, X, hx), packing)
    expected = exercise(native.to(device), X.to(device), move(hx, device), packing)
    call = by_engine(engine, SOME.to(device))
    seen = exercise(ours.to(device), X.to(device), move(hx, device), call)
    assert_same(on_cpu(seen), on_cpu(expected), referee)


@every_name
@each_class
@pytest.mark.parametrize("first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
def test_sequences_without_a_step(kind, engine, first, state, device):
    pair = twins(kind, 3, 6, batch_first=first, bidirectional=True)
    x = X.transpose(0, 1) if first else X
    hx = state_for(pair[0], 4) if state else None
    assert_right(pair, by_engine(engine, NONE.to(device)), x, hx, device, NONE)
    ours, hx = pair[1].to(device), move(hx, device)
    output, final = by_engine(engine, NONE.to(device))(ours, x.to(device), hx)
    empty = NONE == 0
    assert not (output.transpose(0, 1) if first else output)[:, empty].any()
    initial = [0, 0] if hx is None else tensors(hx)
    for after, before in zip(tensors(final), initial, strict=False):
        assert (after[:, empty] == (0 if hx is None else before[:, empty])).all()


@every_name
@each_class
def test_no_sequence_has_a_step(kind, engine, device):
    pair = twins(kind, 3, 6, **DEEP)
    lengths = torch.zeros(4, dtype=torch.int64)
    call = by_engine(engine, lengths.to(device))
    assert_right(pair, call, X, state_for(pair[0], 4), device, lengths)


@every_name
@pytest.mark.parametrize("kind", UNPROJECTED[:2], ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str
)
def test_every_integer(kind, engine, dtype, device):
    module = twins(kind, 3, 6)[1].to(device)
    expected = by_engine(engine, NONE.to(device))(module, X.to(device), None)
    got = by_engine(engine, NONE.to(dtype).to(device))(module, X.to(device), None)
    assert all(map(torch.equal, tensors(got), tensors(expected)))


@every_name
@pytest.mark.parametrize("spread", ["strided", "expanded"])
def test_lengths_of_any_stride(engine, spread, device):
    module = twins(UNPROJECTED[1], 3, 6)[1].to(device)
    if spread == "strided":
        lengths = torch.stack([NONE, torch.full_like(NONE, 4)], 1).to(device)[:, 0]
    else:
        lengths = torch.tensor([2], device=device).expand(4)
    expected = by_engine(engine, lengths.contiguous())(module, X.to(device), None)
    got = by_engine(engine, lengths)(module, X.to(device), None)
    assert all(map(torch.equal, tensors(got), tensors(expected)))


@every_name
@each_class
@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_lengths_may_be_reused_before_the_backward_pass(kind, engine, memory, device):
    """As a loader that fills the same tensor for every batch does."""
    ours = twins(kind, 3, 6, bidirectional=True)[1].to(device)
    seen = []
    for overwrite in (False, True):
        lengths = NONE.to(device, copy=True)
        results = tensors(by_engine(engine, lengths, memory)(ours, X.to(device), None))
        if overwrite:
            lengths.fill_(T)
        loss = sum((r * r).sum() for r in results)
        seen.append(torch.autograd.grad(loss, list(ours.parameters())))
    assert all(map(torch.equal, *seen))


@every_name
@each_class
@pytest.mark.parametrize("lengths", [SOME, NONE], ids=["some", "none"])
@pytest.mark.parametrize(
    ("value", "memory"), [(math.nan, "save"), (math.nan, "recompute"), (math.inf, "save")]
)
def test_padding_is_not_read(kind, engine, lengths, value, memory, device):
    """Neither for results nor for gradients; its own gradient is zero, exactly."""
    ours = twins(kind, 3, 6, bidirectional=True)[1].to(device)
    beyond = torch.arange(T)[:, None] >= lengths
    call = by_engine(engine, lengths.to(device), memory)
    hx = move(state_for(ours, 4, dtype=torch.float32), device)
    clean = exercise(ours, X.to(device), hx, call)
    spoiled = X.masked_fill(beyond[:, :, None], value).to(device)
    seen = exercise(ours, spoiled, hx, call)
    for name in clean:
        assert torch.equal(seen[name], clean[name]), name
    assert not seen["d input 0"].cpu()[beyond].any()
    assert seen["d input 0"].cpu()[~beyond].ne(0).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_padding_is_not_read_where_torch_alone_serves(dtype):
    """Under autocast, of the weights' dtype and of another; the second is torch.nn's business."""
    ours = fastrnn.LSTM(3, 6)
    x = X.to(dtype).masked_fill((torch.arange(T)[:, None] >= NONE)[:, :, None], math.nan)
    with torch.autocast("cpu", torch.bfloat16):
        output, (h_n, c_n) = ours(x, lengths=NONE)
    (output.sum() + h_n.sum() + c_n.sum()).float().backward()
    assert not any(p.grad.isnan().any() for p in ours.parameters())


@every_name
@each_class
def test_gradients_of_padding_in_the_output_go_nowhere(kind, engine, device):
    """The zeros there are constants, be the gradient a NaN."""
    ours = twins(kind, 3, 6, bidirectional=True)[1].to(device)
    lengths = NONE.to(device)
    real = (torch.arange(T)[:, None] < NONE).to(device)[:, :, None]
    seen = []
    for beyond in (0.0, 5.0, math.nan):
        if engine not in ENGINES and math.isnan(beyond):
            continue  # torch's own masking of zero lengths multiplies
        output, _ = by_engine(engine, lengths)(ours, X.to(device), None)
        d = torch.where(real, normal(*output.shape, dtype=torch.float32).to(device), beyond)
        seen.append(torch.autograd.grad(output, list(ours.parameters()), d))
    for others in seen[1:]:
        assert all(map(torch.equal, others, seen[0]))


@every_name
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_the_functions_take_them(name, engine, device):
    ours = getattr(fastrnn, name.upper())(3, 6, **DEEP).to(device)
    x, lengths = X.to(device), NONE.to(device)
    with fastrnn.use_engine(engine):
        expected = ours(x, lengths=lengths)
        weights = list(ours.parameters())
        got = getattr(functional, name)(x, None, weights, lengths=lengths, **DEEP)
    assert all(map(torch.equal, tensors(got), tensors(expected)))


@every_name
def test_one_hot_padding_may_hold_anything(engine, device):
    ours = fastrnn.GRU(5, 6).to(device)
    indices = torch.arange(16).remainder(5).view(T, 4)
    spoiled = indices.masked_fill(torch.arange(T)[:, None] >= SOME, -1)
    results = [
        tensors(by_engine(engine, SOME.to(device), one_hot=True)(ours, x.to(device), None))
        for x in (indices, spoiled)
    ]
    assert all(map(torch.equal, *results))


@every_name
def test_hooks_run_once(engine, device):
    ours = fastrnn.GRU(3, 6).to(device)
    calls = []
    ours.register_forward_pre_hook(lambda *args: calls.append("before"))
    ours.register_forward_hook(lambda *args: calls.append("after"))
    by_engine(engine, SOME.to(device))(ours, X.to(device), None)
    assert calls == ["before", "after"]


WRONG = {
    "float": (SOME.float(), X, TypeError, "must be a tensor of integers, got torch.float32"),
    "bool": (SOME > 1, X, TypeError, "got torch.bool"),
    "list": ([2, 4, 1, 3], X, TypeError, "got list"),
    "negative": (SOME - 2, X, ValueError, r"must lie in \[0, 4\], got -1 to 2"),
    "too long": (SOME + 1, X, ValueError, r"must lie in \[0, 4\], got 2 to 5"),
    "too few": (SOME[:3], X, ValueError, r"must have the shape \(4,\), one .*, got \(3,\)"),
    "a column": (SOME[:, None], X, ValueError, r"shape \(4,\), one .*, got \(4, 1\)"),
    "a number": (SOME[0], X, ValueError, r"shape \(4,\), one .*, got \(\)"),
    "packed": (SOME, packed([2, 4, 1, 3], 3, dtype=torch.float32), ValueError, "PackedSequence"),
    "unbatched": (SOME, X[:, 0], ValueError, "batch of sequences"),
    "nothing": (SOME, None, ValueError, "batch of sequences"),
}


@every_name
@pytest.mark.parametrize("case", WRONG)
def test_lengths_that_do_not_fit(case, engine, monkeypatch):
    """An error from modules, functions and `explain` alike, and nothing runs before it."""
    lengths, x, error, message = WRONG[case]
    ours = fastrnn.GRU(3, 6)
    ran = []
    for where in ("modules", "functional"):
        monkeypatch.setattr(getattr(fastrnn, where), "run", lambda *args: ran.append(args))
        monkeypatch.setattr(getattr(fastrnn, where), "by_packing", lambda *args: ran.append(args))
    weights = list(ours.parameters())
    for call in (
        lambda: ours(x, lengths=lengths),
        lambda: functional.gru(x, None, weights, lengths=lengths),
        lambda: fastrnn.explain(ours, x, lengths=lengths),
    ):
        with fastrnn.use_engine(engine), pytest.raises(error, match=message):
            call()
    assert not ran


def test_lengths_elsewhere():
    ours = fastrnn.GRU(3, 6)
    with pytest.raises(RuntimeError, match="not at the same device, found input tensor at cpu"):
        ours(X, lengths=SOME.to("meta"))


def test_empty_batches():
    """What torch.nn makes of them without lengths: an empty result, an error."""
    ours, native = fastrnn.GRU(3, 6), torch.nn.GRU(3, 6)
    x, nobody = torch.zeros(4, 0, 3), torch.zeros(0, dtype=torch.int64)
    for mine, theirs in zip(ours(x, lengths=nobody), native(x), strict=True):
        assert mine.shape == theirs.shape
    with pytest.raises(RuntimeError, match=r"(?i)expected sequence length to be larger than 0"):
        ours(torch.zeros(0, 4, 3), lengths=torch.zeros(4, dtype=torch.int64))
