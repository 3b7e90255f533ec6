"""Every wrong solution in wrong_NN_name.py loses points where its author says."""

import pytest

from tito.course import find_course
from tito.grading import load_wrongs, partial_package, run_wrongs
from tito.notebook import graded_cells, read_module

course = find_course()


@pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)
def test_wrong_solutions_lose_points(module, tmp_path):
    notebook = read_module(module)
    wrongs = load_wrongs(module.suite.with_name(f"wrong_{module.folder}.py"))
    right, outcomes = run_wrongs(notebook, wrongs, partial_package(course, module, tmp_path))

    assert not {test: error for test, error in right.items() if error}, "the solution loses points"
    points = [cell.metadata.nbgrader.points for cell in graded_cells(notebook)]
    assert sum(points) == 100
    for wrong in wrongs:
        for test in wrong.loses:
            error = outcomes[wrong.name][test]
            assert error, f"{test} does not notice the wrong solution {wrong.name!r}"
            ran = not error.startswith(("NameError", "SyntaxError", "no answer"))
            assert ran, f"{wrong.name!r} is not a wrong solution but none: {error}"
    idle = set(right) - {test for wrong in wrongs for test in wrong.loses}
    assert not idle, "no wrong solution loses these tests' points"
