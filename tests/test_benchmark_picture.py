"""Results of the benchmark as a picture."""

import pytest

from benchmarks.__main__ import main

pytestmark = pytest.mark.usefixtures("short_blocks")


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
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
