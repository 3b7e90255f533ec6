"""Every lesson's solution runs from top to bottom, twice in one kernel and quietly."""

import os

import nbformat
import pytest

from tito.course import find_course
from tito.grading import QUIET, partial_package, run_notebook
from tito.notebook import read_module

course = find_course()
every_module = pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)


@every_module
def test_notebook_runs_and_its_definitions_run_again(module, tmp_path):
    package = partial_package(course, module, tmp_path)
    first, second = run_notebook(read_module(module), package, twice=True)
    for run in (first, second):
        assert not [f"{cell.id}: {cell.error}" for cell in run if cell.error]
        assert not [f"{cell.id}: {cell.stderr}" for cell in run if cell.stderr]


@pytest.mark.slow
@every_module
def test_notebook_runs_without_matplotlib(module, tmp_path):
    package = partial_package(course, module, tmp_path)
    [run] = run_notebook(read_module(module), package, without=["matplotlib"])
    assert not [f"{cell.id}: {cell.error}" for cell in run if cell.error]


@pytest.mark.slow
@every_module
def test_notebook_runs_twice_in_a_real_kernel(module, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    partial_package(course, module, tmp_path)
    for name, value in QUIET.items():
        if name != "MPLBACKEND":  # the kernel's own draws into the notebook
            monkeypatch.setenv(name, value)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    notebook = read_module(module)
    notebook.cells += nbformat.from_dict(notebook.cells)
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [
        f"{cell.id}: {output.text}"
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not outputs
