"""The tensors that a call computes with, by the rule of torch.nn.RNNBase.

torch.nn computes with the list `_flat_weights`, whatever a program has put into it. First it looks
under the names: if it finds another tensor there than in the call before (`_flat_weight_refs`), it
makes the whole list anew from the names.
"""

import weakref
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import Parameter
from torch.nn.utils.parametrize import is_parametrized

GONE = weakref.ref(set())  # to nothing: a set that no one holds is no more
_read = ContextVar("fastrnn_read", default=None)


def current(module):
    """The flat list of a module's weights for this call."""
    parameters, flat = module._parameters, module._flat_weights
    names, refs = module._flat_weights_names, module._flat_weight_refs
    try:  # What _weights_have_changed asks, in less time if all are parameters.
        for name, ref in zip(names, refs, strict=True):
            if parameters[name] is not ref():
                break
        else:
            return flat
    except (KeyError, TypeError, ValueError):
        pass  # A name is of no parameter, a parameter is None, or a reference is missing.
    if not module._weights_have_changed():
        return flat
    weights = _by_names(module)
    stay = [_stays(module, name) for name in names]
    if all(stay):
        _keep(module, weights)
    else:
        # torch.nn keeps these too, so their graph lives on and the module can't be copied. Here the
        # next call reads the names again, as torch.nn's does, since they will have changed.
        before = flat if len(flat) == len(names) else [None] * len(names)
        _keep(module, [w if s else b for s, w, b in zip(stay, weights, before, strict=True)])
        refs = module._flat_weight_refs
        module._flat_weight_refs = [r if s else GONE for s, r in zip(stay, refs, strict=True)]
    return weights


def in_a_graph(module):
    """The same where torch.compile or torch.export reads it: nothing is kept.

    An empty list: the names are more or fewer than the references, so the call is for torch.nn,
    which refuses it in some versions.

    Raises:
        RuntimeError: a program has put a tensor into the list, and another under a name. Whether
            torch.nn would use the former depends on calls between the two, which a graph forgets.
    """
    names, refs, flat = module._flat_weights_names, module._flat_weight_refs, module._flat_weights
    if len(names) != len(refs):
        return []
    for name, ref in zip(names, refs, strict=True):
        weight = _read_twice(module, name)
        if weight is not None and ref is not None and ref() is not weight:
            break
    else:
        return flat
    weights = [_read_twice(module, name) for name in names]
    for k, ref in enumerate(refs[: len(flat)]):
        put = ref is None or (ref() is not None and flat[k] is not ref())
        if put and flat[k] is not weights[k]:
            raise RuntimeError(
                f"_flat_weights[{k}] was replaced, and so was a weight by its name: call the "
                "module once without torch.compile or torch.export, which cannot tell the order"
            )
    return weights


def by_torch(module, weights, input, hx):
    """torch.nn's forward, with the weights that this call has read.

    torch.nn's forward would read them once more, and each reading changes some parametrizations:
    spectral_norm's, and all that draw random numbers.
    """
    if weights is module._flat_weights:
        return module.native.forward(module, input, hx)
    _keep(module, weights)
    token = _read.set(module)
    try:
        return module.native.forward(module, input, hx)
    finally:
        _read.reset(token)


def just_read(module):
    """Whether `by_torch` is at work on the module."""
    return _read.get() is module


@contextmanager
def unchanged(module):
    """For a look at a module's weights: what the look changes is put back afterwards."""
    kept = {name: vars(module)[name] for name in ("_flat_weights", "_flat_weight_refs")}
    parametrized = is_parametrized(module)
    buffers = {b: b.clone() for b in module.buffers()} if parametrized else {}
    devices = {p.device for p in module.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices) if parametrized else nullcontext():
        try:
            yield
        finally:
            vars(module).update(kept)
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)


def _read_twice(module, name):
    """What hasattr and getattr do. Where a weight is computed, torch.compile would carry out the
    former, and a getattr with a default, at once."""
    if not hasattr(type(module), name):
        return getattr(module, name, None)
    getattr(module, name)
    return getattr(module, name)


def _by_names(module):
    # By hasattr and getattr, as torch.nn does: each computes a parametrization.
    names = module._flat_weights_names
    return [getattr(module, name) if hasattr(module, name) else None for name in names]


def _keep(module, weights):
    module._flat_weights = weights
    module._flat_weight_refs = [None if w is None else weakref.ref(w) for w in weights]


def _stays(module, name):
    """Whether what is under a name will be there after the call.

    It will not if a parametrization computes it, or functional_call has put it there.
    """
    if hasattr(type(module), name):
        return False
    if name in module._parameters:
        parameter = module._parameters[name]
        return parameter is None or isinstance(parameter, Parameter)
    buffer = module._buffers.get(name)
    return buffer is None or not (buffer.requires_grad or is_functorch_wrapped_tensor(buffer))
