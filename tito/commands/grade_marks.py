"""`tito grade autograde` and `compare`: from submissions to results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tito import output, output_grade
from tito.commands import Data, command
from tito.errors import TitoError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tito.classroom.folder import Classroom
    from tito.classroom.results import Result
    from tito.course import Module

which_argument = click.argument("which", metavar="NN")
students_option = click.option(
    "--students", default="*", metavar="GLOB", help="Only those whose id matches, as in 'a*'."
)


@command(output_grade.autograde)
@which_argument
@students_option
@click.option("--jobs", type=click.IntRange(1), help="Sandboxes at a time.  [default: the cores]")
@click.option(
    "--policy",
    type=click.Choice(["reference", "own", "best"]),
    default="reference",
    show_default=True,
    help="Whose modules before NN are imported: the reference's, the student's own, or both, and "
    "the better counts.",
)
@click.option("--seconds", default=10.0, show_default=True, help="Limit of a cell.")
@click.option(
    "--engine",
    type=click.Choice(["fast", "nbgrader"]),
    default="fast",
    show_default=True,
    help="nbgrader runs notebooks in real kernels: the second opinion.",
)
@click.option("--fresh", is_flag=True, help="Forget earlier results.")
@click.option("--require-sandbox", is_flag=True, help="Refuse to grade without bubblewrap.")
@click.option("--scheduler", default="", metavar="ADDRESS", help="Grade on a Dask cluster.")
def autograde_(
    which: str,
    students: str,
    jobs: int | None,
    policy: str,
    seconds: float,
    engine: str,
    fresh: bool,
    require_sandbox: bool,
    scheduler: str,
) -> Data:
    """Grade module NN for all who handed it in.

    Solutions come from the submission, everything else from the master. A run that was ended goes
    on where it was; after a change of the master only what it touches is graded again. Marks go
    into nbgrader's gradebook, points that a person gave stay.

    \b
    Example:  tito grade autograde 01
              tito grade autograde 03 --students 'a*' --policy own
              tito grade autograde 05 --scheduler tcp://127.0.0.1:8786
    """
    classroom, module = _here(which)
    names = classroom.students(module, students)
    if not names:
        raise TitoError(_nobody(module, students))
    if engine == "nbgrader":
        from tito.classroom.sandbox import available

        if policy == "best" or scheduler:
            raise TitoError("--engine nbgrader takes one policy, reference or own, on this machine")
        available(require=require_sandbox)
        results = list(_by_nbgrader(classroom, module, names, policy))
        notes: list[str] = []
    else:
        from tito.classroom.gradebook import record

        if fresh:
            for name in names:
                (classroom.results(module) / f"{name}.json").unlink(missing_ok=True)
        results, notes = _fast(
            classroom, module, names, jobs, policy, seconds, require_sandbox, scheduler
        )
        with output.busy("Writing the gradebook ..."):
            record(classroom, module, sorted(results, key=lambda result: result.student))
    return _summary(module, engine, policy, results) | {"notes": notes}


def _fast(
    classroom: Classroom,
    module: Module,
    names: list[str],
    jobs: int | None,
    policy: str,
    seconds: float,
    require_sandbox: bool,
    scheduler: str,
) -> tuple[list[Result], list[str]]:
    from tito.classroom import sandbox
    from tito.classroom.assignment import prepare
    from tito.classroom.autograde import autograde
    from tito.classroom.sandbox import Limits
    from tito.classroom.source import refresh

    notes = []
    isolated = sandbox.available(require=require_sandbox)
    if not isolated:
        notes.append(
            f"NOT SANDBOXED: {sandbox.problem()}. Students' code ran as you, with limits alone, "
            "and could read and write your files"
        )
        output.say(notes[0])
    with output.busy("Preparing the master ..."):
        note = refresh(classroom, module).note
        assignment = prepare(classroom, module, policy, Limits(seconds=seconds), isolated)
    if note:
        notes.append(note)
    graded = autograde(classroom, module, assignment, names, jobs or os.cpu_count() or 1, scheduler)
    return list(output_grade.counted(graded, f"Grading {module.folder}", len(names))), notes


def _by_nbgrader(
    classroom: Classroom, module: Module, names: list[str], policy: str
) -> Iterator[Result]:
    from tito.classroom.nbgrader_engine import grade
    from tito.classroom.source import refresh

    refresh(classroom, module)
    for name in output_grade.counted(names, f"Grading {module.folder} by nbgrader"):
        results: list[Result] = []
        grade(classroom, module, [name], results.append, policy)
        yield from results


def _summary(module: Module, engine: str, policy: str, results: list[Result]) -> Data:
    graded = [result for result in results if not result.problem]
    by_hand = [cell for result in results[:1] for cell in result.cells if cell.by_hand]
    return {
        "module": module.folder,
        "engine": engine,
        "policy": policy,
        "students": len(results),
        "graded": len(graded),
        "possible": results[0].possible if results else 0,
        "by_hand": sum(cell.possible for cell in by_hand),
        "full": sum(all(cell.passed for cell in result.cells) for result in graded),
        "mean": sum(result.points for result in graded) / max(len(graded), 1),
        "flagged": sorted(result.student for result in results if result.flags),
        "problems": {r.student: r.problem for r in results if r.problem},
        "next": f"tito grade report {module.number}",
    }


@command(output_grade.compare)
@which_argument
@students_option
def compare_(which: str, students: str) -> Data:
    """List where the fast grader and nbgrader disagree on module NN.

    nbgrader grades whom it has not graded yet, in real kernels and by the policy of the marks: a
    few seconds a student.

    \b
    Example:  tito grade compare 01 --students 'a*'
    """
    from tito.classroom.results import read_results
    from tito.classroom.source import refresh
    from tito.workspace import hash_of

    classroom, module = _here(which)
    names = classroom.students(module, students)
    if not names:
        raise TitoError(_nobody(module, students))
    fast = {result.student: result for result in read_results(classroom, module, "fast")}
    for name in names:
        if name not in fast:
            raise TitoError(f"{name} is not graded yet: tito grade autograde {module.number}")
    compared = [name for name in names if not fast[name].problem]
    for name in compared:
        if hash_of(classroom.submission(name, module).read_bytes()) != fast[name].notebook:
            raise TitoError(f"{name} handed in anew: tito grade autograde {module.number}")
        if fast[name].policy == "best":
            raise TitoError(
                f"{name} was graded by the policy best, which nbgrader does not have: "
                f"tito grade autograde {module.number} --policy reference"
            )
    refresh(classroom, module)
    master = hash_of(classroom.source(module).read_bytes())
    theirs = {result.student: result for result in read_results(classroom, module, "nbgrader")}
    stale: dict[str, list[str]] = {}
    for name in compared:
        ours, known = fast[name], theirs.get(name)
        same = known and (known.notebook, known.policy) == (ours.notebook, ours.policy)
        if not known or not same or any(cell.key != master for cell in known.cells):
            stale.setdefault(ours.policy, []).append(name)
    for policy, left in stale.items():
        theirs |= {each.student: each for each in _by_nbgrader(classroom, module, left, policy)}
    rows = [row for name in compared for row in _disagreements(fast[name], theirs[name])]
    return {"ok": not rows, "module": module.folder, "students": len(compared), "rows": rows}


def _disagreements(ours: Result, theirs: Result) -> Iterator[Data]:
    other = {cell.id: cell for cell in theirs.cells}
    for cell in ours.cells:
        if not cell.by_hand and cell.points != other[cell.id].points:
            yield {
                "student": ours.student,
                "cell": cell.id,
                "fast": cell.points,
                "nbgrader": other[cell.id].points,
                "says_fast": cell.message,
                "says_nbgrader": other[cell.id].message,
            }


def _nobody(module: Module, students: str) -> str:
    matching = "" if students == "*" else f" of those matching {students!r}"
    return (
        f"nobody{matching} handed in {module.folder}: tito grade collect --from FOLDER brings "
        "submissions"
    )


def _here(which: str) -> tuple[Classroom, Module]:
    """The course folder around the current folder and the module called `which`."""
    from tito.classroom.folder import find_classroom
    from tito.course import find_course

    course = find_course()
    return find_classroom(course), course.module(which)
