"""`lengths=`: sequences of different lengths in one padded tensor."""

from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from .results import formed
from .values import hidden, plainly, transforming
from .wording import described

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check(lengths, input, options):
    """Raise for lengths that do not fit the input, before anything is launched.

    On a CPU that includes their values. On a GPU looking at these would mean waiting for it, so
    there a value out of range ends in a device-side assertion, as an index out of range does.
    """
    T = check_form(lengths, input, options)
    if hidden(lengths):
        return
    message = f"lengths must lie in [0, {T}]"
    right = ((lengths >= 0) & (lengths <= T)).all()
    if lengths.device.type == "cpu":
        if not right:
            low, high = int(lengths.min()), int(lengths.max())
            raise ValueError(f"{message}, got {low} to {high}")
    elif lengths.device.type != "meta":
        torch._assert_async(right, message)


def check_form(lengths, input, options):
    """The part of `check` that looks at no value; returns T."""
    if not isinstance(lengths, Tensor) or lengths.dtype not in INTEGERS:
        kind = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths must be a tensor of integers, got {kind}")
    if isinstance(input, PackedSequence):
        raise ValueError("lengths come with a padded input; a PackedSequence has its own")
    if not isinstance(input, Tensor) or input.dim() != (2 if options.one_hot else 3):
        wanted = "(T, B) or (B, T)" if options.one_hot else "(T, B, I) or (B, T, I)"
        raise ValueError(
            f"lengths come with a batch of sequences, {wanted}, got an input of {described(input)}"
        )
    T, B = input.shape[:2][:: -1 if options.batch_first else 1]
    if lengths.shape != (B,):
        raise ValueError(
            f"lengths must have the shape ({B},), one for each sequence, got {tuple(lengths.shape)}"
        )
    if lengths.device != input.device:
        raise RuntimeError(
            "Input and lengths tensors are not at the same device, found input tensor at "
            f"{input.device} and lengths tensor at {lengths.device}"
        )
    return T


def without_padding(input, lengths, options):
    """The input with zeros beyond every length: what was there must not matter, be it a NaN."""
    T = input.shape[1 if options.batch_first else 0]
    beyond = torch.arange(T, device=lengths.device)[:, None] >= lengths
    beyond = beyond.t() if options.batch_first else beyond
    return input.masked_fill(beyond if options.one_hot else beyond.unsqueeze(2), 0)


def by_packing(forward, input, hx, lengths, options, fresh=None):
    """The same by way of a PackedSequence: for engines that know no lengths. Waits for a GPU.

    forward(packed, hx, fresh) -> (packed output, final states, what else there is, packed);
    fresh: (D, T, B) here, (D, N) there, or None.
    """
    layout = input.shape[:2]
    # Packing takes no empty sequence. What one step makes of it is put right afterwards.
    places, *sizes = plainly(partial(_packing, layout, options.batch_first), lengths)
    packed = PackedSequence(input.flatten(0, 1).index_select(0, places), *sizes)
    if fresh is not None:
        fresh = fresh.transpose(1, 2) if options.batch_first else fresh
        fresh = plainly(lambda fresh: fresh.flatten(1).index_select(1, places), fresh)
    output, final, *inner = forward(packed, hx, fresh)
    empty = lengths == 0
    some_empty = empty.any()

    def padded(sequence):
        place = _at_places if transforming() else AtPlaces.apply
        steps = place(sequence.data, places, layout)
        if not some_empty:
            return steps
        return steps.masked_fill(empty[:, None, None] if options.batch_first else empty[:, None], 0)

    if some_empty:
        single = isinstance(final, Tensor)
        states = [None] * 2 if hx is None else [hx] if single else hx
        final = [
            new.masked_fill(empty[:, None], 0)
            if old is None
            else torch.where(empty[:, None], old, new)
            for new, old in zip([final] if single else final, states, strict=False)
        ]
        final = final[0] if single else tuple(final)
    return padded(output), final, *(formed(padded, part) for part in inner)


def _at_places(rows, places, layout):
    """Rows (N, K) at their places among those of (*layout, K), and zeros elsewhere."""
    padded = rows.new_zeros(layout.numel(), rows.shape[1]).index_copy(0, places, rows)
    return padded.unflatten(0, layout)


class AtPlaces(Function):
    """The same for plain autograd, in one tensor that is no view (see `results.py`)."""

    @staticmethod
    def forward(ctx, rows, places, layout):
        ctx.save_for_backward(places)
        padded = rows.new_zeros(*layout, rows.shape[1])
        padded.flatten(0, 1).index_copy_(0, places, rows)
        return padded

    @staticmethod
    def backward(ctx, d):
        (places,) = ctx.saved_tensors
        # flatten has no rule for batches of gradients, reshape has.
        return d.reshape(-1, d.shape[-1]).index_select(0, places), None, None


def _packing(layout, batch_first, lengths):
    """How a padded batch is packed: the places of the rows among those of `layout`, (T, B) or
    (B, T), then batch_sizes, sorted_indices and unsorted_indices.

    torch's own operators for packing have neither forward mode nor rules for torch.func: these
    carry numbers of places alone.
    """
    some = lengths.clamp(min=1).to("cpu", torch.int64)
    places = torch.arange(layout.numel(), device=lengths.device).view(layout)
    return pack_padded_sequence(places, some, batch_first, enforce_sorted=False)
