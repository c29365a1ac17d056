"""How programs of a launch wait for one another: counters in memory, by release and acquire.

Each program of a group adds one to the group's counter when what it has stored is to be seen, and
waits until all have. The counter only ever grows. A program learns from its first addition where it
stood when the launch began, so nothing has to be set to zero between launches; a whole launch adds
a multiple of the group's size.

Waiting is bounded, by the clock and by how often a program has looked, so that one that was put
aside for a while gives nothing up. A program that has waited in vain says so in two places: in the
first of the counters, for later launches that would count from there, and where the host looks.
"""

import triton
import triton.language as tl

# Each counter lies in a line of memory of its own; numbers of 64 bits, which do not overflow.
SPACING = 16
_SPACING = tl.constexpr(SPACING)
_FAR = tl.constexpr(1 << 40)

# One thread looks, with a load that acquires: additions of nothing in its place would hold up the
# others' arrivals. The barrier tells all threads whether it looked in vain.
_WAIT = tl.constexpr("""{
    .reg .pred vain, early, idle;
    .reg .b32 thread, looks;
    .reg .b64 count, begin, now;
    mov.u32 thread, %tid.x;
    setp.ne.u32 idle, thread, 0;
    setp.ne.u32 vain, thread, thread;
    mov.b32 looks, 0;
    mov.u64 begin, %globaltimer;
    @idle bra DONE;
AGAIN:
    ld.acquire.gpu.global.s64 count, [$1];
    setp.lt.s64 vain, count, $2;
    @!vain bra DONE;
    add.u32 looks, looks, 1;
    mov.u64 now, %globaltimer;
    sub.u64 now, now, begin;
    setp.lt.u32 early, looks, 0x10000;
    setp.lt.or.u64 early, now, $3, early;
    @early bra AGAIN;
DONE:
    bar.red.or.pred vain, 0, vain;
    selp.s32 $0, 1, 0, vain;
}""")


def slots(groups):
    """How many numbers the counters of so many groups take; all zero before they are used."""
    return (1 + groups) * SPACING


@triton.jit
def arrive(counter_ptr):
    """What all threads of this program have stored is to be seen. Returns the count before."""
    tl.debug_barrier()
    return tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@triton.jit
def sign_in(counters_ptr, group, TILES: tl.constexpr, SIZE: tl.constexpr):
    """For each of a group's counters (it, its count when all SIZE programs have signed in)."""
    counters = ()
    for j in tl.static_range(TILES):
        counter_ptr = counters_ptr + (1 + group * TILES + j) * _SPACING
        before = arrive(counter_ptr)
        counters += ((counter_ptr, before - before % SIZE + SIZE),)
    return counters


@triton.jit
def spoiled(counters_ptr):
    """Whether a program of an earlier launch has waited in vain: 1, or 0.

    By an atomic, which one thread does for all: they must not see different things.
    """
    return tl.atomic_add(counters_ptr, 0, sem="relaxed", scope="gpu").to(tl.int32)


@triton.jit
def wait(counters_ptr, counter, times, SIZE: tl.constexpr, patience, vain, vain_ptr):
    """Until all SIZE programs have arrived `times` since they signed in, or for so many µs.

    What they had stored by then can be loaded, past the first-level cache. Returns 1 if they have
    not, or if an earlier wait was in vain (then without another); else 0.
    """
    if vain == 0:
        counter_ptr, signed_in = counter
        count = signed_in + tl.cast(times, tl.int64) * SIZE
        limit = tl.cast(patience, tl.int64) * 1000
        vain = tl.inline_asm_elementwise(
            _WAIT, "=r,l,l,l", [counter_ptr, count, limit], dtype=tl.int32, is_pure=False, pack=1
        )
        if vain > 0:
            # Nobody else is to get through by what this program still adds.
            tl.atomic_add(counter_ptr, -_FAR, sem="relaxed", scope="gpu")
            tl.store(counters_ptr, 1)
            tl.store(vain_ptr, times + 1)
    return vain
