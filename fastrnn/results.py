"""What a call gives, and the forms in which it leaves a module."""

from typing import NamedTuple

import torch
from torch import Tensor


class Results(NamedTuple):
    """What a plan gives: of the last layer output (..., D*R) and, where asked for, c after every
    step and the gates by their letters (..., D*H); of all layers the final states (L*D, B, ...)."""

    output: Tensor
    final: tuple[Tensor, ...]
    cells: Tensor | None = None
    gates: dict[str, Tensor] | None = None

    @classmethod
    def of_rows(cls, shape, output, final, cells, gates):
        """From rows (N, K), for the shape (T, B) or (N,); gates: a dict for each direction, or none
        at all."""

        def shaped(rows):
            return None if rows is None else rows.view(*shape, rows.shape[-1])

        found = {g: shaped(torch.cat([d[g] for d in gates], 1)) for g in (gates or [{}])[0]}
        return cls(shaped(output), final, shaped(cells), found or None)

    def given(self, form):
        """(output, final[, cells][, gates]) as a caller gets them; `form` is done to all but the
        final states."""
        final = self.final if len(self.final) > 1 else self.final[0]
        inner = [part for part in (self.cells, self.gates) if part is not None]
        return formed(form, self.output), final, *(formed(form, part) for part in inner)


def formed(form, part):
    """`form` of a tensor, or of each tensor in a dict."""
    return {g: form(t) for g, t in part.items()} if isinstance(part, dict) else form(part)
