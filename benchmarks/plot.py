"""Results as a picture: a dot for every ratio on a logarithmic scale, a panel for every dtype."""

from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from benchmarks import busy, machine
from benchmarks.cases import ALL_CELLS, FORWARD, TRAINING
from benchmarks.results import Results
from benchmarks.row import OK
from benchmarks.standing import SAME, compared, duels, same_operator
from benchmarks.summary import LABELS

# Okabe's and Ito's colours, which colour-blind readers tell apart.
COLOURS = {"LSTM": "#0072B2", "GRU": "#D55E00", "RNN": "#009E73"}
INK, FAINT, LOSS, GREY = "#222222", "#777777", "#F7EDEA", "#A8A8A8"
# Inches. A README shows a picture about 880 pixels wide, where of 9 inches 7 points stay legible.
WIDTH, LINE, ABOVE, BELOW, LEFT, RIGHT = 9.0, 0.15, 0.85, 0.75, 2.05, 0.15
COARSE = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
FINE = tuple(sorted({*COARSE, 0.3, 0.7, 1.5, 3, 7, 15, 30, 70}))
# A disc fits into a ring: both are seen where they meet.
RING = {"markersize": 6.5, "markeredgewidth": 1, "markerfacecolor": "white", "zorder": 5}
DISC = {"markersize": 4, "zorder": 6}
DOTS = {FORWARD: RING, TRAINING: DISC}


class Layout(NamedTuple):
    """Where things are, in lines from the top."""

    rows: dict[tuple[str, str, str], float]
    cases: list[tuple[float, str, str]]
    kinds: list[tuple[float, str]]
    lines: float


def plot(results: Results, path: Path) -> None:
    """Draw `results` to `path`, a .png or .svg."""
    records = list(results.rows.values())
    dtypes = list(dict.fromkeys(record["dtype"] for record in records))
    layout = _layout(records)
    height = layout.lines * LINE + ABOVE + BELOW
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(1, len(dtypes), sharex=True, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(
        left=LEFT / WIDTH,
        right=1 - RIGHT / WIDTH,
        bottom=BELOW / height,
        top=1 - ABOVE / height,
        wspace=0.06,
    )
    for axes, dtype in zip(panels, dtypes, strict=True):
        _frame(axes, _limits(records), FINE if len(dtypes) == 1 else COARSE, layout)
        axes.set_title(dtype, fontsize=7, color=INK, loc="right", pad=4)
        _draw(axes, [record for record in records if record["dtype"] == dtype], layout)
    _label(panels[0], layout)
    _surround(figure, height, records, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, facecolor="white")


def _layout(records: list[dict]) -> Layout:
    """Kinds under headings, in a kind its cases, in a case a line for every cell."""
    groups: dict[str, dict[str, list[dict]]] = {}
    for record in records:
        groups.setdefault(record["kind"], {}).setdefault(record["case"], []).append(record)
    rows, labels, headings, line = {}, [], [], 0.0
    for kind, cases in groups.items():
        headings.append((line + 0.7, kind))
        line += 2
        for case, members in cases.items():
            cells = [cell for cell in ALL_CELLS if any(m["cell"] == cell for m in members)]
            # A label has two lines of text, and so takes two lines even beside a single cell.
            lines = max(2, len(cells))
            middle = line + (lines - 1) / 2
            labels.append((middle, case, members[0]["shape"]))
            for number, cell in enumerate(cells):
                rows[kind, case, cell] = middle + number - (len(cells) - 1) / 2
            line += lines + 0.9
    return Layout(rows, labels, headings, line)


def _limits(records: list[dict]) -> tuple[float, float]:
    """Both ends of the scale, with 1 well inside.

    No bar draws them further out than twice what the medians ask for, and no row of the same
    operator at all: on a busy machine these reach to a hundredth, and leave no room for the others.
    """
    ratios = [record["ratio"] for record in compared(records) or duels(records)]
    low, high = (pick(r["median"] for r in ratios) for pick in (min, max))
    low = min(0.8, max(low / 2, min(r["p20"] for r in ratios)))
    high = max(1.6, min(high * 2, max(r["p80"] for r in ratios)))
    return low / 1.25, high * 1.2


def _frame(
    axes: Axes, limits: tuple[float, float], ticks: tuple[float, ...], layout: Layout
) -> None:
    low, high = limits
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(layout.lines, 0)
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}×" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=7, colors=INK, length=0)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#E2E2E2", linewidth=0.6)
    axes.axvspan(low, 1, color=LOSS, zorder=0, linewidth=0)
    axes.axvline(1, color=INK, linewidth=1, zorder=2)
    above = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
    for side, text in (("right", "slower "), ("left", " faster")):
        axes.annotate(text, (1, 1), (0, 4), ha=side, fontsize=7, color=FAINT, **above)


def _draw(axes: Axes, records: list[dict], layout: Layout) -> None:
    """Forward is a ring, forward and backward a disc; both of a cell share a line. Rows of the same
    operator are grey."""
    failures: dict[float, list[str]] = {}
    for record in records:
        y = layout.rows[record["kind"], record["case"], record["cell"]]
        if record["status"] != OK:
            failures.setdefault(y, []).append(f"{LABELS[record['mode']]} {record['status']}")
            continue
        colour = GREY if same_operator(record) else COLOURS[record["cell"]]
        median, p20, p80 = (record["ratio"][name] for name in ("median", "p20", "p80"))
        axes.plot([1, median], [y, y], color=colour, linewidth=0.8, alpha=0.45, zorder=3)
        axes.plot([p20, p80], [y, y], color=colour, linewidth=2.2, zorder=4)
        axes.plot(median, y, "o", color=colour, **DOTS[record["mode"]])
    for y, words in failures.items():
        axes.annotate(
            ", ".join(words), (1, y), xycoords=axes.get_yaxis_transform(), ha="right", va="center",
            fontsize=6, color="#C00000", weight="bold",
        )  # fmt: skip


def _label(axes: Axes, layout: Layout) -> None:
    beside = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
    for y, name, shape in layout.cases:
        # Sizes in one line, what is special about them in the next.
        small = shape.replace(", ", "\n", 1)
        base = 3 * small.count("\n")
        axes.annotate(name, (0, y), (-6, base + 1), va="bottom", fontsize=8, color=INK, **beside)
        axes.annotate(small, (0, y), (-6, base), va="top", fontsize=6, color=FAINT, **beside)
    for y, kind in layout.kinds:
        axes.annotate(
            kind, (0, y), (-6, 0), va="center", fontsize=8, color=INK, weight="bold", **beside
        )


def _surround(figure: Figure, height: float, records: list[dict], results: Results) -> None:
    """Title and legend above, the axis' name and the machine below."""
    environment = results.environment
    figure.text(
        0.5, 1 - 0.2 / height, f"fastrnn on {environment['gpu'] or environment['cpu']}",
        fontsize=10, weight="bold", color=INK, ha="center", va="center",
    )  # fmt: skip
    cells = [cell for cell in ALL_CELLS if any(record["cell"] == cell for record in records)]
    handles = [Line2D([], [], color=COLOURS[cell], label=cell, linewidth=3) for cell in cells]
    if any(map(same_operator, records)):
        label = f"{SAME} on both sides"
        handles.append(Line2D([], [], color=GREY, label=label, linewidth=3))
    handles += [
        Line2D([], [], color=INK, marker="o", linestyle="", label=mode, **dot)
        for mode, dot in DOTS.items()
    ]
    figure.legend(
        handles=handles, loc="center", bbox_to_anchor=(0.5, 1 - 0.45 / height), ncols=len(handles),
        frameon=False, fontsize=8, handletextpad=0.4, handlelength=1.2, columnspacing=1.6,
    )  # fmt: skip
    scale = "torch.nn's time / fastrnn's: a dot is the median, its bar the 20th to 80th percentile"
    figure.text(0.5, 0.42 / height, scale, fontsize=7.5, color=INK, ha="center", va="center")
    caption = fill(machine.line(environment), 165)
    text, suffered = busy.report(results.rows.values(), environment, results.runs)
    if suffered:
        caption += "\n" + text.removesuffix(f" {busy.ADVICE}")
    figure.text(0.5, 0.2 / height, caption, fontsize=6, color=FAINT, ha="center", va="center")
