"""Every lesson's solution runs from top to bottom, quietly and without matplotlib, and what it
defines and tests runs again. With matplotlib, in a real kernel: tests/classroom/test_kernels.py;
definitions and tests alone: test_wrong_solutions.py."""

import pytest

from tito.course import find_course
from tito.grading import partial_package, run_notebook
from tito.notebook import read_module

course = find_course()


@pytest.mark.slow
@pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)
def test_notebook_runs_and_its_definitions_run_again(module, tmp_path):
    package = partial_package(course, module, tmp_path)
    runs = run_notebook(read_module(module), package, twice=True, without=["matplotlib"])
    assert len(runs) == 2
    for run in runs:
        assert not [f"{cell.id}: {cell.error}" for cell in run if cell.error]
        assert not [f"{cell.id}: {cell.stderr}" for cell in run if cell.stderr]
