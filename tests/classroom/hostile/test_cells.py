"""Changing the notebook itself: cells deleted, edited, copied, moved, or given another's name."""

import nbformat
import pytest
from attack import Attack, added
from submissions import solution, with_cells

from tito.notebook import grade_id

pytestmark = pytest.mark.slow

PASSES = "def test_relu():\n    pass\n\n\ntest_relu()\n"
STUB = {"relu": "def relu(x):\n    raise NotImplementedError\n"}


def cell_of(notebook, name):
    [cell] = (cell for cell in notebook.cells if grade_id(cell) == name)
    return cell


def delete(notebook):
    notebook.cells.remove(cell_of(notebook, "test-relu"))


def edit(notebook):
    cell_of(notebook, "test-relu").source = PASSES


def copy(notebook):
    test = cell_of(notebook, "test-relu")
    twin = nbformat.from_dict(test | {"id": "twin", "source": PASSES})
    notebook.cells.insert(notebook.cells.index(test), twin)


def copy_many(notebook):
    test = cell_of(notebook, "test-slope")
    notebook.cells += [nbformat.from_dict(test | {"id": f"twin-{n}"}) for n in range(50)]


def move(notebook):
    test = cell_of(notebook, "test-relu")
    notebook.cells.remove(test)
    notebook.cells.insert(0, test)


def more_points(notebook):
    cell_of(notebook, "test-slope").metadata.nbgrader.points = 1000


def no_points(notebook):
    cell_of(notebook, "test-relu").metadata.nbgrader |= {"grade": False, "points": 0}


def made_text(notebook):
    cell_of(notebook, "test-relu").cell_type = "markdown"


def named_test(notebook):
    cell_of(notebook, "relu").metadata.nbgrader = cell_of(notebook, "test-relu").metadata.nbgrader


def named_solution(notebook):
    test = cell_of(notebook, "test-relu")
    test.metadata.nbgrader = cell_of(notebook, "relu").metadata.nbgrader
    test.source = PASSES


def names_swapped(notebook):
    one, other = cell_of(notebook, "test-relu"), cell_of(notebook, "relu")
    one.metadata, other.metadata = other.metadata, one.metadata
    one.id, other.id = other.id, one.id


def a_test_of_its_own(notebook):
    twin = nbformat.from_dict(cell_of(notebook, "test-slope") | {"id": "mine"})
    twin.metadata.nbgrader |= {"grade_id": "test-mine", "points": 1000}
    notebook.cells.append(twin)


def given_edited(notebook):
    cell_of(notebook, "imports").source += "\ndef check(*arguments):\n    pass\n"


def all_named_alike(notebook):
    for cell in notebook.cells:
        if grade_id(cell):
            cell.metadata.nbgrader.grade_id = "relu"


CHANGES = [
    (delete, "test-relu was deleted"),
    (edit, "test-relu was edited"),
    (copy, "test-relu is there 2 times"),
    (copy_many, "test-slope is there 51 times"),
    (move, "test-relu was moved"),
    (more_points, ""),
    (no_points, ""),
    (made_text, "test-relu is no code cell"),
    (named_test, "relu was deleted"),
    (named_solution, "test-relu was deleted"),
    (names_swapped, "test-relu was edited|moved"),
    (a_test_of_its_own, "test-mine is no cell of this lesson"),
    (given_edited, "imports was edited"),
]


@pytest.mark.parametrize(
    ("change", "flag"), CHANGES, ids=lambda part: getattr(part, "__name__", "")
)
def test_the_masters_tests_count(bench, change, flag):
    """Whatever stands in a submission's tests, relu is not written and earns nothing."""
    notebook = with_cells(solution(bench.module), STUB)
    change(notebook)
    bench.assert_marks(notebook, Attack("", {}, flag=flag), isolated=False)


def test_one_name_for_all(bench):
    """Cells that all have one name run where they stand: they are the student's work still."""
    notebook = solution(bench.module)
    all_named_alike(notebook)
    attack = Attack("", {}, loses=(), flag="slope was deleted")
    bench.assert_marks(notebook, attack, isolated=False)


OWN = {
    "a test's call before it": "import tito.testing\ntito.testing.check = print",
    "the future": "from __future__ import barry_as_FLUFL, annotations",
    "no Python": "%%bash\nrm -rf /",
    "a magic": "%reset -f\n!kill -9 1\nrelu?",
    "a cell that ends all": "raise SystemExit",
    "a byte of nothing": "x = '\0'",
    "half a pair of surrogates": "x = '\ud800'",
    "tabs": "if True:\n\tx = 1\n        y = 2",
    "carriage returns": "x = 1\r\ny = 2\r",
    "a mark of byte order": "\ufeffx = 1",
    "right to left": "x = '\u202e\u2066' # \u200b",
    "brackets": "(" * 100_000,
    "signs": "-" * 100_000 + "1",
    "dots": "x" + ".x" * 100_000,
    "a long number": "9" * 100_000,
    "a coding": "# -*- coding: utf-7 -*-\n+AGEAPQAx-",
}


@pytest.mark.parametrize("name", OWN)
def test_odd_cells_cost_nothing(bench, name):
    """A cell of the student's own that can't run changes no mark, and stops no grader."""
    for source in (OWN[name], f"check\nlargest\n{OWN[name]}"):  # the second names given functions
        notebook = added(solution(bench.module), 0, source)
        bench.assert_marks(notebook, Attack("", {}, loses=(), flag=None), isolated=False)


@pytest.mark.parametrize("name", sorted(OWN.keys() - {"a test's call before it", "the future"}))
def test_odd_solutions_cost_their_tests(bench, name):
    """The same in a solution cell: what it should have defined is missing."""
    notebook = with_cells(solution(bench.module), {"relu": OWN[name]})
    bench.assert_marks(notebook, Attack("", {}, flag=None), isolated=False)
