"""Any call that native serves, ours serves with the same results: cases drawn at random."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from tests.contract import (
    CELLS,
    MODULES,
    Kind,
    assert_same,
    assert_twins_agree,
    exercise,
    normal,
    outcome,
    reseed,
    state_for,
    twins,
)


def drawn(max_examples):
    """The same cases in every run, so that a failure is always a change of the code."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Case:
    kind: Kind
    T: int
    B: int
    I: int
    H: int
    layers: int
    options: dict
    dtype: torch.dtype
    form: str
    lengths: list[int]
    given: bool
    frozen: int
    training: bool
    seed: int

    def twins(self):
        native, ours = twins(
            self.kind,
            self.I,
            self.H,
            self.layers,
            dtype=self.dtype,
            seed=self.seed,
            **self.options,
        )
        for module in (native, ours):
            module.train(self.training)
            for n, parameter in enumerate(module.parameters()):
                parameter.requires_grad_(not self.frozen >> n & 1)
        return native, ours

    def input(self):
        batch_first = self.options["batch_first"]
        if self.form == "unbatched":
            return normal(self.T, self.I, seed=self.seed, dtype=self.dtype)
        shape = (self.B, self.T) if batch_first else (self.T, self.B)
        padded = normal(*shape, self.I, seed=self.seed, dtype=self.dtype)
        if self.form == "padded":
            return padded
        lengths = torch.tensor(self.lengths)
        return pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=False)

    def state(self, module):
        if not self.given:
            return None
        return state_for(module, None if self.form == "unbatched" else self.B, self.seed + 1)


@st.composite
def cases(draw, dtypes=DTYPES, dropout=False):
    kind = draw(st.sampled_from(MODULES))
    form = draw(st.sampled_from(["padded", "packed", "unbatched"]))
    T, B = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    layers = draw(st.integers(2 if dropout else 1, 3))
    options = {
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if dropout:
        options["dropout"] = draw(st.sampled_from([0.1, 0.5, 1.0]))
    projected = "proj_size" in kind.options
    return Case(
        kind=kind,
        T=T,
        B=B,
        I=draw(st.integers(1, 9)),
        H=draw(st.integers(4 if projected else 1, 20)),
        layers=layers,
        options=options,
        dtype=draw(st.sampled_from(dtypes)),
        form=form,
        lengths=draw(st.lists(st.integers(1, T), min_size=B, max_size=B)),
        given=draw(st.booleans()),
        frozen=draw(st.sampled_from([0, 0, 1, 2, 4, 8, 0b0101, 0b1010, 0b110011, -1])),
        training=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


@drawn(70)
@given(cases(dtypes=[torch.float64]))
def test_double_precision(case):
    native, ours = case.twins()
    assert_twins_agree(native, ours, case.input(), case.state(native))


@drawn(70)
@given(cases(dtypes=DTYPES[1:]))
def test_lower_precision(case):
    native, ours = case.twins()
    assert_twins_agree(native, ours, case.input(), case.state(native))


@drawn(50)
@given(cases(dtypes=[torch.float64], dropout=True))
def test_dropout(case):
    native, ours = case.twins()
    seen = []

    def reseeded(module, x, hx):
        reseed(case.seed)
        return module(x, hx)

    for module in (native, ours):
        seen.append(exercise(module, case.input(), case.state(native), reseeded))
        seen.append(torch.get_rng_state())
    assert_same(seen[2], seen[0])
    assert torch.equal(seen[3], seen[1])


@pytest.mark.parametrize("engine", ["torch.bptt", "torch.cell", "torch.reference"])
def test_each_engine(engine):
    """Also where the default would choose another, wherever the engine can serve."""

    @drawn(40)
    @given(cases(dtypes=DTYPES[:2]))
    def check(case):
        native, ours = case.twins()
        with fastrnn.use_engine(engine):
            error = outcome(lambda: ours(case.input(), case.state(ours))).error
            assume(error is None or "cannot serve" not in error[1])
            assert_twins_agree(native, ours, case.input(), case.state(native))

    check()


@drawn(50)
@given(
    kind=st.sampled_from(CELLS),
    B=st.one_of(st.none(), st.integers(1, 5)),
    I=st.integers(1, 9),
    H=st.integers(1, 20),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    hx=st.booleans(),
    seed=st.integers(0, 2**16),
)
@example(CELLS[0], None, 1, 1, False, torch.float32, False, 0)
def test_cells(kind, B, I, H, bias, dtype, hx, seed):
    native, ours = twins(kind, I, H, bias, dtype=dtype, seed=seed)
    x = normal(*([] if B is None else [B]), I, seed=seed, dtype=dtype)
    assert_twins_agree(native, ours, x, state_for(native, B, seed + 1) if hx else None)


@drawn(20)
@given(st.lists(cases(dtypes=DTYPES[:2]), min_size=2, max_size=4))
def test_calls_do_not_disturb_each_other(several):
    """Forwards first, then the backwards in reverse: whatever is kept between calls is separate."""
    for side in (0, 1):
        modules = [case.twins()[side] for case in several]
        alone = [
            exercise(module, case.input(), case.state(module))
            for module, case in zip(modules, several, strict=True)
        ]

        for nested, plain in zip(all_nested(modules, several), reversed(alone), strict=True):
            for name, value in plain.items():
                assert (value is None) == (nested[name] is None)
                assert value is None or torch.equal(nested[name], value), name


def all_nested(modules, several):
    """One step of each, the next one's inside, between forward and backward; innermost first."""
    if not modules:
        return []
    inner = []

    def call(module, x, hx):
        result = module(x, hx)
        inner.extend(all_nested(modules[1:], several[1:]))
        return result

    step = exercise(modules[0], several[0].input(), several[0].state(modules[0]), call)
    return [*inner, step]
