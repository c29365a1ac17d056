"""What a choice of engine and plan depends on, and what it comes to."""

from typing import NamedTuple

import torch

from .kernels.cell import Cell
from .kernels.plans import Chip

TORCH_PLANS = {
    "aten": "torch.nn's own operators",
    "cell": "torch's operator for one step, once for each step",
    "bptt": "loops over time and a backward pass written by hand",
    "reference": "the formulas step by step, under autograd",
}
TRITON_PLANS = {
    "resident": "whole sequences in one launch for each layer, with W_hh kept on the chip",
    "cooperative": "whole sequences in one launch, W_hh shared out over processors in exchange",
    "step": "a matrix product and a kernel for the gates in each step",
}
# By the names that `use_engine` takes.
PLANS = {f"torch.{plan}": text for plan, text in TORCH_PLANS.items()} | TRITON_PLANS
ENGINES = ("auto", "torch", *PLANS)
TORCH_NN = ("auto", "torch", "torch.aten")  # the engines that may be torch.nn's own operators


class Call(NamedTuple):
    """All that a choice depends on.

    T steps, B sequences (in the largest step), I inputs, H hidden units. dtype is that of the
    computation, under autocast autocast's, and `precision` that of its products in kernels: one of
    `precision.PRECISIONS`, or "half" for 16 bits. `chip` is the GPU, None if no kernel can run.
    `lengths` says that such a tensor was given, `asked` names what else torch.nn has not: resets,
    and states and gates as results. `differentiable` says that grad mode is on, so a backward pass
    may come, `transformed` that a torch.func transform or forward-mode differentiation is at work,
    `hidden` that it hides the values of lengths or resets, `onednn` that torch has oneDNN's fused
    LSTM; `special` names what only torch's own operators heed.
    """

    cell: Cell
    T: int
    B: int
    I: int
    H: int
    layers: int
    directions: int
    proj_size: int
    dtype: torch.dtype
    precision: str
    device: str
    chip: Chip | None
    packed: bool
    lengths: bool
    one_hot: bool
    asked: tuple[str, ...]
    differentiable: bool
    transformed: bool
    hidden: bool
    onednn: bool
    autocast: bool
    special: str | None


class Choice(NamedTuple):
    """The engine, its plan, and the reason in words."""

    engine: str
    plan: str
    reason: str

    @property
    def name(self):
        """As `use_engine` takes it."""
        return self.plan if self.engine == "triton" else f"{self.engine}.{self.plan}"


def by_torch(plan, reason):
    """A Choice of one of `TORCH_PLANS`."""
    return Choice("torch", plan, reason)


def by_triton(plan, reason):
    """A Choice of one of `TRITON_PLANS`."""
    return Choice("triton", plan, reason)


def as_packed(call):
    """torch's plans take lengths by way of a PackedSequence."""
    return call._replace(packed=True) if call.lengths else call
