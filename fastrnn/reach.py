"""How far a gradient reaches back: a curve over time, in numbers and in words."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

# Less than a thousandth left is called vanishing, more than a thousandfold exploding.
BOUND = 1e3
BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 24


@dataclass(frozen=True, eq=False, repr=False)
class Reach:
    """What is left of one gradient at the far end of a layer's walk through time.

    The far end is the step that the layer takes first: a sequence's first step or, in the second
    direction, its last.

    layer, direction: which; state: "h" or "c".
    norms: (T,), over time.
    steps: from one end to the other, in the longest sequence.
    ratio: the norm at the far end, divided by that at the near one; the mean over the sequences of
        each. inf if it grew out of the dtype's range.
    half_life: steps in which it halves, by the straight line nearest to its logarithm; negative
        where it grows: steps in which it doubles; inf if it does neither.
    verdict: "vanishes" (ratio below 1/1000), "explodes" (above 1000), "reaches back"; "is zero", if
        it is so at the near end; "is undefined", if a state or the loss is not finite.
    """

    layer: int
    direction: int
    state: str
    norms: Tensor
    steps: int
    ratio: float
    half_life: float
    verdict: str

    def __repr__(self) -> str:
        return f"<{self.place(self.direction)}: {self.words}>"

    def place(self, both: bool) -> str:
        """Which gradient it is; both: where there are two directions."""
        way = ("forward, ", "backward, ")[self.direction] if both else ""
        return f"layer {self.layer}, {way}{self.state}"

    @property
    def words(self) -> str:
        """The verdict and its numbers."""
        if self.verdict == "is zero":
            return "is zero: the loss does not depend on the state at the end of the walk"
        if self.verdict == "is undefined":
            return "is undefined: a state or the loss is not a finite number"
        pace = ""
        if abs(self.half_life) < 20 * self.steps:  # beyond that it is as good as level
            change = "halves" if self.half_life > 0 else "doubles"
            pace = f", {change} every {abs(self.half_life):.3g} steps"
        return f"{self.verdict}: × {self.ratio:.2g} over {self.steps} steps{pace}"

    @property
    def sparkline(self) -> str:
        """The norms over time as a row of bars, on a logarithmic scale; blank where zero."""
        values = self.norms.tolist()
        columns = min(COLUMNS, len(values))
        cuts = [len(values) * k // columns for k in range(columns + 1)]
        means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
        logs = [math.log10(m) if 0 < m < math.inf else None for m in means]
        known = [v for v in logs if v is not None]
        if not known:
            return "?" * columns
        # Less than three decades of change should look like little.
        top, span = max(known), max(3.0, max(known) - min(known))
        return "".join(
            (" " if m == 0 else "!") if v is None else BARS[round(7 * (1 + (v - top) / span))]
            for m, v in zip(means, logs, strict=True)
        )


def reach(
    layer: int, direction: int, state: str, norms: Tensor, lengths: Tensor, finite: bool
) -> Reach:
    """The Reach of norms (T, B), zero beyond the lengths (B,); finite: whether all states are."""
    steps = torch.arange(len(norms)).unsqueeze(1)
    exists = steps < lengths
    # Row k is k steps away from the end at which the layer's walk through time ends.
    place = steps.expand_as(norms) if direction else (lengths - 1 - steps).clamp(min=0)
    by_distance = norms.gather(0, place)
    counts = exists.sum(1)
    means = (by_distance.where(exists, 0).sum(1) / counts)[counts > 0].tolist()
    near = means[0] if means else 0.0
    ends = by_distance[lengths[lengths > 0] - 1, lengths > 0]
    ratio = ends.mean().item() / near if near else math.nan
    return Reach(
        layer,
        direction,
        state,
        norms.sum(1) / counts.clamp(min=1),
        max(0, len(means) - 1),
        # What overflows in one step is inf, in the next inf - inf or 0 * inf: no number.
        math.inf if near and math.isnan(ratio) else ratio,
        _half_life(means),
        _verdict(near, ratio, finite),
    )


def _half_life(means: list[float]) -> float:
    """From the straight line that comes nearest to the logarithms, where there are any."""
    known = [(k, math.log2(mean)) for k, mean in enumerate(means) if 0 < mean < math.inf]
    if len(known) < 2:
        return math.inf
    steps, logs = torch.tensor(known, dtype=torch.float64).T
    away = steps - steps.mean()
    slope = ((away * (logs - logs.mean())).sum() / away.square().sum()).item()
    # A line as level as this is level but for rounding.
    return -1 / slope if abs(slope) > 1e-9 else math.inf


def _verdict(near: float, ratio: float, finite: bool) -> str:
    if not finite or not math.isfinite(near):
        return "is undefined"
    if near == 0:
        return "is zero"
    if ratio < 1 / BOUND:
        return "vanishes"
    return "reaches back" if ratio <= BOUND else "explodes"  # not a number: beyond all numbers
