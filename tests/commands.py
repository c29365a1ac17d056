"""What the commands of the examples say to what they cannot take."""


def error_of(main, argv, capsys):
    """The one line of an error that ends a command with the code 2."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err
