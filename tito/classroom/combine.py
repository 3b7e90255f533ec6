"""What is graded: the student's solutions between the master's own given cells and tests.

Whatever a student did to a test or to a given cell, the master's is what runs; what the student may
write runs as the student wrote it. Nothing here trusts the submission to be a proper notebook.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from nbformat import NotebookNode

MOST_NOTES = 50
LONGEST_NAME = 60
_HIDDEN = re.compile(
    r"^.*### BEGIN HIDDEN TESTS.*\n(?:.*\n)*?.*### END HIDDEN TESTS.*(?:\n|\Z)", re.MULTILINE
)
# of the student's own cells: `%timeit f()`, `!ls`, `f?` are no Python; nor is all below `%%bash`
_IPYTHON_LINE = re.compile(r"^([ \t]*)(?:%%?[a-zA-Z].*|!\w.*|[\w.]+\?)$", re.MULTILINE)
_OTHER_LANGUAGE = re.compile(r"\s*%%(?!time|capture|prun)\w")

Kind = Literal["given", "solution", "test", "own"]


@dataclass(frozen=True)
class Cell:
    """A code cell to run: the master's, if it is given or a test, else the student's."""

    id: str  # grade_id, else the lesson's cell id; "own-7" is the submission's seventh cell
    kind: Kind
    source: str


@dataclass
class Combined:
    """The code cells in the order in which they run, written answers, and what was odd."""

    cells: list[Cell]
    answers: dict[str, str]  # by grade_id: what a person reads and gives points for
    notes: list[str]


@dataclass(frozen=True)
class _Known:
    """A cell of the master, and how the student was shown it."""

    name: str
    kind: Literal["given", "solution", "test", "text"]
    type: str  # "code" or "markdown"
    source: str
    visible: str
    is_locked: bool
    is_answer: bool


@dataclass(frozen=True)
class _Handed:
    """A cell of the submission, as far as it can be read."""

    number: int
    type: str
    source: str
    id: str
    grade_id: str
    is_solution: bool


@dataclass
class _Matches:
    """Which cell of the submission stands for which of the master's, by place in the master."""

    chosen: dict[int, _Handed] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    order: list[int] = field(default_factory=list)  # the master's cells, as the student has them
    own: dict[int, list[_Handed]] = field(default_factory=lambda: defaultdict(list))


def combine(master: NotebookNode, submission: NotebookNode) -> Combined:
    """The cells of `master` with the solutions, answers and added cells of `submission`.

    A solution that is missing is "". A cell of the student's own runs after the nearest cell above
    it that the master has too; so does a copy, and an example (a cell that nbgrader leaves alone)
    that the student changed, before the master's.
    """
    known = [_known(cell) for cell in master.cells]
    damaged: list[str] = []
    handed = list(_handed(submission, damaged))
    matches = _match(known, handed)
    notes: list[str] = []
    cells = [_own(cell) for cell in matches.own[-1]]
    answers = {}
    moved = _moved(matches.order)
    for place, cell in enumerate(known):
        mine = matches.chosen.get(place)
        notes += _notes(cell, mine, matches.copies[place], place in moved)
        if cell.is_answer:
            answers[cell.name] = mine.source if mine else ""
        if cell.kind == "solution":
            source = mine.source if mine and mine.type == "code" else ""
            cells.append(Cell(cell.name, cell.kind, source))
        elif cell.kind != "text":
            cells.append(Cell(cell.name, cell.kind, cell.source))
        cells += [_own(each) for each in matches.own[place]]
    notes += _foreign(known, handed) + damaged
    if len(notes) > MOST_NOTES:
        notes[MOST_NOTES:] = [f"and {len(notes) - MOST_NOTES} more such lines"]
    return Combined(cells, answers, notes)


def title(source: str) -> str:
    """How a person finds a cell without a name: by its first line of code."""
    lines = (line.strip() for line in islice(source.splitlines(), 100))
    return _printable(next((line for line in lines if line and line[0] != "#"), "empty"))


@lru_cache(maxsize=4096)  # each submission is compared with the same cells
def visible(source: str) -> str:
    """What a student is shown of a master's cell."""
    return _bare(_HIDDEN.sub("", source))


def _known(cell: NotebookNode) -> _Known:
    grading = cell.metadata.get("nbgrader", {})
    is_solution, is_graded = bool(grading.get("solution")), bool(grading.get("grade"))
    kind: Any = "solution" if is_solution else "test" if is_graded else "given"
    return _Known(
        name=grading.get("grade_id") or cell.get("id", ""),
        kind=kind if cell.cell_type == "code" else "text",
        type=cell.cell_type,
        source=cell.source,
        visible=visible(cell.source),
        is_locked=bool(grading) and not is_solution,
        is_answer=is_solution and is_graded,
    )


def _handed(submission: Any, damaged: list[str]) -> Iterator[_Handed]:
    """The cells that can be read; `damaged` gets a line for each of the others."""
    cells = submission.get("cells") if isinstance(submission, Mapping) else None
    for number, cell in enumerate(cells if isinstance(cells, list) else [], 1):
        source = cell.get("source") if isinstance(cell, Mapping) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str):
            damaged.append(f"cell {number} is damaged: it is left out")
            continue
        metadata = cell.get("metadata")
        grading = metadata.get("nbgrader") if isinstance(metadata, Mapping) else None
        grading = grading if isinstance(grading, Mapping) else {}
        yield _Handed(
            number=number,
            type=_text(cell.get("cell_type")),
            source=source,
            id=_text(cell.get("id")),
            grade_id=_text(grading.get("grade_id")),
            is_solution=grading.get("solution") is True,
        )


def _match(known: list[_Known], handed: list[_Handed]) -> _Matches:
    """Find the master's cells by name, by id where the metadata was lost, and by their text where
    there are no ids (Colab drops them)."""
    by_name = {cell.name: place for place, cell in enumerate(known)}
    by_text = {(c.type, c.visible): place for place, c in enumerate(known) if c.visible}
    places = []
    for cell in handed:
        place = by_name.get(cell.grade_id or cell.id)
        if place is None and not cell.grade_id:
            place = by_text.get((cell.type, _bare(cell.source)))
        places.append(place)
    matches = _Matches()
    # of cells with one name, the first of the right sort is the one that was given out
    for fits in (_is_same_sort, _is_same_type, lambda known, cell: True):
        for cell, place in zip(handed, places, strict=True):
            if place is not None and place not in matches.chosen and fits(known[place], cell):
                matches.chosen[place] = cell
    above = -1
    for cell, place in zip(handed, places, strict=True):
        if place is None or matches.chosen[place] is not cell:
            _add(cell, matches.own[above])
            if place is not None:
                matches.copies[place] += 1
            continue
        if _is_changed_example(known[place], cell):
            _add(cell, matches.own[above])
        matches.order.append(place)
        above = place
    return matches


def _add(cell: _Handed, own: list[_Handed]) -> None:
    """Let a cell of the student's run with those in `own`, if it is code."""
    if cell.type == "code":
        own.append(cell)


def _is_changed_example(known: _Known, cell: _Handed) -> bool:
    is_example = known.kind == "given" and not known.is_locked
    return is_example and _bare(cell.source) != known.visible


def _is_same_sort(known: _Known, cell: _Handed) -> bool:
    return known.type == cell.type and cell.is_solution == (known.kind == "solution")


def _is_same_type(known: _Known, cell: _Handed) -> bool:
    return known.type == cell.type


def _notes(cell: _Known, mine: _Handed | None, copies: int, is_moved: bool) -> Iterator[str]:
    """What the student did to a cell of the master that nbgrader knows."""
    is_written = cell.kind == "solution" or cell.is_answer
    if not (is_written or cell.is_locked) or not (cell.visible or mine):
        return  # a text or example is free to change; a cell without visible text was not given out
    instead = "nothing stands in its place" if is_written else "the course's own is used"
    if mine is None:
        yield f"{cell.name} was deleted: {instead}"
        return
    if cell.kind == "text" and is_written:  # a person reads it, wherever and whatever it is
        if copies:
            yield f"{cell.name} is there {copies + 1} times: the first is read"
        return
    if mine.type != cell.type:
        yield f"{cell.name} is no {cell.type} cell any more: {instead}"
    elif not is_written and _bare(mine.source) != cell.visible:
        yield f"{cell.name} was edited: {instead}"
    if is_moved:
        yield f"{cell.name} was moved: it runs in its place in the lesson"
    if copies:
        yield f"{cell.name} is there {copies + 1} times: copies run where they stand, for no points"


def _foreign(known: list[_Known], handed: list[_Handed]) -> list[str]:
    """A line for each name that the master doesn't have."""
    names = {cell.name for cell in known}
    foreign = dict.fromkeys(c.grade_id for c in handed if c.grade_id and c.grade_id not in names)
    return [f"{_printable(name)} is no cell of this lesson: it earns no points" for name in foreign]


def _moved(order: list[int]) -> set[int]:
    """The places outside of the longest ascending part of `order`."""
    ends: list[int] = []  # the smallest last place of an ascending part, by its length
    lengths = []
    for place in order:
        length = bisect_left(ends, place)
        ends[length : length + 1] = [place]
        lengths.append(length)
    wanted = len(ends) - 1
    moved = set()
    for place, length in zip(reversed(order), reversed(lengths), strict=True):
        if length == wanted:
            wanted -= 1
        else:
            moved.add(place)
    return moved


def _own(cell: _Handed) -> Cell:
    is_python = not _OTHER_LANGUAGE.match(cell.source)
    source = _IPYTHON_LINE.sub(r"\1pass", cell.source) if is_python else ""
    return Cell(f"own-{cell.number}", "own", source)


def _bare(source: str) -> str:
    """The text without what editors add or take away at the ends of lines."""
    return "\n".join(line.rstrip() for line in source.splitlines()).strip("\n")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _printable(text: str) -> str:
    """A name that can be shown in a line, whatever it holds."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: LONGEST_NAME + 1])
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 3]}..."
