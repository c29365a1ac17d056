"""torch.func.vmap of a layer's autograd.Functions."""

import torch


def vmapped(function, V, in_dims, layer, tensors, dims, out_dims, *more):
    """function.apply(layer, *more, *tensors) for V problems: (outputs, their vmapped dimensions).

    With the same weights for all, they are V times as many sequences, and one launch. Where weights
    differ, each problem is run by itself. dims, out_dims: of each tensor, the dimension of rows or
    of sequences, None for a weight; out_dims may be longer than there are outputs.
    """
    if all(b is None for b, dim in zip(in_dims, dims, strict=True) if dim is None):
        folded = [_folded(t, b, dim, V) for t, b, dim in zip(tensors, in_dims, dims, strict=True)]
        outputs = function.apply(layer.widened(V), *more, *folded)
        outputs = [o.unflatten(dim, (-1, V)) for o, dim in zip(outputs, out_dims, strict=False)]
        return tuple(outputs), tuple(dim + 1 for dim in out_dims[: len(outputs)])
    problems = [
        [t if b is None else t.select(b, v) for t, b in zip(tensors, in_dims, strict=True)]
        for v in range(V)
    ]
    outputs = [function.apply(layer, *more, *problem) for problem in problems]
    outputs = tuple(map(torch.stack, zip(*outputs, strict=True)))
    return outputs, (0,) * len(outputs)


def _folded(tensor, batched, dim, V):
    """The problems side by side: sequence b of problem v is b*V + v, so that packed sequences stay
    in the order of their lengths."""
    if tensor is None or dim is None:
        return tensor
    if batched is None:
        shape = tensor.shape
        tensor = tensor.unsqueeze(dim + 1).expand(*shape[: dim + 1], V, *shape[dim + 1 :])
    else:
        tensor = tensor.movedim(batched, dim + 1)
    return tensor.flatten(dim, dim + 1)
