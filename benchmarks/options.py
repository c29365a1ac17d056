"""What `python -m benchmarks` can be told."""

import argparse
from pathlib import Path

import fastrnn
from benchmarks.cases import ALL_CELLS, CASES, SUITES
from benchmarks.problem import DTYPES
from benchmarks.row import AUTO, NATIVE
from benchmarks.run import COLD_STARTS

# Seconds. On a GPU, so that the last row too ends within ten minutes.
BUDGET = {"cpu": float("inf"), "cuda": 540.0}


class Parser(argparse.ArgumentParser):
    """One line for an error, without the usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def run_parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks",
        description="Time fastrnn against torch.nn, in turns, after a check of its exactness.",
        epilog="A run draws its results at the end. `python -m benchmarks plot RESULTS.json` draws "
        "them again, all or some, `python -m benchmarks show RESULTS.json` prints them again.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--suite", choices=SUITES, help="which cases (default: quick; on CUDA gpu)")
    what.add_argument(
        "--quick", dest="suite", action="store_const", const="quick", help="--suite quick"
    )
    what.add_argument("--case", nargs="+", choices=CASES, metavar="NAME", help="cases by name")
    parser.add_argument("--cell", nargs="+", choices=ALL_CELLS, help="instead of each case's own")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        help="(default: float32; on CUDA all but float64)",
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads")
    parser.add_argument(
        "--rounds",
        type=positive_int,
        default=7,
        metavar="N",
        help="turns of each side (default: 7)",
    )
    parser.add_argument(
        "--time-budget",
        type=seconds,
        metavar="SECONDS",
        help=f"start no row after this long (default: none; on CUDA {BUDGET['cuda']:g})",
    )
    sides = parser.add_mutually_exclusive_group()
    sides.add_argument(
        "--engine",
        type=engine_name,
        default=AUTO,
        metavar="NAME",
        help="what fastrnn.use_engine forces, such as torch.aten (default: auto)",
    )
    sides.add_argument(
        "--native-only",
        dest="engine",
        action="store_const",
        const=NATIVE,
        help="time torch.nn alone",
    )
    parser.add_argument(
        "--cold-start",
        choices=COLD_STARTS,
        help="rows whose first call is measured in new processes too (default: none; on CUDA few)",
    )
    parser.add_argument(
        "--compilers",
        type=positive_int,
        metavar="N",
        help="processes that compile kernels before anything is timed (default: none; on CUDA one "
        "for each core but two)",
    )
    parser.add_argument("--commit", help="what is measured, where there is no git to say so")
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: in out/)")
    parser.add_argument("--resume", action="store_true", help="skip rows that the file has")
    parser.add_argument(
        "--flush-denormal", action="store_true", help="torch.set_flush_denormal(True) at the start"
    )
    return parser


def engine_name(text: str) -> str:
    try:
        with fastrnn.use_engine(text):
            return text
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a time")
    return value
