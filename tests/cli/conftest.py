"""A small course, and a student who takes it by typing commands."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from lessons import ACTIVATIONS, HEADER, TENSOR, write_course

from tito.course import Course
from tito.export import export
from tito.main import main
from tito.notebook import grade_id, read_module, read_notebook, write_notebook
from tito.workspace import set_up

LAYERS = (
    HEADER
    + '''\
# %%
#| default_exp core.layers

# %% [markdown]
r"""
# Layers

> Functions with something to learn. Takes 2 to 3 hours.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from tinytorch.core.activations import relu
from tinytorch.core.tensor import Tensor

# %%
from tito.testing import check

# %% nbgrader={"grade": false, "grade_id": "scale", "solution": true}
#| export
def scale(x: Tensor, factor: float) -> Tensor:
    """relu(x) times a factor."""
    ### BEGIN SOLUTION
    return Tensor(factor * v for v in relu(x).data)
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "test-scale", "points": 100, "solution": false}
check(scale(Tensor([-1.0, 2.0]), 3.0).data, [0.0, 6.0], "relu first, then the factor")
'''
)
SUITE = '''\
"""The suite of activations."""

from tinytorch.core.activations import relu
from tinytorch.core.tensor import Tensor


def test_zero_stays():
    assert relu(Tensor([0.0])).data == [0.0]


def test_large_numbers_stay():
    assert relu(Tensor([5.0])).data == [5.0], "relu(5) must be 5"
'''


@dataclass
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> dict:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def templates(tmp_path_factory) -> Path:
    """A folder with the course and with an empty workspace for it, made once and then copied."""
    folder = tmp_path_factory.mktemp("templates")
    course = write_course(
        folder / "course", m01_tensor=TENSOR, m02_activations=ACTIVATIONS, m03_layers=LAYERS
    )
    export(course)
    set_up(folder / "my-course", course)
    return folder


@pytest.fixture
def course(templates, tmp_path, monkeypatch) -> Course:
    """Tensor (given), activations and layers."""
    root = shutil.copytree(templates / "course", tmp_path / "course")
    course = Course(root, root / "tinytorch")
    monkeypatch.setattr("tito.course.find_course", lambda: course)
    return course


@pytest.fixture
def suite(course) -> Path:
    """The file of the pytest suite of activations."""
    path = course.module("02").suite
    path.parent.mkdir(parents=True)
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.fixture
def tito(capsys, course, monkeypatch, tmp_path) -> Callable[..., Ran]:
    """Runs a command line of tito; Jupyter's folder is a temporary one."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


@pytest.fixture
def workspace(templates, tito, tmp_path, monkeypatch) -> Path:
    """A new workspace, and the current folder."""
    root = shutil.copytree(templates / "my-course", tmp_path / "my-course")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def write(course, workspace) -> Callable[..., Path]:
    """Puts the course's solutions into a notebook, or what is given by grade_id."""

    def put(number: str, **given: str) -> Path:
        module = course.module(number)
        path = workspace / "modules" / module.folder / f"{module.name}.ipynb"
        solutions = {
            grade_id(cell): cell.source
            for cell in read_module(module).cells
            if cell.metadata.get("nbgrader", {}).get("solution")
        }
        notebook = read_notebook(path)
        for cell in notebook.cells:
            if grade_id(cell) in solutions | given:
                cell.source = (solutions | given)[grade_id(cell)]
        write_notebook(path, notebook)
        return path

    return put
