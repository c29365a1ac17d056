"""Results of the benchmark as a picture."""

import json
import sys

import pytest

from benchmarks import picture, plot, run
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.results import Results
from benchmarks.standing import SAME
from tests.benchmarking import ENVIRONMENT, invented

pytestmark = pytest.mark.usefixtures("short_blocks")
PNG = b"\x89PNG"
ARGV = ["--case", "tiny", "small", "--cell", "GRU", "--output"]


@pytest.mark.parametrize(("suffix", "start"), [(".png", PNG), (".svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path, capsys, instant, suffix, start):
    results, picture = tmp_path / "results.json", tmp_path / f"picture{suffix}"
    argv = ["--case", "tiny", "packed-50-bi", "--dtype", "float32", "bfloat16"]
    assert main([*argv, "--output", str(results)]) == 0
    assert main(["plot", str(results), "-o", str(picture)]) == 0
    assert picture.read_bytes().startswith(start)
    assert capsys.readouterr().out.endswith(f"{picture}\n")


def test_nothing_measured_is_not_drawn(tmp_path, capsys):
    path = tmp_path / "empty.json"
    path.write_text('{"environment": {}, "rows": {}}')
    assert main(["plot", str(path)]) == 2
    assert "nothing has been measured yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("results.json", "results.png"),
        ("v1.2", "v1.png"),
        # The results are not to be drawn over.
        ("results.png", "results.png.png"),
    ],
)
def test_a_run_draws_its_results(tmp_path, capsys, instant, name, picture):
    output = tmp_path / name
    assert main([*ARGV, str(output)]) == 0
    ends = f"Results: {output}\nPicture: {tmp_path / picture}\n"
    assert capsys.readouterr().out.endswith(ends)
    assert (tmp_path / picture).read_bytes().startswith(PNG)
    assert len(json.loads(output.read_text())["rows"]) == 4


@pytest.mark.parametrize("where", ["measuring", "drawing"])
def test_an_interrupted_run_says_how_to_draw_them(tmp_path, monkeypatch, capsys, instant, where):
    """At once, as its user wants to be gone; and the command is one that works."""
    output = tmp_path / "two words.json"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "drawing":
            patch.setattr(picture, "draw", interrupted)
            assert main([*ARGV, str(output)]) == 0
        else:
            measured = run.measure
            patch.setattr(run, "measure", lambda *row: interrupted() if instant else measured(*row))
            assert main([*ARGV, str(output)]) == 130
    command = f"To draw them: python -m benchmarks plot '{output}'\n"
    assert f"Results: {output}\n{command}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [output]
    assert main(["plot", str(output)]) == 0
    assert output.with_suffix(".png").exists()


def test_a_run_that_cannot_draw_says_why(tmp_path, monkeypatch, capsys, instant):
    output, taken = tmp_path / "results.json", tmp_path / "results.png"
    taken.mkdir()
    command = f"To draw them: python -m benchmarks plot {output}\n"
    assert main([*ARGV, str(output)]) == 0
    assert f"cannot write {taken}: Is a directory\n{command}" in capsys.readouterr().out
    for name in list(sys.modules):
        if name.partition(".")[0] == "matplotlib" or name == "benchmarks.plot":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    assert main([*ARGV, str(output)]) == 0
    why = f"cannot draw {output}: matplotlib is not installed"
    assert f"{why}\n{command}" in capsys.readouterr().out
    assert main(["plot", str(output)]) == 2
    assert capsys.readouterr().err == f"python -m benchmarks: {why}\n"


def test_a_run_of_torch_nn_alone_has_none(tmp_path, capsys, instant):
    output = tmp_path / "results.json"
    assert main([*ARGV, str(output), "--native-only"]) == 0
    assert capsys.readouterr().out.endswith(f"Results: {output}\n")
    assert list(tmp_path.iterdir()) == [output]


def test_a_short_picture(tmp_path, capsys, instant):
    output = tmp_path / "results.json"
    assert main([*ARGV, str(output)]) == 0
    assert main(["plot", str(output), "--case", "tiny"]) == 0
    with pytest.raises(SystemExit) as stop:
        main(["plot", str(output), "--case", "tiny", "medium"])
    assert stop.value.code == 2
    complaint = "argument --case: no 'medium' in the file (choose from tiny, small)\n"
    assert capsys.readouterr().err == f"python -m benchmarks plot: {complaint}"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws records; returns the figure."""

    def draw(*records):
        figures = []
        monkeypatch.setattr(plot.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        results = Results(tmp_path / "results.json", ENVIRONMENT | MACHINE)
        results.rows = {str(number): record for number, record in enumerate(records)}
        plot.plot(results, tmp_path / "results.png")
        return figures[0]

    return draw


MACHINE = {"os": "an OS", "flush_denormal": False, "date": "2026-01-01", "torch": "2.9"}
(ROW, *_) = run.rows([CASES["tiny"]], ["GRU"], ["float32"], "cpu", True)


def words(figure):
    return [text.get_text() for text in (*figure.texts, *figure.legends[0].get_texts())]


def test_rows_of_the_same_operator_are_grey(drawn):
    alike = invented(ROW, plan="aten")
    for records, grey in (([alike, invented(ROW)], True), ([invented(ROW)], False)):
        figure = drawn(*records)
        colours = {line.get_color() for line in figure.axes[0].lines}
        assert (plot.GREY in colours) == (f"{SAME} on both sides" in words(figure)) == grey


def test_bars_of_a_busy_machine_leave_room_for_the_dots(drawn):
    alike = invented(ROW, plan="aten", ratio=(0.001, 0.01, 0.1))
    wide, steady = (invented(ROW, ratio=ratio) for ratio in ((0.01, 1.0, 500.0), (2.9, 3.0, 3.1)))
    figure = drawn(steady, wide, *[alike, steady] * 10)
    low, high = figure.axes[0].get_xlim()
    assert 0.3 < low < 0.5
    assert 3.1 < high < 10
    assert not any("These times are not steady" in text for text in words(drawn(steady, wide)))
    assert drawn(alike).axes[0].get_xlim()[0] < 0.01
    figure = drawn(wide, wide)
    assert any("These times are not steady: in 2 of 2 rows" in text for text in words(figure))
