"""`tito grade feedback`, `report`, `export` and `doctor`: what is read about marks."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tito import output_grade
from tito.commands import Data, command
from tito.errors import TitoError

if TYPE_CHECKING:
    from tito.classroom.folder import Classroom
    from tito.classroom.marks import Mark
    from tito.course import Module

SORTS = ("student", "points", "flags")

engine_option = click.option(
    "--engine",
    type=click.Choice(("fast", "nbgrader")),
    default="fast",
    show_default=True,
    help="Whose results are read.",
)
students_option = click.option(
    "--students", "pattern", default="*", metavar="GLOB", help="Only whom this matches, as 'a*'."
)


def _here() -> Classroom:
    from tito.classroom.folder import find_classroom
    from tito.course import find_course

    return find_classroom(find_course())


def _marks(classroom: Classroom, module: Module, engine: str) -> list[Mark]:
    """Everybody's marks, of whom somebody's were graded."""
    from tito.classroom.marks import read_marks

    marks = read_marks(classroom, module, engine)
    if not any(mark.result for mark in marks):
        raise TitoError(
            f"{module.folder}: the {engine} engine graded nobody: "
            f"run tito grade autograde {module.number}"
        )
    return marks


def _all_marks(classroom: Classroom, engine: str) -> dict[str, list[Mark]]:
    """Everybody's marks in each module in which somebody was graded."""
    from tito.classroom.marks import read_marks

    modules = classroom.course.modules
    every = {module.folder: read_marks(classroom, module, engine) for module in modules}
    graded = {name: marks for name, marks in every.items() if any(m.result for m in marks)}
    if not graded:
        raise TitoError(f"the {engine} engine graded nothing yet: run tito grade autograde 01")
    return graded


@command(output_grade.feedback)
@click.argument("which", metavar="NN")
@students_option
@engine_option
def feedback_(which: str, pattern: str, engine: str) -> Data:
    """Write each student a page about module NN.

    feedback/STUDENT/MODULE/NAME.html says which cells earned what, and of each failing check what
    was asked, what came, what was expected, and the hint; of a hidden test the hint alone. Points
    and comments that a person gave in nbgrader's formgrader are in it. Flags are not.

    nbgrader's own `nbgrader generate_feedback` writes its pages to the same places: the later
    command wins. `nbgrader release_feedback MODULE` hands out either.

    \b
    Example:  tito grade feedback 01
              tito grade feedback 01 --students 'ada*'
    """
    from tito.classroom.feedback import write_feedback

    classroom = _here()
    module = classroom.course.module(which)
    marks = [m for m in _marks(classroom, module, engine) if fnmatch(m.student.id, pattern)]
    graded = [mark for mark in marks if mark.result]
    if not graded:
        raise TitoError(f"{module.folder}: nobody who was graded matches {pattern!r}")
    counts = write_feedback(classroom, module, output_grade.counted(graded, "writing"))
    return {
        "module": module.folder,
        **counts,
        "example": str(classroom.feedback(graded[0].student.id, module)),
        "notes": _notes(marks),
    }


def _notes(marks: list[Mark]) -> list[str]:
    """What stands between these marks and final ones."""
    from tito.classroom.marks import NOT_GRADED

    ungraded = sum(mark.problem == NOT_GRADED for mark in marks)
    waiting = sum(mark.waiting for mark in marks)
    module = marks[0].module
    notes = []
    if ungraded:
        notes.append(
            f"{module}: {ungraded} handed in and are not graded yet: "
            f"tito grade autograde {module[:2]}"
        )
    if waiting:
        notes.append(
            f"{module}: {waiting} written answers wait for a person: jupyter lab, menu Nbgrader"
        )
    return notes


@command(output_grade.report)
@click.argument("which", metavar="[NN]", required=False)
@click.option(
    "--sort", type=click.Choice(SORTS), default="student", show_default=True, help="Order of rows."
)
@click.option("--flags", "only_flagged", is_flag=True, help="Only who is flagged, with the flags.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw to a .png, .pdf or .svg."
)
@engine_option
def report_(
    which: str | None, sort: str, only_flagged: bool, plot: Path | None, engine: str
) -> Data:
    """Show how the class did: in module NN, or in all.

    With NN: every student's points, how they are distributed, and an item analysis. For each graded
    cell that says who has all its points, for whom it fails and why, and its discrimination r: the
    correlation of passing it with the points of all other cells. A cell with r near 0 (or below)
    doesn't tell who understood the module; look at the cell. Where all or none pass, r is
    undefined. --json has everything, the names behind each number too.

    \b
    Example:  tito grade report
              tito grade report 01 --sort points --plot report.png
              tito grade report 01 --flags
    """
    classroom = _here()
    if not which:
        if only_flagged or plot or sort != "student":
            raise click.UsageError("--flags, --plot and --sort are about one module: add NN")
        return _overview(classroom, engine)
    from tito.classroom.report import draw, item_analysis, summary

    module = classroom.course.module(which)
    marks = _marks(classroom, module, engine)
    if plot:
        draw(plot, module, marks)
    rows = [_row(mark) for mark in marks]
    if only_flagged:
        rows = [row for row in rows if row["flags"]]
    if sort == "points":
        rows.sort(key=lambda row: -row["points"])
    elif sort == "flags":
        rows.sort(key=lambda row: -len(row["flags"]))
    return {
        "module": module.folder,
        "engine": engine,
        "students": rows,
        "only_flagged": only_flagged,
        "summary": summary(marks),
        "items": item_analysis(marks),
        "plot": str(plot) if plot else None,
        "notes": _notes(marks),
    }


def _row(mark: Mark) -> Data:
    return {
        "student": mark.student.id,
        "name": mark.student.name,
        "points": mark.points,
        "possible": mark.possible,
        "percent": mark.percent,
        "by_hand": mark.waiting,
        "flags": mark.flags,
        "problem": mark.problem,
    }


def _overview(classroom: Classroom, engine: str) -> Data:
    """The points of every student in every module that was graded."""
    columns = _all_marks(classroom, engine)
    students: dict[str, Data] = {}
    for module, marks in columns.items():
        for mark in marks:
            row = students.setdefault(mark.student.id, {"name": mark.student.name, "modules": {}})
            row["modules"][module] = _row(mark)
    rows = [
        {
            "student": student,
            **row,
            "points": sum(each["points"] for each in row["modules"].values()),
            "possible": sum(each["possible"] for each in row["modules"].values()),
        }
        for student, row in sorted(students.items())
    ]
    notes = [note for marks in columns.values() for note in _notes(marks)]
    return {"engine": engine, "modules": list(columns), "students": rows, "notes": notes}


@command(output_grade.export)
@click.argument("which", nargs=-1, metavar="[NN ...]")
@click.option("--format", "kind", type=click.Choice(("csv", "lms")), required=True)
@click.option("--to", type=click.Path(path_type=Path), required=True, metavar="FILE")
@click.option(
    "--unit",
    type=click.Choice(("percent", "points")),
    default="percent",
    show_default=True,
    help="What lms columns hold.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@engine_option
def export_(
    which: tuple[str, ...], kind: str, to: Path, unit: str, force: bool, engine: str
) -> Data:
    """Write the marks to a CSV file (UTF-8) for other programs.

    Points that a person gave in nbgrader's gradebook stand over the engine's, and penalties for
    late work are taken off. Without NN: all modules that were graded.

    \b
    csv  a row for each student and module: student, module, points, possible, percent,
         by hand (answers that wait for a person), flags, graded, engine, policy
    lms  a row for each student: Student ("Last, First"), ID (the LMS's own, from the
         gradebook), SIS Login ID (the student's id in the course), Section (empty),
         then a column for each module
         Canvas: Grades > Import; it asks which assignment each column is
         Moodle: Grades > Import > CSV; map SIS Login ID to the ID number or username,
         and leave out the other three

    Who is in the gradebook and handed nothing in has 0 points. Who handed in but is not graded yet
    has an empty field, which an LMS leaves as it is. Names that a spreadsheet would take for a
    formula (they begin with = + - @) get a ' in front.

    \b
    Example:  tito grade export --format csv --to marks.csv
              tito grade export 01 02 --format lms --unit points --to canvas.csv
    """
    from tito.classroom import marks
    from tito.files import atomic_write

    classroom = _here()
    if to.exists() and not force:
        raise TitoError(f"{to} is there already: give another name, or --force to replace it")
    modules = [classroom.course.module(each) for each in which]
    columns = {module.folder: _marks(classroom, module, engine) for module in modules}
    columns = columns or _all_marks(classroom, engine)
    if kind == "csv":
        rows = marks.module_table(mark for column in columns.values() for mark in column)
    else:
        rows = marks.lms_table(columns, unit)
    atomic_write(to, marks.as_csv(rows))
    return {
        "file": str(to),
        "rows": len(rows) - 1,
        "modules": list(columns),
        "notes": [note for column in columns.values() for note in _notes(column)],
    }


@command(output_grade.doctor)
@click.argument("which", metavar="[NN]", required=False)
@students_option
@click.option(
    "--policy",
    type=click.Choice(("reference", "own", "best")),
    default="reference",
    show_default=True,
    help="How you will grade: own and best need the students' exports.",
)
def doctor_(which: str | None, pattern: str, policy: str) -> Data:
    """Say what is wrong with the submissions, and what to do about it.

    Looks for: damaged, too large, misnamed, unreadable or missing notebooks, several in a folder,
    symbolic links, notebooks of another module or kernel, deleted, edited or copied graded cells,
    notebooks in which nothing was written, and students whom the gradebook doesn't know. Nothing is
    changed. The exit status is 1 if something is wrong.

    \b
    Example:  tito grade doctor 01
              tito grade doctor --students 'a*' --policy own
    """
    from tito.classroom.diagnosis import Doctor, look_around
    from tito.classroom.gradebook_reading import read_roster

    classroom = _here()
    if not (classroom.root / "submitted").is_dir():
        raise TitoError(f"no submitted/ in {classroom.root}: run tito grade collect")
    modules = [classroom.course.module(which)] if which else classroom.course.modules
    work = [
        (module, student) for module in modules for student in classroom.students(module, pattern)
    ]
    roster = read_roster(classroom)
    doctors = {module: Doctor(classroom, module, policy, roster) for module in modules}
    findings = [] if which else list(look_around(classroom, pattern))
    for module, student in output_grade.counted(work, "looking"):
        findings += doctors[module].look(student)
    return {
        "ok": not findings,
        "submissions": len(work),
        "findings": [vars(finding) for finding in findings],
    }
