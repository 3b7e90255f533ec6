"""What each student of a class has: the graders' points, and over them what people decided.

The engine's results say what every cell earned and why. nbgrader's gradebook is in charge of the
rest: points and comments that a person gave in formgrader, penalties, and who is in the class.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field

from tito.classroom.folder import Classroom
from tito.classroom.gradebook import NO_RESPONSE
from tito.classroom.gradebook_reading import Entry, Student, read_entries, read_roster
from tito.classroom.results import CellResult, Result, read_results
from tito.course import Module

MODULE_COLUMNS = (
    *("student", "module", "points", "possible", "percent", "by hand", "flags"),
    *("graded", "engine", "policy"),
)
ENGINES = ("fast", "nbgrader")
NOT_GRADED, NOT_HANDED_IN = "not graded yet", "nothing handed in"
LMS_COLUMNS = ("Student", "ID", "SIS Login ID", "Section")


@dataclass
class CellMark:
    """A graded cell: what the engine found, and what it counts."""

    result: CellResult
    points: float
    waiting: bool = False  # for a person to give points
    by_person: bool = False  # a person gave the points
    comment: str = ""

    @property
    def passed(self) -> bool:
        """Whether it has all its points (a cell without points: whether it failed nowhere)."""
        possible = self.result.possible
        return self.points >= possible if possible else self.result.passed


@dataclass
class Mark:
    """What a student has for a module."""

    student: Student
    module: str
    result: Result | None = None  # None if nothing was graded
    cells: list[CellMark] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)  # on other cells, by grade_id
    penalty: float = 0.0  # points off, as for handing in late
    handed_in: bool = True
    full: float = 0.0  # the module's points, known from other students

    @property
    def points(self) -> float:
        return max(0.0, sum(cell.points for cell in self.cells) - self.penalty)

    @property
    def possible(self) -> float:
        return sum(cell.result.possible for cell in self.cells) or self.full

    @property
    def percent(self) -> float:
        return 100 * self.points / self.possible if self.possible else 0.0

    @property
    def waiting(self) -> int:
        """How many cells a person has yet to grade."""
        return sum(cell.waiting for cell in self.cells)

    @property
    def flags(self) -> list[str]:
        return self.result.flags if self.result else []

    @property
    def graded(self) -> bool:
        """Whether there are marks to look at: cells were graded."""
        return bool(self.result and not self.result.problem)

    @property
    def problem(self) -> str:
        """Why there are no points, empty if there may be some."""
        if self.result:
            return self.result.problem
        return NOT_GRADED if self.handed_in else NOT_HANDED_IN


def read_marks(classroom: Classroom, module: Module, engine: str = "fast") -> list[Mark]:
    """The marks of everybody who is in the gradebook or handed `module` in, in order of id."""
    roster = read_roster(classroom)
    entries = read_entries(classroom, module)
    results = {result.student: result for result in read_results(classroom, module, engine)}
    handed_in = {*classroom.students(module), *results, *entries}
    ours = {path.stem for e in ENGINES for path in classroom.results(module, e).glob("*.json")}
    marks = []
    for student in sorted({*roster, *handed_in}):
        entry = entries.get(student, Entry())
        result = results.get(student)
        if student not in ours and entry.grades:
            result = _graded_by_nbgrader(student, module, entry)
        mark = Mark(
            roster.get(student, Student(student)),
            module.folder,
            result,
            _cell_marks(result, entry) if result else [],
            penalty=entry.penalty,
            handed_in=student in handed_in,
        )
        named = {cell.result.id for cell in mark.cells}
        mark.comments = {
            id: text
            for id, text in entry.comments.items()
            if id not in named and text != NO_RESPONSE
        }
        marks.append(mark)
    full = max((mark.possible for mark in marks), default=0.0)
    for mark in marks:
        mark.full = full
    return marks


def _cell_marks(result: Result, entry: Entry) -> list[CellMark]:
    """The engine's points, unless a person gave others; extra credit comes on top."""
    marks = []
    for cell in result.cells:
        mark = CellMark(cell, cell.points, comment=entry.comments.get(cell.id, ""))
        mark.waiting = cell.by_hand and not result.problem
        if grade := entry.grades.get(cell.id):
            mark.waiting &= grade.needs_manual_grade
            mark.by_person = grade.manual_score is not None
            mark.points = grade.manual_score if mark.by_person else cell.points
            mark.points += grade.extra_credit or 0.0
        marks.append(mark)
    return marks


def _graded_by_nbgrader(student: str, module: Module, entry: Entry) -> Result:
    """The result of somebody whom only nbgrader's own `nbgrader autograde` graded."""
    cells = [
        CellResult(
            name,
            grade.auto_score or 0.0,
            grade.max_score,
            message="fails" if (grade.auto_score or 0.0) < grade.max_score else "",
            by_hand=grade.cell_type != "code",
        )
        for name, grade in entry.grades.items()
    ]
    return Result(student, module.folder, "gradebook", "", cells)


def module_table(marks: Iterable[Mark]) -> list[list[str]]:
    """One row a student and module, under `MODULE_COLUMNS`; what isn't graded yet stays empty."""
    rows = [list(MODULE_COLUMNS)]
    for mark in marks:
        result = mark.result
        waits = mark.problem == NOT_GRADED
        rows.append(
            [
                _inert(mark.student.id),
                mark.module,
                "" if waits else f"{mark.points:g}",
                f"{mark.possible:g}",
                "" if waits else f"{mark.percent:.1f}",
                str(mark.waiting),
                _inert("; ".join(mark.flags)),
                result.graded if result else mark.problem,
                result.engine if result else "",
                result.policy if result else "",
            ]
        )
    return rows


def lms_table(columns: dict[str, list[Mark]], unit: str) -> list[list[str]]:
    """One row a student, under `LMS_COLUMNS` and a column a module, in "percent" or "points".

    Who handed nothing in has 0; what isn't graded yet is empty, which leaves the LMS as it is.
    """
    rows = [[*LMS_COLUMNS, *columns]]
    by_student: dict[Student, dict[str, Mark]] = {}
    for module, marks in columns.items():
        for mark in marks:
            by_student.setdefault(mark.student, {})[module] = mark
    for student, given in sorted(by_student.items(), key=lambda item: item[0].id):
        who = [_inert(text) for text in (student.name, student.lms_id, student.id)]
        values = []
        for module in columns:
            own = given.get(module)
            if own is None:
                values.append("0")
            elif own.problem == NOT_GRADED:
                values.append("")
            else:
                values.append(f"{own.percent:.2f}" if unit == "percent" else f"{own.points:g}")
        rows.append([*who, "", *values])
    return rows


def as_csv(rows: list[list[str]]) -> str:
    """The rows as comma-separated values, quoted where they need it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _inert(text: str) -> str:
    """Student's text as UTF-8 can hold it, and which no spreadsheet takes for a formula."""
    text = text.encode(errors="backslashreplace").decode()
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
