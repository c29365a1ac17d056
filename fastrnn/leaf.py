"""What makes torch.fx record a call of fastrnn's modules as one node, as of torch.nn's.

A `torch.fx.Tracer` takes a module as a leaf if `module.__module__` begins with "torch.nn".
"""


class Leaf(str):
    """The `__module__` of a class whose instances torch.fx takes as leaves.

    The class itself names the file that it is in, for pickle and inspect. An instance of it names
    torch.nn. A subclass has a `__module__` of its own, and is no leaf, as a subclass of torch.nn's
    is none.
    """

    __slots__ = ()

    def __get__(self, instance, owner):
        return "torch.nn"

    def __reduce__(self):
        # The pickle of a class holds its `__module__`, which has to be a plain string there.
        return str, (str.__str__(self),)
