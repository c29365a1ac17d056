"""What a call gives, and the forms in which it leaves a module."""

from typing import NamedTuple

import torch
from torch import Tensor

from .values import transforming


class Results(NamedTuple):
    """What a plan gives: of the last layer output (..., D*R) and, where asked for, c after every
    step and the gates by their letters (..., D*H); of all layers the final states (L*D, B, ...)."""

    output: Tensor
    final: tuple[Tensor, ...]
    cells: Tensor | None = None
    gates: dict[str, Tensor] | None = None

    @classmethod
    def of_rows(cls, shape, output, final, cells, gates):
        """From an output in its shape, (T, B) or (N,) and its width; cells and gates, a list with
        those of each direction, rows (N, H) or a dict of such, or none at all."""
        found = {g: joined([d[g] for d in gates], shape) for g in (gates or [{}])[0]}
        cells = joined(cells, shape) if cells else None
        return cls(output, final, cells, found or None)

    def given(self, form):
        """(output, final[, cells][, gates]) as a caller gets them; `form` is done to all but the
        final states."""
        final = self.final if len(self.final) > 1 else self.final[0]
        if self.cells is None and self.gates is None:
            return form(self.output), final
        inner = [part for part in (self.cells, self.gates) if part is not None]
        return formed(form, self.output), final, *(formed(form, part) for part in inner)


def joined(directions, shape):
    """Rows (N, K) of each direction side by side: new memory of the given shape, and no view."""
    return torch.cat([rows.view(*shape, rows.shape[-1]) for rows in directions], -1)


def shaped(rows, shape):
    """Rows (N, K) that a plan has just made, as (*shape, K).

    No view where it can be helped: what is made without gradients may later be changed in place by
    what has some, which torch refuses on views.
    """
    form = (*shape, rows.shape[-1])
    return rows.view(form) if rows.requires_grad or transforming() else rows.resize_(form)


def formed(form, part):
    """`form` of a tensor, or of each tensor in a dict."""
    return {g: form(t) for g, t in part.items()} if isinstance(part, dict) else form(part)
