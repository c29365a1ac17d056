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
    def of_rows(cls, form, output, final, cells, gates):
        """From an output in its form; cells and gates, a list with those of each direction, rows
        (N, H) or a dict of such, or none at all."""
        found = {g: form.joined([d[g] for d in gates]) for g in (gates or [{}])[0]}
        cells = form.joined(cells) if cells else None
        return cls(output, final, cells, found or None)

    def given(self, form):
        """(output, final[, cells][, gates]) as a caller gets them; `form` is done to all but the
        final states."""
        final = self.final if len(self.final) > 1 else self.final[0]
        if self.cells is None and self.gates is None:
            return form(self.output), final
        inner = [part for part in (self.cells, self.gates) if part is not None]
        return formed(form, self.output), final, *(formed(form, part) for part in inner)


class Form(NamedTuple):
    """How the rows (N, K) of a plan leave it: (T, B, K), or (B, T, K) if `batch_first`, of packed
    input as they are. shape: (T, B), or (N,).

    What leaves is no view, as with torch.nn: a view has no `detach_`, loses its hooks when it is
    changed in place, and if made without gradients cannot be changed by what has some.
    """

    shape: tuple[int, ...]
    batch_first: bool = False

    @classmethod
    def of_input(cls, x, sizes, options):
        """(form, x as rows) for an input as plans take it."""
        if sizes is not None:
            return cls(x.shape[:1]), x
        steps = x.transpose(0, 1) if options.batch_first else x
        return cls(steps.shape[:2], options.batch_first), steps.flatten(0, 1)

    def joined(self, directions):
        """Rows of each direction side by side, in memory of their own."""
        steps = [rows.view(*self.shape, rows.shape[-1]) for rows in directions]
        return self.turned(torch.cat(steps, -1))

    def shaped(self, rows):
        """Rows that were just made, without gradients, in the same memory."""
        shape = (*self.shape, rows.shape[-1])
        return self.turned(rows.view(shape) if transforming() else rows.resize_(shape))

    def turned(self, steps):
        """Of a tensor (T, B, K) that was just made: the layout of the caller's."""
        if not self.batch_first:
            return steps
        return steps.transpose(0, 1) if _shared(steps) else steps.transpose_(0, 1)

    def rows(self, steps):
        """From that form back to rows, (N, K)."""
        steps = steps.transpose(0, 1) if self.batch_first else steps
        return steps.flatten(0, -2)


def squeezed(made, dim):
    """A tensor that a call has just made, without a dimension of size 1; a view if it was one."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _shared(made):
        return made.squeeze(dim)
    if not made.requires_grad:
        return made.squeeze_(dim)
    # The backward pass may read it, and will find the numbers that it has left there.
    version = made._version
    made.squeeze_(dim)
    torch._C._autograd._unsafe_set_version_counter((made,), (version,))
    return made


def _shared(tensor):
    """Whether its sizes are not to be changed in place: not of a view, nor under a transform."""
    return torch._C._are_functorch_transforms_active() or tensor._is_view()


def formed(form, part):
    """`form` of a tensor, or of each tensor in a dict."""
    return {g: form(t) for g, t in part.items()} if isinstance(part, dict) else form(part)
