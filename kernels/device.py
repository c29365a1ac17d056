"""What the gate math is made of on a device, and how a cell gets there.

The only file that knows how a function of `cells.py` becomes Triton code: the very same code object
is compiled, with sigmoid, tanh and relu bound to the tile functions below.
"""

from functools import cache
from types import FunctionType

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    # exp of a negative number only: no overflow, and no loss for large negative x.
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def tanh(x):
    # 1 - exp(-2|x|) cancels near zero, so a Taylor polynomial serves below 1/4 (relative error of
    # the first dropped term, 1382/155925 x^10: 9e-9).
    e = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    s = tl.minimum(x * x, 1.0)  # no overflow in the branch that is not taken
    small = x * (1.0 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, small, tl.where(x >= 0, large, -large))


@triton.jit
def relu(x):
    # A NaN stays a NaN, as in torch.
    return tl.where(x < 0, 0.0, x)


INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
TRITON = tuple(map(int, triton.__version__.split(".")[:2]))  # the version

# Options of every launch. A product and a sum are fused into one instruction: one rounding less,
# and faster. That is the default up to Triton 3.9 and not from 3.10 on; 3.9 warns about a launch
# that does not say.
OPTIONS = {"enable_fp_fusion": True}


@triton.jit
def bound(n):
    """A number as an argument of `range`."""
    if INTERPRETED:
        # The interpreters of Triton 3.5 and 3.6 call int() on an array of shape (1,), about which
        # numpy warns and which from 2.4 on it refuses.
        return n.handle.data.item()
    else:
        return n


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 to the nearest number of a dtype."""
    if INTERPRETED and dtype == tl.bfloat16:
        # Triton's interpreter only cuts the lower bits off. To nearest, and if tied to even:
        bits = x.to(tl.uint32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def operand(x, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """float32 as a product is to take it, in a dtype and precision."""
    if PRECISION == "tf32" and dtype == tl.float32:
        # The matrix units would cut the lower 13 bits off: a bias, and twice the error. To nearest
        # instead (a NaN is left alone, it would wrap around).
        bits = x.to(tl.uint32, bitcast=True)
        nearest = ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
        return tl.where(x == x, nearest, x)
    else:
        return rounded(x, dtype)


@triton.jit
def dot(a, b, sum, PRECISION: tl.constexpr):
    """sum + a·b, of matrices in one dtype, with sums of float32; a may be a batch of one matrix."""
    batch_of_one: tl.constexpr = len(a.shape) > len(b.shape)
    if batch_of_one:
        b = b[None, :, :]
        sum = sum[None, :, :]
    if INTERPRETED:  # it would multiply bfloat16 by the bits
        sum = tl.dot(a.to(tl.float32), b.to(tl.float32), sum, input_precision=PRECISION)
    else:
        sum = tl.dot(a, b, sum, input_precision=PRECISION)
    if batch_of_one:
        sum = tl.reshape(sum, [sum.shape[1], sum.shape[2]])
    return sum


@cache
def on_device(function):
    """The Triton twin of a function of `cells.py`."""
    names = {"tl": tl, "sigmoid": sigmoid, "tanh": tanh, "relu": relu}
    return triton.jit(FunctionType(function.__code__, names, function.__name__))


def constants(cell):
    """What every kernel is told of its cell, apart from the gate math."""
    return {
        "GATES": len(cell.gates),
        "SAVED": len(cell.saved),
        "SLOTS": cell.slots,
        "STATES": len(cell.states),
    }


def pair(states):
    """A cell's one or two states as the two arguments that every kernel has for them."""
    return states if len(states) == 2 else (*states, None)


# For a plain product by fewer than 16 columns Triton 3.9 takes Blackwell's tcgen05, and spills what
# it loads of W_hh; for a batched product it takes mma.sync, and spills nothing. Older versions are
# the ones to spill for a batch of one matrix.
BATCHES = TRITON >= (3, 9)


def of_products(precision, plan):
    """What a kernel is told of its products with W_hh: tl.dot's precision, and whether W_hh's tiles
    are batches of one matrix."""
    return {
        # Of operands in 16 bits every product is exact.
        "PRECISION": "ieee" if precision == "half" else precision,
        "BATCHED": BATCHES and plan.tcgen05 and plan.block_b < 16 and precision != "ieee",
    }
