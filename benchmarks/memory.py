"""The peak of one call's memory: what torch's allocator hands out beyond what was there before."""

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import TRAINING, Case

# Steps: the profiler keeps every operation, and 20000 steps of a GRU and back fill 5 GB. Bytes: its
# records settle between the buffers of the call, which then find no room in the heap and let it
# grow by all that is ever allocated: 2 GB for what torch.nn needs 50 MB for (torch 2.13, glibc).
MOST_STEPS, MOST_BYTES = 4096, 4e9


def recordable(case: Case, mode: str) -> bool:
    """Whether a CPU can record a call without filling its memory."""
    steps = case.T * case.layers * (2 if case.bidirectional else 1)
    if case.lengths is None or mode != TRAINING:
        return steps <= MOST_STEPS
    # Back through a packed batch, torch.nn fills a gradient of full size in every step.
    return steps * sum(case.lengths) * 4 * case.H * 4 <= MOST_BYTES


def peak_bytes(call: Callable, device: str) -> int:
    return _cuda_peak(call) if device == "cuda" else _cpu_peak(call)


def _cuda_peak(call: Callable) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _cpu_peak(call: Callable) -> int:
    # Else the profiler announces its start and its stop on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
