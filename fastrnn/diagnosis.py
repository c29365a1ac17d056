"""`diagnose`: does the gradient reach the first steps, or does it vanish or explode on the way?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import reference
from .altered import altered, misfit, own_helper
from .call import by_torch
from .describe import describe, weights_problem
from .flat_weights import current, unchanged
from .foreign import is_ours, native_of
from .functional import prepared, run
from .kernels.cell import CELLS
from .modules import GRU, LSTM, RNN, _Recurrent
from .reach import Reach, reach
from .torch_engine import layered

# Ours, and torch.nn's own, whatever `patch` has put in their place.
KINDS = (_Recurrent, *(kind.native for kind in (LSTM, GRU, RNN)))
STEP_BY_STEP = by_torch("reference", "every state is looked at")


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """What `diagnose` found. Print it, or read its fields.

    Rows are layers and directions, in the order of h_n's: k = layer * D + direction.

    call: the call in words.
    h: (L*D, T), the norm of d loss/d h_t for every step t, the mean over the sequences that have
        such a step.
    c: the same of d loss/d c_t, by all paths, that through h_t too; None but for an LSTM.
    sequences: "h" and, of an LSTM, "c": (L*D, T, B), the norms of each sequence, zero beyond its
        end; B = 1 for a single sequence.
    reach: how much is left at the far end, for each row of h and, of an LSTM, of c.
    All tensors are float64, on the CPU.
    """

    call: str
    h: Tensor
    c: Tensor | None
    sequences: dict[str, Tensor]
    reach: list[Reach]

    def __repr__(self) -> str:
        both = any(r.direction for r in self.reach)
        places = [r.place(both) for r in self.reach]
        width = max(map(len, places))
        rows = zip(places, self.reach, strict=True)
        lines = [f"  {place:{width}}  {r.sparkline}  {r.words}" for place, r in rows]
        return "\n".join([self.call, *lines])


def diagnose(
    module: nn.Module,
    input: Tensor | PackedSequence,
    hx=None,
    *,
    loss: Callable[..., Tensor] | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    one_hot: bool = False,
) -> Diagnosis:
    """The norm of d loss/d h_t for every step: whether the gradient reaches the first ones.

        d loss/d h_t  =  d loss/d h_T  ·  d h_T/d h_T-1  · ... ·  d h_t+1/d h_t     (+ direct paths)

    Args:
        module: an LSTM, GRU or RNN, of fastrnn or of torch.nn.
        input, hx: as the module takes them: batch or single sequence, in either layout, or packed.
        loss: loss(output, hx) -> a scalar, of what the module returns. None: the sum of the last
            layer's final h, each direction's own. The ratio of the two ends says most of a loss
            that looks at the end alone, as this one does.
        lengths, resets, one_hot: as fastrnn's modules take them; here torch.nn's may have them too.

    What an LSTM remembers is in c_t, so there the row of c is the one to look at: h_t reaches the
    next step by the gates alone.

    It runs the formulas step by step, forward and back, whatever engine is in force. Nothing of the
    module changes: no `.grad`, no mode, no random numbers, since dropout between layers is left
    out. It works under `torch.no_grad` and `torch.inference_mode` as well.

    Raises:
        TypeError: `module` is something else, or `loss` does not give a tensor.
        ValueError: that tensor is not one real number, or has no gradient; or torch.nn alone takes
            such a call (a tensor subclass, an empty batch).
        Else what the module raises for such a call.
    """
    call, options, taken, weights = _planned(module, input, hx, lengths, resets, one_hot)
    walks = []
    with torch.inference_mode(False), torch.enable_grad():
        arguments = _apart(taken), _apart(hx), _apart(weights), options, lengths, resets
        results = run(call, STEP_BY_STEP, *arguments, plan=layered(_watched(walks)))
        value = _last(options, *results) if loss is None else _checked(loss(*results))
        states = [s for walk in walks for after in walk for s in after]
        slopes = torch.autograd.grad(value, states, materialize_grads=True)
    finite = all(bool(torch.isfinite(t).all()) for t in (value, *states))
    norms = _norms(call, slopes, taken)
    lengths = _lengths(call, taken, lengths)
    found = [
        reach(*divmod(k, call.directions), letter, row, lengths, finite)
        for k, rows in enumerate(zip(*norms.values(), strict=True))
        for letter, row in zip(norms, rows, strict=True)
    ]
    h, *c = (torch.stack([r.norms for r in found if r.state == letter]) for letter in norms)
    title = f"{type(module).__name__}({module.extra_repr()}), T={call.T}, B={call.B}"
    title += ": d loss/d state, from the first step to the last, on a logarithmic scale"
    return Diagnosis(title, h, *(c or [None]), norms, found)


def _planned(module, input, hx, lengths, resets, one_hot):
    """(call, options, input, weights) as `functional.run` takes them, or the module's own error."""
    if not _is_recurrent(module):
        raise TypeError(_not_recurrent(module))
    with unchanged(module):
        weights = current(module)
    options = _Recurrent._options(module, one_hot)._replace(dropout=0.0)
    taken, call = input, _altered(module)
    if call is None:
        taken = prepared(input, weights, options, lengths, resets)
        call = describe(CELLS[module.mode], taken, hx, weights, options, lengths, resets)
    problem = call if type(call) is str else weights_problem(call, weights)
    problem = problem or misfit(module, weights, call.I, call.H, call.proj_size or call.H)
    if problem:
        asked = {"lengths": lengths, "resets": resets, "one_hot": one_hot or None}
        asked = {name: value for name, value in asked.items() if value is not None}
        if is_ours(module) or not asked:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                module.forward(input, hx, **asked)
        raise ValueError(f"diagnose cannot take this call: {problem}")
    return call, options, taken, weights


def _altered(module):
    if is_ours(module):
        return module._altered()
    native = native_of(module)
    return altered(module, native, own_helper(type(module), native))


def _is_recurrent(module):
    """One that computes what these classes do, parametrized perhaps."""
    return any(isinstance(module, k) and type(module).forward is k.forward for k in KINDS)


def _not_recurrent(module):
    message = f"diagnose takes an LSTM, GRU or RNN, got {type(module).__name__}"
    if isinstance(module, nn.RNNCellBase):
        return message + ", which is a single step"
    if isinstance(module, nn.RNNBase):
        return message + ", whose forward is its own"
    parts = module.named_modules() if isinstance(module, nn.Module) else ()
    inside = [f"{name} ({type(m).__name__})" for name, m in parts if _is_recurrent(m)]
    return message + f"; name one of its parts: {', '.join(inside)}" if inside else message


def _apart(value):
    """The same numbers in memory that is no part of any graph, or of torch.inference_mode."""
    if isinstance(value, PackedSequence):
        return value._replace(data=_apart(value.data))
    if isinstance(value, Tensor):
        return value.detach().clone()
    return None if value is None else [_apart(t) for t in value]


def _watched(walks):
    """A recurrence, the formulas step by step, that leaves the states after each step in walks:
    for each layer and direction T tuples of (B, ...), over time."""

    def recurrence(cell, x, state, weights, sizes, reverse, lengths, fresh, cells):
        walk = [None] * len(sizes)
        walks.append(walk)
        # Every state depends on the initial one, so there is a gradient for every state.
        state = tuple(s.detach().requires_grad_() for s in state)
        marks = sizes, reverse, lengths, fresh
        return reference.recurrence(cell, x, state, weights, *marks, walk.__setitem__)

    return recurrence


def _last(options, output, hx):
    h_n = hx[0] if isinstance(hx, tuple) else hx
    return h_n[-options.directions :].sum()


def _checked(value):
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must give a tensor, got {type(value).__name__}")
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(f"loss must give one real number, got {tuple(value.shape)} {value.dtype}")
    if not value.requires_grad:
        raise ValueError("loss must depend on what the module returns; it has no gradient")
    return value


def _norms(call, slopes, taken):
    """By the state's letter (L*D, T, B), float64 on the CPU, from gradients (rows, ...) each in the
    order of `walks`."""
    # In float32 the square of a small number would be zero already.
    rows = [torch.linalg.vector_norm(d.cpu().double(), dim=1) for d in slopes]
    rows = [nn.functional.pad(row, (0, call.B - len(row))) for row in rows]
    norms = torch.stack(rows).view(-1, call.T, len(call.cell.states), call.B)
    if call.packed and taken.unsorted_indices is not None:
        norms = norms.index_select(3, taken.unsorted_indices.cpu())
    return dict(zip(call.cell.states, norms.unbind(2), strict=True))


def _lengths(call, taken, lengths):
    """(B,) of each sequence, in the order in which they were given, on the CPU."""
    if lengths is not None:
        return lengths.detach().cpu().long()
    if not call.packed:
        return torch.full((call.B,), call.T)
    sizes = taken.batch_sizes.unsqueeze(1)
    sorted_lengths = (torch.arange(call.B) < sizes).sum(0)
    order = taken.unsorted_indices
    return sorted_lengths if order is None else sorted_lengths[order.cpu()]
