"""The error that a call of torch.nn will raise, found without running a layer."""

import torch
from torch.overrides import TorchFunctionMode

from .describe import CAST, autocast_dtype

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
OPERATORS = {getattr(torch, kind + suffix) for kind in KINDS for suffix in ("", "_cell")}


class _Refused(Exception):
    """torch's operator does not take these arguments."""


class _Unrun(TorchFunctionMode):
    """Within it, torch's recurrent operators look at shapes and dtypes, and return some zeros."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in OPERATORS:
            return func(*args, **(kwargs or {}))
        data = [t for t in _tensors(args) if _is_data(t)]
        device = data[0].device
        cast = autocast_dtype(device.type)
        dtypes = {cast if cast and t.dtype in CAST else t.dtype for t in data}
        if len(dtypes) > 1 or any(t.device != device for t in data):
            raise _Refused  # for all we know: without data, torch looks at neither
        try:
            results = func(*_on_meta(args, *dtypes))
        except Exception as error:
            raise _Refused from error
        results = results if isinstance(results, tuple) else (results,)
        zeros = tuple(t.new_zeros((), device=device).expand(t.shape) for t in results)
        return zeros if len(zeros) > 1 else zeros[0]


def error_of(call):
    """What `call`() of torch.nn would raise, "Type: text", or None.

    Where torch.nn's own checks pass and its operator refuses, it is called, for its words.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            with _Unrun():
                call()
        except _Refused:
            try:
                call()
            except Exception as error:
                return _words(error)
        except Exception as error:
            return _words(error)
    return None


def _words(error):
    return f"{type(error).__name__}: {error}"


def _tensors(args):
    for arg in args:
        if isinstance(arg, torch.Tensor):
            yield arg
        elif isinstance(arg, list | tuple):
            yield from _tensors(arg)


def _is_data(tensor):
    """Not the sizes of a packed input, whose values matter."""
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


def _on_meta(args, dtype):
    """The same shapes of `dtype`, without data."""
    if isinstance(args, torch.Tensor):
        return args.to("meta", dtype) if _is_data(args) else args
    if isinstance(args, list | tuple):
        return type(args)(_on_meta(arg, dtype) for arg in args)
    return args
