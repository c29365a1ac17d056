"""`python -m benchmarks [run]` measures, `show` prints results again, `plot` draws them.

`plans` and `tune` look for the plans of the kernels, with the compiler and by the clock.
"""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import machine, picture, report, summary
from benchmarks.cases import CASES, DEFAULT_SUITE, suite
from benchmarks.options import BUDGET, Parser, run_parser
from benchmarks.problem import DEFAULT_DTYPES, DTYPES
from benchmarks.rates import constants
from benchmarks.results import Results, ResultsError
from benchmarks.row import AUTO, ERROR, FAILED, NATIVE
from benchmarks.run import rows, run
from benchmarks.standing import duels
from benchmarks.warm import compile_all, compilers

INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """The exit status: 0, or 1 if a row failed, 2 for bad arguments, 130 if interrupted."""
    try:
        if argv[:1] == ["plot"]:
            return draw(argv[1:])
        if argv[:1] == ["show"]:
            return show(argv[1:])
        if argv[:1] in (["plans"], ["tune"]):
            return of_kernels(*argv[:1], argv[1:])
        return measure(argv[1:] if argv[:1] == ["run"] else argv)
    except ResultsError as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


def measure(argv: list[str]) -> int:
    begun = time.monotonic()
    parser = run_parser()
    options = parser.parse_args(argv)
    device = chosen_device(parser, options)
    try:
        machine.prepare(options.threads, options.flush_denormal)
    except ValueError as error:
        parser.error(f"argument --flush-denormal: {error}")

    chosen = options.suite or DEFAULT_SUITE[device]
    engine = None if options.engine == AUTO else options.engine
    parts = ["cases" if options.case else chosen, device, *([engine] if engine else [])]
    path = options.output or Path("out", f"{'-'.join(parts)}.json")
    environment = machine.environment(device, options.flush_denormal, engine, options.commit)
    results = (Results.resume if options.resume else Results)(path, environment)
    cases = [CASES[c] for c in options.case] if options.case else suite(chosen, device)
    dtypes = options.dtype or DEFAULT_DTYPES[device]
    cold = options.cold_start or ("few" if device == "cuda" and engine != NATIVE else "none")
    selected = rows(
        cases, options.cell, dtypes, device, options.flush_denormal, options.engine, cold
    )
    if not selected:
        parser.error("nothing to measure: of torch.nn's cells, the LSTM alone has projections")
    todo = [row for row in selected if row.key not in results.rows]
    if todo:
        results.begin()
    results.save()  # now, not after the first row, is the time to learn that it can't be written

    out = report.console()
    out.print(machine.line(environment), style="dim")
    if len(todo) < len(selected):
        done = len(selected) - len(todo)
        out.print(f"{done} of {len(selected)} rows are in {path} already.", soft_wrap=True)
    budget = BUDGET[device] if options.time_budget is None else options.time_budget
    stopped = None
    with report.Live(out, todo) as live:
        try:
            if device == "cuda" and budget:
                results.constants = constants(device, dtypes, results.constants)
            processes = options.compilers
            if processes is None:
                processes = compilers(device, options.engine)
            built = compile_all(todo, processes, budget / 3)
            if built:
                out.print(f"Compiled ahead in {time.monotonic() - begun:.0f} s from the start.")
            run(todo, results, options.rounds, begun + budget, live, built)
        except KeyboardInterrupt:
            stopped = "Interrupted"
    left = [row for row in todo if row.key not in results.rows]
    if left and stopped is None:
        stopped = f"The time budget of {budget:g} s is used up"

    records = [results.rows[row.key] for row in selected if row.key in results.rows]
    if records:
        report.show(out, records, results)
        for line in ends(results, interrupted=stopped == "Interrupted"):
            out.print(line, soft_wrap=True)  # a path is copied in one piece
    if stopped:
        out.print(
            f"{stopped}: {len(left)} of {len(selected)} rows left; --resume goes on from here."
        )
        for line in summary.missing(selected, left):
            out.print(line)
    if stopped == "Interrupted":
        return INTERRUPTED
    return 1 if any(record["status"] in (FAILED, ERROR) for record in records) else 0


def ends(results: Results, interrupted: bool) -> Iterator[str]:
    """Where the results are, and their picture. Who interrupts a run is not kept waiting for that:
    it takes seconds, and may be had later."""
    yield f"Results: {results.path}"
    if not duels(results.rows.values()):
        return
    if not interrupted:
        output = picture.beside(results.path)
        try:
            picture.draw(results, output)
            yield f"Picture: {output}"
            return
        except (ResultsError, KeyboardInterrupt) as error:
            if str(error):
                yield str(error)
    yield f"To draw them: python -m benchmarks plot {shlex.quote(str(results.path))}"


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


def show(argv: list[str]) -> int:
    parser = Parser(prog="python -m benchmarks show", description="Print a results file.")
    parser.add_argument("results", type=Path, help="what `python -m benchmarks` wrote")
    results = Results.load(parser.parse_args(argv).results)
    if not results.rows:
        raise ResultsError(f"cannot show {results.path}: nothing has been measured yet")
    out = report.console()
    out.print(machine.line(results.environment), style="dim")
    report.show(out, list(results.rows.values()), results)
    return 0


def draw(argv: list[str]) -> int:
    parser = Parser(prog="python -m benchmarks plot", description="Draw a results file.")
    parser.add_argument("results", type=Path, help="what `python -m benchmarks` wrote")
    parser.add_argument("-o", "--output", type=Path, help=".png or .svg (default: beside it, .png)")
    parser.add_argument(
        "--case", nargs="+", metavar="NAME", help="these cases alone, for a short picture"
    )
    options = parser.parse_args(argv)
    output = options.output or picture.beside(options.results)
    if output.suffix not in (".png", ".svg"):
        parser.error(f"argument -o: {output} has to end in .png or .svg")
    results = Results.load(options.results)
    if not results.rows:
        raise ResultsError(f"cannot draw {options.results}: nothing has been measured yet")
    if options.case:
        names = dict.fromkeys(record["case"] for record in results.rows.values())
        for name in options.case:
            if name not in names:
                valid = ", ".join(names)
                parser.error(f"argument --case: no {name!r} in the file (choose from {valid})")
        results.rows = {k: r for k, r in results.rows.items() if r["case"] in options.case}
    if not duels(results.rows.values()):
        raise ResultsError(f"cannot draw {options.results}: it has no ratios")
    picture.draw(results, output)
    print(output)
    return 0


def of_kernels(command: str, argv: list[str]) -> int:
    parser = Parser(prog=f"python -m benchmarks {command}")
    if find_spec("triton") is None:
        parser.error("there is no Triton here")
    module = import_module(f"benchmarks.{command}")
    parser.description = module.DESCRIPTION
    module.add_options(parser)
    return module.main(parser, parser.parse_args(argv))


if __name__ == "__main__":
    # A polite kill ends a run as Ctrl-C does: with what was measured so far.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
