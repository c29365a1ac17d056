"""Where the picture of a results file is, and how it comes about."""

from pathlib import Path

from benchmarks.results import Results, ResultsError


def beside(results: Path) -> Path:
    """The picture's path for that of the results, whatever that ends in."""
    path = results.with_suffix(".png")
    return path if path != results else results.with_name(f"{results.name}.png")


def draw(results: Results, path: Path) -> None:
    # matplotlib takes a second to import, and measuring needs none of it.
    try:
        from benchmarks.plot import plot
    except ModuleNotFoundError as error:
        missing = error.name.partition(".")[0]
        raise ResultsError(f"cannot draw {results.path}: {missing} is not installed") from error
    try:
        plot(results, path)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror}") from error
