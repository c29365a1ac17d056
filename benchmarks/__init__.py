"""fastrnn against torch.nn, run from a checkout: `python -m benchmarks` or `pytest benchmarks`.

The shapes and where they come from are in `cases.py`. `python -m benchmarks show` prints results
again, `python -m benchmarks plot` draws them.
"""
