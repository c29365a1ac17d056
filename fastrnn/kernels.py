"""Where the device code lives: `fastrnn/kernels/` once installed, `kernels/` in a checkout."""

from pathlib import Path

_installed = Path(__file__).with_suffix("")
_checkout = Path(__file__).parents[1] / "kernels"
__path__ = [str(_installed if _installed.is_dir() else _checkout)]
