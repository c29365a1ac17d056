"""A layer as an operator of torch: what torch.compile and torch.export put into their graphs.

    fastrnn::layer(...) -> h (T, B, D*H); the final states (D, B, H); if `keep` or `cells`, the
        other states (T, B, D*H); if `keep`, what else the way back needs
    fastrnn::layer_backward(...) -> those gradients of x, state and weights that are needed

x is (T, B, I), or (T, B) indices; h_0 (D, B, H), and c_0 of an LSTM alone, or None for zeros;
weights those of torch.nn's layer, in its order. Which engine serves is chosen as
for any other call when the operator runs, but where there is to be a way back, out of those that
leave the same behind for it: `way_back`, like the settings, a graph has for good.

What may be absent is an argument of its own: AOTInductor hands over an empty list as None, and a
list that holds None without it.
"""

from contextlib import contextmanager

import torch

from . import bptt, inplace
from .call import TRITON_PLANS
from .chips import chip_of
from .describe import describe, weights_problem
from .dispatch import choose, use_engine
from .functional import Options, prepared, run
from .kernels.cell import CELLS, GRU, LSTM
from .memory import use_memory
from .precision import use_precision
from .resets import fresh_from
from .ways import Apart, Formulas
from .weights import Weights

HALF = (torch.float16, torch.bfloat16)
SETTINGS = "str cell, str engine, str precision, str memory, int D"
TENSORS = "Tensor x, Tensor? h_0, Tensor? c_0, Tensor[] weights, Tensor? lengths, Tensor? resets"
GRADIENTS = "Tensor? dh, Tensor? dh_n, Tensor? dc_n, Tensor? dc"


@torch.library.custom_op(
    "fastrnn::layer",
    mutates_args=(),
    schema=f"({SETTINGS}, {TENSORS}, bool keep, bool cells) -> Tensor[]",
)
def layer(cell, engine, precision, memory, D, x, h_0, c_0, weights, lengths, resets, keep, cells):
    state = _given(h_0, c_0)
    with _in_force(engine, precision, memory, x.device):
        options = Options(
            bidirectional=D == 2, one_hot=x.dim() == 2, return_cell_states=cells and not keep
        )
        x = prepared(x, weights, options, lengths, resets)
        hx = None if not state else tuple(state) if len(state) > 1 else state[0]
        call = describe(CELLS[cell], x, hx, weights, options, lengths, resets)
        problem = call if isinstance(call, str) else weights_problem(call, weights)
        if problem:
            raise ValueError(problem)
        if keep:
            way = _way(call, x, weights, lengths, resets, engine)
            rows, groups = x.flatten(0, 1), _by_direction(weights, D)
            h, final, others, saved = way.forward(rows, _states(call, weights, state), groups, True)
            steps = [s.unflatten(0, x.shape[:2]) for s in (h, *others)]
            outputs = [steps[0], *final, *steps[1:], *saved]
        else:
            output, final, *inner = run(
                call, choose(call), x, hx, weights, options, lengths, resets
            )
            outputs = [output, *((final,) if torch.is_tensor(final) else final), *inner]
        return _apart(outputs, (x, *state))


@layer.register_fake
def _(cell, engine, precision, memory, D, x, h_0, c_0, weights, lengths, resets, keep, cells):
    kind, (T, B), w_hh = CELLS[cell], x.shape[:2], weights[1]
    H, S = w_hh.shape[1], len(kind.states)
    steps = (T, B, D * H)
    outputs = [w_hh.new_empty(s) for s in [steps] + [(D, B, H)] * S]
    if keep or cells:
        outputs += [w_hh.new_empty(steps) for _ in range(S - 1)]
    if keep:
        back = way_back(engine, w_hh.dtype, w_hh.device, lengths is not None)
        if back == "loops":
            outputs += [w_hh.new_empty(T * B, n * H) for _ in range(D) for n in _widths(kind)]
        elif back == "kernels" and kind.saved and memory == "save":
            outputs.append(w_hh.new_empty(D, T * B, kind.slots, H))
    return outputs


@torch.library.custom_op(
    "fastrnn::layer_backward",
    mutates_args=(),
    schema=f"({SETTINGS}, {TENSORS}, Tensor[] kept, {GRADIENTS}, bool[] needs) -> Tensor[]",
)
def layer_backward(
    cell, engine, precision, memory, D, x, h_0, c_0, weights, lengths, resets, kept, dh, dh_n, dc_n,
    dc, needs,
):  # fmt: skip
    with _in_force(engine, precision, memory, x.device):
        options = Options(bidirectional=D == 2, one_hot=x.dim() == 2)
        call = describe(CELLS[cell], x, None, weights, options, lengths, resets)
        way = _way(call, x, weights, lengths, resets, engine)
        S = len(call.cell.states)
        h, *others = (s.flatten(0, 1) for s in kept[:S])
        dstates = [None if s is None else s.flatten(0, 1) for s in (dh, dc)[:S]]
        # Of weights that are not there nothing is needed.
        of_weights = iter(needs[3:])
        groups = _by_direction(weights, D)
        wanted = [w is not None and next(of_weights) for group in groups for w in group]
        of_state = needs[1 : 1 + S]
        grads = way.backward(
            x.flatten(0, 1), _states(call, weights, _given(h_0, c_0)), groups, h, others, kept[S:],
            dstates, [dh_n, dc_n][:S], (needs[0], *of_state, *wanted), False,
        )  # fmt: skip
        dx, rest = grads[0], zip(grads[1:], (*of_state, *wanted), strict=True)
        grads = [g for g, need in rest if need]
        return _apart(([dx.view_as(x)] if needs[0] else []) + grads, ())


@layer_backward.register_fake
def _(
    cell, engine, precision, memory, D, x, h_0, c_0, weights, lengths, resets, kept, dh, dh_n, dc_n,
    dc, needs,
):  # fmt: skip
    inputs = zip((x, h_0, c_0, *weights), needs, strict=True)
    return [t.new_empty(t.shape) for t, need in inputs if need]


def _setup(ctx, inputs, output):
    *ctx.settings, x, h_0, c_0, weights, lengths, resets, ctx.keep, _ = inputs
    S = len(CELLS[ctx.settings[0]].states)
    ctx.counts = len(weights), S
    ctx.save_for_backward(x, h_0, c_0, lengths, resets, *weights, output[0], *output[1 + S :])
    ctx.set_materialize_grads(False)


def _backward(ctx, grads):
    if not ctx.keep:
        raise RuntimeError(
            "this graph was made without gradients, as under torch.no_grad(): to train it, compile "
            "or export it where they are enabled"
        )
    x, h_0, c_0, lengths, resets, *tensors = ctx.saved_tensors
    count, S = ctx.counts
    weights, kept = tensors[:count], tensors[count:]
    *needs, of_weights = ctx.needs_input_grad[5:9]
    needs += of_weights
    # Only an LSTM has a cell state.
    dh, dh_n, dc_n, dc = grads[:4] if S == 2 else (*grads[:2], None, None)
    found = iter(
        layer_backward(
            *ctx.settings, x, h_0, c_0, weights, lengths, resets, kept, dh, dh_n, dc_n, dc, needs
        )
    )
    dx, dh_0, dc_0, *dweights = [next(found) if need else None for need in needs]
    nothing = [None] * len(ctx.settings)
    return *nothing, dx, dh_0, dc_0, dweights, None, None, None, None


layer.register_autograd(_backward, setup_context=_setup)


def _second(ctx, grads):
    raise RuntimeError("a graph has no second derivatives: take those of the module itself")


layer_backward.register_autograd(_second)


def way_back(engine, dtype, device, ragged):
    """What leads back: "kernels", "loops" or "formulas", by what is known before anything runs."""
    if engine in TRITON_PLANS:
        return "kernels"
    if (
        device.type == "cuda"
        and engine == "auto"
        and chip_of(device)
        and dtype in (torch.float32, *HALF)
    ):
        return "kernels"
    if (
        device.type == "cpu"
        and dtype in bptt.FLUSH_BELOW
        and engine != "torch.reference"
        and not ragged
    ):
        return "loops"
    return "formulas"


def _way(call, x, weights, lengths, resets, engine):
    """The layer, as `autograd.py` says."""
    fresh = None if resets is None else fresh_from(resets, lengths, call.directions)
    back = way_back(engine, call.dtype, x.device, lengths is not None)
    if back == "kernels":
        # Imported when first needed: Triton takes a moment to import, and need not be installed.
        from . import triton_engine

        # What torch.nn has not keeps the choice from falling on its operators.
        call = call._replace(differentiable=True, special=None, asked=("way back",))
        rows = triton_engine.padded_rows(call, lengths, fresh)
        return triton_engine.layer_of(choose(call).plan, call, rows)
    marks = [None] * call.directions if fresh is None else fresh.flatten(1)
    if back == "loops":
        sizes = (call.B,) * call.T
        layers = [bptt.Layer(call.cell, sizes, d == 1, m) for d, m in enumerate(marks)]
    else:
        shape = (call.cell, call.T, call.B)
        layers = [Formulas(*shape, d == 1, lengths, m) for d, m in enumerate(marks)]
    return Apart(tuple(layers))


def _widths(cell):
    """Of what a loop saves, in units of H."""
    return {LSTM: inplace.LSTM, GRU: inplace.GRU}.get(cell, inplace.RNN).saved.values()


def _by_direction(weights, D):
    return [Weights.of_layer(weights, d, D) for d in range(D)]


def _given(*state):
    return [s for s in state if s is not None]


def _states(call, weights, state):
    """The initial states, zeros if none are given."""
    zeros = weights[0].new_zeros(call.directions, call.B, call.H)
    return state or [zeros] * len(call.cell.states)


def _apart(outputs, inputs):
    """The outputs as an operator has to return them: in memory of their own, and laid out as its
    fake says."""
    taken = {t.untyped_storage().data_ptr() for t in inputs}
    for n, tensor in enumerate(outputs):
        outputs[n] = tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        if place in taken:
            outputs[n] = tensor.clone()
        taken.add(place)
    return outputs


@contextmanager
def _in_force(engine, precision, memory, device):
    """The settings of the graph; what is computed is of the dtype that comes in."""
    with (
        use_engine(engine),
        use_precision(precision),
        use_memory(memory),
        torch.autocast(device.type, enabled=False),
        torch.no_grad(),
    ):
        yield
