"""The host's side of `cooperative`: launches that are refused, waits in vain, plans for any GPU."""

import itertools
from functools import cache
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton")

from fastrnn import chips, cooperation
from fastrnn.chips import chip_of
from fastrnn.kernels import cooperative
from fastrnn.kernels.cell import CELLS
from fastrnn.kernels.cooperative_plans import (
    TABLE,
    CooperativeRow,
    cooperative_plan,
    most_units,
)
from fastrnn.kernels.plans import SHARED, Chip, read
from tests.problems import launches, move
from tests.test_kernels import (
    SMALL,
    assert_layer_is_right,
    layer_for,
    split,
    tensors_for,
)

TOO_MANY = "Triton Error [CUDA]: too many blocks in cooperative launch"


@pytest.fixture
def vain(monkeypatch):
    """Where programs leave word for the host; that they have something to wait with."""
    word = torch.zeros(1, dtype=torch.int32)
    monkeypatch.setattr(cooperation, "_vain", cache(lambda device: word))
    monkeypatch.setattr(cooperation, "INTERPRETED", False)
    monkeypatch.setattr(cooperation, "_waiting", lambda *args: object())
    return word


@pytest.fixture
def refusing(monkeypatch):
    """The devices that refuse a launch; none at first."""
    devices = set()
    monkeypatch.setattr(chips, "_refusing", devices)
    chip_of.cache_clear()
    yield devices
    chip_of.cache_clear()


def fail_together(monkeypatch, message):
    """Launches for all steps at once fail."""

    def failing(plain):
        def launch(*args):
            if args[-1] is not None:
                raise RuntimeError(message)
            plain(*args)

        return launch

    for name in ("forward", "backward"):
        monkeypatch.setattr(cooperative, name, failing(getattr(cooperative, name)))


def problem(cell, device):
    layer = layer_for(CELLS[cell], "dense", SMALL, 2, [2] * 3, device)
    return layer, move(tensors_for(layer, 2, 20, 2), device)


def forward(layer, inputs):
    states = inputs[1 : 1 + len(layer.cell.states)]
    h, final, *_ = layer.forward(inputs[0], states, split(inputs, layer), keep_all=False)
    return h, *final


def test_an_error_names_the_device_and_the_step(vain):
    """Once; what the programs have counted by is not used again."""
    device = torch.device("cpu")
    counters = cooperation._counters(device, 0, 2, 32)
    cooperation._check(device)
    assert cooperation._counters(device, 0, 2, 32) is counters
    vain.fill_(5)
    with pytest.raises(RuntimeError, match=r"on cpu, programs waited in vain .* at exchange 4;"):
        cooperation._check(device)
    assert cooperation._counters(device, 0, 2, 32) is not counters
    cooperation._check(device)
    cooperation._counters.cache_clear()


def test_what_inference_mode_made_serves_outside(monkeypatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *s, pin_memory=False, **kw: zeros(*s, **kw))
    device = torch.device("cpu")
    for cached in (cooperation._vain, cooperation._counters):
        cached.cache_clear()
    with torch.inference_mode():
        word = cooperation._vain(device)
        cooperation._counters(device, 0, 2, 32)
    assert not word.is_inference()
    word.fill_(1)
    with pytest.raises(RuntimeError, match="in vain"):
        cooperation._check(device)
    cooperation._check(device)
    assert not cooperation._counters(device, 0, 2, 32).is_inference()
    for cached in (cooperation._vain, cooperation._counters):
        cached.cache_clear()


def test_an_error_comes_before_any_launch(vain, device, monkeypatch):
    problem_ = problem("LSTM", device)
    vain.fill_(1)
    with launches(monkeypatch) as noted, pytest.raises(RuntimeError, match="in vain"):
        forward(*problem_)
    assert not noted


@pytest.mark.usefixtures("kernels")
def test_a_refused_launch_is_one_for_each_step(vain, refusing, device, monkeypatch):
    fail_together(monkeypatch, TOO_MANY)
    layer, inputs = problem("LSTM", device)
    with launches(monkeypatch) as noted:
        assert_layer_is_right(layer, inputs)
    assert noted == ["cooperative.forward"] * (1 + 2) + ["cooperative.backward"] * (1 + 3)
    assert refusing == {inputs[0].device}


def test_other_errors_are_the_callers(vain, refusing, device, monkeypatch):
    fail_together(monkeypatch, "Triton Error [CUDA]: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        forward(*problem("LSTM", device))
    assert not refusing


@pytest.fixture
def pretended(refusing, monkeypatch):
    """A GPU that is not there."""
    properties = SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, shared_memory_per_block_optin=232448
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(chips, "_launches_together", lambda index: True)
    return torch.device("cuda", 0)


@pytest.mark.skipif(torch.version.hip is not None, reason="is about NVIDIA's")
def test_a_device_that_refused_is_not_asked_again(pretended):
    chip = chip_of(pretended)
    assert chip.cooperative
    chips.refused(pretended)
    assert chip_of(pretended) == chip._replace(cooperative=False)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("offset", range(4))
def test_an_initial_state_anywhere_in_memory(offset, device, monkeypatch):
    """The kernel is told that it begins at a multiple of 16 bytes."""
    layer, inputs = problem("GRU", device)
    h_0 = inputs[1]
    inputs[1] = h_0.new_empty(offset + h_0.numel())[offset:].view_as(h_0).copy_(h_0)
    seen, plain = [], cooperative.forward

    def spying(*args):
        seen.append(args[7])
        plain(*args)

    monkeypatch.setattr(cooperative, "forward", spying)
    made = forward(layer, inputs)
    assert seen
    assert all(torch.equal(state, h_0) and state.data_ptr() % 16 == 0 for state in seen)
    assert (seen[0].data_ptr() == inputs[1].data_ptr()) == (offset == 0)
    inputs[1] = h_0
    assert all(map(torch.equal, made, forward(layer, inputs)))


ROWS = read(TABLE, CooperativeRow)
KINDS = sorted({row[:4] for row in ROWS})
each_kind = pytest.mark.parametrize("kind", KINDS, ids="-".join)
# Multiprocessors: of today's largest GPUs, and down to none that there is.
SMS = (148, 132, 108, 66, 30, 8, 2, 1)
SIZES = (1, 2, 7, 16, 17, 64, 100, 1000, 5000)


def asked(kind, sms=132):
    """A Chip, and with what to ask for a plan, up to the precision."""
    family, cell, way, precision = kind
    cell = CELLS.get(cell) or CELLS[f"{cell}_TANH"]
    return Chip(family, sms, SHARED[family]), cell, way, precision


def numbers_of_units(kind):
    """All that differ in something."""
    ends = sorted({row.units for row in ROWS if row[:4] == kind})
    return sorted({1, 16, 100, *ends, *(n + 1 for n in ends), *(n - 7 for n in ends)})


@each_kind
@pytest.mark.parametrize("sms", SMS)
def test_all_programs_have_a_multiprocessor(kind, sms):
    """As many groups as there is work for, or room."""
    for H, B, D in itertools.product(numbers_of_units(kind), SIZES, (1, 2)):
        plan = cooperative_plan(*asked(kind, sms), H, B, D)
        if plan is None:
            continue
        group = plan.slices(H) * D
        assert 1 <= plan.groups <= plan.chunks(B)
        assert plan.groups * group <= sms
        assert plan.groups == plan.chunks(B) or (plan.groups + 1) * group > sms
        assert plan.slices(H) * plan.block_h >= H
        assert plan._replace(groups=1) in {row.plan for row in ROWS if row[:4] == kind}


@each_kind
@pytest.mark.parametrize("D", [1, 2])
def test_the_most_units_are_those_that_there_is_a_plan_for(kind, D):
    for sms in SMS:
        how = asked(kind, sms)
        most = most_units(*how, D)
        assert cooperative_plan(*how, most + 1, 1, D) is None
        for H in {most, *(n for n in numbers_of_units(kind) if n < most)} - {0}:
            assert cooperative_plan(*how, H, 1, D), (sms, H)


@each_kind
def test_whether_there_is_a_plan_does_not_depend_on_the_batch(kind):
    for sms, H, D in itertools.product(SMS, numbers_of_units(kind), (1, 2)):
        plans = [cooperative_plan(*asked(kind, sms), H, B, D) for B in SIZES]
        assert len({plan is None for plan in plans}) == 1


@each_kind
def test_there_is_no_plan_for_a_gpu_that_cannot(kind):
    chip, *how = asked(kind)
    units = numbers_of_units(kind)
    assert any(cooperative_plan(chip, *how, H, 1, 1) for H in units)
    lacking = (
        chip._replace(cooperative=False),
        chip._replace(sms=0),
        chip._replace(shared=chip.shared - 1),
        chip._replace(family="sm_75"),
    )
    for less in lacking:
        assert most_units(less, *how, 1) == 0
        assert not any(cooperative_plan(less, *how, H, 1, 1) for H in units)
