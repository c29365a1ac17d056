"""The linear recurrence to which every derivative of a layer leads, as one autograd.Function.

Around known states a step is linear: what changes in the state after it is

    s_t = u_t + Σ_g P_t,g · (W_hh h_{t-1})_g + E_t s_{t-1},        s = (h,) or (h, c)

with numbers P and E for each hidden unit, from `cells.py`. Solved forwards, it carries a change of
input, state or weights to the states (forward-mode differentiation); its transpose, solved
backwards, carries gradients of the states back (reverse mode). Either is what the gradient of the
other needs, so the Function is its own derivative, to any order.
"""

import torch
from torch.autograd.function import Function
from torch.nn.functional import pad

from .nesting import nestable


class Solve(Function):
    """s = Solve.apply(P, E, w_hh, keep, u, transposed), T steps of B sequences, S states, G gates.

    P: (T, B, S, G, H), the change of state s per gate g. E: (T, B, S, S, H), the change of state s
    (first) per state before. w_hh: (G*H, H). keep: (T, B, 1), 0 where no change comes from the
    state before, or None. u: (T + 1, B, S, H), of which the first is the change of the initial
    state. Returns s, like u; with `transposed` the solution of the transposed equations.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(P, E, w, keep, u, transposed):
        steps = list(range(P.shape[0]))
        P, E, u = P.unbind(0), E.unbind(0), u.unbind(0)
        keep = [None] * len(steps) if keep is None else keep.unbind(0)
        transpose = w.t()
        if transposed:
            s = u[-1]
            solution = [s]
            for t in reversed(steps):
                gates = (P[t] * s.unsqueeze(2)).sum(1)
                dh = _kept(gates.flatten(1) @ w, keep[t])
                past = (E[t] * s.unsqueeze(2)).sum(1)
                s = u[t] + past + pad(dh.unsqueeze(1), (0, 0, 0, s.shape[1] - 1))
                solution.append(s)
            return torch.stack(solution[::-1])
        s = u[0]
        solution = [s]
        for t in steps:
            gates = (_kept(s[:, 0], keep[t]) @ transpose).view(P[t].shape[0], 1, *P[t].shape[2:])
            s = u[t + 1] + (P[t] * gates).sum(2) + (E[t] * s.unsqueeze(1)).sum(2)
            solution.append(s)
        return torch.stack(solution)

    @staticmethod
    def setup_context(ctx, inputs, output):
        P, E, w, keep, _, ctx.transposed = inputs
        ctx.save_for_backward(P, E, w, keep, output)
        ctx.save_for_forward(P, E, w, keep, output)

    @staticmethod
    def backward(ctx, d):
        P, E, w, keep, solution = ctx.saved_tensors
        other = Solve.apply(P, E, w, keep, d, not ctx.transposed)
        # Both solutions meet in the sum over t of λ_t · N_t s_{t-1}, where N is P, W and E.
        λ, s = (solution, other) if ctx.transposed else (other, solution)
        λ, s = λ[1:].unsqueeze(3), s[:-1]
        h = _kept(s[:, :, 0], keep)
        gates = (h @ w.t()).unflatten(2, P.shape[3:])
        dgates = (P * λ).sum(2).flatten(2)
        dw = dgates.flatten(0, 1).t() @ h.flatten(0, 1)
        return λ * gates.unsqueeze(2), λ * s.unsqueeze(2), dw, None, other, None

    @staticmethod
    @nestable
    def jvp(ctx, saved, P_t, E_t, w_t, _, u_t, __):
        P, E, w, keep, solution = saved
        u_t = torch.zeros_like(solution) if u_t is None else u_t
        if ctx.transposed:
            λ = solution[1:].unsqueeze(3)
            past = 0.0 if E_t is None else (E_t * λ).sum(2)
            dh = 0.0
            if P_t is not None:
                dh = dh + (P_t * λ).sum(2).flatten(2) @ w
            if w_t is not None:
                dh = dh + (P * λ).sum(2).flatten(2) @ w_t
            if not isinstance(dh, float):
                past = past + pad(_kept(dh, keep).unsqueeze(2), (0, 0, 0, P.shape[2] - 1))
            change = pad(past, (0, 0) * 3 + (0, 1)) if torch.is_tensor(past) else past
        else:
            s = solution[:-1]
            h = _kept(s[:, :, 0], keep)
            after = 0.0 if E_t is None else (E_t * s.unsqueeze(2)).sum(3)
            for p, matrix in ((P_t, w), (P, w_t)):
                if p is not None and matrix is not None:
                    gates = (h @ matrix.t()).unflatten(2, P.shape[3:])
                    after = after + (p * gates.unsqueeze(2)).sum(3)
            change = pad(after, (0, 0) * 3 + (1, 0)) if torch.is_tensor(after) else after
        return Solve.apply(P, E, w, keep, u_t + change, ctx.transposed)


def _kept(tensor, keep):
    return tensor if keep is None else tensor * keep
