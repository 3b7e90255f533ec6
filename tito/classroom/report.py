"""How a class did in a module: points, and what each graded cell says about the students."""

from __future__ import annotations

import io
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tito.classroom.marks import Mark
from tito.course import Module
from tito.errors import TitoError
from tito.files import atomic_write

BINS = 10  # of the histogram: 0-10 %, ..., 90-100 %
Data = dict[str, Any]


def summary(marks: Sequence[Mark]) -> Data:
    """Mean, median, quartiles and range of the points, and how many students are in each tenth.

    Counts those who were graded; the histogram's last bin holds its upper end too.
    """
    points = [mark.points for mark in marks if mark.graded]
    if not points:
        return {"graded": 0, "histogram": [0] * BINS}
    bins = [min(int(mark.percent * BINS / 100), BINS - 1) for mark in marks if mark.graded]
    quartiles = statistics.quantiles(points, n=4, method="inclusive") if points[1:] else points * 3
    return {
        "graded": len(points),
        "mean": statistics.fmean(points),
        "median": quartiles[1],
        "lower_quartile": quartiles[0],
        "upper_quartile": quartiles[2],
        "lowest": min(points),
        "highest": max(points),
        "histogram": [bins.count(index) for index in range(BINS)],
    }


def item_analysis(marks: Sequence[Mark]) -> list[Data]:
    """What each graded cell says: who has all its points, what the others are told, and how well
    it tells strong students from weak ones.

    A submission that couldn't be graded says nothing, nor does a cell that waits for a person.
    """
    graded = [mark for mark in marks if mark.graded]
    names = dict.fromkeys(cell.result.id for mark in graded for cell in mark.cells)
    waiting = {cell.result.id for mark in graded for cell in mark.cells if cell.waiting}
    return [_item(name, graded, waiting) for name in names]


def _item(name: str, graded: Sequence[Mark], waiting: set[str]) -> Data:
    """One cell's part; the rest score leaves out what isn't graded for everybody yet."""
    cells = [(mark, cell) for mark in graded for cell in mark.cells if cell.result.id == name]
    known = [(mark, cell) for mark, cell in cells if not cell.waiting]
    passed = [cell.passed for _, cell in known]
    left_out = waiting | {name}
    rest = [sum(c.points for c in mark.cells if c.result.id not in left_out) for mark, _ in known]
    messages = Counter(
        cell.result.message for _, cell in known if cell.result.message and not cell.passed
    )
    return {
        "id": name,
        "possible": cells[0][1].result.possible,
        "by_hand": any(cell.result.by_hand for _, cell in cells),
        "graded": len(known),
        "waiting": len(cells) - len(known),
        "passed": statistics.fmean(passed) if passed else None,
        "discrimination": discrimination(passed, rest),
        "fails_for": [mark.student.id for mark, cell in known if not cell.passed],
        "messages": [{"message": text, "count": n} for text, n in messages.most_common()],
    }


def discrimination(passed: Sequence[bool], rest: Sequence[float]) -> float | None:
    """The corrected point-biserial correlation of an item with the rest score, in [-1, 1].

    `(M1 - M0) / s * sqrt(p * (1 - p))`: M1 and M0 are the mean rest scores of those who pass and
    who fail, s the standard deviation of all, p the share that passes. That is Pearson's
    correlation; "corrected", as the item's own points are left out of the score (Crocker and
    Algina, Introduction to Classical and Modern Test Theory, 1986, chapter 14). None where
    everybody or nobody passes, or all rest scores are equal: there it is undefined.
    """
    try:
        return statistics.correlation([float(each) for each in passed], rest)
    except statistics.StatisticsError:
        return None


def draw(path: Path, module: Module, marks: Sequence[Mark]) -> None:
    """Write a figure of the histogram and of every item to `path` (.png, .pdf, .svg)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TitoError("--plot needs matplotlib: pip install 'tinytorch[plots]'") from None
    found, items = summary(marks), item_analysis(marks)
    figure = Figure(figsize=(11, 2.2 + 0.3 * max(len(items), 8)), layout="constrained")
    figure.suptitle(f"{module.folder}: {found['graded']} students graded")
    points, cells = figure.subplots(1, 2, width_ratios=(2, 3))
    width = 100 / BINS
    starts = [width * index for index in range(BINS)]
    bars = points.bar(
        starts, found["histogram"], width, align="edge", color="0.75", edgecolor="black"
    )
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # where a line goes through
    points.bar_label(bars, [n or "" for n in found["histogram"]], padding=3, bbox=white)
    if found["graded"]:
        full = max(mark.possible for mark in marks)
        for value, style, name in (("mean", "--", "mean"), ("median", ":", "median")):
            label = f"{name} {found[value]:.1f} of {full:g} points"
            points.axvline(100 * found[value] / full, color="black", linestyle=style, label=label)
        points.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    points.set(xlabel="share of the points (%)", ylabel="students (count)", xlim=(0, 100))
    points.yaxis.get_major_locator().set_params(integer=True)
    points.margins(y=0.1)
    for axes in (points, cells):
        axes.spines[["top", "right"]].set_visible(False)
    _draw_items(cells, [item for item in items if item["graded"] and not item["waiting"]])
    kind = path.suffix.lstrip(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise TitoError(f"{path}: no picture ends in that: use one of .{', .'.join(known)}")
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=150)
    atomic_write(path, picture.getvalue())


def _draw_items(axes: Any, items: list[Data]) -> None:
    """A bar an item for who passes, with the discrimination in words at its end."""
    names = [f"{item['id']} ({item['possible']:g})" for item in items]
    bars = axes.barh(
        names,
        [100 * item["passed"] for item in items],
        color="0.9",
        edgecolor="black",
        hatch=["//" if weak(item) else "" for item in items],
    )
    values = [item["discrimination"] for item in items]
    labels = [
        f"{100 * item['passed']:.0f} %, r {_number(r)}"
        for item, r in zip(items, values, strict=True)
    ]
    axes.bar_label(bars, labels, padding=4)
    axes.set(
        xlabel="students with all points of the cell (%)",
        ylabel="graded cell (points)",
        xlim=(0, 135),
        xticks=range(0, 101, 20),
    )
    axes.invert_yaxis()
    below = "; hatched: below 0.2, look at the cell" if any(map(weak, items)) else ""
    axes.set_title(f"r: correlation with the rest score{below}", fontsize="medium", loc="left")


def weak(item: Data) -> bool:
    """Whether a cell hardly tells strong students from weak ones: a correlation below 0.2."""
    return item["discrimination"] is not None and item["discrimination"] < 0.2


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"= {value:.2f}"
