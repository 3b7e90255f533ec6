"""Results of the fast grader in nbgrader's gradebook, as nbgrader itself would have put them."""

import json

import pytest
from submissions import hand_in, solution, stub, with_cells

from tito.classroom.gradebook import record
from tito.classroom.nbgrader_app import convert, open_gradebook
from tito.classroom.results import CellResult, Result
from tito.classroom.source import release
from tito.notebook import grade_id, graded_cells, read_module, read_notebook

NAME = ("activations", "02_activations")


@pytest.fixture
def module(classroom):
    """Activations, released."""
    module = classroom.course.module("02")
    release(classroom, module)
    return module


def result(module, student, failing=(), **more):
    """All points but those of the tests in `failing`."""
    cells = []
    for cell in graded_cells(read_module(module)):
        name, points = cell.metadata.nbgrader.grade_id, float(cell.metadata.nbgrader.points)
        if cell.metadata.nbgrader.solution:
            cells.append(CellResult(name, 0.0, points, by_hand=True))
        elif name in failing:
            cells.append(CellResult(name, 0.0, points, f"{name} gave 1, expected 2: <hint>"))
        else:
            cells.append(CellResult(name, points, points))
    return Result(student, module.folder, "fast", "reference", cells, **more)


def grades(classroom, student):
    """(auto_score, manual_score, needs_manual_grade, comment) by name."""
    with open_gradebook(classroom) as gradebook:
        notebook = gradebook.find_submission_notebook(*NAME, student)
        return {
            g.name: (g.auto_score, g.manual_score, g.needs_manual_grade) for g in notebook.grades
        }


def test_scores_and_comments(classroom, module):
    answers = {"answer-range": "YOUR ANSWER HERE"}
    hand_in(classroom, "ada", module, with_cells(solution(module), answers))
    hand_in(classroom, "new-student", module, stub(module))
    results = [result(module, "ada", ["test-relu"]), result(module, "new-student")]
    assert record(classroom, module, iter(results)) == 2
    ada = grades(classroom, "ada")
    assert ada["test-relu"] == (0.0, None, False)
    assert ada["test-sigmoid"] == (12.0, None, False)
    assert ada["answer-slopes"] == (None, None, True)
    assert ada["answer-range"] == (0.0, None, False)
    with open_gradebook(classroom) as gradebook:
        submission = gradebook.find_submission(NAME[1], "ada")
        assert (submission.score, submission.max_score) == (74, 100)
        assert str(submission.timestamp) == "2026-11-20 12:00:00"
        assert gradebook.find_comment("answer-range", *NAME, "ada").auto_comment == "No response."
        assert gradebook.find_comment("answer-slopes", *NAME, "ada").auto_comment is None
        assert gradebook.find_submission(NAME[1], "new-student").score == 80


def test_points_that_a_person_gave_stay(classroom, module):
    hand_in(classroom, "ada", module, solution(module))
    record(classroom, module, [result(module, "ada", ["test-relu"])])
    with open_gradebook(classroom) as gradebook:
        for name, points in [("answer-slopes", 4), ("test-relu", 3), ("test-silu", 1)]:
            grade = gradebook.find_grade(name, *NAME, "ada")
            grade.manual_score, grade.needs_manual_grade = points, False
        gradebook.find_comment("answer-slopes", *NAME, "ada").manual_comment = "well said"
        gradebook.db.commit()

    record(classroom, module, [result(module, "ada")])  # test-relu passes now
    now = grades(classroom, "ada")
    assert now["answer-slopes"] == (None, 4.0, False)
    assert now["test-silu"] == (4.0, 1.0, False)
    assert now["test-relu"] == (6.0, 3.0, True)  # look again

    changed = with_cells(solution(module), {"answer-slopes": "another answer"})
    hand_in(classroom, "ada", module, changed)
    record(classroom, module, [result(module, "ada")])
    now = grades(classroom, "ada")
    assert now["answer-slopes"] == (None, 4.0, True)
    assert now["test-silu"] == (4.0, 1.0, False)
    with open_gradebook(classroom) as gradebook:
        comment = gradebook.find_comment("answer-slopes", *NAME, "ada")
        assert comment.comment == "well said"


def test_the_graded_notebook_has_the_masters_tests_and_what_they_said(classroom, module):
    notebook = with_cells(solution(module), {"test-relu": "print('6 points')"})
    notebook.cells = [cell for cell in notebook.cells if grade_id(cell) != "test-silu"]
    own = with_cells(stub(module), {"relu": "print('mine')"}).cells[0]
    own.source, own.metadata, own["id"] = "print('mine')", {}, "own"
    notebook.cells.insert(5, own)
    hand_in(classroom, "ada", module, notebook)
    record(classroom, module, [result(module, "ada", ["test-relu", "test-silu"])])
    graded = read_notebook(classroom.autograded("ada", module))
    by_name = {grade_id(cell): cell for cell in graded.cells if grade_id(cell)}
    lesson = {grade_id(cell): cell for cell in read_module(module).cells if grade_id(cell)}
    assert set(by_name) == set(lesson)
    for name in ("test-relu", "test-silu"):
        assert by_name[name].source == lesson[name].source
        assert by_name[name].outputs[0].evalue == f"{name} gave 1, expected 2: <hint>"
    assert by_name["test-gelu"].outputs == []
    assert graded.cells[5].source == "print('mine')"
    names = [grade_id(cell) for cell in graded.cells]
    assert names.index("silu") < names.index("test-silu") < names.index("test-gelu")


def test_what_could_not_be_read_has_its_page_too(classroom, module):
    path = hand_in(classroom, "ada", module, stub(module))
    path.write_text("{")
    failed = result(module, "ada", [grade_id(c) for c in graded_cells(read_module(module))])
    failed.problem, failed.flags = "it is no JSON", ["damaged"]
    record(classroom, module, [failed])
    graded = read_notebook(classroom.autograded("ada", module))
    assert "it is no JSON" in graded.cells[0].source
    text = classroom.autograded("ada", module).read_text()
    assert "np.maximum(x, 0)" not in text  # no solution instead
    with open_gradebook(classroom) as gradebook:
        notebook = gradebook.find_submission_notebook(*NAME, "ada")
        assert (notebook.score, notebook.flagged) == (0, True)


def test_no_submission_stops_the_others(classroom, module):
    """Whatever a notebook holds, its student has a page and grades."""
    odd = {
        "list": [],
        "no-cells": {"nbformat": 4},
        "cells": {"cells": {"a": 1}},
        "cell": {"cells": [1, None, "x", {}, {"cell_type": "code"}]},
        "metadata": {"cells": [{"cell_type": "code", "source": "x", "metadata": [1]}]},
        "name": {
            "cells": [
                {"cell_type": "code", "source": [], "metadata": {"nbgrader": {"grade_id": []}}}
            ]
        },
        "type": {"cells": [{"cell_type": "code", "source": 5, "metadata": {"nbgrader": "x"}}]},
    }
    for student, content in odd.items():
        path = hand_in(classroom, student, module, stub(module))
        path.write_text(json.dumps(content))
    record(classroom, module, [result(module, student) for student in odd])
    for student in odd:
        assert grades(classroom, student)["answer-slopes"] == (0.0, None, False)
        assert len(graded_cells(read_notebook(classroom.autograded(student, module)))) == 14


def test_nbgraders_feedback_works_on_it_and_hides_tests(classroom, module):
    hand_in(classroom, "ada", module, solution(module))
    record(classroom, module, [result(module, "ada", ["test-relu"])])
    convert(classroom, "GenerateFeedback", module, "ada")
    page = classroom.feedback("ada", module).read_text()
    assert "test-relu gave 1, expected 2: &lt;hint&gt;" in page
    assert "float64 must be kept" not in page  # a hidden test's hint
    assert "float64 must be kept" in classroom.autograded("ada", module).read_text()


def test_many_students_are_few_commits(classroom, module, monkeypatch):
    monkeypatch.setattr("tito.classroom.gradebook.AT_ONCE", 10)
    students = [f"s{number:03d}" for number in range(25)]
    for student in students:
        path = classroom.submission(student, module)
        path.parent.mkdir(parents=True)
        path.write_text(
            json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []})
        )
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    commits = []
    listener = lambda connection: commits.append(1)  # noqa: E731
    event.listen(Engine, "commit", listener)
    try:
        record(classroom, module, (result(module, student) for student in students))
    finally:
        event.remove(Engine, "commit", listener)
    assert len(commits) < 10
    with open_gradebook(classroom) as gradebook:
        assert len(gradebook.assignment_submissions(NAME[1])) == 25
        assert gradebook.find_submission(NAME[1], "s024").score == 80


def test_an_unreleased_module_is_released_first(classroom):
    module = classroom.course.module("01")
    assert record(classroom, module, []) == 0
    assert classroom.release(module).is_file()
    with open_gradebook(classroom) as gradebook:
        assert gradebook.find_notebook("tensor", "01_tensor").max_score == 100
