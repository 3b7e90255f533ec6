"""What the fast grader found, as nbgrader keeps it: grades and comments, and graded notebooks.

Rows go into nbgrader's own tables by its classes, a hundred students a commit: its methods, which
commit one by one, would take minutes for a thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from tito.classroom.folder import Classroom
from tito.classroom.graded_notebook import Answer, answers, answers_in, graded_notebook
from tito.classroom.results import Result
from tito.course import Module
from tito.errors import TitoError
from tito.files import atomic_write

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from nbgrader.api import Gradebook, Notebook

AT_ONCE = 100
NO_RESPONSE = "No response."  # nbgrader's words


def record(classroom: Classroom, module: Module, results: Iterable[Result]) -> int:
    """Write results into the gradebook and into autograded/; returns how many.

    Points that a person gave stay; where the answer or the tests' points changed since, nbgrader
    asks for another look. A module that was never released is released first.
    """
    from tito.classroom.nbgrader_app import open_gradebook
    from tito.classroom.preprocessors import template
    from tito.classroom.source import ensure_released

    ensure_released(classroom, module)
    count = 0
    with open_gradebook(classroom) as gradebook:
        notebook = gradebook.find_notebook(module.name, module.folder)
        writer = _Writer(classroom, module, gradebook, notebook, template(classroom, module))
        for batch in _batches(results):
            writer.write(batch)
            count += len(batch)
    return count


def admit_new_cells(classroom: Classroom, module: Module) -> None:
    """Let the gradebook have the cells that the master got after students handed in.

    nbgrader refuses them then. TitoError where one has gone from the master.
    """
    from nbgrader.api import Comment, Grade, MissingEntry

    from tito.classroom.nbgrader_app import open_gradebook
    from tito.classroom.preprocessors import template

    name, assignment = module.name, module.folder
    with open_gradebook(classroom) as gradebook:
        try:
            notebook = gradebook.find_notebook(name, assignment)
        except MissingEntry:
            return
        if not notebook.submissions:
            return  # nbgrader takes whatever comes
        cells = [c for c in template(classroom, module).cells if "nbgrader" in c.metadata]
        present = {cell.metadata.nbgrader.grade_id: cell for cell in cells}
        gone = {cell.name for cell in notebook.source_cells} - set(present)
        if gone:
            raise TitoError(
                f"source/{module.folder} has no cell {min(gone)} any more, which students handed "
                "in: put it back, or remove the submissions by nbgrader db assignment remove"
            )
        grades = {cell.name for cell in notebook.grade_cells}
        solutions = {cell.name for cell in notebook.solution_cells}
        sources = {cell.name for cell in notebook.source_cells}
        for id, cell in present.items():
            grading = cell.metadata.nbgrader
            if grading.grade and id not in grades:
                worth = {"max_score": float(grading.points), "cell_type": cell.cell_type}
                new = gradebook.add_grade_cell(id, name, assignment, **worth)
                for submission in notebook.submissions:
                    gradebook.db.add(Grade(cell_id=new.id, notebook_id=submission.id))
            if grading.solution and id not in solutions:
                new = gradebook.add_solution_cell(id, name, assignment)
                for submission in notebook.submissions:
                    gradebook.db.add(Comment(cell_id=new.id, notebook_id=submission.id))
            if id not in sources:
                gradebook.add_source_cell(id, name, assignment, cell_type=cell.cell_type)
        gradebook.db.commit()


class _Writer:
    """Writes batches of results of one module."""

    def __init__(
        self,
        classroom: Classroom,
        module: Module,
        gradebook: Gradebook,
        notebook: Notebook,
        template: NotebookNode,
    ):
        self.classroom, self.module, self.db = classroom, module, gradebook.db
        self.template = template
        self.notebook, self.assignment = notebook.id, notebook.assignment.id
        self.grade_cells = {cell.name: cell.id for cell in notebook.grade_cells}
        self.solution_cells = {cell.name: cell.id for cell in notebook.solution_cells}

    def write(self, results: list[Result]) -> None:
        """Keep the results of some students: notebooks first, so that every grade has its page."""
        submitted = self._submitted_notebooks(results)
        grades, comments = self._old("Grade", submitted), self._old("Comment", submitted)
        rows: dict[str, list[dict[str, Any]]] = {"Grade": [], "Comment": []}
        for result in results:
            path = self.classroom.submission(result.student, self.module)
            graded = graded_notebook(path, self.template, result)
            page = submitted[result.student]
            rows["Grade"] += self._grades(result, page, answers(graded), grades)
            for name, cell in self.solution_cells.items():
                said = None if answers(graded)[name].is_written else NO_RESPONSE
                old = _row(comments.get((page, cell), {}), (page, cell))
                rows["Comment"].append(old | {"auto_comment": said})
            self._keep(result.student, graded)
        for table, entries in rows.items():
            self._store(table, entries)
        self.db.commit()

    def _grades(
        self,
        result: Result,
        page: str,
        written: dict[str, Answer],
        grades: dict[tuple[str, str], dict[str, Any]],
    ) -> Iterator[dict[str, Any]]:
        """The rows of a student's grades, made of the old ones."""
        known = [grades.get((page, cell), {}) for cell in self.grade_cells.values()]
        before = {}
        if any(old.get("manual_score") is not None for old in known):
            before = answers_in(self.classroom.autograded(result.student, self.module))
        for cell in result.cells:
            if cell.id not in self.grade_cells:
                continue  # gone from the master since
            key = (page, self.grade_cells[cell.id])
            old = grades.get(key, {})
            score: float | None = cell.points
            if cell.by_hand:
                score = None if written[cell.id].is_written else 0.0
            look = score is None
            if old.get("manual_score") is not None:
                changed = score != old["auto_score"] or written.get(cell.id) != before.get(cell.id)
                look = old["needs_manual_grade"] or changed
            yield _row(old, key) | {"auto_score": score, "needs_manual_grade": look}

    def _submitted_notebooks(self, results: list[Result]) -> dict[str, str]:
        """The id of each student's notebook in the gradebook; who is not there is added."""
        from nbgrader.api import Student, SubmittedAssignment, SubmittedNotebook
        from sqlalchemy import select

        students = [result.student for result in results]
        enrolled = set(self.db.scalars(select(Student.id).where(Student.id.in_(students))))
        self._insert(Student, [{"id": each} for each in students if each not in enrolled])
        where = (
            SubmittedAssignment.assignment_id == self.assignment,
            SubmittedAssignment.student_id.in_(students),
        )
        query = select(SubmittedAssignment.student_id, SubmittedAssignment.id).where(*where)
        handed_in = dict(self.db.execute(query).all())
        new = {each: _new_id() for each in students if each not in handed_in}
        self._insert(
            SubmittedAssignment,
            [
                {"id": id, "student_id": student, "assignment_id": self.assignment}
                for student, id in new.items()
            ],
        )
        handed_in |= new
        self._update(
            SubmittedAssignment,
            [{"id": id, "timestamp": self._timestamp(each)} for each, id in handed_in.items()],
        )
        query = select(SubmittedNotebook.assignment_id, SubmittedNotebook.id).where(
            SubmittedNotebook.notebook_id == self.notebook,
            SubmittedNotebook.assignment_id.in_(handed_in.values()),
        )
        pages = dict(self.db.execute(query).all())
        missing = {id: _new_id() for id in handed_in.values() if id not in pages}
        self._insert(
            SubmittedNotebook,
            [
                {"id": page, "assignment_id": id, "notebook_id": self.notebook}
                for id, page in missing.items()
            ],
        )
        pages |= missing
        flagged = [pages[handed_in[result.student]] for result in results if result.flags]
        self._update(SubmittedNotebook, [{"id": page, "flagged": True} for page in flagged])
        return {student: pages[id] for student, id in handed_in.items()}

    def _old(self, table: str, submitted: dict[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
        """The rows that are there, by notebook and cell."""
        from nbgrader import api
        from sqlalchemy import select

        columns = getattr(api, table).__table__.c
        query = select(columns).where(columns.notebook_id.in_(submitted.values()))
        rows = (dict(row) for row in self.db.execute(query).mappings())
        return {(row["notebook_id"], row["cell_id"]): row for row in rows}

    def _store(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Insert the rows without an id, update the others."""
        from nbgrader import api

        model = getattr(api, table)
        self._insert(model, [{**row, "id": _new_id()} for row in rows if "id" not in row])
        self._update(model, [row for row in rows if "id" in row])

    def _insert(self, model: Any, rows: list[dict[str, Any]]) -> None:
        from sqlalchemy import insert

        if rows:
            self.db.execute(insert(model), rows)

    def _update(self, model: Any, rows: list[dict[str, Any]]) -> None:
        from sqlalchemy import update

        if rows:
            self.db.execute(update(model), rows)

    def _timestamp(self, student: str) -> Any:
        """When the student handed in, as nbgrader reads it; None if nothing says so."""
        from nbgrader.utils import parse_utc

        path = self.classroom.submission(student, self.module).parent / "timestamp.txt"
        try:
            return parse_utc(path.read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            return None

    def _keep(self, student: str, graded: NotebookNode) -> None:
        """Write the graded notebook, and beside it when it was handed in, as nbgrader does."""
        path = self.classroom.autograded(student, self.module)
        atomic_write(path, json.dumps(graded))
        stamp = self.classroom.submission(student, self.module).parent / "timestamp.txt"
        copy = path.parent / stamp.name
        if stamp.is_file() and not (copy.is_file() and copy.read_bytes() == stamp.read_bytes()):
            atomic_write(copy, stamp.read_bytes())


def _row(old: dict[str, Any], key: tuple[str, str]) -> dict[str, Any]:
    """What names a row: its id, or for a new one the notebook and the cell."""
    return {"id": old["id"]} if old else {"notebook_id": key[0], "cell_id": key[1]}


def _new_id() -> str:
    from nbgrader.api import new_uuid

    return new_uuid()


def _batches(results: Iterable[Result]) -> Iterator[list[Result]]:
    rest = iter(results)
    while batch := list(islice(rest, AT_ONCE)):
        yield batch
