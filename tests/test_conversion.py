"""From torch.nn to fastrnn and back, in place: what changes is the class, and nothing else."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastrnn
from tests.contract import assert_same, every_kind, exercise, normal, our_class, state_for, twins

NAMES = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"]
NATIVE = {name: getattr(nn, name) for name in NAMES}
OURS = {name: getattr(fastrnn, name) for name in NAMES}
DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def names():
    """Of torch.nn, as they were before the test and must be after it."""
    yield
    left = {name: getattr(nn, name) for name in NAMES}
    fastrnn.unpatch()
    assert left == NATIVE


@pytest.fixture
def said():
    """A report, and the lines that it was called with."""
    lines = []
    return lines.append, lines


class Tagger(nn.Module):
    """Like a user's: an embedding, a stack, a shared cell under two names, a list, a head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.encoder = nn.LSTM(5, 6, 2, bidirectional=True, batch_first=True)
        self.blocks = nn.ModuleList([nn.GRU(12, 7), nn.RNN(7, 7, nonlinearity="relu")])
        self.cells = nn.ModuleDict({"a": nn.LSTMCell(7, 4), "b": nn.GRUCell(4, 4)})
        self.cells["again"] = self.cells["b"]
        self.last = nn.RNNCell(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens):
        x = self.encoder(self.embed(tokens))[0].transpose(0, 1)
        for block in self.blocks:
            x, _ = block(x)
        h = self.cells["a"](x[-1])[0]
        for name in ("b", "again"):
            h = self.cells[name](h)
        return self.head(self.last(h))


def rnns(model):
    kinds = nn.RNNBase | nn.RNNCellBase
    return {name: type(m) for name, m in model.named_modules() if isinstance(m, kinds)}


def learnt(model):
    """What a training step of a Tagger shows."""
    model.zero_grad()
    output = model(torch.arange(22).view(2, 11) % 11)
    output.pow(2).sum().backward()
    return {"output": output.detach()} | {k: p.grad.clone() for k, p in model.named_parameters()}


def assert_equal(seen, expected):
    assert seen.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(seen[name], tensor), name


@every_kind
def test_only_the_class_of_a_module_changes(kind):
    native, _ = twins(kind, 5, 6)
    native.register_buffer("mine", torch.ones(2))
    native.eval()
    before = dict(vars(native))
    tensors = {id(t) for t in (*native.parameters(), *native.buffers())}
    assert fastrnn.convert(native, None) is native
    assert type(native) is our_class(kind)
    assert vars(native).keys() == before.keys()
    assert all(vars(native)[name] is value for name, value in before.items())
    assert {id(t) for t in (*native.parameters(), *native.buffers())} == tensors
    assert not native.training
    assert fastrnn.restore(native, None) is native
    assert type(native) is NATIVE[kind.name]
    assert all(vars(native)[name] is value for name, value in before.items())


@every_kind
def test_results_and_gradients_stay(kind):
    native, _ = twins(kind, 5, 6, dtype=DOUBLE)
    x = normal(3, 5) if "Cell" in kind.name else normal(9, 3, 5)
    hx = state_for(native, 3)
    expected = exercise(native, x, hx)
    assert_same(exercise(fastrnn.convert(native, None), x, hx), expected)
    # Back in torch.nn's own class, it is torch.nn's own computation.
    assert_equal(exercise(fastrnn.restore(native, None), x, hx), expected)


def test_a_model_is_converted_and_restored_as_a_whole(said):
    report, lines = said
    model = Tagger().double()
    classes, expected, state = rnns(model), learnt(model), copy.deepcopy(model.state_dict())
    assert fastrnn.convert(model, report) is model
    assert rnns(model) == {name: OURS[kind.__name__] for name, kind in classes.items()}
    assert lines == [
        "fastrnn: encoder: torch.nn.LSTM -> fastrnn.LSTM",
        "fastrnn: blocks.0: torch.nn.GRU -> fastrnn.GRU",
        "fastrnn: blocks.1: torch.nn.RNN -> fastrnn.RNN",
        "fastrnn: cells.a: torch.nn.LSTMCell -> fastrnn.LSTMCell",
        "fastrnn: cells.b: torch.nn.GRUCell -> fastrnn.GRUCell",
        "fastrnn: last: torch.nn.RNNCell -> fastrnn.RNNCell",
    ]
    assert_same(learnt(model), expected)
    assert_equal(model.state_dict(), state)
    assert model.cells["b"] is model.cells["again"]

    lines.clear()
    fastrnn.convert(model, report)
    assert not lines
    fastrnn.restore(model, report)
    assert rnns(model) == classes
    assert lines[0] == "fastrnn: encoder: fastrnn.LSTM -> torch.nn.LSTM"
    assert len(lines) == 6
    assert_equal(learnt(model), expected)


def test_the_report_is_printed_unless_it_is_something_else(said, capsys):
    report, lines = said
    fastrnn.convert(nn.GRU(2, 3))
    assert capsys.readouterr().out == "fastrnn: (the model): torch.nn.GRU -> fastrnn.GRU\n"
    fastrnn.restore(fastrnn.GRU(2, 3))
    assert capsys.readouterr().out == "fastrnn: (the model): fastrnn.GRU -> torch.nn.GRU\n"
    fastrnn.convert(nn.GRU(2, 3), None)
    fastrnn.convert(nn.Linear(2, 3))
    fastrnn.convert(nn.GRU(2, 3), report)
    assert lines == ["fastrnn: (the model): torch.nn.GRU -> fastrnn.GRU"]
    assert capsys.readouterr() == ("", "")


def entered(model):
    with fastrnn.restored(model):
        pass


@pytest.mark.parametrize("model", [None, "a model", [nn.GRU(2, 3)], nn.GRU, torch.zeros(2)])
@pytest.mark.parametrize("function", [fastrnn.convert, fastrnn.restore, entered])
def test_what_is_no_module_is_refused(function, model):
    with pytest.raises(TypeError, match=rf"torch\.nn\.Module, got {type(model).__name__}$"):
        function(model)


def test_hooks_go_on_firing():
    model, calls = nn.LSTM(3, 4), []
    model.register_forward_pre_hook(lambda m, args: calls.append("before"))
    model.register_forward_hook(lambda m, args, result: calls.append("after"))
    model.register_full_backward_hook(lambda m, dx, dy: calls.append("back"))
    model.weight_hh_l0.register_hook(lambda d: calls.append("weight"))
    for change in (lambda model, report: None, fastrnn.convert, fastrnn.restore):
        change(model, None)
        calls.clear()
        model(torch.randn(9, 2, 3, requires_grad=True))[0].sum().backward()
        assert sorted(calls) == ["after", "back", "before", "weight"]


def test_an_optimizer_goes_on_training_the_same_parameters():
    """Conversion amid training: the path is that of a model never converted."""
    models = [Tagger().double()]
    models.append(copy.deepcopy(models[0]))
    optimizers = [torch.optim.Adam(model.parameters(), 0.05) for model in models]
    for change in (None, fastrnn.convert, None, fastrnn.restore, None):
        if change:
            change(models[1], None)
        for model, optimizer in zip(models, optimizers, strict=True):
            learnt(model)
            optimizer.step()
    for (name, expected), got in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_device_and_frozen_parameters_stay():
    model = nn.LSTM(3, 4, device="meta")
    model.weight_ih_l0.requires_grad_(False)
    fastrnn.convert(model, None)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert model(torch.zeros(9, 2, 3, device="meta"))[0].shape == (9, 2, 4)


class WithForward(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return output + input.sum(-1, keepdim=True), state


class OurWithForward(fastrnn.GRU):
    def forward(self, input, hx=None):
        return super().forward(input, hx)[0]


def test_subclasses_are_left_alone_with_a_reason(said):
    report, lines = said
    model = nn.Sequential(WithForward(3, 4), parametrizations.weight_norm(WithForward(3, 4), W_HH))
    kinds = [type(part) for part in model]
    fastrnn.convert(model, report)
    assert [type(part) for part in model] == kinds
    assert lines == [
        f"fastrnn: {k}: left alone, {kind.__name__} is a subclass of torch.nn.LSTM; "
        "derive it from fastrnn.LSTM instead"
        for k, kind in enumerate(kinds)
    ]
    assert model[0](torch.zeros(9, 2, 3))[0].shape == (9, 2, 4)

    lines.clear()
    model = nn.Sequential(OurWithForward(3, 4))
    fastrnn.convert(model, report)
    assert not lines
    fastrnn.restore(model, report)
    assert type(model[0]) is OurWithForward
    assert lines == [
        "fastrnn: 0: left alone, OurWithForward is a subclass of fastrnn.GRU; "
        "derive it from torch.nn.GRU instead"
    ]


W_HH = "weight_hh_l0"


def parametrized():
    return parametrizations.weight_norm(nn.LSTM(3, 4, 2, dtype=DOUBLE), W_HH)


def test_parametrized_modules_are_converted_and_restored(said):
    report, lines = said
    model, x = parametrized(), normal(9, 2, 3)
    expected = exercise(model, x)
    parameters = dict(model.named_parameters())
    fastrnn.convert(model, report)
    assert isinstance(model, fastrnn.LSTM)
    assert not isinstance(model, nn.LSTM)
    assert parametrize.is_parametrized(model, W_HH)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert_same(exercise(model, x), expected)
    fastrnn.restore(model, report)
    assert isinstance(model, nn.LSTM)
    assert not isinstance(model, fastrnn.LSTM)
    assert_same(exercise(model, x), expected)
    assert lines == [
        "fastrnn: (the model): torch.nn.LSTM -> fastrnn.LSTM",
        "fastrnn: (the model): fastrnn.LSTM -> torch.nn.LSTM",
    ]


def test_a_parametrization_comes_off_a_converted_module():
    model, x = parametrized(), normal(9, 2, 3)
    expected = model(x)[0]
    fastrnn.convert(model, None)
    parametrize.remove_parametrizations(model, W_HH)
    assert type(model) is fastrnn.LSTM
    assert model.state_dict().keys() == nn.LSTM(3, 4, 2).state_dict().keys()
    torch.testing.assert_close(model(x)[0], expected)


def test_one_class_made_for_one_parametrized_module_is_not_shared():
    first, second = parametrized(), parametrized()
    fastrnn.convert(nn.Sequential(first, second), None)
    assert type(first) is not type(second)
    parametrize.register_parametrization(first, "bias_hh_l0", nn.Softplus(), unsafe=True)
    assert parametrize.is_parametrized(first, "bias_hh_l0")
    assert not parametrize.is_parametrized(second, "bias_hh_l0")
    second.bias_hh_l0.sum().backward()
    assert first(normal(9, 2, 3))[0].shape == second(normal(9, 2, 3))[0].shape


def test_a_copy_of_a_converted_parametrized_module_is_whole_and_its_own():
    model, x = parametrized(), normal(9, 2, 3)
    fastrnn.convert(model, None)
    expected = model(x)[0].detach()
    twin = copy.deepcopy(model)
    assert isinstance(twin, fastrnn.LSTM)
    assert torch.equal(twin(x)[0], expected)
    with torch.no_grad():
        twin.parametrizations.weight_hh_l0.original0.zero_()
    assert torch.equal(model(x)[0], expected)
    assert not torch.equal(twin(x)[0], expected)
    fastrnn.restore(twin, None)
    assert isinstance(twin, nn.LSTM)
    assert isinstance(model, fastrnn.LSTM)


@every_kind
def test_a_converted_module_is_pickled_as_what_it_is(kind):
    native, _ = twins(kind, 5, 6)
    fastrnn.convert(native, None)
    for twin in (pickle.loads(pickle.dumps(native)), copy.deepcopy(native), copy.copy(native)):
        assert type(twin) is our_class(kind)
        assert_equal(twin.state_dict(), native.state_dict())


def test_state_dicts_of_converted_models_are_those_of_torch():
    native, converted = Tagger(), fastrnn.convert(Tagger(), None)
    assert list(native.state_dict()) == list(converted.state_dict())
    native.load_state_dict(converted.state_dict())
    converted.load_state_dict(native.state_dict())
    assert native.state_dict()._metadata == converted.state_dict()._metadata


PLACES = (nn, nn.modules, nn.modules.rnn)


def bound():
    """Which classes the names of torch.nn stand for; the same in every place that has them."""
    found = [{name: getattr(place, name) for name in NAMES} for place in PLACES]
    assert found[0] == found[1] == found[2]
    return found[0]


def test_patch_and_unpatch():
    assert bound() == NATIVE
    fastrnn.unpatch()
    assert bound() == NATIVE
    for _ in range(2):
        fastrnn.patch()
        assert bound() == OURS
    fastrnn.unpatch()
    assert bound() == NATIVE


def test_patched_is_for_a_block():
    with fastrnn.patched():
        assert bound() == OURS
        with fastrnn.patched():
            assert bound() == OURS
        assert bound() == OURS
    assert bound() == NATIVE


def test_patched_ends_with_an_exception_too():
    with pytest.raises(KeyError, match="mine"), fastrnn.patched():
        raise KeyError("mine")
    assert bound() == NATIVE


def test_patched_within_patch_stays_patched():
    fastrnn.patch()
    with fastrnn.patched():
        pass
    assert bound() == OURS
    with pytest.raises(KeyError), fastrnn.patched():
        raise KeyError
    assert bound() == OURS
    fastrnn.unpatch()


def test_patched_leaves_the_names_as_it_found_them():
    fastrnn.patch()
    with fastrnn.patched():
        fastrnn.unpatch()
    assert bound() == OURS
    fastrnn.unpatch()
    with fastrnn.patched():
        fastrnn.unpatch()
    assert bound() == NATIVE


def test_a_model_built_under_patched_is_fastrnn_throughout():
    native = Tagger()
    with fastrnn.patched():
        model = Tagger()
        from torch.nn import GRU

        assert GRU is fastrnn.GRU
        assert isinstance(model.encoder, nn.LSTM)
        assert isinstance(model.last, nn.RNNCell)
        assert not isinstance(native.encoder, nn.LSTM)
        assert isinstance(model.encoder, nn.RNNBase)
    assert rnns(model) == {name: OURS[kind.__name__] for name, kind in rnns(native).items()}
    model.load_state_dict(native.state_dict())
    assert_same(learnt(model.double()), learnt(native.double()))
    # And it goes on after the block.
    assert not isinstance(model.encoder, nn.LSTM)
    assert type(copy.deepcopy(model.encoder)) is fastrnn.LSTM
    assert type(pickle.loads(pickle.dumps(model.encoder))) is fastrnn.LSTM
    fastrnn.restore(model, None)
    assert rnns(model) == rnns(native)


def test_a_class_derived_under_patched_is_a_fastrnn_one():
    with fastrnn.patched():

        class Scaled(nn.GRU):
            def forward(self, input, hx=None):
                output, state = super().forward(input, hx)
                return 2 * output, state

    model, x = Scaled(3, 4), torch.randn(9, 2, 3)
    assert isinstance(model, fastrnn.GRU)
    assert fastrnn.explain(model, x).engine == "torch"
    plain = nn.GRU(3, 4)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x)[0], 2 * plain(x)[0])


def test_modules_of_before_live_on_under_patch():
    model, x = Tagger(), torch.randn(9, 2, 5)
    with fastrnn.patched():
        assert type(model.encoder) is NATIVE["LSTM"]
        assert model.encoder(x)[0].shape == (9, 2, 12)
        assert type(copy.deepcopy(model.encoder)) is NATIVE["LSTM"]
        fastrnn.convert(model, None)
        assert type(model.encoder) is fastrnn.LSTM
        fastrnn.restore(model, None)
        assert type(model.encoder) is NATIVE["LSTM"]


# Models whose own methods ask which class an RNN is of.


class Asking(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        assert isinstance(inner, nn.RNNBase | nn.RNNCellBase)

    def forward(self, x):
        return self.inner(x)

    def _init_weights(self):
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                nn.init.zeros_(module.weight_hh_l0)


class ByInstance(Asking):
    def begin_state(self):
        return None if isinstance(self.inner, nn.LSTM) else ()


class ByType(Asking):
    @property
    def states(self):
        return [type(module) is torch.nn.LSTM for module in self.modules()]


class ByMatch(Asking):
    def forward(self, x):
        match self.inner:
            case nn.LSTM():
                return self.inner(x)


TABLE = {nn.LSTM: 2, nn.GRU: 1}


def states(module):
    return TABLE[type(module)]


class ByTable(Asking):
    @staticmethod
    def states(module):
        return states(module)


class Derived(ByInstance):
    pass


@pytest.mark.parametrize("holder", [ByInstance, ByType, ByMatch, ByTable, Derived])
@pytest.mark.parametrize("place", [nn.Identity, lambda rnn: nn.Sequential(nn.ModuleList([rnn]))])
def test_what_a_holder_asks_the_class_of_is_left_alone(holder, place, said):
    report, lines = said
    rnn = nn.LSTM(3, 4)
    model = nn.Sequential(nn.LSTM(3, 4), holder(rnn))
    if place is not nn.Identity:
        model[1].inner = place(rnn)
    (name,) = (name for name, module in model.named_modules() if module is rnn)
    fastrnn.convert(model, report)
    assert type(rnn) is nn.LSTM
    assert type(model[0]) is fastrnn.LSTM
    asker = {ByInstance: "ByInstance.begin_state", Derived: "ByInstance.begin_state"}
    asker = asker.get(holder, f"{holder.__name__}.{'forward' if holder is ByMatch else 'states'}")
    assert lines[1] == (
        f"fastrnn: {name}: left alone, {asker} asks for torch.nn.LSTM by its class; "
        "call fastrnn.patch() before the model is built instead"
    )
    # Of another class it may be, and whoever names the module itself means it.
    assert type(fastrnn.convert(holder(nn.GRU(3, 4)), None).inner) is (
        nn.GRU if holder is ByTable else fastrnn.GRU
    )
    assert type(fastrnn.convert(rnn, None)) is fastrnn.LSTM
    assert type(fastrnn.restore(model, None)[0]) is nn.LSTM


def test_a_holder_that_mentions_a_class_and_asks_for_another_is_none():
    class Builder(Asking):
        def grown(self, x):
            assert isinstance(x, torch.Tensor)
            return self.LSTM(x)

        def reset_parameters(self):
            assert isinstance(self.inner, nn.LSTM)

    assert type(fastrnn.convert(Builder(nn.LSTM(3, 4)), None).inner) is fastrnn.LSTM


def test_a_shared_module_that_one_of_its_holders_asks_about_is_left_alone():
    rnn = nn.LSTM(3, 4)
    fastrnn.convert(nn.ModuleList([Asking(rnn), ByInstance(rnn)]), None)
    assert type(rnn) is nn.LSTM


def ours():
    return fastrnn.convert(Tagger(), None)


def test_restored_is_for_a_block(capsys):
    model = ours()
    classes, before = rnns(model), {name: dict(vars(m)) for name, m in model.named_modules()}
    with fastrnn.restored(model) as inside:
        assert inside is model
        assert rnns(model) == {name: NATIVE[kind.__name__] for name, kind in classes.items()}
        with fastrnn.restored(model.blocks):
            pass
        assert type(model.blocks[0]) is nn.GRU
    assert rnns(model) == classes
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert all(vars(module)[key] is value for key, value in before[name].items())
    assert capsys.readouterr().out == ""


def test_restored_ends_with_an_exception_too():
    model = ours()
    classes = rnns(model)
    with pytest.raises(KeyError, match="mine"), fastrnn.restored(model):
        raise KeyError("mine")
    assert rnns(model) == classes


def test_restored_gives_back_what_it_changed_and_nothing_else():
    model = ours()
    model.blocks.append(nn.RNN(2, 3))
    removed = model.last
    with fastrnn.restored(model):
        del model.last
        model.added = nn.LSTM(2, 3)
        model.own = fastrnn.GRU(2, 3)
        fastrnn.convert(model.blocks[0], None)
        twin = copy.deepcopy(model)
    assert type(removed) is fastrnn.RNNCell
    assert type(model.added) is nn.LSTM
    assert type(model.own) is fastrnn.GRU
    assert [type(block) for block in model.blocks] == [fastrnn.GRU, fastrnn.RNN, nn.RNN]
    assert type(twin.encoder) is nn.LSTM


@pytest.mark.parametrize("when", ["before", "within", "both"])
def test_parametrizations_and_restored(when):
    model, x = nn.LSTM(3, 4, 2, dtype=DOUBLE), normal(9, 2, 3)
    if when != "within":
        parametrizations.weight_norm(model, W_HH)
    fastrnn.convert(model, None)
    with fastrnn.restored(model):
        assert isinstance(model, nn.LSTM)
        if when != "before":
            parametrizations.weight_norm(model, "weight_ih_l0")
        expected = exercise(model, x)
    assert isinstance(model, fastrnn.LSTM)
    assert not isinstance(model, nn.LSTM)
    assert_same(exercise(model, x), expected)
    with fastrnn.restored(model):
        for name in list(model.parametrizations):
            parametrize.remove_parametrizations(model, name)
        assert type(model) is nn.LSTM
    assert type(model) is fastrnn.LSTM


def test_restored_says_what_it_leaves_alone(said):
    report, lines = said
    model = nn.Sequential(OurWithForward(3, 4), fastrnn.GRU(4, 4))
    with fastrnn.restored(model, report):
        assert type(model[0]) is OurWithForward
    assert lines == [
        "fastrnn: 0: left alone, OurWithForward is a subclass of fastrnn.GRU; "
        "derive it from torch.nn.GRU instead"
    ]


def test_initialisers_by_class_see_restored_modules():
    model = ours()

    def zeros(module):
        if type(module) is nn.LSTM:
            nn.init.zeros_(module.weight_hh_l0)

    with fastrnn.restored(model):
        model.apply(zeros)
    assert not model.encoder.weight_hh_l0.any()
