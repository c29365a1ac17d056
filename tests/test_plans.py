"""The plans of the kernels: which one is chosen, and that each fits the GPUs that it is for.

What is compiled is compiled for GPUs that are not there, by processes without an interpreter.
"""

import itertools
import re

import pytest

triton = pytest.importorskip("triton", reason="needs Triton")
compiling = pytest.importorskip("benchmarks.compiling", reason="needs Triton")

from benchmarks import cooperative_sweep, plans, sweep, tune  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.compiling import Needs, in_compiler  # noqa: E402
from benchmarks.plans import read_report  # noqa: E402
from fastrnn.kernels import cooperative, cooperative_plans, padding, resident, step  # noqa: E402
from fastrnn.kernels.cell import CELLS  # noqa: E402
from fastrnn.kernels.device import TRITON  # noqa: E402
from fastrnn.kernels.plans import SHARED, TABLE, Chip, Row, largest, plan_for, read  # noqa: E402

ROWS = read(TABLE)
COOPERATIVE_ROWS = read(cooperative_plans.TABLE, cooperative_plans.CooperativeRow)
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
    assert sorted(COOPERATIVE_ROWS, key=plans.order) == COOPERATIVE_ROWS
    assert len(set(COOPERATIVE_ROWS)) == len(COOPERATIVE_ROWS)


def test_the_report_is_of_the_table():
    for kind in plans.KINDS.values():
        rows = [line.row for line in read_report(kind)[1]]
        assert rows == read(kind.table, kind.row), "run `python -m benchmarks plans`"


def test_the_best_candidates_come_first():
    row = Row("sm_90", "GRU", "forward", "half", 128, 16, 0, 0, 0)
    found = [plan for plans in sweep.candidates(row) for plan in plans]
    cuts = [(plan.block_h, plan.kept, plan.warps) for plan in found]
    assert cuts[:4] == [(128, 3, 4), (128, 3, 8), (64, 12, 4), (64, 12, 8)]
    assert (128, 2, 8) in cuts[4:]


# The tables are cut for the Triton that CUDA builds of torch bring: 3.5 to 3.7, torch 2.9 to 2.13.
# A newer compiler allots registers in another way, and some programs that leave none free spill a
# few bytes a thread. Results stay right, and so few bytes take little time; tables for that
# compiler are cut when a torch brings it.
NEWER = TRITON > (3, 7)
FEW_SPILLS = 96 if NEWER else 0


def fits(kind, row, used):
    """Whether a plan fits by its sweep, but for few spills with a newer compiler."""
    return used.spills <= FEW_SPILLS and kind.fits(row, used._replace(spills=0))


def problems(family, cell, way, every):
    """Of rows of the table those that don't fit, or not into the expected instructions.

    Every row, or of each precision the one that leaves the fewest registers.
    """
    report = read_report(plans.KINDS["resident"])[1]
    lines = [line for line in report if line.row[:3] == (family, cell, way)]
    if not every:
        lines.sort(key=lambda line: line.needs.registers)
        lines = {line.row.precision: line for line in lines}.values()
    found = []
    for row in (line.row for line in lines):
        for rows in ("padded", "dense")[: 2 if row.units == 128 else 1]:
            used = sweep.measure(row, rows=rows)
            if not fits(sweep, row, used) or used.instruction not in instructions(row):
                found.append([row, rows, used])
    return found


def instructions(row):
    """Those of the matrix units: of the larger ones from 64 units and 16 sequences upwards; a newer
    compiler may take these for 8 sequences."""
    if row.precision == "ieee":
        return ["fma"]
    if row.family == "sm_90" and row.block_h >= 64 and row.block_b >= 16:
        return ["wgmma.mma_async"]
    if row.family == "sm_90" and row.block_h >= 64 and NEWER:
        return ["mma.sync", "wgmma.mma_async"]
    return ["mma.sync", "tcgen05.mma"] if row.family == "sm_100" else ["mma.sync"]


@pytest.mark.parametrize(("family", "cell", "way"), sorted({row[:3] for row in ROWS}))
def test_every_plan_fits(family, cell, way, pytestconfig):
    every = pytestconfig.getoption("full")
    assert in_compiler(problems, family, cell, way, every) == []


def tightest(family, cell):
    """Of the rows for a cell, way and precision the one with the fewest registers left; anew."""
    lines = {}
    for line in read_report(plans.KINDS["cooperative"])[1]:
        if line.row[:2] == (family, cell):
            known = lines.setdefault(line.row[2:4], line)
            lines[line.row[2:4]] = max(known, line, key=lambda line: line.needs.registers)
    rows = [line.row for line in lines.values()]
    return [[row, cooperative_sweep.measure(row)] for row in rows]


COOPERATIVE_KINDS = sorted({row[:2] for row in COOPERATIVE_ROWS})


@pytest.mark.parametrize(("family", "cell"), COOPERATIVE_KINDS)
def test_the_tightest_plans_fit(family, cell):
    """All of them take a while: `python -m benchmarks plans --check`."""
    seen = in_compiler(tightest, family, cell)
    assert seen
    for row, used in seen:
        row, used = cooperative_plans.CooperativeRow(*row), Needs(*used)
        assert fits(cooperative_sweep, row, used), (row, used)
        assert used.instruction != "fma", row


@pytest.mark.parametrize("engine", plans.KINDS)
def test_the_report_finds_that_every_plan_fits(engine):
    kind = plans.KINDS[engine]
    for row, used in read_report(kind)[1]:
        assert kind.sweep.fits(row, used), row


def test_every_family_has_plans_for_large_layers_in_half_and_tf32():
    families = {row.family for row in COOPERATIVE_ROWS}
    assert families >= {"sm_80", "sm_90", "sm_100"}
    for family, cell, way in itertools.product(sorted(families), CELLS, sweep.WAYS):
        chip = Chip(family, cooperative_sweep.PROGRAMS[family], SHARED[family])
        for precision, H in (("half", 1024), ("tf32", 768)):
            for D, B in itertools.product((1, 2), (1, 16, 64, 999)):
                found = cooperative_plans.cooperative_plan(
                    chip, CELLS[cell], way, precision, H, B, D
                )
                assert found is not None, (family, cell, way, precision, H, B, D)
                assert found.slices(H) * found.groups * D <= chip.sms


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


def waiting_programs(arch):
    """The text of what waits, in kernels for all steps, for one, and of the benchmark's own."""
    from benchmarks.barrier_rate import rounds_kernel

    row = next(row for row in COOPERATIVE_ROWS if row.units == 256)
    row = row._replace(family=f"sm_{arch}")
    made = [
        compiling.cooperative_kernel(row, 256, "dense", "bf16", arch, together)
        for together in (True, False)
    ]
    made.append(compiling.compiled(rounds_kernel, {"SIZE": 132}, "bf16", arch))
    return [one.asm["ptx"] for one in made]


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_programs_wait_by_release_and_acquire(arch):
    together, apart, alone = in_compiler(waiting_programs, arch)
    for text in (together, alone):
        assert "ld.acquire.gpu.global.s64" in text
        assert re.search(r"(atom|red)\S*\.release\S*", text)
        assert "bar.red.or.pred" in text
    assert "ld.global.cg" in together  # what others have stored, past the first-level cache
    for word in ("acquire", "release", "bar.red"):
        assert word not in apart


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


@pytest.mark.slow
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


NUMBERS = ("T", "B", "N", "step", "begin", "end", "patience_at_first", "patience")


def specialisations():
    """For every kernel what is compiled by itself, at some numbers of steps and sequences."""
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(triton.backends.compiler.GPUTarget("cuda", 90, 32))
    seen = []
    for module, way in itertools.product((resident, cooperative, step), sweep.WAYS):
        kernel = getattr(module, f"{way}_kernel")
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        numbers = [
            [n if name in NUMBERS else None for name in kernel.arg_names]
            for n in (1, 2, 16, 17, 4096)
        ]
        seen.append([str(bind(*arguments)[1]) for arguments in numbers])
    return seen


def test_numbers_of_steps_and_sequences_are_not_compiled_for():
    seen = in_compiler(specialisations)
    assert len(seen) == 6
    for kinds in seen:
        assert "i32" in kinds[0]
        assert len(set(kinds)) == 1


def launched_twice():
    """Of launches with a stand-in for a GPU: the kernels in the order of their calls, and whether
    they are cooperative and fuse products and sums."""
    import torch

    from fastrnn.kernels.cooperative_plans import CooperativePlan
    from fastrnn.kernels.plans import Plan
    from fastrnn.kernels.rows import Rows

    class Driver:
        """As much of one as is asked for before a launch."""

        utils = type("utils", (), {"get_device_properties": lambda n: {"max_shared_mem": 232448}})
        get_current_target = staticmethod(
            lambda: triton.backends.compiler.GPUTarget("cuda", 90, 32)
        )
        get_current_device = get_current_stream = staticmethod(lambda *device: 0)

    triton.runtime.driver.set_active(Driver())
    seen = []

    class Warm:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*arguments, **options):
                made = self.kernel.warmup(*arguments, grid=grid, **options)
                made_for = made.metadata
                seen.append(
                    [made.hash, made_for.launch_cooperative_grid, made_for.enable_fp_fusion]
                )

            return launch

    kernels = list(itertools.product((resident, step, cooperative), sweep.WAYS))
    for module, what in (*kernels, (padding, "clear")):
        setattr(module, f"{what}_kernel", Warm(getattr(module, f"{what}_kernel")))
    cell, D, H = CELLS["GRU"], 2, 32
    for T, B in ((3, 16), (4, 7)):
        rows = Rows(T, B, T * B)
        gates, states = torch.zeros(D, T * B, 4, H), [torch.zeros(T * B, D, H)]
        w, b, state = torch.zeros(D, 3 * H, H), torch.zeros(D, 3 * H), [torch.zeros(D, B, H)]
        forward = (gates, gates, w, b)
        backward = (gates, gates, w.mT.contiguous(), state, states, states)
        plan = Plan(16, 32, 1, 3, 4)
        resident.forward(cell, plan, "tf32", *forward, state, states, state, rows)
        resident.backward(cell, plan, "tf32", *backward, state, state, rows)
        step.forward(cell, 0, gates, gates, state[0], b, state, state, None, states, rows)
        step.backward(
            cell, 0, gates, gates, state[0], gates, state, states, states, state, state, rows
        )
        padding.clear(gates, rows._replace(lengths=torch.zeros(B, dtype=torch.int64)))
        plan = CooperativePlan(16, 1, 16, 32, 2, 9, 4)
        counters, vain = torch.zeros(99, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
        for waiting in (None, cooperative.Waiting(counters, vain, 9, 9)):
            last = (rows, (0, T if waiting else 1), waiting)
            cooperative.forward(cell, plan, "tf32", *forward, state[0], state, states, state, *last)
            cooperative.backward(cell, plan, "tf32", *backward, state, state, *last)
    return seen


def test_a_second_launch_compiles_nothing_and_is_cooperative_where_programs_wait(monkeypatch):
    # Each launch asks for it: from Triton 3.10 on it is not the default.
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    seen = in_compiler(launched_twice)
    assert len(seen) == 18
    assert seen[:9] == seen[9:]
    assert [together for _, together, _ in seen[:9]] == [False] * 7 + [True] * 2
    assert all(fused for _, _, fused in seen)
    assert len({kernel for kernel, _, _ in seen}) == 9


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A table of two plans and its report, in place of the real ones, and no other processes."""
    lines = [line for line in read_report(plans.KINDS["resident"])[1] if line.row[:4] == GROUPS[0]]
    kind = plans.KINDS["resident"]._replace(table=tmp_path / "table", report=tmp_path / "report")
    plans.write(kind.table, Row._fields, [line.row for line in lines[:2]])
    plans.write_report(kind, lines[:2])
    for module in (plans, tune):
        monkeypatch.setattr(module, "KINDS", {"resident": kind})
    monkeypatch.setattr(plans, "each", lambda f, engine, rows: (f(engine, row) for row in rows))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return kind, lines[:2]


def test_a_check_finds_nothing_or_says_what(files, monkeypatch, capsys):
    kind, (first, second) = files
    needed = {first.row: first.needs, second.row: second.needs}
    monkeypatch.setattr(plans, "measure", lambda engine, row: needed[row])
    monkeypatch.setattr(plans, "read_report", lambda kind: (triton.__version__, [first, second]))
    assert main(["plans", "--check"]) == 0
    needed[second.row] = second.needs._replace(spills=8)
    assert main(["plans", "--check"]) == 1
    needed[second.row] = second.needs._replace(registers=7)
    assert main(["plans", "--check"]) == 1
    plans.write(kind.table, Row._fields, [first.row._replace(warps=16), second.row])
    assert main(["plans", "--check"]) == 1
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "registers=7" in printed
    assert "is not in" in printed


def test_plans_that_do_not_fit_are_replaced_or_dropped(files, monkeypatch, capsys):
    kind, (first, second) = files
    other = first._replace(row=first.row._replace(kept=1))
    found = {first.row: other, second.row: None}
    monkeypatch.setattr(plans, "repaired", lambda engine, row: found[row])
    assert main(["plans"]) == 0
    assert read(kind.table) == [other.row]
    assert read_report(kind)[1] == [other]
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


@pytest.mark.slow
def test_tuning_takes_the_fastest(device, tmp_path, capsys):
    path = tmp_path / "tuned.csv"
    few = ["--cell", "LSTM", "RNN", "--precision", "tf32", "--block-b", "8", "16", "--warps", "4"]
    assert main([*TINY, *few, "--device", device, "--output", str(path)]) == 0
    rows = read(path)
    assert {row[:5] for row in rows} == {
        (rows[0].family, cell, way, "tf32", 32) for cell in ("LSTM", "RNN") for way in sweep.WAYS
    }
    assert "kept" in capsys.readouterr().out


def test_tuning_of_programs_that_share_a_layer(device, tmp_path, monkeypatch, capsys):
    path = tmp_path / "tuned.csv"
    for name, few in (("BLOCK_H", (64,)), ("BLOCK_K", (128,)), ("BATCHES", {8: ((8, 1),)})):
        monkeypatch.setattr(cooperative_sweep, name, few)
    few = ["--cell", "RNN", "--way", "forward", "--precision", "half", "--batch", "2"]
    size = ["--steps", "2", "--units", "128", "--device", device, "--output", str(path)]
    assert main(["tune", "--engine", "cooperative", *few, *size]) == 0
    (row,) = read(path, cooperative_plans.CooperativeRow)
    assert row[1:8] == ("RNN", "forward", "half", 128, 8, 1, 64)
    assert "kept" in capsys.readouterr().out


def test_the_fastest_for_each_share_and_batch():
    row = COOPERATIVE_ROWS[0]
    seconds = {(16, 8, 1): 3.0, (16, 8, 2): 2.0, (16, 16, 1): 1.0, (32, 8, 1): 5.0}
    timed = [
        tune.Timed(row._replace(block_h=h, block_b=b, tiles=n), s)
        for (h, b, n), s in seconds.items()
    ]
    kept = [(row.block_h, row.block_b, row.tiles) for row in tune.choose_cooperative(timed)]
    assert sorted(kept) == [(16, 8, 1), (16, 16, 1), (32, 8, 1)]


def test_a_smaller_block_has_to_be_faster():
    row = Row("sm_90", "GRU", "forward", "half", 64, 8, 64, 3, 4)
    seconds = {(8, 4): 2.0, (8, 8): 3.0, (16, 4): 2.5, (16, 8): 1.5, (32, 4): 4.0}
    timed = [tune.Timed(row._replace(block_b=b, warps=w), s) for (b, w), s in seconds.items()]
    assert [(row.block_b, row.warps) for row in tune.choose(timed)] == [(16, 8), (32, 4)]
