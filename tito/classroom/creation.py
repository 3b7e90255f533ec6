"""Making a course folder, and completing one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from tito.classroom.folder import MARKER, Classroom
from tito.course import Course, Module
from tito.errors import TitoError
from tito.files import atomic_write

CONFIG = '''\
"""nbgrader's settings for this course folder. tito grade init wrote them; change what you like."""

from pathlib import Path

from tito.classroom.kernel import connect

here = Path(__file__).resolve().parent
seconds = 60  # that a cell may take
c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "{name}"
c.CourseDirectory.root = str(here)
c.CourseDirectory.db_url = f"sqlite:///{{here / 'gradebook.db'}}"

# what stands in place of a solution in the students' notebooks
c.ClearSolutions.code_stub = {{"python": "# YOUR CODE HERE\\nraise NotImplementedError()"}}
c.ClearSolutions.text_stub = "YOUR ANSWER HERE"

# whatever kernel a submission asks for, it gets the one that shows it the modules before
c.ExecutePreprocessor.kernel_name = "tinytorch-grade"
c.ExecutePreprocessor.timeout = seconds
c.ExecutePreprocessor.interrupt_on_timeout = True
c.ExecutePreprocessor.error_on_timeout = {{
    "ename": "CellTimeoutError",
    "evalue": f"the cell took more than {{seconds}} s",
    "traceback": [f"CellTimeoutError: the cell took more than {{seconds}} s"],
}}
connect(c)  # how nbgrader reaches a kernel that has no network

# deleted tests come back, at their place
c.OverwriteCells.add_missing_cells = True
c.Autograde.sanitize_preprocessors = [
    "nbgrader.preprocessors.ClearOutput",
    "tito.classroom.preprocessors.RestoreCells",
    "nbgrader.preprocessors.DeduplicateIds",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
# hidden tests stay hidden in what students get back
c.GenerateFeedback.preprocessors = [
    "tito.classroom.preprocessors.HideTests",
    "nbgrader.preprocessors.GetGrades",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
'''
PRIVATE = """\
# Your own hidden tests

`NN.py` here adds tests to module NN that no student and no reader of the lessons has seen. It is a
percent file: a cell titled like a test of the lesson extends that test, a cell with nbgrader's
metadata is a new one. All of it is hidden: it is graded, and never released.

    # %% test-relu
    check(relu(Tensor([-3.5])).numpy(), [0.0], "negative inputs must become zero")

    # %% nbgrader={"grade": true, "grade_id": "test-own", "points": 5}
    check(relu(Tensor([7.0])).numpy(), [7.0], "positive inputs stay")

The next `tito grade release NN` or `tito grade autograde NN` takes it in. A new test (the second
form) is best there before students hand in.
"""


def make_classroom(
    folder: Path, course: Course, name: str = "", modules: Iterable[Module] | None = None
) -> tuple[Classroom, list[str]]:
    """Make `folder` a course folder, or complete one; also returns what was made.

    `modules` (default: all) get their master notebooks.
    """
    from tito.classroom.nbgrader_app import open_gradebook
    from tito.classroom.source import refresh

    if folder.exists() and not folder.is_dir():
        raise TitoError(f"{folder} is a file: give a new folder, as in tito grade init my-class")
    visible = [f.name for f in folder.iterdir() if f.name[0] != "."] if folder.is_dir() else []
    if visible and not (folder / MARKER).is_file():
        raise TitoError(
            f"{folder} holds other things ({min(visible)}, ...): give a new folder, as in "
            "tito grade init my-class"
        )
    if name and not re.fullmatch(r"[\w.-]+", name):
        raise TitoError(f"--name {name!r}: use letters, digits, '.', '_' and '-' alone")
    classroom, made = Classroom(folder, course), []
    name = name or re.sub(r"[^\w.-]+", "-", folder.name)
    for file, text in [(MARKER, CONFIG.format(name=name)), ("private/README.md", PRIVATE)]:
        if not (folder / file).exists():
            atomic_write(folder / file, text)
            made.append(file)
    (folder / ".tito").mkdir(exist_ok=True)
    if not (folder / "gradebook.db").is_file():
        made.append("gradebook.db")
    with open_gradebook(classroom):
        pass  # which makes it
    for module in course.modules if modules is None else modules:
        if not classroom.source(module).is_file():
            refresh(classroom, module)
            made.append(classroom.source(module).relative_to(folder).as_posix())
    return classroom, made


def add_students(classroom: Classroom, file: Path) -> int:
    """Put the students of a CSV file (id, first_name, last_name, email) into the gradebook."""
    from tito.classroom.nbgrader_app import open_gradebook

    columns = ("id", "first_name", "last_name", "email")
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TitoError(f"{file} is no CSV in UTF-8 ({error}): export it again") from None
    if not rows or "id" not in rows[0]:
        raise TitoError(f"{file}: the first line must name the columns: {','.join(columns)}")
    for number, row in enumerate(rows, 2):
        row["id"] = check_student((row["id"] or "").strip(), f"{file}, line {number}")
    with open_gradebook(classroom) as gradebook:
        for row in rows:
            known = {key: (row.get(key) or "").strip() or None for key in columns[1:]}
            gradebook.update_or_create_student(row["id"], **known)
    return len(rows)


def check_student(student: str, place: str) -> str:
    """`student` if it can name a folder on every system; TitoError if not."""
    if not re.fullmatch(r"[\w@+-][\w@.+-]{0,99}", student):
        raise TitoError(
            f"{place}: {student!r} is no student's id: use letters, digits and @ . _ + - alone"
        )
    return student
