"""Every notebook in a real kernel, in a student's workspace: as it is given out, and solved."""

import pytest
from nbclient import NotebookClient

from tito import kernel
from tito.course import find_course
from tito.grading import QUIET, names_of, partial_package
from tito.notebook import grade_id, graded_cells, read_module, student_version
from tito.workspace import MARKER

course = find_course()
every_module = pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a notebook as Jupyter does in a workspace that has reached its module: the errors by
    cell, and what came on stderr."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name, value in QUIET.items():
        if name != "MPLBACKEND":  # the kernel's own draws into the notebook
            monkeypatch.setenv(name, value)
    kernel.install()

    def execute(module, notebook):
        (tmp_path / MARKER).touch()
        partial_package(course, module, tmp_path)
        folder = tmp_path / "modules" / module.folder
        folder.mkdir(parents=True)
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, resources=resources, timeout=60, allow_errors=True).execute()
        assert notebook.metadata.kernelspec.name == kernel.NAME
        outputs = [
            (cell.id, output)
            for cell in notebook.cells
            if cell.cell_type == "code"
            for output in cell.outputs
        ]
        errors = {
            name: f"{output.ename}: {output.evalue}"
            for name, output in outputs
            if output.output_type == "error"
        }
        stderr = [(name, output.text) for name, output in outputs if output.get("name") == "stderr"]
        return errors, stderr

    return execute


def names_of_tests(notebook):
    return {grade_id(cell) for cell in graded_cells(notebook) if cell.cell_type == "code"}


def unwritten(notebook):
    """The code cells that use what a student has yet to write, themselves or by way of others."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = {cell.id for cell in code if cell.metadata.get("nbgrader", {}).get("solution")}
    while True:
        missing = {name for cell in code if cell.id in found for name in names_of(cell.source)[0]}
        more = {cell.id for cell in code if names_of(cell.source)[1] & missing} - found
        if not more:
            return found
        found |= more


@every_module
def test_a_notebook_without_solutions_fails_where_they_are_missing(module, run):
    """No test gives points for nothing, and no cell fails for another reason."""
    notebook = student_version(read_module(module))
    errors, stderr = run(module, notebook)
    tests = names_of_tests(notebook)
    assert tests <= set(errors)
    may_fail = tests | unwritten(notebook)
    may_fail |= {name for name, error in errors.items() if error.startswith("NotImplementedError")}
    assert {name: error for name, error in errors.items() if name not in may_fail} == {}
    # IPython itself may trip over the source that a traceback shows, and then says so on stderr
    assert [(name, text) for name, text in stderr if name not in may_fail] == []


@every_module
def test_a_solved_notebook_passes(module, run):
    errors, stderr = run(module, read_module(module))
    assert errors == {}
    assert stderr == []
