"""Which plan serves a call on a GPU: a pure choice, so no GPU is needed to ask."""

import itertools

import pytest
import torch

from fastrnn import chips, cudnn
from fastrnn.call import TRITON_PLANS, Call
from fastrnn.dispatch import choose
from fastrnn.kernels.cell import CELLS, GRU, LSTM
from fastrnn.kernels.plans import Chip
from fastrnn.obstacles import obstacles

pytest.importorskip("triton", reason="needs Triton")
H200 = Chip("sm_90", 132, 232448)
MODE = "a torch dispatch mode is at work"
CALL = Call(
    cell=GRU,
    T=64,
    B=16,
    I=32,
    H=32,
    layers=1,
    directions=1,
    proj_size=0,
    dtype=torch.float32,
    precision="tf32",
    device="cuda",
    chip=H200,
    packed=False,
    lengths=False,
    one_hot=False,
    asked=(),
    differentiable=True,
    transformed=False,
    hidden=False,
    onednn=True,
    autocast=False,
    special=None,
)
SMALL, LARGE = 32, 1024


def changed(**fields):
    return CALL._replace(**fields)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("precision", ["half", "tf32"])
@pytest.mark.parametrize("differentiable", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("form", [{}, {"packed": True}, {"lengths": True}, {"T": 1}], ids=str)
def test_a_small_layer_stays_on_chip(cell, precision, differentiable, form):
    dtype = torch.bfloat16 if precision == "half" else torch.float32
    fields = {"cell": cell, "precision": precision, "dtype": dtype, **form}
    choice = choose(changed(differentiable=differentiable, **fields), "auto")
    assert choice.name == "resident"
    assert "not timed on a GPU yet" in choice.reason


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("precision", ["half", "tf32"])
@pytest.mark.parametrize("differentiable", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("form", [{}, {"packed": True}, {"lengths": True}], ids=str)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_large_layer_is_shared_out(cell, precision, differentiable, form, directions):
    dtype = torch.bfloat16 if precision == "half" else torch.float32
    # All of W_hh has to fit, and in every direction.
    H = LARGE if precision == "half" and directions == 1 else LARGE // 2
    kind = {"cell": cell, "precision": precision, "dtype": dtype, "directions": directions}
    call = changed(differentiable=differentiable, H=H, **kind, **form)
    choice = choose(call, "auto")
    assert choice.name == "cooperative"
    assert "not timed on a GPU yet" in choice.reason
    assert choose(call._replace(T=1), "auto").name == "step"


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("chip", [H200, H200._replace(cooperative=False)], ids=["large", "apart"])
def test_too_large_a_layer(cell, chip):
    """By steps where torch.nn has a detour; else by torch.nn, and why."""
    large = changed(cell=cell, H=4096 if chip.cooperative else LARGE, chip=chip)
    assert choose(large._replace(T=1), "auto").name == "step"
    assert choose(large._replace(packed=True), "auto").name == "step"
    assert choose(large._replace(lengths=True), "auto").name == "step"
    dense = choose(large, "auto")
    assert dense.name == "torch.aten"
    for reason in obstacles("cooperative", large):
        assert reason in dense.reason
    limit = chips.largest_resident(large)
    assert SMALL <= limit < LARGE
    (reason,) = obstacles("resident", large)
    assert reason == (
        f"W_hh does not fit on the chip (sm_90): H={large.H}, training of {cell.name} in tf32 "
        f"precision takes {limit}"
    )
    assert choose(large._replace(H=limit), "auto").name == "resident"
    assert choose(large._replace(H=limit + 1), "auto").name != "resident"


def test_where_one_walk_through_time_does_not_do():
    """cuDNN multiplies large matrices well; where it would not, steps take over."""
    crowd = changed(H=LARGE, B=4096)
    assert choose(crowd, "auto").name == "torch.aten"
    assert choose(crowd._replace(packed=True), "auto").name == "step"
    assert choose(crowd._replace(T=4, B=16), "auto").name == "torch.aten"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"T": 7}, "few steps"),
        ({"H": 501}, "no multiple of 16 bytes"),
        ({"H": 1024, "cell": LSTM, "directions": 2}, "not all of W_hh fits"),
    ],
    ids=["steps", "alignment", "rest"],
)
def test_what_cooperative_could_but_might_not_do_well(fields, words):
    call = changed(H=512)._replace(**fields)
    assert choose(changed(H=512), "auto").name == "cooperative"
    assert not obstacles("cooperative", call)
    choice = choose(call, "auto")
    assert choice.name == "torch.aten"
    assert words in choice.reason
    assert choose(call._replace(packed=True), "auto").name == "step"


def test_where_cudnn_takes_one_kernel_too():
    best = changed(
        cell=LSTM, T=1024, H=768, I=768, dtype=torch.float16, precision="half", differentiable=True
    )
    assert cudnn.algorithms(best) == [cudnn.STATIC] * 2
    assert choose(best, "auto").name == "torch.aten"
    for other in (
        {"dtype": torch.bfloat16},
        {"cell": GRU},
        {"layers": 2},
        {"directions": 2},
        {"H": 760},
        {"I": 100},
        {"B": 20},
        {"chip": H200._replace(sms=90)},
    ):
        call = best._replace(**other)
        assert cudnn.algorithms(call) == [cudnn.STANDARD] * 2
        assert choose(call, "auto").name == "cooperative"
    for H, training in ((192, [cudnn.SMALL, cudnn.STANDARD]), (128, [cudnn.SMALL] * 2)):
        call = changed(cell=LSTM, H=H)
        assert cudnn.algorithms(call) == training
        assert cudnn.algorithms(call._replace(differentiable=False)) == training[:1]
        assert cudnn.algorithms(call._replace(packed=True)) == [cudnn.STANDARD] * 2
    assert choose(changed(cell=LSTM, H=192), "auto").name == "cooperative"
    assert choose(changed(cell=LSTM, H=192, differentiable=False), "auto").name == "torch.aten"


def test_training_has_a_limit_of_its_own():
    """The way back keeps more on the chip, so it may take less."""
    for cell, precision in itertools.product(CELLS.values(), ("half", "tf32")):
        dtype = torch.float16 if precision == "half" else torch.float32
        call = changed(cell=cell, precision=precision, dtype=dtype)
        training = chips.largest_resident(call)
        inference = chips.largest_resident(call._replace(differentiable=False))
        assert SMALL <= training <= inference


ODD = {
    "not in torch.float64": {"dtype": torch.float64, "precision": "half"},
    "proj_size": {"cell": LSTM, "proj_size": 4},
    "compute capability 8.0": {"chip": None},
    MODE: {"special": MODE},
}


@pytest.mark.parametrize("beyond", [{"asked": ("resets",)}, {"transformed": True}], ids=str)
def test_what_torch_nn_lacks_is_for_kernels_or_the_formulas(beyond):
    for H in (SMALL, LARGE):
        for form in ({}, {"packed": True}, {"lengths": True}, {"T": 1}, {"H": H + 1}):
            call = changed(**{"H": H, **form}, **beyond)
            assert choose(call, "auto").engine == "triton"
        for change in ODD.values():
            assert choose(changed(H=H, **change, **beyond), "auto").name == "torch.reference"


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("form", [{}, {"packed": True}, {"lengths": True}, {"T": 1}], ids=str)
def test_what_no_kernel_takes_is_torchs(words, form):
    for H in (SMALL, LARGE):
        call = changed(H=H, **form, **ODD[words])
        choice = choose(call, "auto")
        assert choice.name == "torch.aten"
        assert words in choice.reason
        for name in TRITON_PLANS:
            assert any(words in reason for reason in obstacles(name, call))


def test_an_unknown_family_has_no_plans():
    """A GPU with less shared memory than its family's plans count with, and one of another make."""
    for chip in (Chip("sm_90", 132, 101376), Chip("gfx942", 304, 65536)):
        call = changed(chip=chip)
        assert obstacles("resident", call)
        assert not obstacles("step", call)
        assert choose(call, "auto").name == "torch.aten"
        assert choose(call._replace(packed=True), "auto").name == "step"


def test_autocast_is_no_obstacle():
    """Nor are indices, layers and directions."""
    for fields in ({"autocast": True}, {"one_hot": True}, {"layers": 3, "directions": 2}):
        assert choose(changed(**fields), "auto").name == "resident"
        assert choose(changed(H=LARGE, T=1, **fields), "auto").name == "step"


def test_torch_means_torch():
    for H in (SMALL, LARGE):
        assert choose(changed(H=H), "torch").name == "torch.aten"
        assert choose(changed(H=H, packed=True), "torch").name == "torch.aten"


def test_a_choice_can_serve():
    """In every precision, whether there are plans for it or not."""
    for H, T, packed, cell, chip, precision in itertools.product(
        (1, 100, 200, 2000),
        (1, 64),
        (False, True),
        CELLS.values(),
        (H200, None),
        ("tf32", "tf32x3", "ieee"),
    ):
        call = changed(H=H, T=T, packed=packed, cell=cell, chip=chip, precision=precision)
        choice = choose(call, "auto")
        assert choice.reason
        assert not obstacles(choice.name, call)
        assert (choice.name == "resident") == (not obstacles("resident", call))


def test_plans_grow_with_the_batch_and_cover_the_layer():
    """As few sequences a program as there are processors for."""
    for B, directions in itertools.product((1, 64, 4096, 10**6), (1, 2)):
        for plan in chips.resident_plans(changed(B=B, directions=directions, H=50)):
            assert plan.tiles * plan.block_h >= 50
    sizes = [chips.resident_plans(changed(B=B))[0].block_b for B in (1, 256, 4096, 10**6)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
