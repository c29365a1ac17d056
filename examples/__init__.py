"""Examples of fastrnn, run from the checkout: `python -m examples.surnames`."""
