"""The second opinion: nbgrader's own autograding, by real kernels, as results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from tito.classroom.folder import Classroom
from tito.classroom.results import CellResult, Result, write_result
from tito.course import Module
from tito.errors import TitoError
from tito.workspace import hash_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

ENGINE = "nbgrader"


def grade(
    classroom: Classroom,
    module: Module,
    students: Iterable[str],
    on_result: Callable[[Result], None] = lambda result: None,
    policy: str = "reference",
) -> None:
    """Let nbgrader autograde `module` for each student; keep each result, and hand it on.

    Points that a person gave stay in the gradebook.
    """
    from tito.classroom.nbgrader_app import convert
    from tito.classroom.source import ensure_released
    from tito.notebook import read_notebook

    ensure_released(classroom, module)
    master = read_notebook(classroom.source(module))
    version = hash_of(classroom.source(module).read_bytes())
    for student in students:
        result = Result(student, module.folder, ENGINE, policy, [])
        path = classroom.submission(student, module)
        try:
            with _policy(policy):
                convert(classroom, "Autograde", module, student)
            graded = read_notebook(classroom.autograded(student, module))
            result.cells = list(_cells(master, graded))
        except TitoError as error:
            result.cells, result.problem = list(_cells(master, None)), str(error)
        for cell in result.cells:
            cell.key = version
        result.notebook = hash_of(path.read_bytes()) if path.is_file() else ""
        result.graded = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        write_result(classroom, module, result)
        on_result(result)


def _cells(master: NotebookNode, graded: NotebookNode | None) -> Iterator[CellResult]:
    """What each of the master's graded cells earned; 0 without a graded notebook."""
    from nbgrader.utils import determine_grade

    from tito.classroom.preprocessors import verdict
    from tito.notebook import grade_id, graded_cells

    by_name = {grade_id(cell): cell for cell in graded.cells} if graded else {}
    for cell in graded_cells(master):
        name, possible = cell.metadata.nbgrader.grade_id, float(cell.metadata.nbgrader.points)
        by_hand = bool(cell.metadata.nbgrader.solution)
        result = CellResult(name, 0.0, possible, by_hand=by_hand)
        if not by_hand and name in by_name:
            result.points = float(determine_grade(by_name[name])[0] or 0.0)
            result.message, result.hidden = verdict(by_name[name])
        elif not by_hand:
            result.message = "it was not graded"
        yield result


@contextmanager
def _policy(policy: str) -> Iterator[None]:
    """Within the block, kernels make their overlays by `policy`."""
    from tito.classroom.kernel import POLICY

    old = os.environ.get(POLICY)
    os.environ[POLICY] = policy
    try:
        yield
    finally:
        if old is None:
            del os.environ[POLICY]
        else:
            os.environ[POLICY] = old
