"""--out is looked at before any work is done: where nothing can be saved, one line says so."""

import pytest

from examples import (
    common,
    data_flow,
    gates,
    long_memory,
    name_generator,
    surnames,
    tagging,
    vanishing,
    vocabulary,
)
from examples.char_rnn import __main__ as char_rnn
from examples.dates import __main__ as dates
from tests.commands import error_of

COMMANDS = {
    "char_rnn": lambda argv: char_rnn.main(["train", *argv]),
    "surnames": surnames.main,
} | {
    module.__name__.split(".")[1]: module.main
    for module in (
        *(data_flow, dates, gates, long_memory, name_generator),
        *(tagging, vanishing, vocabulary),
    )
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("below", ["", "new/folder"])
def test_a_file_in_its_place_is_named(command, below, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("kept")
    error = error_of(COMMANDS[command], ["--out", path / below], capsys)
    assert error.startswith(f"error: {path / below}: cannot be a folder (")
    assert error.endswith("); give another one with --out\n")
    assert path.read_text() == "kept"


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    """Told by the system, since root may write anywhere."""
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(common.UserError, match="a folder that cannot be written to; give another"):
        common.folder(tmp_path)
