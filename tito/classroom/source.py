"""The master notebooks in source/: generated from the lessons and the instructor's own tests.

private/02.py is a percent file. A cell titled like a test of the lesson extends it; one with
nbgrader's metadata is a new test at the end:

    # %% test-relu
    check(relu(Tensor([-0.0])).numpy(), [0.0], "zero is not negative")

    # %% nbgrader={"grade": true, "grade_id": "test-own", "points": 5}
    check(relu(Tensor([7.0])).numpy(), [7.0], "positive inputs stay")

Both are hidden as a whole, so that neither reaches release/.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tito.classroom.folder import Classroom
from tito.course import Module
from tito.errors import TitoError
from tito.files import atomic_write

if TYPE_CHECKING:
    from nbformat import NotebookNode

BEGIN, END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"


@dataclass(frozen=True)
class Refreshed:
    """What `refresh` did to a master notebook."""

    changed: bool
    note: str = ""  # what the instructor should hear


def refresh(classroom: Classroom, module: Module) -> Refreshed:
    """Generate the master of `module` anew where the lesson or the private tests changed.

    One that was edited by hand stays. Where the module was released, nbgrader's gradebook and the
    release get the new master.
    """
    from tito.notebook import read_notebook, write_notebook

    path, note, changed = classroom.source(module), "", False
    recipe = _recipe(classroom, module)
    old = read_notebook(path) if path.is_file() else None
    known = old.metadata.get("tito", {}) if old else {}
    is_current = bool(old) and known.get("recipe") == recipe
    if old and not is_current and known.get("cells") != _hash_of_cells(old):
        note = (
            f"source/{module.folder} was edited by hand and stays as it is, though the lesson or "
            f"private/{module.number}.py changed since: delete it to have it made anew"
        )
    elif not is_current:
        notebook = master(classroom, module)
        notebook.metadata["tito"] = {"recipe": recipe, "cells": _hash_of_cells(notebook)}
        write_notebook(path, notebook)
        changed = True
    if classroom.release(module).is_file() and _released_from(classroom, module) != _hash(path):
        release(classroom, module)
    return Refreshed(changed, note)


def release(classroom: Classroom, module: Module) -> None:
    """Have nbgrader make the students' notebook from the master, and note the cells."""
    from tito.classroom.gradebook import admit_new_cells
    from tito.classroom.nbgrader_app import convert

    admit_new_cells(classroom, module)
    convert(classroom, "GenerateAssignment", module)
    record = classroom.root / ".tito" / "released" / module.folder
    atomic_write(record, _hash(classroom.source(module)) + "\n")


def ensure_released(classroom: Classroom, module: Module) -> None:
    """Release `module` unless nbgrader's gradebook has it."""
    from nbgrader.api import MissingEntry

    from tito.classroom.nbgrader_app import open_gradebook

    try:
        with open_gradebook(classroom) as gradebook:
            gradebook.find_notebook(module.name, module.folder)
    except MissingEntry:
        refresh(classroom, module)
        release(classroom, module)


def master(classroom: Classroom, module: Module) -> NotebookNode:
    """The lesson with solutions, hidden tests and the instructor's own tests."""
    from tito.notebook import name_cells, read_module

    notebook = read_module(module)
    path = classroom.private(module)
    if path.is_file():
        _merge(notebook, path.read_text(encoding="utf-8"), f"private/{path.name}")
        name_cells(notebook)
    return notebook


def _merge(notebook: NotebookNode, text: str, name: str) -> None:
    """Put the private tests of `text` into the notebook; TitoError in terms of the file `name`."""
    from tito.notebook import grade_id, graded_cells, read_percent

    try:
        ast.parse(text)
    except SyntaxError as error:
        raise TitoError(f"{name}, line {error.lineno}: {error.msg}") from None
    known = {grade_id(cell) for cell in notebook.cells}
    tests = {grade_id(cell): cell for cell in graded_cells(notebook) if cell.cell_type == "code"}
    seen: set[str | None] = set()
    for cell in read_percent(text).cells:
        if cell.cell_type != "code" or not ast.parse(cell.source).body:
            continue  # the author's own notes
        new = "nbgrader" in cell.metadata
        title = grade_id(cell) if new else cell.metadata.get("title")
        if not title:
            raise TitoError(
                f"{name}: the cell {cell.source.splitlines()[0]!r} names no test: begin it with "
                "`# %% test-relu`, the grade_id of one, or give it nbgrader's metadata"
            )
        if title in seen or (new and title in known):
            raise TitoError(f"{name}: there is a cell {title} already: choose another grade_id")
        if "HIDDEN TESTS" in cell.source:
            raise TitoError(f"{name}, {title}: drop the HIDDEN TESTS markers: all of it is hidden")
        seen.add(title)
        hidden = f"{BEGIN}\n{cell.source}\n{END}"
        if new:
            cell.source, cell.metadata = hidden, _graded(cell, name)
            notebook.cells.append(cell)
        elif title in tests:
            tests[title].source += f"\n\n{hidden}"
        else:
            raise TitoError(
                f"{name}: the lesson has no test {title}; it has {', '.join(map(str, tests))}"
            )


def _graded(cell: NotebookNode, name: str) -> NotebookNode:
    """The metadata of a new test cell, complete."""
    import nbformat

    given = cell.metadata.nbgrader
    points = given.get("points")
    if not isinstance(points, int | float) or points < 0:
        raise TitoError(f'{name}, {given.grade_id}: say what it is worth, as in "points": 5')
    fixed = {"grade": True, "solution": False, "locked": True, "task": False, "schema_version": 3}
    return nbformat.from_dict({"nbgrader": {**given, **fixed}})


def _recipe(classroom: Classroom, module: Module) -> str:
    """A hash of all that the master is made from."""
    private = classroom.private(module)
    parts = [module.source.read_bytes(), private.read_bytes() if private.is_file() else b""]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _hash_of_cells(notebook: NotebookNode) -> str:
    """A hash of what the cells say and how they are graded."""
    cells = [(c.cell_type, c.source, c.metadata.get("nbgrader")) for c in notebook.cells]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:16]


def _released_from(classroom: Classroom, module: Module) -> str:
    """The hash of the master that was last released; "" if nbgrader released it without us."""
    record = classroom.root / ".tito" / "released" / module.folder
    return record.read_text(encoding="utf-8").strip() if record.is_file() else ""


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
