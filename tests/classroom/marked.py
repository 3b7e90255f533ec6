"""A class whose module 02 was graded: results as the graders keep them, and a gradebook."""

import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from tito.classroom.folder import Classroom
from tito.classroom.results import CellResult, Result, write_result
from tito.course import Module
from tito.main import main

# grade_id, points, what a wrong answer hears, whether a hidden check says so
CELLS = (
    (
        "test-relu",
        20,
        "relu(Tensor([-0.5])).numpy() gave -0.5 at [0], expected 0.0: negative inputs must become "
        "zero",
        False,
    ),
    (
        "test-sigmoid",
        30,
        "sigmoid(Tensor([1000.0])).numpy() gave nan at [0], expected 1.0: exp overflows for large "
        "inputs, use the sign of x",
        False,
    ),
    ("test-softmax", 30, "softmax runs over the given axis, not over all values", True),
    ("test-gelu", 10, "NameError: name 'erf' is not defined", False),
)
ANSWER = "answer-saturation"


def result(student: str, *failed: str, module: str = "02_activations", **more) -> Result:
    """The result of somebody who fails the cells called `failed` and answered in words."""
    cells = [
        CellResult(id, 0.0, points, message, hidden)
        if id in failed
        else CellResult(id, float(points), points)
        for id, points, message, hidden in CELLS
    ]
    cells.append(CellResult(ANSWER, 0.0, 10, by_hand=True))
    fields = {"engine": "fast", "policy": "reference", "graded": "2026-11-22 14:05:09"} | more
    return Result(student, module, cells=cells, **fields)


def grade_a_class(classroom: Classroom, module: Module, count: int = 30) -> list[Result]:
    """Give `count` students results: the better one is, the fewer and harder the cells one fails.

    Student 7 has a flag, student 8 a problem.
    """
    random_numbers = random.Random(1)
    results = []
    for number in range(count):
        skill = random_numbers.gauss(1.2, 1.0)
        failed = [
            id
            for hardness, (id, *_) in enumerate(CELLS)
            if random_numbers.gauss(skill, 0.5) < 0.5 * hardness
        ]
        results.append(result(f"student-{number:03d}", *failed, module=module.folder))
    results[7].flags.append("test-softmax: numpy.exp was replaced while cells ran")
    results[8].problem = "activations.ipynb is no valid JSON: ask for the notebook again"
    for cell in results[8].cells:
        cell.points = 0.0
    for each in results:
        write_result(classroom, module, each)
    return results


def enter(classroom: Classroom, module: Module, results: Iterable[Result]) -> None:
    """Enter results into the gradebook by nbgrader's own interface; answers wait for a person."""
    from nbgrader.api import Gradebook

    names = module.name, module.folder
    results = list(results)
    with Gradebook(classroom.gradebook) as book, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader 0.9.6 on SQLAlchemy 2: about its sessions
        book.update_or_create_assignment(module.folder)
        book.update_or_create_notebook(*names)
        for cell in results[0].cells:
            kind = "markdown" if cell.by_hand else "code"
            book.update_or_create_grade_cell(
                cell.id, *names, max_score=cell.possible, cell_type=kind
            )
            if cell.by_hand:
                book.update_or_create_solution_cell(cell.id, *names)
        for result in results:
            book.update_or_create_student(result.student)
            book.add_submission(module.folder, result.student)
            for cell in result.cells:
                grade = book.find_grade(cell.id, *names, result.student)
                grade.auto_score = None if cell.by_hand else cell.points
                grade.needs_manual_grade = cell.by_hand
        book.db.commit()


def give(
    classroom: Classroom, module: Module, student: str, cell: str, points: float, comment: str = ""
) -> None:
    """Do what an instructor does in formgrader: points and a comment for one cell."""
    from nbgrader.api import Gradebook

    place = cell, module.name, module.folder, student
    with Gradebook(classroom.gradebook) as book:
        grade = book.find_grade(*place)
        grade.manual_score, grade.needs_manual_grade = points, False
        if comment:
            book.find_comment(*place).manual_comment = comment
        book.db.commit()


@dataclass
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


def tito(capsys, *words: str) -> Ran:
    """Run a command line of tito in the current folder."""
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return Ran(status or 0, captured.out, captured.err)
