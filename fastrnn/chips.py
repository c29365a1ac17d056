"""The GPU a call is for, as far as the kernels' plans depend on it."""

import ctypes
import os
from functools import cache, lru_cache
from importlib.util import find_spec

import torch

from .kernels.cooperative_plans import cooperative_plan, most_units
from .kernels.plans import Chip, largest, plan_for

# Read by Triton when a kernel is defined, so it has to be set before.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# What plans are for where the kernels are interpreted: an H200.
PRETENDED = Chip("sm_90", 132, 232448)


@cache
def has_triton():
    return find_spec("triton") is not None


@cache
def chip_of(device):
    """The Chip behind a torch.device, or None if kernels can't run there."""
    if not has_triton():
        return None
    if device.type == "cpu":
        return PRETENDED if INTERPRETED else None
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        family = properties.gcnArchName.split(":")[0]
        return Chip(family, properties.multi_processor_count, 65536, cooperative=False)
    capability = (properties.major, properties.minor)
    if capability < (8, 0):
        return None
    # One that is not in the tables has no plans for `resident`; `step` needs none.
    family = FAMILIES.get(capability, f"sm_{properties.major}{properties.minor}")
    shared = properties.shared_memory_per_block_optin
    cooperative = device not in _refusing and _launches_together(torch.device(device).index)
    return Chip(family, properties.multi_processor_count, shared, cooperative)


# Devices that would not run a plan's programs at the same time.
_refusing = set()


def refused(device):
    """A GPU did not launch programs together that it seemed to have room for."""
    _refusing.add(device)
    chip_of.cache_clear()


def _launches_together(index):
    """Whether a CUDA device has cooperative launches."""
    index = torch.cuda.current_device() if index is None else index
    # torch does not pass this on. 95: CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH.
    try:
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    value, handle = ctypes.c_int(), ctypes.c_int()
    failed = library.cuDeviceGet(ctypes.byref(handle), index)
    failed = failed or library.cuDeviceGetAttribute(ctypes.byref(value), 95, handle)
    return not failed and bool(value.value)


# By compute capability: those that share rows of `plans.csv`, which counts with the least shared
# memory among them.
FAMILIES = {
    (8, 0): "sm_80",
    (8, 6): "sm_86",
    (8, 7): "sm_80",
    (8, 9): "sm_86",
    (9, 0): "sm_90",
    (10, 0): "sm_100",
    (10, 3): "sm_100",
    (12, 0): "sm_86",
    (12, 1): "sm_86",
}


def resident_plans(call):
    """The plans by which `resident` would serve a call, forward and, in training, back; or None."""
    return _plans(
        call.chip,
        call.cell.name,
        call.precision,
        call.H,
        call.B,
        call.directions,
        call.differentiable,
    )


@lru_cache(4096)
def _plans(chip, cell, precision, H, B, directions, differentiable):
    return _both_ways(
        differentiable, lambda way: plan_for(chip, cell, way, precision, H, B, directions)
    )


def cooperative_plans(call):
    """The same for `cooperative`."""
    return _cooperative_plans(
        call.chip,
        call.cell,
        call.precision,
        call.H,
        call.B,
        call.directions,
        call.differentiable,
    )


@lru_cache(4096)
def _cooperative_plans(chip, cell, precision, H, B, directions, differentiable):
    return _both_ways(
        differentiable, lambda way: cooperative_plan(chip, cell, way, precision, H, B, directions)
    )


def _both_ways(differentiable, plan_of):
    ways = ("forward", "backward") if differentiable else ("forward",)
    plans = [plan_of(way) for way in ways]
    return None if None in plans else (*plans, None)[:2]


def largest_resident(call):
    """The largest H that `resident` could serve in place of the call's."""
    ways = ("forward", "backward") if call.differentiable else ("forward",)
    return min(largest(call.chip, call.cell.name, way, call.precision) for way in ways)


def largest_cooperative(call):
    """The same for `cooperative`."""
    ways = ("forward", "backward") if call.differentiable else ("forward",)
    return min(
        most_units(call.chip, call.cell, way, call.precision, call.directions) for way in ways
    )
