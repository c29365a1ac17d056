"""The kernels compiled for GPUs that are not there, and what a GPU would have to give them."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastrnn.kernels import cooperative, resident, step
from fastrnn.kernels.cell import CELLS
from fastrnn.kernels.cooperative_plans import slab_of
from fastrnn.kernels.device import OPTIONS, constants, of_products, on_device

# What a tensor may hold of them where a kernel's own dtype does not say.
INTEGERS = {
    "lengths_ptr": "*i64",
    "offsets_ptr": "*i64",
    "fresh_ptr": "*u8",
    "counters_ptr": "*i64",
    "vain_ptr": "*i32",
}
# The kinds of rows, and the tensors that a kernel then has to do without.
ABSENT = {"dense": ("lengths_ptr", "offsets_ptr"), "packed": (), "padded": ("offsets_ptr",)}
# What few calls have: episodes that begin on the way, a gradient of every step's cell state.
RARE = ("fresh_ptr", "dc_ptr")
SECOND_STATE = ("dc_ptr", "c_0_ptr", "c_ptr", "c_n_ptr", "dc_n_ptr", "dc_0_ptr")
SECOND_STATE += ("c_before_ptr", "c_after_ptr", "dc_after_ptr", "dc_before_ptr")
MATRIX_INSTRUCTIONS = ("wgmma.mma_async", "tcgen05.mma", "mma.sync")


class Needs(NamedTuple):
    """Of a program: registers a thread, bytes spilled a thread, bytes of shared memory."""

    registers: int
    spills: int
    shared: int
    instruction: str  # that multiplies matrices, "fma" if none


def compiled(kernel, arguments, dtype, arch, absent=(), **options):
    """What Triton makes of a kernel for a CUDA architecture, or for the GPU of a GPUTarget.

    arguments: the constants, by name. Of the others, those that end in _ptr are tensors of `dtype`,
    the `absent` ones None, and the rest 32-bit integers.
    """
    signature, values, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in absent or name in arguments:
            signature[name] = "constexpr"
            values[name] = arguments.get(name)
        elif name.endswith("_ptr"):
            signature[name] = INTEGERS.get(name, f"*{dtype}")
            attributes[(position,)] = [["tt.divisibility", 16]]  # as torch allocates
        else:
            signature[name] = "i32"
    target = arch if isinstance(arch, GPUTarget) else GPUTarget("cuda", arch, 32)
    source = ASTSource(kernel, signature, values, attributes)
    return triton.compile(source, target=target, options={**OPTIONS, **options})


def resident_kernel(row, H, rows, dtype, arch, given=()):
    """A kernel of `resident.py` as a row of `plans.csv` cuts it; with what is `given` of RARE."""
    cell = CELLS.get(row.cell) or CELLS[f"{row.cell}_TANH"]
    products = of_products(row.precision, row.plan)
    arguments = {"H": H, **products, **row.plan.constants()}
    options = {"num_warps": row.warps, "num_stages": 1}
    return _of_cell(resident, cell, row.way, arguments, dtype, arch, rows, options, given)


def cooperative_kernel(row, H, rows, dtype, arch, together=True, given=()):
    """A kernel of `cooperative.py` as a row of `cooperative.csv` cuts it, for all steps or one."""
    cell = CELLS.get(row.cell) or CELLS[f"{row.cell}_TANH"]
    slab = slab_of(cell, row.way, H)
    products = of_products(row.precision, row.plan)
    arguments = {"H": H, **products, **row.plan.constants(slab)}
    options = {"num_warps": row.warps, "num_stages": 1, "launch_cooperative_grid": together}
    absent = () if together else ("counters_ptr", "vain_ptr")
    return _of_cell(
        cooperative, cell, row.way, arguments, dtype, arch, rows, options, given, absent
    )


def step_kernel(cell, way, H, rows, dtype, arch, given=()):
    """A kernel of `step.py`, as its launcher cuts it."""
    launched = {}
    kernel = {(1, 1, -(-H // 128)): launched.update}  # by the grid for one sequence
    step._launch(kernel, 1, 1, H)
    options = {name: launched.pop(name) for name in ("num_warps", *OPTIONS)}
    return _of_cell(step, cell, way, launched, dtype, arch, rows, options, given)


def _of_cell(module, cell, way, arguments, dtype, arch, rows, options, given, absent=()):
    function = {way.upper(): on_device(getattr(cell, way))}
    absent += (*ABSENT[rows], *(name for name in RARE if name not in given))
    absent += SECOND_STATE if len(cell.states) == 1 else ()
    kernel = getattr(module, f"{way}_kernel")
    arguments = {**function, **constants(cell), **arguments}
    return compiled(kernel, arguments, dtype, arch, absent, **options)


def needs(made):
    """The Needs of what was made for CUDA; None without `cuobjdump`, which comes with Triton."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        dump = [tool, "--dump-resource-usage", file.name]
        used = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    number = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", used)}
    seen = [name for name in MATRIX_INSTRUCTIONS if name in made.asm["ptx"]]
    return Needs(
        number["REG"],
        number["STACK"] + number["LOCAL"],
        made.metadata.shared,
        "+".join(seen) or "fma",
    )


def in_compiler(function, *arguments, cache=None):
    """What a function of a module gives where no interpreter is; everything has to be JSON.

    cache: a folder in place of Triton's own.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if cache is not None:
        environment["TRITON_CACHE_DIR"] = str(cache)
    call = f"from {function.__module__} import {function.__name__} as call"
    code = f"import json, sys; {call}; print(json.dumps(call(*json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
