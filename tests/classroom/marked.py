"""A class whose module 02 was graded: results as the graders keep them."""

import random

from tito.classroom.folder import Classroom
from tito.classroom.results import CellResult, Result, write_result
from tito.course import Module

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
