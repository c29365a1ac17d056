"""While torch.nn's names are patched: code from before, which holds torch.nn's own classes."""

import abc
import copy
import functools
import gc
import io
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastrnn
from tests.contract import (
    CELLS,
    DOUBLE,
    MODULES,
    X,
    assert_same,
    every_kind,
    exercise,
    normal,
    saved_and_loaded,
)

NAMES = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"]
NATIVE = {name: getattr(nn, name) for name in NAMES}
OURS = {name: getattr(fastrnn, name) for name in NAMES}
each_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def unpatched():
    """Every name, base and reducer as it was."""
    before = {name: NATIVE[name].__mro__ for name in NAMES}
    kind = type(nn)
    yield
    left = {name: getattr(nn, name) for name in NAMES}
    fastrnn.unpatch()
    assert left == NATIVE
    assert {name: NATIVE[name].__mro__ for name in NAMES} == before
    assert not pickle.dispatch_table.keys() & set(NATIVE.values())
    assert type(nn) is kind


def by_name(name):
    """Subclasses made before the patch, which look up the name when they run."""

    class Init(NATIVE[name]):
        def __init__(self, *args, **kwargs):
            getattr(nn, name).__init__(self, *args, **kwargs)

    class Forward(NATIVE[name]):
        def forward(self, *args, **kwargs):
            return getattr(nn, name).forward(self, *args, **kwargs)

    class Both(Init):
        def forward(self, *args, **kwargs):
            return getattr(nn, name).forward(self, *args, **kwargs)

    class Super(NATIVE[name]):
        def __init__(self, input_size, hidden_size, **kwargs):
            first, last = (), {}
            if name.endswith("Cell"):
                last = {"num_chunks": {"L": 4, "G": 3, "R": 1}[name[0]], "bias": True}
                self.__dict__["nonlinearity"] = "tanh"
            else:
                first = ("RNN_TANH" if name == "RNN" else name,)
            args = *first, input_size, hidden_size
            super(getattr(nn, name), self).__init__(*args, **last, **kwargs)

        def extra_repr(self):
            return "mine, " + super(getattr(nn, name), self).extra_repr()

    class Mixed(NATIVE[name], Mixin):
        def __init__(self, *args, **kwargs):
            getattr(nn, name).__init__(self, *args, **kwargs)

        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    class Abstract(NATIVE[name], abc.ABC):
        def reset_parameters(self):
            getattr(nn, name).reset_parameters(self)

    class Sub(Mixed, Both):
        pass

    return [Init, Forward, Both, Super, Mixed, Abstract, Sub]


class Mixin:
    def mine(self):
        return 1


def sample(name):
    return normal(3, 5) if name.endswith("Cell") else X


@each_name
@pytest.mark.parametrize("which", range(7))
def test_subclasses_from_before_that_call_their_base_by_name(name, which):
    x = sample(name)
    for patched_when in ("made and called", "called", "made", "moved"):
        kind, plain = by_name(name)[which], NATIVE[name](5, 7, dtype=DOUBLE)
        model = None if patched_when.startswith("made") else kind(5, 7, dtype=DOUBLE)
        with fastrnn.patched():
            model = model or kind(5, 7, dtype=DOUBLE)
            assert isinstance(model, getattr(nn, name))
            assert issubclass(kind, getattr(nn, name))
            assert not hasattr(model, "step")
            if patched_when == "moved":
                model = copy.deepcopy(model).float().double()
            model.load_state_dict(plain.state_dict())
            seen = exercise(model, x) if patched_when != "made" else None
        assert_same(seen or exercise(model, x), exercise(plain, x))
        assert type(model) is kind
        assert not isinstance(model, OURS[name])
        assert model.extra_repr().endswith("5, 7")


@every_kind
def test_modules_from_before_are_what_they_were(kind):
    name = kind.name
    model, x = NATIVE[name](5, 7, dtype=DOUBLE, **kind.options), sample(name)
    expected, text, attributes = exercise(model, x), repr(model), dir(model)
    with fastrnn.patched():
        assert isinstance(model, getattr(nn, name))
        assert type(model).forward is NATIVE[name].forward
        assert_same(exercise(model, x), expected)
        assert_same(exercise(model, x, None, getattr(nn, name).forward), expected)
        assert repr(model) == text
        assert [a for a in dir(model) if hasattr(model, a)] == attributes
        for holder, words in ((model, f"'{name}' object"), (NATIVE[name], f"type object '{name}'")):
            with pytest.raises(AttributeError, match=f"{words} has no attribute 'step'"):
                holder.step  # noqa: B018
        with pytest.raises(TypeError, match=r"fastrnn\.convert"):
            fastrnn.explain(model, x)
        assert type(NATIVE[name](5, 7)) is NATIVE[name]
        assert type(getattr(nn, name)(5, 7)) is OURS[name]


def test_conversion_tells_the_two_apart():
    said = []
    with fastrnn.patched():
        model = nn.ModuleList([NATIVE["GRU"](5, 7), nn.GRU(5, 7), by_name("GRU")[1](5, 7)])
        fastrnn.restore(model, said.append)
        assert [type(m) for m in model][:2] == [NATIVE["GRU"]] * 2
        fastrnn.convert(model, said.append)
        assert [type(m) for m in model][:2] == [OURS["GRU"]] * 2
    assert said == [
        "fastrnn: 1: fastrnn.GRU -> torch.nn.GRU",
        "fastrnn: 0: torch.nn.GRU -> fastrnn.GRU",
        "fastrnn: 1: torch.nn.GRU -> fastrnn.GRU",
        "fastrnn: 2: left alone, by_name.<locals>.Forward is a subclass of torch.nn.GRU; "
        "derive it from fastrnn.GRU instead",
    ]


COPIES = {
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "protocol 2": lambda m: pickle.loads(pickle.dumps(m, 2)),
    "plain Python": lambda m: pickle._loads(pickle._dumps(m)),
    "torch.save": saved_and_loaded,
}


@every_kind
@pytest.mark.parametrize("how", COPIES)
def test_modules_from_before_are_pickled(kind, how):
    """By the name, as torch.nn's: so what they come back as depends on what the name stands for."""
    name, x = kind.name, sample(kind.name)
    model = nn.ModuleList([NATIVE[name](5, 7, dtype=DOUBLE, **kind.options)] * 2)
    expected = exercise(model[0], x)
    with fastrnn.patched():
        text = pickle.dumps(model)
        twin = COPIES[how](model)
        assert type(twin[0]) is OURS[name]
        assert twin[0] is twin[1]
        assert_same(exercise(twin[0], x), expected)
        for copied in (copy.copy(model[0]), copy.deepcopy(model[0])):
            assert type(copied) is NATIVE[name]
            assert_same(exercise(copied, x), expected)
    assert b"fastrnn" not in text
    assert type(pickle.loads(text)[0]) is NATIVE[name]
    assert_same(exercise(pickle.loads(text)[0], x), expected)


def test_a_pickle_made_while_patched_is_read_without_fastrnn(tmp_path):
    with fastrnn.patched():
        (tmp_path / "model").write_bytes(pickle.dumps(NATIVE["LSTM"](5, 7)))
    code = (
        "import pickle, sys; print(type(pickle.load(sys.stdin.buffer)), 'fastrnn' in sys.modules)"
    )
    with (tmp_path / "model").open("rb") as model:
        ran = subprocess.run([sys.executable, "-c", code], stdin=model, capture_output=True)
    assert ran.stdout.strip() == b"<class 'torch.nn.modules.rnn.LSTM'> False", ran.stderr


@each_name
def test_old_checkpoints_hold_modules(name):
    """Written by a program without fastrnn, read by one that patches."""
    model, x = nn.Sequential(NATIVE[name](5, 7, dtype=DOUBLE)), sample(name)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    with fastrnn.patched():
        loaded = torch.load(buffer, weights_only=False)[0]
        assert type(loaded) is OURS[name]
        assert_same(exercise(loaded, x), exercise(model[0], x))


@each_name
def test_classes_as_keys(name):
    """A table knows the class that the name stood for when it was made: no more can be had."""
    before = {getattr(nn, name): "before"}
    model = NATIVE[name](5, 7)
    with fastrnn.patched():
        after, ours = {getattr(nn, name): "after"}, getattr(nn, name)(5, 7)
        assert before[type(model)] == "before"
        assert type(model) not in after
        assert after[type(ours)] == "after"
        assert type(ours) not in before
        assert type(ours) is getattr(nn, name)
        assert type(fastrnn.convert(model, None)) is getattr(nn, name)

        @functools.singledispatch
        def find(module):
            return "other"

        find.register(getattr(nn, name), lambda module: "found")
        assert find(ours) == find(NATIVE[name](5, 7)) == find(by_name(name)[0](5, 7)) == "found"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell"])
def test_quantizes_modules_from_before(name):
    model = nn.Sequential(NATIVE[name](5, 7))
    expected = type(torch.ao.quantization.quantize_dynamic(model)[0])
    with fastrnn.patched():
        assert type(torch.ao.quantization.quantize_dynamic(model)[0]) is expected
    assert expected is not NATIVE[name]


def test_parametrized_modules_from_before():
    model, x = nn.GRU(5, 7, dtype=DOUBLE), X
    parametrizations.weight_norm(model, "weight_hh_l0")
    expected = exercise(model, x)
    with fastrnn.patched():
        assert isinstance(model, nn.GRU)
        assert_same(exercise(model, x), expected)
        fastrnn.convert(model, None)
        assert_same(exercise(model, x), expected)
        fastrnn.restore(model, None)
        other = NATIVE["GRU"](5, 7, dtype=DOUBLE)
        parametrizations.weight_norm(other, "weight_hh_l0")
        parametrize.remove_parametrizations(other, "weight_hh_l0")
        assert type(other) is NATIVE["GRU"]
    parametrize.remove_parametrizations(model, "weight_hh_l0")
    assert type(model) is NATIVE["GRU"]


class Hub:
    """A second base that has a hook for subclasses, and members of the names of fastrnn's."""

    native = "hub"

    def __init_subclass__(cls, tag=None, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.tag = tag

    def step(self):
        return self.native


@each_name
def test_second_bases_are_reached(name):
    class Before(NATIVE[name], Hub, tag="before"):
        pass

    with fastrnn.patched():

        class Within(NATIVE[name], Hub, tag="within"):
            pass

        for kind, tag in ((Before, "before"), (Within, "within")):
            model = kind(5, 7)
            assert (model.tag, model.step(), kind.native) == (tag, "hub", "hub")
            assert "_own_helper" not in vars(kind)
            plain = NATIVE[name](5, 7)
            plain.load_state_dict(model.state_dict())
            assert_same(
                exercise(model, sample(name).float()), exercise(plain, sample(name).float())
            )
        with pytest.raises(TypeError, match="takes no keyword arguments"):

            class Refused(NATIVE[name], tag="none"):
                pass


def test_a_class_of_both_kinds_keeps_its_bases():
    class Both(fastrnn.GRU, NATIVE["GRU"]):
        def __init__(self):
            nn.RNNBase.__init__(self, "GRU", 5, 7)

    bases, model, (init, *_) = Both.__mro__, Both(), by_name("GRU")
    with fastrnn.patched():
        assert Both.__mro__ == bases
        assert isinstance(model, nn.GRU)
        assert model(X.float())[0].shape == init(5, 7)(X.float())[0].shape
        assert isinstance(NATIVE["LSTM"](5, 7), nn.LSTM)
    del Both, model, bases
    gc.collect()


def test_other_threads_see_the_names():
    found = []
    with fastrnn.patched():
        thread = threading.Thread(target=lambda: found.append(type(nn.LSTM(5, 7))))
        thread.start()
        thread.join()
    assert found == [fastrnn.LSTM]


def test_names_are_torch_nns_in_every_way():
    with fastrnn.patched():
        space = {}
        exec("from torch.nn import *", space)
        assert all(space[name] is OURS[name] is vars(nn)[name] for name in NAMES)
        nn.LSTM = dict
        assert nn.LSTM is dict
        fastrnn.patch()
        assert nn.LSTM is fastrnn.LSTM


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", [*MODULES[:1], *MODULES[2:4], *CELLS[:3]], ids=str)
def test_scripts_modules_from_before(kind):
    model, x = nn.Sequential(NATIVE[kind.name](5, 7)), sample(kind.name).float()
    expected = model(x)
    with fastrnn.patched():
        torch.testing.assert_close(torch.jit.script(model)(x), expected)
        torch.testing.assert_close(torch.jit.trace(model, (x,))(x), expected)
        with pytest.raises(RuntimeError, match=r"fastrnn\.restore"):
            torch.jit.script(nn.Sequential(getattr(nn, kind.name)(5, 7)))


class Asking(nn.Module):
    """Asks for the class in what is compiled, too."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        sign = 1 if isinstance(self.rnn, (nn.LSTM, nn.GRU, nn.RNN)) else -1
        return sign * self.rnn(x)[0]


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_compile_reads_modules_made_under_patch(name):
    torch._dynamo.reset()
    x = X.float()
    with fastrnn.patched():
        model = Asking(getattr(nn, name)(5, 7))
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model.rnn(x)[0])
    torch.testing.assert_close(compiled(x), -model.rnn(x)[0])


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_compile_leaves_modules_from_before_alone(name):
    """As it does without the patch: a graph would lose the dropout between layers."""
    torch._dynamo.reset()
    model, x = Asking(NATIVE[name](5, 7, 2, dropout=0.9)), X.float()
    with fastrnn.patched():
        torch.manual_seed(5)
        expected = model(x)
        torch.manual_seed(5)
        assert torch.equal(torch.compile(model, backend="aot_eager")(x), expected)
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN"):
            torch.compile(model, backend="eager", fullgraph=True)(x)
