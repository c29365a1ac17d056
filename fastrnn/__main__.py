"""`python -m fastrnn`: the versions at hand, the GPU, and where to go from here."""

import argparse
import platform

import torch

import fastrnn

from .chips import has_triton

NEXT = """\
In Python:
  help(fastrnn)                  what there is
  fastrnn.explain(module, x)     which engine serves a call, and why
  fastrnn.diagnose(module, x)    whether the gradient reaches the first steps
In a checkout of fastrnn, from its root:
  python -m benchmarks           measure this machine against torch.nn
  python -m examples             a course on recurrent networks"""


def triton_version():
    if not has_triton():
        return "no Triton"
    import triton

    return f"Triton {triton.__version__}"


def gpu():
    """The GPU that torch sees."""
    if not torch.cuda.is_available():
        return "no GPU"
    return f"GPU {torch.cuda.get_device_name()}"


def main():
    parser = argparse.ArgumentParser("python -m fastrnn", description=__doc__.partition(": ")[2])
    parser.parse_args()
    versions = [f"torch {torch.__version__}", triton_version(), gpu()]
    print(f"fastrnn {fastrnn.__version__}, Python {platform.python_version()}")
    print(", ".join(versions), end="\n\n")
    print(NEXT)


if __name__ == "__main__":
    main()
