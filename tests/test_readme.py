"""README's blocks of Python run as they stand, one after another, and show what README says."""

import doctest
import re
from pathlib import Path

from fastrnn import obstacles

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


class Alike(doctest.OutputChecker):
    """Figures that are drawn at random count as alike, "[...]" stands for anything."""

    def check_output(self, want, got, flags):
        return super().check_output(_without_figures(want), _without_figures(got), flags)


def _without_figures(text):
    text = re.sub(r"[▁-█]+", "#", text.replace("[...]", "..."))
    return re.sub(r"\d\S*", "#", text)


def test_blocks(monkeypatch):
    monkeypatch.setattr(obstacles, "INTERPRETED", False)  # as a reader without a GPU has it
    parse = doctest.DocTestParser().get_doctest
    runner = doctest.DocTestRunner(Alike(), verbose=False, optionflags=doctest.ELLIPSIS)
    names, shown = {}, []
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        if block.startswith(">>>"):
            runner.run(parse(block, names, "README", None, 0), out=shown.append, clear_globs=False)
        else:
            exec(block, names)
    assert not runner.failures, "".join(shown)
