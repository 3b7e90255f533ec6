"""The students of benchmarks/grading.py get the marks that they should."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from graders import course, open_grader

from tito.classroom.submission import Submission

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from simulated_students import RIGHT, SHARES, a_class, damaged_file, expected, perfect, stub

module = course.module("02")
every_kind = pytest.mark.parametrize("kind", SHARES, ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def grader():
    with open_grader(module, seconds=5) as grader:
        yield grader


@every_kind
def test_each_kind_gets_its_marks(grader, kind):
    handed = kind(module, seed=0)
    result = grader.grade(Submission("ada", handed.content))
    got = {cell.id: cell.points for cell in result.cells if not cell.by_hand}
    assert got == expected(module, handed), {cell.id: cell.message for cell in result.cells}
    assert bool(result.problem) == (kind is damaged_file)


@every_kind
def test_right_solutions_alone_keep_every_point(kind):
    lost = kind(module, seed=0).lost
    assert bool(lost) == (kind not in RIGHT)
    assert (len(lost) == len(expected(module, perfect(module, 0)))) == (
        kind in (stub, damaged_file)
    )


def test_the_same_seed_makes_the_same_class():
    students = a_class(module, seed=3, size=40, variants=1)
    is_same = [students == a_class(module, seed, size=40, variants=1) for seed in (3, 4)]
    assert is_same == [True, False]
    copies = Counter(students)
    assert copies[perfect(module, 0)] == SHARES[perfect] * 40 / 1000
    assert len(copies) == len(SHARES)
