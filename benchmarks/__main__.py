"""`python -m benchmarks [run]` measures, `python -m benchmarks plot` draws."""

import argparse
import signal
import sys
from pathlib import Path

import torch

from benchmarks import machine, report
from benchmarks.cases import ALL_CELLS, CASES, SUITES, suite
from benchmarks.measure import OK
from benchmarks.problem import DEFAULT_DTYPES, DTYPES
from benchmarks.results import Results, ResultsError
from benchmarks.run import rows, run

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """One line for an error, without the usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: list[str]) -> int:
    """The exit status: 0, or 1 if a row failed, 2 for bad arguments, 130 if interrupted."""
    try:
        if argv[:1] == ["plot"]:
            return draw(argv[1:])
        return measure(argv[1:] if argv[:1] == ["run"] else argv)
    except ResultsError as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


def measure(argv: list[str]) -> int:
    parser = run_parser()
    options = parser.parse_args(argv)
    device = chosen_device(parser, options)
    try:
        machine.prepare(options.threads, options.flush_denormal)
    except ValueError as error:
        parser.error(f"argument --flush-denormal: {error}")

    name = "cases" if options.case else options.suite
    path = options.output or Path("out", f"{name}-{device}.json")
    environment = machine.environment(device, options.flush_denormal)
    results = (Results.resume if options.resume else Results)(path, environment)
    cases = [CASES[c] for c in options.case] if options.case else suite(options.suite, device)
    dtypes = options.dtype or DEFAULT_DTYPES[device]
    selected = rows(cases, options.cell, dtypes, device, options.flush_denormal)
    if not selected:
        parser.error("nothing to measure: of torch.nn's cells, the LSTM alone has projections")
    todo = [row for row in selected if row.key not in results.rows]
    results.save()  # now, not after the first row, is the time to learn that it can't be written

    out = report.console()
    out.print(machine.line(environment), style="dim")
    if len(todo) < len(selected):
        out.print(f"{len(selected) - len(todo)} of {len(selected)} rows are in {path} already.")
    stopped = None
    with report.Live(out, todo) as live:
        try:
            run(todo, results, options.rounds, options.time_budget, live)
        except KeyboardInterrupt:
            stopped = "Interrupted"
    left = len(todo) - live.done
    if left and stopped is None:
        stopped = f"The time budget of {options.time_budget:g} s is used up"

    records = [results.rows[row.key] for row in selected if row.key in results.rows]
    if records:
        report.show(out, records)
        out.print(f"Results: {path}")
    if stopped:
        out.print(f"{stopped}: {left} of {len(selected)} rows left; --resume goes on from here.")
    if stopped == "Interrupted":
        return INTERRUPTED
    return 0 if all(record["status"] == OK for record in records) else 1


def chosen_device(parser: Parser, options: argparse.Namespace) -> str:
    cuda = torch.cuda.is_available()
    device = options.device
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        parser.error("argument --device: there is no CUDA device here (choose from auto, cpu)")
    if device == "cpu" and "tf32" in (options.dtype or ()):
        valid = ", ".join(name for name in DTYPES if name != "tf32")
        parser.error(f"argument --dtype: tf32 needs a CUDA device (choose from {valid})")
    return device


def draw(argv: list[str]) -> int:
    parser = Parser(prog="python -m benchmarks plot", description="Draw a results file.")
    parser.add_argument("results", type=Path, help="what `python -m benchmarks` wrote")
    parser.add_argument("-o", "--output", type=Path, help=".png or .svg (default: beside it, .png)")
    options = parser.parse_args(argv)
    output = options.output or options.results.with_suffix(".png")
    if output.suffix not in (".png", ".svg"):
        parser.error(f"argument -o: {output} has to end in .png or .svg")
    results = Results.load(options.results)
    if not results.rows:
        raise ResultsError(f"cannot draw {options.results}: nothing has been measured yet")
    # matplotlib takes a second to import, and a run needs none of it.
    from benchmarks.plot import plot

    plot(results, output)
    print(output)
    return 0


def run_parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks",
        description="Time fastrnn against torch.nn, in turns, after a check of its exactness.",
        epilog="`python -m benchmarks plot RESULTS.json` draws what was measured.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--suite", choices=SUITES, default="quick", help="which cases (default: quick)"
    )
    what.add_argument(
        "--quick", dest="suite", action="store_const", const="quick", help="the same as nothing"
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
        "--time-budget", type=seconds, default=float("inf"), metavar="SECONDS",
        help="start no row after this long",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: in out/)")
    parser.add_argument("--resume", action="store_true", help="skip rows that the file has")
    parser.add_argument(
        "--flush-denormal", action="store_true", help="torch.set_flush_denormal(True) at the start"
    )
    return parser


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


if __name__ == "__main__":
    # A polite kill ends a run as Ctrl-C does: with what was measured so far.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
