"""`return_cell_states` and `return_gates`: against torch.nn.LSTMCell step by step, and formulas."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

import fastrnn
from fastrnn import functional
from tests.contract import (
    GRU,
    LSTM,
    RELU,
    TANH,
    Kind,
    assert_same,
    exercise,
    normal,
    packed,
    state_for,
    tensors,
    twins,
    widened,
)
from tests.functions import flat
from tests.problems import ENGINES, HERE, by_engine, move, on_cpu

pytestmark = pytest.mark.usefixtures("kernels")
NAMES = tuple(name for name in HERE if name not in ("torch.aten", "torch.cell"))
every_engine = pytest.mark.parametrize("engine", NAMES)
PROJECTED = Kind("LSTM", {"proj_size": 2})
DEEP = {"num_layers": 2, "bidirectional": True}
T, B, I, H = 4, 3, 3, 4
X = normal(T, B, I, dtype=torch.float32)
LENGTHS = torch.tensor([2, 4, 0])
RESETS = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0]]).bool()


def cell_by_cell(module, x, hx, lengths=None, resets=None):
    """(output, (h_n, c_n), every c) of torch.nn.LSTM's weights in its cells, step by step."""
    D = 2 if module.bidirectional else 1
    lengths = torch.full((x.shape[1],), len(x)) if lengths is None else lengths
    finals = []
    for layer in range(module.num_layers):
        found = []
        for d in range(D):
            suffix = f"l{layer}" + "_reverse" * d
            cell = nn.LSTMCell(x.shape[2], module.hidden_size, device=x.device, dtype=x.dtype)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                cell._parameters[name] = getattr(module, f"{name}_{suffix}")
            state = tuple(s[layer * D + d] for s in hx)
            steps = [None] * len(x)
            for t in reversed(range(len(x))) if d else range(len(x)):
                active = (t < lengths)[:, None]
                if resets is not None:
                    # The second direction begins anew after the step that begins an episode.
                    at = t + d
                    begins = resets[at] & (at < lengths) if at < len(x) else ~active[:, 0] & False
                    state = tuple(s * ~begins[:, None] for s in state)
                after = cell(x[t], state)
                state = tuple(torch.where(active, *s) for s in zip(after, state, strict=True))
                steps[t] = tuple(s * active for s in state)
            found.append([torch.stack(s) for s in zip(*steps, strict=True)])
            finals.append(state)
        x, cells = (torch.cat(s, 2) for s in zip(*found, strict=True))
    return x, tuple(map(torch.stack, zip(*finals, strict=True))), cells


@every_engine
@pytest.mark.parametrize("options", [{}, DEEP], ids=["plain", "deep"])
@pytest.mark.parametrize("marks", [{}, {"lengths": LENGTHS, "resets": RESETS}], ids=["", "marks"])
def test_the_states_of_cells(options, marks, engine, device):
    """With gradients that come in by all of them."""
    native, ours = twins(LSTM, I, H, **options)
    hx = state_for(native, B)

    def theirs(module, x, hx):
        return cell_by_cell(module, x, hx, **marks)

    referee = exercise(*widened(native, X, hx), theirs)
    expected = exercise(native, X, hx, theirs)
    here = {name: mark.to(device) for name, mark in marks.items()}
    call = by_engine(engine, return_cell_states=True, **here)
    seen = exercise(ours.to(device), X.to(device), move(hx, device), call)
    assert_same(on_cpu(seen), expected, referee)


@every_engine
def test_a_loss_on_cell_states_alone(engine, device):
    native, ours = twins(LSTM, I, H, bidirectional=True)
    hx = state_for(native, B)

    def theirs(module, x, hx):
        return cell_by_cell(module, x, hx)[2]

    def mine(module, x, hx):
        return by_engine(engine, return_cell_states=True)(module, x, hx)[2]

    referee = exercise(*widened(native, X, hx), theirs)
    expected = exercise(native, X, hx, theirs)
    seen = exercise(ours.to(device), X.to(device), move(hx, device), mine)
    assert_same(on_cpu(seen), expected, referee)


def by_formulas(module, x, output, h_0):
    """The gates of the one layer and direction, by their letters, from the states in `output`."""
    before = torch.cat((h_0, output[:-1]))
    of_x = nn.functional.linear(x, module.weight_ih_l0, module.bias_ih_l0)
    of_h = nn.functional.linear(before, module.weight_hh_l0, module.bias_hh_l0)
    if module.mode == "LSTM":
        i, f, g, o = (of_x + of_h).chunk(4, 2)
        return {"i": i.sigmoid(), "f": f.sigmoid(), "g": g.tanh(), "o": o.sigmoid()}
    (r_x, z_x, n_x), (r_h, z_h, n_h) = of_x.chunk(3, 2), of_h.chunk(3, 2)
    r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    return {"r": r, "z": z, "n": (n_x + r * n_h).tanh()}


@every_engine
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_gates_are_the_formulas(kind, engine, device):
    """And so are their gradients."""
    native, ours = twins(kind, I, H)
    hx = state_for(native, B)

    def theirs(module, x, hx):
        output, _ = module(x, hx)
        return list(by_formulas(module, x, output, tensors(hx)[0]).values())

    def mine(module, x, hx):
        gates = by_engine(engine, return_gates=True)(module, x, hx)[2]
        assert list(gates) == ["i", "f", "g", "o"] if kind is LSTM else ["r", "z", "n"]
        return list(gates.values())

    referee = exercise(*widened(native, X, hx), theirs)
    expected = exercise(native, X, hx, theirs)
    seen = exercise(ours.to(device), X.to(device), move(hx, device), mine)
    assert_same(on_cpu(seen), expected, referee)


@every_engine
@pytest.mark.parametrize("form", ["packed", "batch first", "one sequence", "one-hot"])
def test_they_lie_as_the_output(form, engine, device):
    """In every form of input."""
    ours = twins(LSTM, I, H, **DEEP, batch_first=form == "batch first")[1].to(device)
    x = X
    if form == "packed":
        x = packed([2, 4, 1], I, dtype=torch.float32)
    elif form == "batch first":
        x = X.transpose(0, 1)
    elif form == "one sequence":
        x = X[:, 0]
    elif form == "one-hot":
        x = torch.arange(T * B).remainder(I).view(T, B)
    asked = {"return_cell_states": True, "return_gates": True, "one_hot": form == "one-hot"}
    output, (_, c_n), cells, gates = by_engine(engine, **asked)(ours, move(x, device), None)
    for part in (cells, *gates.values()):
        assert type(part) is type(output)
        if form == "packed":
            assert torch.equal(part.batch_sizes, output.batch_sizes)
            assert torch.equal(part.sorted_indices, output.sorted_indices)
        assert flat(part)[0].shape == flat(output)[0].shape

    def steps(part):
        if isinstance(part, PackedSequence):
            return pad_packed_sequence(part)[0]
        return part.transpose(0, 1) if form == "batch first" else part

    last = [1, 3, 0] if form == "packed" else [T - 1] * B
    c, batch = steps(cells), range(B)
    if form == "one sequence":
        c, c_n, batch = c[:, None], c_n[:, None], range(1)
    for b in batch:
        torch.testing.assert_close(c[last[b], b, :H], c_n[-2, b])
        torch.testing.assert_close(c[0, b, H:], c_n[-1, b])
    # h = o tanh(c), whatever the form.
    h = steps(gates["o"]) * steps(cells).tanh()
    torch.testing.assert_close(h, steps(output))


@pytest.mark.parametrize("engine", ["auto", "torch.reference"])
def test_with_projections(engine):
    """c and the gates are as wide as H; what is projected is h."""
    ours = twins(PROJECTED, I, H, bidirectional=True, dtype=torch.float64)[1]
    asked = {"return_cell_states": True, "return_gates": True}
    output, _, cells, gates = by_engine(engine, **asked)(ours, X.double(), None)
    h = (gates["o"] * cells.tanh()).chunk(2, 2)
    weights = ours.weight_hr_l0, ours.weight_hr_l0_reverse
    projected = [part @ w.t() for part, w in zip(h, weights, strict=True)]
    torch.testing.assert_close(torch.cat(projected, 2), output)


@every_engine
def test_beyond_a_length_there_is_nothing(engine, device):
    """Zeros, and of no gradient."""
    ours = twins(LSTM, I, H, bidirectional=True)[1].to(device)
    asked = {"return_cell_states": True, "return_gates": True}
    x = X.to(device).requires_grad_()
    _, _, cells, gates = by_engine(engine, LENGTHS.to(device), **asked)(ours, x, None)
    beyond = (torch.arange(T)[:, None] >= LENGTHS).to(device)
    for part in (cells, *gates.values()):
        assert not part[beyond].any()
        assert part[~beyond].all()
    loss = sum(part.sum() for part in (cells, *gates.values()))
    (dx,) = torch.autograd.grad(loss, x)
    assert not dx[beyond].any()
    assert dx[~beyond].ne(0).any(1).all()


@every_engine
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference(mode, engine, device):
    """With the numbers of training, and from `fastrnn.functional` too."""
    ours = twins(LSTM, I, H, **DEEP)[1].to(device)
    asked = {"return_cell_states": True, "return_gates": True}
    call = by_engine(engine, **asked)
    trained = flat(call(ours, X.to(device), None))
    with mode(), fastrnn.use_engine(engine):
        inferred = flat(call(ours, X.to(device), None))
        weights = list(ours.parameters())
        by_function = flat(functional.lstm(X.to(device), None, weights, **DEEP, **asked))
    assert all(map(torch.equal, inferred, trained))
    assert all(map(torch.equal, by_function, trained))


def test_explain_says_why():
    ours = fastrnn.LSTM(I, H)
    for asked, name in (("return_cell_states", "cell states"), ("return_gates", "gates")):
        text = str(fastrnn.explain(ours, X, **{asked: True}))
        assert f"torch.aten, torch.cell cannot serve: torch.nn has no {name}" in text
        with (
            fastrnn.use_engine("torch.aten"),
            pytest.raises(RuntimeError, match=f"has no {name}"),
        ):
            ours(X, **{asked: True})


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        (GRU, "return_cell_states", "only an LSTM has cell states"),
        (TANH, "return_cell_states", "only an LSTM has cell states"),
        (RELU, "return_gates", "only an LSTM or a GRU has gates"),
    ],
    ids=str,
)
def test_what_a_cell_lacks(kind, asked, message, engine):
    """An error from modules, functions and `explain` alike."""
    ours = twins(kind, I, H)[1]
    options = {"nonlinearity": "relu"} if kind is RELU else {}
    weights = list(ours.parameters())
    for call in (
        lambda: ours(X, **{asked: True}),
        lambda: fastrnn.explain(ours, X, **{asked: True}),
        lambda: getattr(functional, kind.name.lower())(
            X, None, weights, **options, **{asked: True}
        ),
    ):
        with fastrnn.use_engine(engine), pytest.raises(ValueError, match=message):
            call()
