"""One set of kernels, two ways to run them: compiled on a GPU, in Triton's interpreter without."""

import math
import os
import sys
from contextlib import nullcontext
from importlib.util import find_spec

import pytest
import torch

from tests.selection import quick as quick_suite

GPU = torch.cuda.is_available()
if not GPU:
    # Triton reads it when a kernel is defined, so it must be set before any import of one.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tensors here are tiny: a second thread only waits.
torch.set_num_threads(1)

# What is said once for a process would make a test depend on those before it.
torch.set_warn_always(True)


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="every case of every test; without it, so many of a test's cases that every value of "
        "every parameter occurs",
    )


def pytest_collection_modifyitems(config, items):
    """What compiles for minutes goes first, so that no worker is left alone with it in the end."""
    named = any("::" in argument for argument in config.args)
    if not config.getoption("full") and not named:
        items[:], others = quick_suite(items)
        config.hook.pytest_deselected(items=others)
    items.sort(key=lambda item: item.path.name != "test_plans.py")


@pytest.fixture
def device():
    """Where the kernels of a test run."""
    return "cuda" if GPU else "cpu"


@pytest.fixture
def float64():
    """What is made without a dtype has this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def patching_once(monkeypatch):
    """In each launch; see there."""
    if GPU or not find_spec("triton"):
        return
    from triton.runtime.interpreter import GridExecutor

    from tests.interpreting import patching_once

    launch = GridExecutor.__call__

    def launch_patching_once(self, *args, **kwargs):
        with patching_once():
            return launch(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", launch_patching_once)


@pytest.fixture
def lstm_under_autocast():
    """torch.nn's LSTM runs under autocast on any CPU: by its plain formulas, where oneDNN has no
    kernel for this one and torch.nn raises."""
    from tests.contract import lstm_lacks, without_onednn

    lacks = any(map(lstm_lacks, (torch.bfloat16, torch.float16)))
    with without_onednn() if lacks else nullcontext():
        yield


@pytest.fixture
def poisoned(monkeypatch):
    """What our package allocates holds NaN at first: what it reads it must have written."""

    def poison(owner, name):
        plain = getattr(owner, name)

        def allocate(*args, **kwargs):
            made = plain(*args, **kwargs)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("fastrnn") and made.is_floating_point():
                made.fill_(math.nan)
            return made

        monkeypatch.setattr(owner, name, allocate)

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        poison(owner, name)


@pytest.fixture
def ieee():
    """Products of float32 in float32: torch.nn's on a GPU, and so the kernels'."""
    # Not by monkeypatch: it would delete what torch 2.9 has no attribute for, but a `__getattr__`.
    rnn = torch.backends.cudnn.rnn
    before, rnn.fp32_precision = rnn.fp32_precision, "ieee"
    yield
    rnn.fp32_precision = before


@pytest.fixture
def quick(monkeypatch):
    """In the interpreter, whose time goes by operations, tiles are as large as H.

    `resident` has one of them, `cooperative` some slices of a group.
    """
    if GPU:
        return
    from fastrnn import chips
    from fastrnn.kernels.cooperative_plans import CooperativePlan, slab_of
    from fastrnn.kernels.plans import Plan

    def power_of_two(number):
        return max(16, 1 << (number - 1).bit_length())

    def plans(chip, cell, precision, H, B, directions, differentiable):
        plan = Plan(block_b=16, block_h=power_of_two(H), tiles=1, kept=1, warps=4)
        return plan, plan if differentiable else None

    def cooperative_plans(chip, cell, precision, H, B, directions, differentiable):
        def plan(way):
            return CooperativePlan(
                block_b=power_of_two(B),
                tiles=1,
                block_h=max(4, power_of_two(H) // 4),
                block_k=power_of_two(slab_of(cell, way, H).k),
                parts=2,
                kept=1,
                warps=4,
            )

        return plan("forward"), plan("backward") if differentiable else None

    monkeypatch.setattr(chips, "_plans", plans)
    monkeypatch.setattr(chips, "_cooperative_plans", cooperative_plans)


@pytest.fixture
def kernels(poisoned, ieee, quick):
    """What most tests of the kernels ask for."""


@pytest.fixture
def short_blocks(monkeypatch):
    """Of the benchmark's clock. And one thread: two that wait for each other crawl on a busy
    machine."""
    from benchmarks import clock

    monkeypatch.setitem(clock.PACES, "cpu", clock.Pace(0.002, 15.0, 1.0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def instant(monkeypatch):
    """Rows of the benchmark that need no measuring; returns those that were asked for."""
    from benchmarks import run
    from tests.benchmarking import invented

    asked = []

    def measured(row, rounds):
        asked.append(row.key)
        return invented(row)

    monkeypatch.setattr(run, "measure", measured)
    return asked
