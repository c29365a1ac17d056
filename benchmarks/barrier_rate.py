"""How long the programs of a whole GPU take to wait for one another, as `cooperative` does."""

import torch
import triton
import triton.language as tl

from benchmarks import clock
from fastrnn.cooperation import PATIENCE, PATIENCE_AT_FIRST
from fastrnn.kernels import barrier
from fastrnn.kernels.barrier import arrive, sign_in, spoiled, wait
from fastrnn.kernels.device import OPTIONS

ROUNDS, TRIALS = 2000, 5


@triton.jit(do_not_specialize=["rounds", "patience_at_first", "patience"])
def rounds_kernel(counters_ptr, vain_ptr, rounds, patience_at_first, patience, SIZE: tl.constexpr):
    """All programs of the launch wait for one another so many times."""
    counters = sign_in(counters_ptr, 0, 1, SIZE)
    vain = spoiled(counters_ptr)
    for n in range(rounds):
        microseconds = tl.where(n == 0, patience_at_first, patience)
        vain = wait(counters_ptr, counters[0], n, SIZE, microseconds, vain, vain_ptr)
        arrive(counters[0][0])


def seconds(multiprocessors: int) -> float:
    """Of one wait of as many programs as there are multiprocessors, the best of a few trials."""
    counters = torch.zeros(barrier.slots(1), dtype=torch.int64, device="cuda")
    vain = torch.zeros(1, dtype=torch.int32, pin_memory=True)

    def launch():
        rounds_kernel[(multiprocessors,)](
            counters, vain, ROUNDS, PATIENCE_AT_FIRST, PATIENCE, multiprocessors,
            num_warps=4, launch_cooperative_grid=True, **OPTIONS,
        )  # fmt: skip

    launch()
    (times,) = clock.take_turns([launch], "cuda", TRIALS)
    if vain.item():
        raise RuntimeError("the programs of a launch waited for one another in vain")
    return min(times) / ROUNDS
