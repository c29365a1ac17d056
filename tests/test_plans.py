"""The plans of the kernels: which one is chosen, and that each fits the GPUs that it is for.

What is compiled is compiled for GPUs that are not there, by processes without an interpreter.
"""

import itertools

import pytest

triton = pytest.importorskip("triton", reason="needs Triton")
compiling = pytest.importorskip("benchmarks.compiling", reason="needs Triton")

from benchmarks import plans, sweep, tune  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.compiling import Needs, in_compiler  # noqa: E402
from benchmarks.plans import read_report  # noqa: E402
from fastrnn.kernels import resident, step  # noqa: E402
from fastrnn.kernels.cell import CELLS  # noqa: E402
from fastrnn.kernels.plans import SHARED, TABLE, Chip, Row, largest, plan_for, read  # noqa: E402

ROWS = read(TABLE)
CHIPS = {family: Chip(family, 100, shared) for family, shared in SHARED.items()}
GROUPS = sorted({row[:4] for row in ROWS})
each_chip = pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
each_cell = pytest.mark.parametrize("cell", CELLS)
each_way = pytest.mark.parametrize("way", sweep.WAYS)


@each_chip
@each_cell
@each_way
@pytest.mark.parametrize("precision", sweep.DTYPES)
def test_a_plan_covers_what_it_is_chosen_for(chip, cell, way, precision):
    most = largest(chip, cell, way, precision)
    for H, B, D in itertools.product(range(1, most + 1), (1, 7, 64, 5000), (1, 2)):
        plan = plan_for(chip, cell, way, precision, H, B, D)
        units = plan.block_h * plan.tiles
        assert H <= units <= most
        assert plan.kept <= len(CELLS[cell].gates) * plan.tiles**2
        assert 2 * plan.kept >= len(CELLS[cell].gates) * plan.tiles**2
        assert sweep.BYTES[precision] * plan.kept * plan.block_h**2 < chip.shared
    for H in (most + 1, 4096):
        assert plan_for(chip, cell, way, precision, H, 1, 1) is None


def test_every_cell_is_served_on_every_chip_in_half_and_tf32():
    for chip, cell, way in itertools.product(CHIPS.values(), CELLS, sweep.WAYS):
        assert largest(chip, cell, way, "half") >= 64
        assert largest(chip, cell, way, "tf32") >= 64


@each_chip
def test_as_few_sequences_a_program_as_there_are_processors_for(chip):
    seen = set()
    for B, D in itertools.product(range(1, 5000, 7), (1, 2)):
        plan = plan_for(chip, "RNN_RELU", "forward", "half", 64, B, D)
        others = [
            row.plan for row in ROWS if row[:5] == (chip.family, "RNN", "forward", "half", 64)
        ]
        enough = [p.block_b for p in others if -(-B // p.block_b) * D <= chip.sms]
        assert plan.block_b == min(enough, default=max(p.block_b for p in others))
        seen.add(plan.block_b)
    assert len(seen) > 1


@pytest.mark.parametrize(
    "chip", [Chip("gfx942", 304, 65536), Chip("sm_75", 72, 65536), Chip("sm_90", 132, 101376)]
)
def test_there_is_no_plan_for_a_chip_that_no_row_is_for(chip):
    assert plan_for(chip, "LSTM", "forward", "half", 1, 1, 1) is None
    assert largest(chip, "LSTM", "forward", "half") == 0


def test_the_table_is_in_order_and_names_nothing_twice():
    assert sorted(ROWS, key=plans.order) == ROWS
    assert len({row[:6] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.units % row.block_h == 0


def test_the_report_is_of_the_table():
    assert [line.row for line in read_report()[1]] == ROWS, "run `python -m benchmarks plans`"


def test_the_best_candidates_come_first():
    row = Row("sm_90", "GRU", "forward", "half", 128, 16, 0, 0, 0)
    found = [plan for plans in sweep.candidates(row) for plan in plans]
    cuts = [(plan.block_h, plan.kept, plan.warps) for plan in found]
    assert cuts[:4] == [(128, 3, 4), (128, 3, 8), (64, 12, 4), (64, 12, 8)]
    assert (128, 2, 8) in cuts[4:]


def problems(family, cell, way):
    """Of some rows of the table those that don't fit, or not into the expected instructions."""
    found = []
    for row in ROWS:
        if row[:3] == (family, cell, way):
            for rows in ("padded", "dense")[: 2 if row.units == 128 else 1]:
                used = sweep.measure(row, rows=rows)
                if not sweep.fits(row, used) or used.instruction not in instructions(row):
                    found.append([row, rows, used])
    return found


def instructions(row):
    """Those of the matrix units: of the larger ones from 64 units and 16 sequences upwards."""
    if row.precision == "ieee":
        return ["fma"]
    if row.family == "sm_90" and row.block_h >= 64 and row.block_b >= 16:
        return ["wgmma.mma_async"]
    return ["mma.sync", "tcgen05.mma"] if row.family == "sm_100" else ["mma.sync"]


@pytest.mark.parametrize(("family", "cell", "way"), sorted({row[:3] for row in ROWS}))
def test_every_plan_fits(family, cell, way):
    assert in_compiler(problems, family, cell, way) == []


def elsewhere():
    """A few plans on GPUs that share them, and H that are no multiple of a tile: what spills."""
    spilled = []
    for row in ROWS:
        if row.family == "sm_86" and row.units == 64 and row.block_b == 8:
            used = sweep.measure(row, arch=89)
            if not sweep.fits(row, used):
                spilled.append([row, 89, used])
    for cell, way, precision in itertools.product(CELLS, sweep.WAYS, ("half", "tf32")):
        for H in (17, 63, 100):
            plan = plan_for(CHIPS["sm_90"], cell, way, precision, H, 1, 1)
            units = plan.tiles * plan.block_h
            cut = (plan.block_b, plan.block_h, plan.kept, plan.warps)
            row = Row("sm_90", cell, way, precision, units, *cut)
            used = sweep.measure(row, H)
            if used.spills > sweep.ODD_SPILLS:
                spilled.append([row, H, used])
    return spilled


def test_plans_fit_the_gpus_that_share_them_and_any_number_of_units():
    assert in_compiler(elsewhere) == []


def steps(cell, arch):
    """What the kernels of single steps need."""
    kinds = itertools.product(sweep.WAYS, compiling.ABSENT, ("fp32", "bf16"))
    return [
        [
            way,
            rows,
            dtype,
            compiling.needs(compiling.step_kernel(CELLS[cell], way, 128, rows, dtype, arch)),
        ]
        for way, rows, dtype in kinds
    ]


@each_cell
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_the_kernels_of_single_steps_fit(cell, arch):
    for *kind, used in in_compiler(steps, cell, arch):
        used = Needs(*used)
        assert used.spills == 0, kind
        # Several programs at once have to hide each other's waiting for memory.
        assert used.registers <= 128, kind
        assert used.instruction == "fma", kind


def on_amd():
    """The lengths of the programs for an MI300."""
    target = triton.backends.compiler.GPUTarget("hip", "gfx942", 64)
    made = []
    for cell, way in itertools.product(sweep.SHARING, sweep.WAYS):
        kept = len(sweep.SHARING[cell].gates)
        row = Row("gfx942", cell, way, "half", 64, 16, 64, kept, 4)
        made.append(compiling.resident_kernel(row, 64, "packed", "bf16", target))
        made.append(compiling.step_kernel(sweep.SHARING[cell], way, 64, "padded", "fp32", target))
    return [len(one.asm["hsaco"]) for one in made]


def test_the_kernels_compile_for_amd():
    assert all(in_compiler(on_amd))


def hashes():
    """By which Triton finds kernels in its cache."""
    rows = [row for row in ROWS if row.family == "sm_90" and row.units == 32 and row.block_b == 8]
    return [compiling.resident_kernel(row, 32, "dense", "bf16", 90).hash for row in rows]


def test_a_second_process_finds_the_kernels_of_the_first(tmp_path):
    first = in_compiler(hashes, cache=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert in_compiler(hashes, cache=tmp_path) == first
    assert sorted(tmp_path.rglob("*")) == before


def specialisations():
    """For every kernel what is compiled by itself, at some numbers of steps and sequences."""
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(triton.backends.compiler.GPUTarget("cuda", 90, 32))
    seen = []
    for module, way in itertools.product((resident, step), sweep.WAYS):
        kernel = getattr(module, f"{way}_kernel")
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        numbers = [
            [n if name in ("T", "B", "N", "step") else None for name in kernel.arg_names]
            for n in (1, 2, 16, 17, 4096)
        ]
        seen.append([str(bind(*arguments)[1]) for arguments in numbers])
    return seen


def test_numbers_of_steps_and_sequences_are_not_compiled_for():
    seen = in_compiler(specialisations)
    assert len(seen) == 4
    for kinds in seen:
        assert "i32" in kinds[0]
        assert len(set(kinds)) == 1


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A table of two plans and its report, in place of the real ones, and no other processes."""
    table, report = tmp_path / "plans.csv", tmp_path / "kernels.csv"
    lines = [line for line in read_report()[1] if line.row[:4] == GROUPS[0]][:2]
    plans.write(table, Row._fields, [line.row for line in lines])
    plans.write_report(report, lines)
    for module in (plans, tune):
        monkeypatch.setattr(module, "TABLE", table)
    monkeypatch.setattr(plans, "REPORT", report)
    monkeypatch.setattr(plans, "each", map)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return table, lines


def test_a_check_finds_nothing_or_says_what(files, monkeypatch, capsys):
    table, (first, second) = files
    needed = {first.row: first.needs, second.row: second.needs}
    monkeypatch.setattr(plans, "measure", needed.get)
    monkeypatch.setattr(plans, "read_report", lambda: (triton.__version__, [first, second]))
    assert main(["plans", "--check"]) == 0
    needed[second.row] = second.needs._replace(spills=8)
    assert main(["plans", "--check"]) == 1
    needed[second.row] = second.needs._replace(registers=7)
    assert main(["plans", "--check"]) == 1
    plans.write(table, Row._fields, [first.row._replace(warps=16), second.row])
    assert main(["plans", "--check"]) == 1
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "registers=7" in printed
    assert "is not in kernels.csv" in printed


def test_plans_that_do_not_fit_are_replaced_or_dropped(files, monkeypatch, capsys):
    table, (first, second) = files
    other = first._replace(row=first.row._replace(kept=1))
    found = {first.row: other, second.row: None}
    monkeypatch.setattr(plans, "repaired", found.get)
    assert main(["plans"]) == 0
    assert read(table) == [other.row]
    assert read_report()[1] == [other]
    assert capsys.readouterr().out.count("does not fit") == 2


def test_nothing_is_compiled_in_an_interpreter(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="2"):
        main(["plans", "--check"])
    assert "TRITON_INTERPRET" in capsys.readouterr().err


TINY = ["tune", "--batch", "2", "--steps", "2", "--units", "32"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "GPU"),
        (["--device", "cpu", "--write"], "--write"),
        (["--device", "cpu", "--units", "20"], "20"),
    ],
)
def test_tuning_says_what_it_cannot_do(device, capsys, options, word):
    if device == "cuda":
        pytest.skip("with a GPU it can")
    with pytest.raises(SystemExit, match="2"):
        main(TINY + options)
    assert word in capsys.readouterr().err


def test_tuning_takes_the_fastest(device, tmp_path, capsys):
    path = tmp_path / "tuned.csv"
    few = ["--cell", "LSTM", "RNN", "--precision", "tf32", "--block-b", "8", "16", "--warps", "4"]
    assert main([*TINY, *few, "--device", device, "--output", str(path)]) == 0
    rows = read(path)
    assert {row[:5] for row in rows} == {
        (rows[0].family, cell, way, "tf32", 32) for cell in ("LSTM", "RNN") for way in sweep.WAYS
    }
    assert "kept" in capsys.readouterr().out


def test_a_smaller_block_has_to_be_faster():
    row = Row("sm_90", "GRU", "forward", "half", 64, 8, 64, 3, 4)
    seconds = {(8, 4): 2.0, (8, 8): 3.0, (16, 4): 2.5, (16, 8): 1.5, (32, 4): 4.0}
    timed = [tune.Timed(row._replace(block_b=b, warps=w), s) for (b, w), s in seconds.items()]
    assert [(row.block_b, row.warps) for row in tune.choose(timed)] == [(16, 8), (32, 4)]
