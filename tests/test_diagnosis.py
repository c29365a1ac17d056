"""`fastrnn.diagnose`: total derivatives, held against a loop of cells and finite differences."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from tests.contract import (
    GRU,
    LSTM,
    PROJECTED,
    RELU,
    TANH,
    UNPROJECTED,
    each_class,
    every_module,
    native_class,
    normal,
    our_class,
    packed,
    state_for,
    tensors,
    twins,
)

T, B, I, H = 6, 3, 4, 5
X = normal(T, B, I)
DEEP = {"num_layers": 2, "bidirectional": True}
every_kind = pytest.mark.parametrize("kind", UNPROJECTED, ids=str)


def made(kind, **options):
    return twins(kind, I, H, dtype=torch.float64, **options)


def first(hx):
    """h of a state that may be (h, c)."""
    return hx[0] if isinstance(hx, tuple) else hx


def last(output, hx, D=1):
    return first(hx)[-D:].sum()


def close(ours, theirs, rtol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-14)


CELLS = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell}


def by_cells(module, x, hx, loss, lengths=None):
    """Norms (L*D, T, B) by the letter of the state, from torch.nn's cells with retained grads."""
    D = 2 if module.bidirectional else 1
    lengths = torch.full((x.shape[1],), len(x)) if lengths is None else lengths
    letters = "hc" if module.mode == "LSTM" else "h"
    rows, finals = [], []
    for layer in range(module.num_layers):
        outputs = []
        for d in range(D):
            suffix = f"l{layer}" + "_reverse" * d
            more = {"nonlinearity": module.nonlinearity} if "RNN" in module.mode else {}
            kind = CELLS.get(module.mode, nn.RNNCell)
            cell = kind(x.shape[2], module.hidden_size, dtype=x.dtype, **more)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                cell._parameters[name] = getattr(module, f"{name}_{suffix}")
            state = tuple(s[layer * D + d] for s in tensors(hx))
            steps = [None] * len(x)
            for t in reversed(range(len(x))) if d else range(len(x)):
                active = (t < lengths)[:, None]
                after = cell(x[t], state if len(letters) == 2 else state[0])
                after = after if len(letters) == 2 else (after,)
                state = tuple(torch.where(active, *s) for s in zip(after, state, strict=True))
                for s in after:
                    s.retain_grad()
                steps[t] = after
            ongoing = [steps[t][0] * (t < lengths)[:, None] for t in range(len(x))]
            outputs.append(torch.stack(ongoing))
            rows.append(steps)
            finals.append(state)
        x = torch.cat(outputs, 2)
    final = tuple(map(torch.stack, zip(*finals, strict=True)))
    loss(x, final if len(letters) == 2 else final[0]).backward()

    def norm(state, t):
        grad = torch.zeros_like(state) if state.grad is None else state.grad
        return (grad * (t < lengths)[:, None]).norm(dim=1)

    return {
        letter: torch.stack(
            [torch.stack([norm(after[k], t) for t, after in enumerate(steps)]) for steps in rows]
        ).detach()
        for k, letter in enumerate(letters)
    }


@every_kind
@pytest.mark.parametrize("options", [{}, DEEP], ids=["plain", "deep"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 6, 1])], ids=["", "lengths"])
def test_a_loop_of_cells_has_the_same_gradients(kind, options, lengths):
    native, ours = made(kind, **options)
    hx = state_for(native, B)
    found = fastrnn.diagnose(ours, X, hx, lengths=lengths)
    D = 2 if ours.bidirectional else 1
    expected = by_cells(native, X, hx, lambda output, hx: last(output, hx, D), lengths)
    assert found.sequences.keys() == expected.keys()
    for letter, norms in expected.items():
        close(found.sequences[letter], norms)
    counts = torch.full((T,), B) if lengths is None else (lengths > torch.arange(T)[:, None]).sum(1)
    close(found.h, expected["h"].sum(2) / counts)
    assert (found.c is None) is (kind is not LSTM)


@every_kind
def test_a_loss_of_ones_own(kind):
    """Of all that a module returns: the paths from every step add up."""

    def loss(output, hx):
        return (output.sin() * normal(T, B, 2 * H, seed=7)).sum() + sum(
            s.square().sum() for s in tensors(hx)
        )

    native, ours = made(kind, **DEEP)
    hx = state_for(native, B)
    expected = by_cells(native, X, hx, loss)
    for letter, norms in expected.items():
        close(fastrnn.diagnose(ours, X, hx, loss=loss).sequences[letter], norms)


@every_module
@pytest.mark.parametrize("t", [0, 2, T - 2])
def test_finite_differences_agree(kind, t):
    """h_t is nudged, and torch.nn goes on from there. Projected, it is the h that is handed on."""
    native, ours = made(kind)
    found = fastrnn.diagnose(ours, X).sequences["h"][0, t]
    with torch.no_grad():
        _, hx = native(X[: t + 1])
        h, *c = hx if isinstance(hx, tuple) else (hx,)

        def loss(h):
            return last(*native(X[t + 1 :], (h, *c) if c else h))

        step = 1e-6
        slopes = torch.zeros_like(h[0])
        for b in range(B):
            for unit in range(h.shape[2]):
                nudge = torch.zeros_like(h)
                nudge[0, b, unit] = step
                slopes[b, unit] = (loss(h + nudge) - loss(h - nudge)) / (2 * step)
    close(found, slopes.norm(dim=1), rtol=1e-6)


def test_the_gradient_of_c_has_the_path_through_h():
    native, ours = made(LSTM)
    t = 2
    _, (h, c) = native(X[: t + 1])
    c = c.detach().requires_grad_()
    before = native(X[:t])[1][0][0]
    gates = X[t] @ native.weight_ih_l0.t() + before @ native.weight_hh_l0.t()
    o = (gates + native.bias_ih_l0 + native.bias_hh_l0).chunk(4, 1)[3].sigmoid()
    torch.testing.assert_close(o * c[0].tanh(), h[0])
    _, hx = native(X[t + 1 :], ((o * c[0].tanh()).unsqueeze(0), c))
    (slope,) = torch.autograd.grad(last(None, hx), c)
    close(fastrnn.diagnose(ours, X).sequences["c"][0, t], slope[0].norm(dim=1))


@every_module
def test_torch_nn_s_modules_too(kind):
    native, ours = made(kind, **DEEP)
    hx = state_for(native, B)
    expected, found = (fastrnn.diagnose(m, X, hx) for m in (ours, native))
    assert found.call == expected.call
    for letter, norms in expected.sequences.items():
        assert torch.equal(found.sequences[letter], norms)


@every_module
@pytest.mark.parametrize("module", [0, 1], ids=["torch.nn", "fastrnn"])
def test_every_form_of_input(kind, module):
    """Each gives what the plain form gives."""
    options = {"bidirectional": True, "num_layers": 2}
    plain = made(kind, **options)[module]
    first = made(kind, batch_first=True, **options)[module]
    expected = fastrnn.diagnose(plain, X)

    def same(found):
        for letter, norms in expected.sequences.items():
            close(found.sequences[letter], norms)
            assert found.sequences[letter].dtype is torch.float64

    same(fastrnn.diagnose(first, X.transpose(0, 1)))
    singles = [fastrnn.diagnose(plain, X[:, b]) for b in range(B)]
    for letter, norms in expected.sequences.items():
        close(torch.cat([s.sequences[letter] for s in singles], 2), norms)
    assert singles[0].h.shape == (4, T)


@every_module
@pytest.mark.parametrize("sort", [True, False])
def test_packed_is_padded_with_lengths(kind, sort):
    ours = made(kind, **DEEP)[1]
    lengths = torch.tensor([6, 4, 1] if sort else [4, 6, 1])
    ready = pack_padded_sequence(X, lengths, enforce_sorted=sort)
    found = fastrnn.diagnose(ours, ready)
    expected = fastrnn.diagnose(ours, X, lengths=lengths)
    for letter, norms in expected.sequences.items():
        close(found.sequences[letter], norms)
        beyond = torch.arange(T)[:, None] >= lengths
        assert not norms[:, beyond].any()
        assert norms[:, ~beyond].all()
    for mine, theirs in zip(found.reach, expected.reach, strict=True):
        assert mine.words == theirs.words


def test_the_ends_are_each_sequence_s_own():
    ours = made(TANH, bidirectional=True)[1]
    lengths = torch.tensor([4, 6, 1])
    found = fastrnn.diagnose(ours, X, lengths=lengths)
    forward, backward = found.sequences["h"]
    nears = forward[lengths - 1, range(B)].mean(), backward[0].mean()
    fars = forward[0].mean(), backward[lengths - 1, range(B)].mean()
    for reach, near, far in zip(found.reach, nears, fars, strict=True):
        assert reach.ratio == pytest.approx((far / near).item())
        assert reach.steps == 5


def test_an_empty_sequence_counts_for_nothing():
    ours = made(GRU)[1]
    found = fastrnn.diagnose(ours, X, lengths=torch.tensor([6, 0, 6]))
    without = fastrnn.diagnose(ours, X[:, [0, 2]])
    close(found.h, without.h)
    assert found.reach[0].words == without.reach[0].words
    none = fastrnn.diagnose(ours, X, lengths=torch.tensor([0, 0, 0]))
    assert none.reach[0].verdict == "is zero"
    assert none.reach[0].steps == 0


def test_no_gradient_passes_a_reset():
    ours = made(LSTM)[1]
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[3, 1] = True
    norms = fastrnn.diagnose(ours, X, resets=resets).sequences["h"][0]
    assert not norms[:3, 1].any()
    assert norms[3:, 1].all()
    assert norms[:, [0, 2]].all()


def test_one_hot():
    ours = made(LSTM)[1]
    ids = torch.arange(T * B).remainder(I).view(T, B)
    dense = nn.functional.one_hot(ids).double()
    expected = fastrnn.diagnose(ours, dense)
    close(fastrnn.diagnose(ours, ids, one_hot=True).h, expected.h)


def linear_rnn(factor, steps=200, dtype=torch.float32):
    """A relu RNN of one unit that stays positive: d h_T / d h_t = factor ** (T - t)."""
    rnn = fastrnn.RNN(1, 1, nonlinearity="relu", bias=False, dtype=dtype)
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(factor)
        rnn.weight_ih_l0.fill_(1e-6)
    return rnn, torch.ones(steps, 1, 1, dtype=dtype)


@pytest.mark.parametrize(
    ("factor", "verdict", "pace"),
    [
        (0.5, "vanishes", "halves every 1 steps"),
        (2.0, "explodes", "doubles every 1 steps"),
        (0.5**0.01, "reaches back", "halves every 100 steps"),
        (1.0, "reaches back", None),
    ],
)
def test_the_verdict(factor, verdict, pace):
    found = fastrnn.diagnose(*linear_rnn(factor, 101))
    (reach,) = found.reach
    assert reach.verdict == verdict
    assert reach.ratio == pytest.approx(factor**100, rel=1e-4)
    if pace is None:
        assert reach.half_life == math.inf
        assert "every" not in str(found)
    else:
        assert pace in str(found)
    assert f"{verdict}: × " in str(found)
    assert "T=101, B=1" in str(found)
    steps = torch.arange(100, -1, -1)
    torch.testing.assert_close(
        found.h[0], torch.tensor(factor).double() ** steps, rtol=1e-4, atol=0
    )


def test_the_sparkline_rises_or_falls():
    (vanishing,) = fastrnn.diagnose(*linear_rnn(0.5)).reach
    (exploding,) = fastrnn.diagnose(*linear_rnn(1.4)).reach
    (level,) = fastrnn.diagnose(*linear_rnn(1.0)).reach
    assert vanishing.sparkline.strip() == "".join(sorted(vanishing.sparkline.strip()))
    assert vanishing.sparkline.startswith(" ")  # below the smallest float32: zero
    assert list(exploding.sparkline) == sorted(exploding.sparkline, reverse=True)
    assert set(level.sparkline) == {"█"}
    assert len(vanishing.sparkline) == len(exploding.sparkline) == 24
    assert len(fastrnn.diagnose(*linear_rnn(1.0, 3)).reach[0].sparkline) == 3


def test_gradients_of_zero_and_states_that_are_no_number():
    (gone,) = fastrnn.diagnose(*linear_rnn(0.5)).reach
    assert gone.ratio == 0
    assert gone.half_life == pytest.approx(1)  # from those steps where something is left
    rnn, x = linear_rnn(2.0)
    (dead,) = fastrnn.diagnose(rnn, 0 * x).reach  # relu has no slope at zero
    assert (dead.verdict, dead.ratio, dead.half_life) == ("vanishes", 0.0, math.inf)
    x[3] = math.nan
    (undefined,) = fastrnn.diagnose(rnn, x).reach
    assert undefined.verdict == "is undefined"
    assert "not a finite number" in undefined.words
    rnn, x = linear_rnn(0.9)
    (zero,) = fastrnn.diagnose(rnn, x, loss=lambda output, hx: output[0].sum()).reach
    assert zero.verdict == "is zero"


def test_a_gradient_beyond_the_dtype_explodes():
    """tanh RNN at its middle, where its slope is 1: the states are zeros, the gradient 4 ** 99."""
    rnn = fastrnn.RNN(1, 1, bias=False)
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(4.0)
    (reach,) = fastrnn.diagnose(rnn, torch.zeros(100, 2, 1)).reach
    assert (reach.verdict, reach.ratio) == ("explodes", math.inf)
    assert reach.half_life == pytest.approx(-0.5)
    assert "!" in reach.sparkline


@pytest.mark.parametrize("kind", [LSTM, GRU, TANH, RELU], ids=str)
@pytest.mark.parametrize("native", [True, False])
def test_nothing_changes(kind, native):
    cls = native_class(kind) if native else our_class(kind)
    module = cls(I, H, **kind.options, num_layers=2, dropout=0.5, dtype=torch.float64)
    (module.weight_ih_l0 * 1.0).sum().backward()
    module.weight_hh_l0.requires_grad_(False)
    before, grads = copy.deepcopy(module), [copy.deepcopy(p.grad) for p in module.parameters()]
    state = torch.get_rng_state()
    x = X.clone().requires_grad_()
    found = fastrnn.diagnose(module, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training
    assert x.grad is None
    for mine, then, grad in zip(module.parameters(), before.parameters(), grads, strict=True):
        assert torch.equal(mine, then)
        assert mine.requires_grad is then.requires_grad
        assert mine.grad is grad is None or torch.equal(mine.grad, grad)
    # What drops out at random would not be the module's.
    assert torch.equal(found.h, fastrnn.diagnose(module.eval(), x).h)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(found.h, fastrnn.diagnose(module, x * 1).h)


def test_frozen_modules_and_parametrized_ones():
    native, ours = made(GRU)
    expected = fastrnn.diagnose(ours, X).h
    ours.requires_grad_(False)
    assert torch.equal(fastrnn.diagnose(ours, X).h, expected)
    nn.utils.parametrizations.weight_norm(native, "weight_hh_l0")
    close(fastrnn.diagnose(native, X).h, expected)


def test_autocast():
    ours = twins(LSTM, I, H)[1]
    x = X.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fastrnn.diagnose(ours, x)
    torch.testing.assert_close(found.h, fastrnn.diagnose(ours, x).h, rtol=0.05, atol=0)


def test_with_a_head_that_learns():
    """Its own gradients stay as they are."""
    ours, head = made(GRU)[1], nn.Linear(H, 2, dtype=torch.float64)
    fastrnn.diagnose(ours, X, loss=lambda output, hx: head(output[-1]).square().mean())
    assert head.weight.grad is None


def test_results_can_be_kept():
    found = fastrnn.diagnose(made(LSTM)[1], X)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
    with pytest.raises(AttributeError):
        found.h = None


def test_a_notebook_shows_the_text_and_no_tensors():
    found = fastrnn.diagnose(fastrnn.GRU(3, 4, bidirectional=True), torch.randn(9, 2, 3))
    assert repr(found) == str(found)
    assert "tensor(" not in repr(found)
    (forward, backward) = found.reach
    assert repr(forward) == f"<layer 0, h: {forward.words}>"
    assert repr(backward) == f"<layer 0, backward, h: {backward.words}>"


@each_class
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        (X[..., :3], None),
        (X.float(), None),
        (X[:0], None),
        (X[None], None),
        (packed([2, 3], 3), None),
        (X, normal(1, 1, 1)),
        ([1.0], None),
    ],
    ids=["width", "dtype", "empty", "dimensions", "packed width", "state", "list"],
)
def test_bad_input_gets_the_module_s_error(kind, ours, call):
    module = made(kind)[ours]
    with pytest.raises(Exception) as expected:  # noqa: PT011  which one is for torch to say
        module(*call)
    with pytest.raises(type(expected.value)) as found:
        fastrnn.diagnose(module, *call)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("marks", "error", "words"),
    [
        ({"lengths": torch.tensor([7, 1, 1])}, ValueError, r"lengths must lie in \[0, 6\], got"),
        ({"lengths": [1, 1, 1]}, TypeError, "lengths must be a tensor of integers, got list"),
        ({"resets": torch.zeros(2, 2)}, TypeError, "resets must be a tensor of bool"),
        ({"one_hot": True}, TypeError, "one_hot=True takes a tensor of integer indices"),
    ],
)
def test_bad_marks_get_fastrnn_s_error(ours, marks, error, words):
    with pytest.raises(error, match=words):
        fastrnn.diagnose(made(LSTM)[ours], X, **marks)


def test_what_torch_nn_alone_takes_is_refused():
    class Special(torch.Tensor):
        pass

    for module in made(LSTM):
        with pytest.raises(ValueError, match="cannot take this call: the input is a Special"):
            fastrnn.diagnose(module, X.as_subclass(Special))


class Own(nn.LSTM):
    def forward(self, x):
        return 2 * x


class OurOwn(fastrnn.LSTM):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "got NoneType"),
        (nn.Linear(2, 2), "got Linear$"),
        (nn.LSTMCell(2, 2), "got LSTMCell, which is a single step"),
        (fastrnn.GRUCell(2, 2), "got GRUCell, which is a single step"),
        (Own(2, 2), "got Own, whose forward is its own$"),
        (OurOwn(2, 2), "got OurOwn, whose forward is its own$"),
        (
            nn.Sequential(nn.Linear(2, 2), fastrnn.GRU(2, 2), nn.LSTM(2, 2)),
            r"got Sequential; name one of its parts: 1 \(GRU\), 2 \(LSTM\)",
        ),
    ],
)
def test_other_modules_are_refused(module, words):
    with pytest.raises(TypeError, match="diagnose takes an LSTM, GRU or RNN, " + words):
        fastrnn.diagnose(module, X)


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda output, hx: 1.0, TypeError, "must give a tensor, got float"),
        (lambda output, hx: output, ValueError, "must give one real number, got"),
        (lambda output, hx: output.detach().sum(), ValueError, "must depend on"),
    ],
)
def test_a_loss_that_is_none(loss, error, words):
    with pytest.raises(error, match=words):
        fastrnn.diagnose(made(LSTM)[1], X, loss=loss)


def test_projections_have_both_widths():
    """h as wide as proj_size, c as H: norms of either kind for every step."""
    found = fastrnn.diagnose(made(PROJECTED)[1], X)
    assert found.h.shape == found.c.shape == (1, T)
    assert [r.state for r in found.reach] == ["h", "c"]


def test_on_the_device(device):
    ours = twins(LSTM, I, H)[1].to(device)
    with fastrnn.use_engine("torch.reference"):
        found = fastrnn.diagnose(ours, X.float().to(device))
    assert found.h.device.type == "cpu"
    expected = fastrnn.diagnose(ours.cpu(), X.float())
    torch.testing.assert_close(found.h, expected.h, rtol=1e-2, atol=1e-4)
