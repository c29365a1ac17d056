"""What a product of the Hessian with a vector costs: the gradient of (gradient · v), by double
backward, with respect to the input and all weights.

    python -m benchmarks.hessian [--device cuda] [--threads N] [--engine NAME] [--output FILE]

torch.nn on a GPU has second derivatives only with cuDNN switched off, and so it is measured.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import fastrnn
from benchmarks import machine
from benchmarks.cases import HESSIAN, Case
from benchmarks.clock import duel
from benchmarks.cold import timed
from benchmarks.memory import peak_bytes
from benchmarks.problem import Problem, Work, precision, tensors, without_cudnn
from benchmarks.results import Results
from benchmarks.row import AUTO, FAILED, OK, Row, describe

CELLS = ("LSTM", "GRU")
CASES = tuple(
    Case(f"hessian-{H}", T, B, H, H, "a Hessian-vector product, as second-order methods take it")
    for T, B, H in ((64, 16, 64), (128, 32, 128))
)
# Of the largest magnitude: what float32 may lose over a hundred steps and two ways back.
TOLERANCE = 1e-3


def product(module: torch.nn.Module, work: Work) -> tuple[torch.Tensor, ...]:
    """H v, for the loss Σ results³ / 3 and v = 1."""
    inputs = (work.data, *module.parameters())
    loss = sum(r.pow(3).sum() for r in tensors(module(work.input, work.state))) / 3
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    return torch.autograd.grad(sum(g.sum() for g in gradients), inputs)


def measure(row: Row, rounds: int) -> dict:
    """The row as JSON: timed if fastrnn's products are torch.nn's in double precision."""
    with precision(row.dtype), row.use_engine():
        problem = Problem(row.case, row.cell, row.dtype, row.device)
        wrap = without_cudnn if row.device == "cuda" else lambda call: call
        native = wrap(partial(product, problem.native, problem.work))
        ours = partial(product, problem.fastrnn, problem.work)
        exact = wrap(partial(product, problem.referee, problem.exact))()
        first, errors = {}, {}
        for name, call in (("native", native), ("fastrnn", ours)):
            first[name], got = timed(call, row.device)
            errors[name] = _error(got, exact)
        chosen = fastrnn.explain(problem.fastrnn, problem.work.input)
        record = describe(row) | {
            "status": OK if errors["fastrnn"] <= TOLERANCE else FAILED,
            "native": {"error": errors["native"]},
            "fastrnn": {
                "error": errors["fastrnn"],
                "engine": chosen.engine,
                "plan": chosen.plan,
            },
        }
        if record["status"] == FAILED:
            return record
        times = duel(native, ours, row.device, rounds)
        for name, call, seconds in (
            ("native", native, times.first),
            ("fastrnn", ours, times.second),
        ):
            record[name]["seconds"] = seconds._asdict()
            record[name]["first_call_seconds"] = first[name]
            record[name]["peak_bytes"] = peak_bytes(call, row.device)
    return record | {"ratio": times.ratio._asdict(), "rounds": times.rounds}


def _error(got: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> float:
    """The largest error of a tensor, over its largest magnitude."""
    return max(
        ((g.double() - e).abs().max() / e.abs().max()).item()
        for g, e in zip(got, exact, strict=True)
    )


def line(record: dict) -> str:
    name = f"{record['cell']:5} {record['shape']:20}"
    if record["status"] != OK:
        return f"{name} {record['status']}: error {record['fastrnn']['error']:.1e}"
    sides = (record["native"], record["fastrnn"])
    ms = "{:8.2f} ms, fastrnn {:8.2f} ms".format(*(1000 * s["seconds"]["median"] for s in sides))
    mb = "{:.0f} MB, {:.0f} MB".format(*(s["peak_bytes"] / 1e6 for s in sides))
    ratio = record["ratio"]
    spread = f"{ratio['median']:.2f} ({ratio['p20']:.2f}-{ratio['p80']:.2f})"
    return f"{name} torch.nn {ms}, ratio {spread}, memory {mb}"


def main(argv: list[str], show: Callable = print) -> int:
    """The exit status: 1 if a product was wrong."""
    parser = ArgumentParser(prog="python -m benchmarks.hessian", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: 7)")
    parser.add_argument("--engine", default=AUTO, help="what fastrnn.use_engine forces")
    parser.add_argument("--case", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: in out/)")
    options = parser.parse_args(argv)
    machine.prepare(options.threads, flush_denormal=False)
    engine = None if options.engine == AUTO else options.engine
    path = options.output or Path("out", f"hessian-{options.device}.json")
    results = Results(path, machine.environment(options.device, False, engine))
    show(machine.line(results.environment))
    for case in CASES:
        if options.case and case.name not in options.case:
            continue
        for cell in CELLS:
            row = Row(case, cell, HESSIAN, "float32", options.device, False, options.engine)
            results.add(row.key, measure(row, options.rounds))
            show(line(results.rows[row.key]))
    return int(any(record["status"] != OK for record in results.rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
