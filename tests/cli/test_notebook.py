"""Lessons as notebooks: the solution's, the student's."""

import subprocess
import sys

import nbformat
import pytest
from lessons import ACTIVATIONS, two_lessons

from tito.course import Course, find_course
from tito.errors import TitoError
from tito.files import atomic_write
from tito.notebook import (
    grade_id,
    graded_cells,
    read_module,
    read_notebook,
    student_version,
    write_notebook,
)


@pytest.fixture
def module(tmp_path):
    return two_lessons(tmp_path).module("02")


def cell(notebook, name):
    [found] = [cell for cell in notebook.cells if cell.id == name]
    return found


def test_module_facts_come_from_folder_and_first_lines(tmp_path):
    course = two_lessons(tmp_path)
    tensor, activations = course.modules
    assert (tensor.number, tensor.name, tensor.folder) == ("01", "tensor", "01_tensor")
    assert (tensor.title, tensor.export, tensor.file) == (
        "Tensor: the base",
        "core.tensor",
        "core/tensor.py",
    )
    assert tensor.suite == tmp_path / "tests" / "modules" / "test_01_tensor.py"
    assert course.before(activations) == (tensor,)
    for name in ("2", "02", 2, "activations", "02_activations"):
        assert course.module(name) == activations
    with pytest.raises(TitoError, match="there is no module '7': the course has 01_tensor, 02_"):
        course.module(7)


def test_a_lesson_without_default_exp_is_one_line(tmp_path):
    course = two_lessons(tmp_path)
    course.modules[0].source.write_text("# %%\nx = 1\n")
    with pytest.raises(TitoError, match=r"tensor_dev\.py: add a cell `#\| default_exp"):
        Course(course.root, course.package).module("01")


def test_finding_the_course_imports_nothing_heavy():
    code = (
        "import sys; from tito.course import Course, find_course; find_course().modules\n"
        "heavy = {'numpy', 'nbdev', 'jupytext', 'nbformat', 'click', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_twice_gives_the_same_notebook(module):
    notebook = read_module(module)
    assert nbformat.writes(notebook) == nbformat.writes(read_module(module))
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert {"relu", "test-relu", "imports"} <= set(ids)
    assert notebook.metadata.kernelspec.name == "tinytorch"
    assert {key for cell in notebook.cells for key in cell.metadata} == {"nbgrader"}


def test_equal_cells_get_different_ids(tmp_path):
    path = tmp_path / "lesson.py"
    path.write_text("# %%\nx = 1\n\n# %%\nx = 1\n\n# %%\nx = 2\n")
    first, second, third = (cell.id for cell in read_module(path).cells)
    assert second == f"{first}-2"
    assert third not in (first, second)


def test_metadata_is_completed(module):
    notebook = read_module(module)
    assert cell(notebook, "relu").metadata.nbgrader == {
        "grade": False,
        "grade_id": "relu",
        "locked": False,
        "schema_version": 3,
        "solution": True,
        "task": False,
    }
    assert cell(notebook, "test-relu").metadata.nbgrader.locked is True
    assert [grade_id(cell) for cell in graded_cells(notebook)] == ["test-relu", "answer"]


def test_comments_stay_comments(tmp_path):
    path = tmp_path / "lesson.py"
    source = "# copy the array\n# %timeit is not used here\nx = 1  # why?"
    path.write_text(f"# %%\n{source}\n")
    assert read_module(path).cells[0].source == source


def test_an_expanded_header_reads_the_same(module, tmp_path):
    expanded = ACTIVATIONS.replace(
        "#     text_representation: {extension: .py, format_name: percent, "
        "format_version: '1.3'}\n",
        "#     text_representation:\n#       extension: .py\n#       format_name: percent\n"
        "#       format_version: '1.3'\n#       jupytext_version: 1.16.0\n",
    ).replace(
        "#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}\n",
        "#   kernelspec:\n#     display_name: TinyTorch\n#     language: python\n"
        "#     name: tinytorch\n",
    )
    assert expanded.count("\n") > ACTIVATIONS.count("\n") + 5
    (tmp_path / "expanded.py").write_text(expanded)
    assert read_module(tmp_path / "expanded.py") == read_module(module)


def test_the_student_gets_stubs_and_visible_tests_only(module):
    solution = read_module(module)
    student = student_version(solution)
    nbformat.validate(student)
    assert cell(student, "relu").source == (
        "#| export\ndef relu(x: Tensor) -> Tensor:\n"
        '    """max(x, 0), element by element."""\n'
        "    # YOUR CODE HERE\n    raise NotImplementedError()"
    )
    test = cell(student, "test-relu")
    assert "check(relu(Tensor([-0.5, 3.0]))" in test.source
    assert "[-2.0]" not in test.source and "HIDDEN" not in test.source
    assert test.metadata.editable is False and test.metadata.deletable is False
    assert test.metadata.nbgrader.checksum
    assert cell(student, "answer").source == "YOUR ANSWER HERE"
    assert cell(student, "imports").source == cell(solution, "imports").source
    assert "SOLUTION" in cell(solution, "relu").source  # the original stays whole


def test_nbgrader_refuses_what_it_can_not_stub(module):
    notebook = read_module(module)
    cell(notebook, "relu").source += "\n### BEGIN SOLUTION"
    with pytest.raises(TitoError, match="ClearSolutions refuses the notebook: no end solution"):
        student_version(notebook)


def test_a_notebook_is_written_and_read_back(module, tmp_path):
    notebook = read_module(module)
    write_notebook(tmp_path / "new" / "folder" / "lesson.ipynb", notebook)
    assert read_notebook(tmp_path / "new" / "folder" / "lesson.ipynb") == notebook
    with pytest.raises(TitoError, match=r"gone\.ipynb: no such notebook"):
        read_notebook(tmp_path / "gone.ipynb")


@pytest.mark.parametrize("content", ["", "{", '{"cells": 3}', '{"nbformat": 4}', "\udcff"])
def test_a_damaged_notebook_is_one_line(tmp_path, content):
    path = tmp_path / "damaged.ipynb"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(TitoError, match=r"damaged\.ipynb is not a readable notebook") as raised:
        read_module(path)
    assert "\n" not in str(raised.value)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    atomic_write(path, "old")

    def fail(*arguments):
        raise OSError("the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{step}", fail)
            with pytest.raises(OSError, match="disk is full"):
                atomic_write(path, "new")
        assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
        assert path.read_text() == "old"
    path.chmod(0o640)
    atomic_write(path, b"new")
    assert path.read_text() == "new"
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o640


def test_every_lesson_of_the_course_becomes_a_students_notebook():
    for module in find_course().modules:
        text = nbformat.writes(student_version(read_module(module)))
        assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text
