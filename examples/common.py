"""What the short examples share: their options, how they are run, and sine waves."""

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

Figures = dict[str, float]  # what was found, by what it is


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:  # no such device; a torch built without it
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {reason}") from None


def run(
    experiment: Callable[[argparse.Namespace], Figures],
    name: str,
    doc: str,
    argv: list[str] | None,
    *,
    steps: int,
) -> Figures:
    """Parse the options, run, print what was found; `steps` of training unless told otherwise."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--steps", type=positive, default=steps, help="of training, default: %(default)s")
    add("--seed", type=int, default=0, help="of everything random, default: %(default)s")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", type=device, default=default, help="default: %(default)s")
    args = parser.parse_args(argv)
    # Matrices this small gain nothing from a second thread.
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    figures = experiment(args)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for what, value in figures.items():
        table.add_row(what, f"{value:.3g}")
    Console(highlight=False, markup=False).print(table)
    return figures


def report(step: int, steps: int, what: str, value: Tensor) -> None:
    """A line at the first step, at the last, and at each tenth of the way."""
    if step % max(1, steps // 10) == 0 or step == steps - 1:
        print(f"step {step + 1:4} of {steps}   {what} {value.item():.3f}")


def waves(T: int, periods: Tensor, phase: Tensor) -> Tensor:
    """(T, B, 1): sine waves with `periods` (B,) in T steps, that begin at `phase` (B,) of one."""
    time = torch.arange(T, device=phase.device).unsqueeze(-1) / T
    return torch.sin(2 * torch.pi * (periods * time + phase)).unsqueeze(-1)
