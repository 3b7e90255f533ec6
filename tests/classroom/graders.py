"""The fast grader by itself, without a course folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import nbformat
from nbformat import NotebookNode

from tito.classroom import sandbox
from tito.classroom.assignment import Assignment, Grader, Submission
from tito.classroom.results import CellResult, Result
from tito.classroom.sandbox import Limits
from tito.course import Module, find_course
from tito.grading import Wrong, load_wrongs
from tito.notebook import grade_id, read_module

course = find_course()


@contextmanager
def open_grader(
    module: Module, master: NotebookNode | None = None, seconds: float = 10
) -> Iterator[Grader]:
    """A grader of `module` (or of `master` in its place) that knows what the reference gives."""
    text = nbformat.writes(master or read_module(module))
    limits = Limits(seconds=seconds)
    grader = Grader(
        Assignment(module.folder, text, "reference", limits, sandbox.available()), course
    )
    try:
        grader.note_expected()
        yield grader
    finally:
        grader.close()


def grade(grader: Grader, notebook: NotebookNode, known: Result | None = None) -> Result:
    """What ada gets for `notebook`."""
    return grader.grade(Submission("ada", json.dumps(notebook).encode()), known)


def cell(result: Result, name: str) -> CellResult:
    """What a result says of one cell."""
    return next(cell for cell in result.cells if cell.id == name)


def lost(result: Result) -> dict[str, str]:
    """Of the tests that earned nothing, what the student is told."""
    assert all(c.points in (0, c.possible) for c in result.cells)
    assert all(bool(c.message) == (c.points < c.possible) for c in result.cells if not c.by_hand)
    return {cell.id: cell.message for cell in result.cells if cell.message}


@cache
def sources(module: Module) -> dict[str, str]:
    """The cells of the lesson, solutions included, by grade_id."""
    cells = {grade_id(cell): cell.source for cell in read_module(module).cells}
    return {name: source for name, source in cells.items() if name}


def wrongs(module: Module) -> list[Wrong]:
    """The wrong solutions that the course knows of a module."""
    return load_wrongs(module.suite.with_name(f"wrong_{module.folder}.py"))
