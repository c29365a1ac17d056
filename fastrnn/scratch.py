"""Working memory of the loops, with the views of every step made once.

Making a view costs a third of what an operation on a small tensor does, and a step needs several.
So the views are made for one chunk, serve all chunks, and are kept for the next call.
"""

# What is kept between calls: at most so many, each of at most so many numbers. Larger chunks take
# so long to work through that their views cost nothing beside it.
KEPT = 16
KEPT_SIZE = 2**18

_kept = {}


class Scratch:
    """Buffers for the rows of one chunk, and for each step a tuple of views of its rows.

    Use only under inference mode, and between `take` and `keep`: nobody else has it then.
    """

    def __init__(self, key, widths, parts, sizes, H, like):
        rows = sum(sizes)
        self.key = key
        self.sizes = sizes
        self.size = rows * sum(widths) * H
        self.buffers = [like.new_empty(rows, width * H) for width in widths]
        views = (part.split(sizes) for part in parts(*self.buffers))
        self.steps = list(zip(*views, strict=True))

    def serves(self, sizes):
        return sizes == self.sizes[: len(sizes)]

    def rows(self, count):
        return [buffer[:count] for buffer in self.buffers]

    def walk(self, count, backwards):
        """The views of the first `count` steps, in the order of the walk."""
        steps = self.steps[:count]
        return steps[::-1] if backwards else steps


def take(loop, widths, parts, sizes, like):
    """A Scratch for these sizes, kept from an earlier call or new."""
    key = (type(loop), widths, sizes, loop.H, like.dtype)
    return _kept.pop(key, None) or Scratch(key, widths, parts, sizes, loop.H, like)


def keep(scratch):
    """Give it back, for a later call of the same shape. Ragged chunks hardly ever come again."""
    if scratch.size <= KEPT_SIZE and scratch.sizes[0] == scratch.sizes[-1]:
        _kept[scratch.key] = scratch
        for key in list(_kept)[:-KEPT]:
            _kept.pop(key, None)
