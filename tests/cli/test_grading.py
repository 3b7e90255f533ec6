"""Notebooks earn points; wrong solutions lose them."""

import os

import pytest
from lessons import ACTIVATIONS, two_lessons

from tito.errors import TitoError
from tito.export import export
from tito.grading import (
    Wrong,
    load_wrongs,
    partial_package,
    run_notebook,
    run_wrongs,
)
from tito.notebook import read_module

UNCHANGED = Wrong("relu", "returns x unchanged", "return x", loses=["test-relu"])


@pytest.fixture
def course(tmp_path):
    course = two_lessons(tmp_path / "course")
    export(course)
    return course


@pytest.fixture
def package(course, tmp_path):
    return partial_package(course, course.module("02"), tmp_path)


def lesson(course, more=""):
    """The second lesson's notebook, with more cells at its end."""
    module = course.module("02")
    module.source.write_text(ACTIVATIONS + more)
    return read_module(module)


def test_an_error_is_one_line_that_names_the_place(course, package):
    notebook = lesson(course)
    [run] = run_notebook(notebook, package)
    assert not any(cell.error or cell.stderr for cell in run)
    [relu] = [cell for cell in notebook.cells if cell.id == "relu"]
    relu.source = UNCHANGED.apply(relu.source)
    [run] = run_notebook(notebook, package)
    assert {cell.id: cell.error for cell in run if cell.error} == {
        "test-relu": "AssertionError: relu(Tensor([-0.5, 3.0])).data gave -0.5 at [0], expected "
        "0.0: negative inputs must become zero (cell test-relu, line 2)"
    }


def test_a_lesson_does_not_see_its_own_package_file(course, package):
    notebook = lesson(course, "\n# %%\nfrom tinytorch.core.activations import relu\n")
    [run] = run_notebook(notebook, package)
    assert [cell.error for cell in run if cell.error] == [
        "ModuleNotFoundError: tinytorch.core.activations comes with module 02_activations: "
        f"tito module start 02 (cell {run[-1].id}, line 1)"
    ]


def test_cells_run_as_in_a_notebook(course, package):
    more = """
# %%
from __future__ import annotations
import pickle, sys

# %%
def later(x: NotDefinedAnywhere) -> None:
    "Annotations are not evaluated here either."

# %%
raise_in_second_pass = 1 / (1 - globals().get("raise_in_second_pass", 0))  # not run again

# %% nbgrader={"grade": true, "grade_id": "test-more", "points": 5, "solution": false}
assert pickle.loads(pickle.dumps(relu)) is relu
count = globals().get("count", 0) + 1
print("noise", file=sys.stderr)
assert count < 2, "second\\n pass"
"""
    first, second = run_notebook(lesson(course, more), package, twice=True)
    assert not any(cell.error for cell in first)
    assert first[-1].stderr == "noise\n"
    assert [cell.error for cell in second if cell.error] == [
        f"AssertionError: second pass (cell {second[-1].id}, line 4)"
    ]


def test_a_module_can_be_hidden(course, package):
    notebook = lesson(course, "\n# %%\nimport json\n")
    [run] = run_notebook(notebook, package, without=["json"])
    assert run[-1].error.startswith("ModuleNotFoundError: import of json halted")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os\nos.chdir('/')\nos._exit(3)", r"cell \w+ ended Python \(status 3\)"),
        ("while True: pass", r"cell \w+ did not end within 5 s"),
    ],
)
def test_a_cell_that_never_comes_back_is_one_line(course, package, code, message):
    notebook = lesson(course, f"\n# %%\n{code}\n")
    with pytest.raises(TitoError, match=message) as raised:
        run_notebook(notebook, package, timeout=5)
    assert notebook.cells[-1].id in str(raised.value)


def test_what_a_child_process_says_on_stderr_is_seen(course, package):
    notebook = lesson(course, "\n# %%\nimport os\nos.system('echo noise >&2')\n")
    [run] = run_notebook(notebook, package)
    assert run[-1].stderr == "noise\n"


@pytest.mark.parametrize("fork", [True, False])
def test_wrong_solutions_fail_the_tests_that_they_name(course, package, monkeypatch, fork):
    if not fork:
        monkeypatch.delattr(os, "fork", raising=False)
    wrongs = [
        UNCHANGED,
        Wrong("relu", "is always 1", change=("max(v, 0.0)", "1.0"), loses=["test-relu"]),
        Wrong("relu", "is right", "return Tensor([max(v, 0.0) for v in x.data])", ["test-relu"]),
        Wrong("relu", "ends the process", "import os; os._exit(1)", ["test-relu"]),
    ][: 4 if fork else 3]
    right, outcomes = run_wrongs(lesson(course), wrongs, package)
    assert right == {"test-relu": ""}
    assert "gave -0.5 at [0], expected 0.0" in outcomes["returns x unchanged"]["test-relu"]
    assert "gave 1.0 at [0], expected 0.0" in outcomes["is always 1"]["test-relu"]
    assert outcomes["is right"]["test-relu"] == ""
    if fork:
        assert outcomes["ends the process"]["test-relu"].startswith("no answer")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are killed, whole runs end at a limit")
def test_a_wrong_solution_that_never_ends_is_stopped(course, package):
    wrong = Wrong("relu", "loops", "while True: pass", loses=["test-relu"])
    _, outcomes = run_wrongs(lesson(course), [wrong], package, seconds=0.5)
    assert outcomes["loops"]["test-relu"] == "no answer: it crashed or took over 0.5 s"


def test_demonstrations_are_skipped_and_what_tests_use_is_not(course, package):
    more = """
# %%
case = [-1.0]

# %%
case[0] = -2.0

# %%
raise SystemExit("a slow demonstration")

# %% nbgrader={"grade": true, "grade_id": "test-more", "points": 5, "solution": false}
def test_more():
    check(relu(Tensor(case)).data, [0.0], "negative inputs must become zero")

assert case == [-2.0]
test_more()
"""
    wrong = Wrong("relu", "returns x unchanged", "return x", loses=["test-relu", "test-more"])
    right, outcomes = run_wrongs(lesson(course, more), [wrong], package)
    assert right == {"test-relu": "", "test-more": ""}
    assert "gave -2.0 at [0]" in outcomes["returns x unchanged"]["test-more"]


@pytest.mark.parametrize(
    ("wrongs", "message"),
    [
        ([UNCHANGED, UNCHANGED], "two wrong solutions are called 'returns x unchanged'"),
        ([Wrong("gelu", "w", "pass", ["test-relu"])], "'w': no exercise is called gelu"),
        ([Wrong("relu", "w", "pass")], "'w': loses=.* must name test cells below relu"),
        ([Wrong("relu", "w", "pass", ["answer"])], "'w': loses=.* must name test cells"),
        ([Wrong("relu-layer", "w", "pass", ["test-relu"])], "test cells below relu-layer"),
        (
            [Wrong("relu", "w", change=("x", "y"), loses=["test-relu"])],
            "'w': relu holds 'x' .* times: give a piece that stands there once",
        ),
    ],
)
def test_a_list_that_makes_no_sense_is_one_line(course, package, wrongs, message):
    with pytest.raises(TitoError, match=message):
        run_wrongs(lesson(course), wrongs, package)


def test_the_code_takes_the_place_of_the_region():
    cell = (
        "def f():\n    if True:\n        ### BEGIN SOLUTION\n        1\n        ### END SOLUTION\n"
    )
    wrong = Wrong("f", "w", "\n    a\n    if a:\n        b\n    ")
    assert wrong.apply(cell) == "def f():\n    if True:\n        a\n        if a:\n            b\n"
    assert wrong.apply("x = 1") == "a\nif a:\n    b"
    with pytest.raises(TitoError, match="2 solution regions"):
        wrong.apply(cell + cell)


def test_the_list_is_read_from_its_file(tmp_path):
    path = tmp_path / "wrong_02_activations.py"
    with pytest.raises(TitoError, match=r"wrong_02_activations\.py is missing"):
        load_wrongs(path)
    path.write_text("from tito.grading import Wrong\nWRONG = [Wrong('relu', 'w', 'pass')]\n")
    assert load_wrongs(path) == [Wrong("relu", "w", "pass")]
