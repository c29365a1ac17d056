"""What torch.jit.script is told; torch.jit.trace takes the modules, by torch.nn's forward."""


def refuse(module):
    """The modules' `__prepare_scriptable__`, which torch.jit.script calls before anything else.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"torch.jit.script cannot compile fastrnn.{type(module).__name__}: call "
        "fastrnn.restore(model) first, which makes its RNNs torch.nn's, with the same parameters"
    )
