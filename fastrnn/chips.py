"""The GPU a call is for, as far as the kernels' plans depend on it."""

import os
from functools import cache, lru_cache
from importlib.util import find_spec

import torch

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
        return Chip(family, properties.multi_processor_count, 65536)
    capability = (properties.major, properties.minor)
    if capability < (8, 0):
        return None
    # One that is not in the tables has no plans for `resident`; `step` needs none.
    family = FAMILIES.get(capability, f"sm_{properties.major}{properties.minor}")
    shared = properties.shared_memory_per_block_optin
    return Chip(family, properties.multi_processor_count, shared)


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
    ways = ("forward", "backward") if differentiable else ("forward",)
    plans = [plan_for(chip, cell, way, precision, H, B, directions) for way in ways]
    return None if None in plans else (*plans, None)[:2]


def largest_resident(call):
    """The largest H that `resident` could serve in place of the call's."""
    ways = ("forward", "backward") if call.differentiable else ("forward",)
    return min(largest(call.chip, call.cell.name, way, call.precision) for way in ways)
