"""torch.compile(fullgraph=True) and torch.export: one graph for all T and B, with eager numbers."""

import copy
import io

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import functional
from tests.contract import (
    GRU,
    LSTM,
    TANH,
    cotangents,
    each_class,
    every_module,
    mapped,
    normal,
    state_for,
    twins,
)
from tests.problems import HERE, assert_near, dtype_of, move

pytestmark = [
    pytest.mark.usefixtures("quick", "anew"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore:.*oneDNN:UserWarning",
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
        "ignore:Dynamo does not know how to trace the builtin:UserWarning",
    ),
]
I, H = 5, 7
DEEP = {"num_layers": 2, "bidirectional": True}
SHAPES = [(11, 6), (13, 8)]  # T and B: no number that is another size, too
FEW = [(3, 6), (4, 8)]
# torch.nn's own operators unroll a sequence in a graph, as ever.
ENGINES = [engine for engine in HERE if engine not in ("torch.aten", "torch.cell")]


@pytest.fixture
def anew():
    """Nothing compiled before, and nothing compiled again."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch.compiler.reset()


def compiled(function, **options):
    """As one graph."""
    options = {"fullgraph": True, "dynamic": True, "backend": "aot_eager", **options}
    return torch.compile(function, **options)


def flat(results):
    """The tensors of what a module returns."""
    if isinstance(results, dict):
        results = tuple(results.values())
    return [t for part in results for t in flat(part)] if isinstance(results, tuple) else [results]


def asked(form, T, B, device):
    """What a call may ask for beside: keyword arguments."""
    lengths = torch.arange(B, device=device) * T // (B - 1)  # none to all of the steps
    resets = (torch.arange(T * B, device=device) % 7 == 3).view(T, B)
    return {
        "dense": {},
        "lengths": {"lengths": lengths},
        "resets": {"resets": resets},
        "both": {"lengths": lengths, "resets": resets},
    }[form]


def trained(call, module, x, hx, **options):
    """Results, then gradients, of one step."""
    x, *states = (t.detach().requires_grad_(t.is_floating_point()) for t in (x, *flat(hx)))
    results = flat(call(x, tuple(states) if len(states) > 1 else states[0], **options))
    inputs = [t for t in (x, *states, *module.parameters()) if t.requires_grad]
    return [*results, *torch.autograd.grad(results, inputs, cotangents(results))]


def exactly(module, x, hx, **options):
    """The same by the formulas, in double precision, on the CPU."""
    module = copy.deepcopy(module).cpu().double()
    x, *states = (t.cpu().double() if t.is_floating_point() else t.cpu() for t in (x, *flat(hx)))
    options = {k: v.cpu() if torch.is_tensor(v) else v for k, v in options.items()}
    with fastrnn.use_engine("torch.reference"):
        return trained(
            module, module, x, tuple(states) if len(states) > 1 else states[0], **options
        )


@pytest.mark.parametrize("form", ["dense", "both"])
@pytest.mark.parametrize("engine", ENGINES)
@each_class
def test_one_graph_with_eager_numbers(kind, engine, form, device):
    module = twins(kind, I, H, bidirectional=True, dtype=dtype_of(engine))[1].to(device)
    call = compiled(module)
    for T, B in FEW:
        x = normal(T, B, I, dtype=dtype_of(engine)).to(device)
        hx, options = move(state_for(module, B), device), asked(form, T, B, device)
        with fastrnn.use_engine(engine), fastrnn.use_precision("ieee"):
            seen = trained(call, module, x, hx, **options)
        assert_near(seen, exactly(module, x, hx, **options), rounding=64)


@every_module
def test_inference_too(kind):
    module = twins(kind, I, H, **DEEP)[1]
    call = compiled(module)
    with torch.no_grad():
        for T, B in SHAPES:
            x, hx = normal(T, B, I, dtype=torch.float32), state_for(module, B)
            assert_near(flat(call(x, hx)), flat(exact(module)(x.double(), double(hx))))


def exact(module):
    return fastrnn.restore(copy.deepcopy(module).double(), report=None)


def double(hx):
    return tuple(s.double() for s in hx) if isinstance(hx, tuple) else hx.double()


FORMS = {
    "batch_first": ({"batch_first": True}, {}),
    "one_hot": ({}, {"one_hot": True}),
    "cell states": ({}, {"return_cell_states": True}),
    "one_hot, cell states": ({}, {"one_hot": True, "return_cell_states": True}),
    "gates": ({}, {"return_gates": True}),
    "no bias": ({"bias": False}, {}),
}


@pytest.mark.parametrize("form", FORMS)
@every_module
def test_every_form(kind, form):
    options, extra = FORMS[form]
    if ("cell states" in form and kind.name != "LSTM") or (form == "gates" and kind.name == "RNN"):
        pytest.skip("the cell has none")
    module = twins(kind, I, H, **DEEP, **options, dtype=torch.float64)[1]
    call = compiled(module)
    for T, B in SHAPES:
        x = normal(T, B, I)
        x = x.argmax(2) if "one_hot" in form else x
        more = {**asked("both", T, B, "cpu"), **extra}
        if form == "batch_first":
            x = x.transpose(0, 1)
            more["resets"] = more["resets"].t()
        hx = state_for(module, B)
        assert_near(trained(call, module, x, hx, **more), exactly(module, x, hx, **more), 256)


@each_class
def test_a_single_sequence(kind):
    module = twins(kind, I, H, **DEEP, dtype=torch.float64)[1]
    call = compiled(module)
    for T in (11, 13):
        x, hx, resets = normal(T, I), state_for(module), torch.arange(T) % 4 == 2
        seen = trained(call, module, x, hx, resets=resets)
        assert_near(seen, exactly(module, x, hx, resets=resets), 256)


def test_dropout_is_drawn_in_the_graph():
    module = fastrnn.GRU(I, H, num_layers=2, dropout=0.5)
    call = compiled(module)
    x = normal(11, 6, I, dtype=torch.float32)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(call(x)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    torch.manual_seed(1)
    torch.testing.assert_close(module(x)[0], found[0])


@each_class
def test_the_output_may_be_changed_in_place(kind):
    """On a CPU, as in eager code."""
    module, x = twins(kind, I, H, **DEEP)[1], normal(3, 6, I, dtype=torch.float32)

    def doubled(x):
        return module(x)[0].mul_(2)

    found = compiled(doubled)(x.requires_grad_())
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (found, doubled(x))]
    torch.testing.assert_close(*grads)


@each_class
def test_a_stream_of_steps(kind):
    module = twins(kind, I, H, dtype=torch.float64)[1]
    call = compiled(module.step, dynamic=None)
    x, steps = normal(4, 6, I), []
    hx = mapped(lambda s: s.requires_grad_(), state_for(module, 6))
    expected = module(x, hx)[0]
    for x_t in x:
        output, hx = call(x_t, hx)
        steps.append(output)
    torch.testing.assert_close(torch.stack(steps), expected)


def test_functions():
    module = fastrnn.GRU(I, H, dtype=torch.float64)
    weights = list(module.parameters())

    def function(x, hx):
        return functional.gru(x, hx, weights)

    call = compiled(function)
    for T, B in SHAPES:
        x, hx = normal(T, B, I), state_for(module, B)
        assert_near(trained(call, module, x, hx), exactly(module, x, hx), 64)
    torch.compiler.reset()
    with pytest.raises(ValueError, match="the input's last dimension is 6, not input_size, 5"):
        compiled(function)(normal(11, 6, I + 1), None)


@each_class
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(kind, dtype, device):
    module = twins(kind, I, H, dtype=dtype)[1].to(device)
    call = compiled(module)
    for T, B in SHAPES:
        x, hx = normal(T, B, I, dtype=dtype).to(device), move(state_for(module, B), device)
        assert_near(trained(call, module, x, hx), exactly(module, x, hx), 64)


@pytest.mark.parametrize("options", [{}, {"one_hot": True}], ids=str)
@each_class
def test_autocast_computes_in_its_dtype(kind, options, device):
    """On a CPU, too, where torch.nn's layers do not agree on it."""
    module = twins(kind, I, H)[1].to(device)
    x = normal(3, 6, I, dtype=torch.float32).to(device)
    x = x.argmax(2) if options else x
    call = compiled(module)
    with torch.autocast(device, torch.bfloat16):
        output = call(x, **options)[0]
    assert output.dtype is torch.bfloat16
    torch.testing.assert_close(output.float(), module(x, **options)[0], atol=2e-2, rtol=2e-2)
    output.sum().backward()
    assert all(p.grad.dtype is torch.float32 for p in module.parameters())


def test_the_engine_in_force_when_it_is_compiled_is_the_graphs():
    module, x = fastrnn.GRU(I, H), normal(11, 6, I, dtype=torch.float32)
    call = compiled(module)
    with fastrnn.use_engine("torch.reference"):
        expected = call(x)[0]
    with fastrnn.use_engine("torch.bptt"):
        assert torch.equal(call(x)[0], expected)
    assert not torch.equal(module(x)[0], expected)


def test_errors_are_those_of_eager_code():
    module = fastrnn.GRU(I, H)
    x = normal(11, 6, I, dtype=torch.float32)
    for error, match, args, options in (
        (RuntimeError, r"input.size\(-1\) must be equal to input_size", (x[..., :4],), {}),
        (RuntimeError, "Expected hidden size", (x, torch.zeros(1, 5, H)), {}),
        (ValueError, r"lengths must lie in \[0, 11\]", (x,), {"lengths": torch.full((6,), 12)}),
        (ValueError, "lengths must have the shape", (x,), {"lengths": torch.ones(5).long()}),
        (TypeError, "resets must be a tensor of bool", (x,), {"resets": torch.zeros(11, 6)}),
        (IndexError, "one-hot indices", (torch.full((11, 6), I),), {"one_hot": True}),
        (ValueError, "only an LSTM has cell states", (x,), {"return_cell_states": True}),
    ):
        torch.compiler.reset()
        with pytest.raises(error, match=match):
            compiled(module, fullgraph=False, dynamic=None)(*args, **options)
    torch.compiler.reset()
    assert compiled(module)(x[:, :0])[0].shape == (11, 0, H)


def test_packed_input_goes_by_torch_nns_operators():
    module, x = fastrnn.GRU(I, H), normal(11, 6, I, dtype=torch.float32)
    packed = pack_padded_sequence(x, torch.tensor([11, 9, 9, 4, 1, 1]))
    call = compiled(module, fullgraph=False, dynamic=None)
    torch.testing.assert_close(call(packed)[0].data, module(packed)[0].data)


class Tagger(torch.nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn
        self.head = torch.nn.Linear(H * (2 if rnn.bidirectional else 1), 3)

    def forward(self, x, lengths=None):
        return self.head(self.rnn(x, lengths=lengths)[0])


@pytest.mark.parametrize("kind", [LSTM, GRU, TANH], ids=str)
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "lengths"])
def test_exports_with_dynamic_sizes(kind, ragged):
    model = Tagger(twins(kind, I, H, **DEEP)[1]).eval()
    sizes = {0: torch.export.Dim("T", min=2, max=999), 1: torch.export.Dim("B", min=2, max=99)}
    args, shapes = (normal(11, 6, I, dtype=torch.float32),), (sizes,)
    if ragged:
        args, shapes = (*args, torch.full((6,), 11)), (sizes, {0: sizes[1]})
    file = io.BytesIO()
    with torch.no_grad():
        torch.export.save(torch.export.export(model, args, dynamic_shapes=shapes), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for T, B in ((11, 6), (40, 9)):
        args = (normal(T, B, I, dtype=torch.float32),)
        if ragged:
            args = (*args, torch.arange(B) * T // B)
        torch.testing.assert_close(program(*args), model(*args))


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_inductor(kind):
    """The real compiler, around the modules."""
    model = Tagger(twins(kind, I, H)[1])
    call = torch.compile(model, fullgraph=True, dynamic=True)
    for T, B in SHAPES:
        x = normal(T, B, I, dtype=torch.float32)
        torch.testing.assert_close(call(x), model(x))
        grads = [
            torch.autograd.grad(f(x).square().sum(), list(model.parameters()))
            for f in (call, model)
        ]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=str)
def test_inductor_finds_the_forms_that_fakes_tell_of(kind):
    """It checks strides: here of a gradient that indices make transposed."""
    module = twins(kind, I, H, **DEEP)[1]
    ids, lengths = torch.arange(12).view(4, 3) % I, torch.tensor([4, 0, 2])
    call = torch.compile(module, fullgraph=True)
    grads = [
        torch.autograd.grad(
            f(ids, lengths=lengths, one_hot=True)[0].square().sum(), list(module.parameters())
        )
        for f in (call, module)
    ]
    torch.testing.assert_close(*grads)


def test_derivatives_that_a_graph_lacks_are_refused():
    module = twins(GRU, I, H)[1]
    x = normal(4, 3, I, dtype=torch.float32).requires_grad_()
    with torch.no_grad():
        inference = torch.export.export(module, (x.detach(),)).module()
    with pytest.raises(RuntimeError, match="made without gradients"):
        inference(x)[0].sum().backward()
    training = torch.export.export(module, (x.detach(),)).module()
    (grad,) = torch.autograd.grad(training(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


def test_an_engine_that_cannot_serve_a_graph_is_refused():
    module, resets = fastrnn.LSTM(3, 4), torch.zeros(5, 2, dtype=torch.bool)
    compiled = torch.compile(lambda x: module(x, resets=resets), backend="eager", fullgraph=True)
    refusal = pytest.raises(RuntimeError, match=r"engine 'torch.aten' cannot serve this call:")
    with fastrnn.use_engine("torch.aten"), refusal:
        compiled(torch.randn(5, 2, 3))
