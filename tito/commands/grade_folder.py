"""The course folder: made, released from, and collected into."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tito import output, output_grade
from tito.commands import Data, command

which_argument = click.argument("which", metavar="NN")


@command(output_grade.init)
@click.argument("folder", metavar="COURSE", type=click.Path(path_type=Path))
@click.option("--name", default="", metavar="ID", help="The course's id (default: the folder's).")
@click.option(
    "--students",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A CSV of students to enrol: id, first_name, last_name, email.",
)
def init_(folder: Path, name: str, students: Path | None) -> Data:
    """Make the folder COURSE, in which you release and grade.

    It gets the master notebook of every module, a gradebook, nbgrader's settings, and private/ for
    hidden tests of your own; Jupyter gets the kernel that grades. Run it again to complete a
    folder, or to enrol more students: nothing is overwritten.

    \b
    Example:  tito grade init my-class --students class.csv && cd my-class
              tito grade release 01
    """
    from tqdm import tqdm

    from tito.classroom import kernel, sandbox
    from tito.classroom.creation import add_students, make_classroom
    from tito.course import find_course

    folder, course, notes = folder.resolve(), find_course(), []
    modules = tqdm(course.modules, desc="Master notebooks", unit=" modules", disable=None)
    classroom, made = make_classroom(folder, course, name, modules)
    with output.busy("Enrolling students, installing the kernel ..."):
        enrolled = add_students(classroom, students) if students else 0
        try:
            kernel.install()
        except OSError as error:
            notes.append(f"the kernel {kernel.NAME} was not installed: {error}")
    if problem := sandbox.problem():
        notes.append(f"submissions would run without a sandbox: {problem}")
    change = "" if folder == Path.cwd() else f"cd {os.path.relpath(folder)} && "
    return {
        "classroom": str(folder),
        "made": made,
        "enrolled": enrolled,
        "next": f"{change}tito grade release 01",
        "notes": notes,
    }


@command(output_grade.release)
@which_argument
def release_(which: str) -> Data:
    """Make the students' notebook of module NN.

    The lesson and your private tests go into the master, source/NN_name; release/NN_name is what
    nbgrader makes of it: no solutions, no hidden tests. Hand it out by nbgrader's exchange, your
    LMS, or any folder. Release again after a change: it is made anew.

    \b
    Example:  tito grade release 01
    """
    from tito.classroom.folder import find_classroom
    from tito.classroom.source import refresh, release
    from tito.course import find_course
    from tito.notebook import graded_cells, read_notebook

    classroom = find_classroom(find_course())
    module = classroom.course.module(which)
    with output.busy(f"Releasing {module.folder} ..."):
        refreshed = refresh(classroom, module)
        release(classroom, module)
        cells = graded_cells(read_notebook(classroom.source(module)))
    by_hand = [cell for cell in cells if cell.metadata.nbgrader.solution]
    return {
        "module": module.folder,
        "number": module.number,
        "release": classroom.release(module).relative_to(classroom.root).as_posix(),
        "master_is_new": refreshed.changed,
        "tests": len(cells) - len(by_hand),
        "by_hand": len(by_hand),
        "points": sum(cell.metadata.nbgrader.points for cell in cells),
        "notes": [refreshed.note] if refreshed.note else [],
    }


@command(output_grade.collect)
@click.option(
    "--from",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where submissions lie.",
)
@click.option(
    "--pattern",
    default="",
    metavar="REGEX",
    help="How to read (?P<student>...) and (?P<module>...) from the path of a file below DIR.",
)
def collect_(folder: Path, pattern: str) -> Data:
    """Take submissions from the folder DIR into submitted/.

    Understood are the packages of tito module submit, nbgrader's exchange and its own layout
    (STUDENT/NN_name/name.ipynb), and, with --pattern, an LMS's downloads: notebooks and zips. The
    newest submission of each student counts; the one before is kept in submitted_old/. A zip that
    holds links, ways out of its folder, or over 50 MB is refused.

    \b
    Example:  tito grade collect --from exchange/
              tito grade collect --from moodle/ --pattern '^(?P<student>\\w+)_\\d+_(?P<module>\\w+)'
    """
    from dataclasses import asdict

    from tito.classroom.collect import collect
    from tito.classroom.folder import find_classroom
    from tito.classroom.nbgrader_app import open_gradebook
    from tito.course import find_course

    classroom = find_classroom(find_course())
    with output.busy("Collecting ..."):
        collected = collect(classroom, folder.resolve(), pattern)
        with open_gradebook(classroom) as gradebook:
            enrolled = {student.id for student in gradebook.students}
    students = {name.split()[0] for name in [*collected.new, *collected.updated]}
    strangers = sorted(students - enrolled) if enrolled else []
    notes = [f"not enrolled, but taken: {', '.join(strangers)}"] if strangers else []
    return asdict(collected) | {"notes": notes}
