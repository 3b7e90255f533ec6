"""Whose earlier modules a graded notebook imports: the reference's, its author's, the better."""

import nbformat
import pytest
from graders import cell, course, lost
from submissions import hand_in, solution, with_cells

from tito.classroom import sandbox
from tito.classroom.assignment import Assignment, Grader
from tito.classroom.sandbox import Limits
from tito.classroom.submission import take
from tito.files import atomic_write
from tito.notebook import read_module

TENSOR, ACTIVATIONS, LAYERS = course.modules[:3]
REFERENCE = (course.package / TENSOR.file).read_text(encoding="utf-8")
OWN = {
    "right": REFERENCE + "\n# mine\n",
    "wrong": REFERENCE.replace("np.subtract(a, b)", "np.subtract(b, a)"),
    "crashing": "import numpy as np\n\nraise RuntimeError('mine never loads')\n",
    "absent": None,
}


@pytest.fixture(scope="module")
def graders():
    """A grader for each policy; what the reference gives is the same for all."""
    text, expected, opened = nbformat.writes(read_module(ACTIVATIONS)), {}, {}
    for policy in ("reference", "own", "best"):
        isolated = sandbox.available()
        assignment = Assignment(
            ACTIVATIONS.folder, text, policy, Limits(), isolated, expected=expected
        )
        opened[policy] = Grader(assignment, course)
        if not expected:
            opened[policy].note_expected()
            expected = opened[policy].master.expected
    yield opened
    for grader in opened.values():
        grader.close()


@pytest.fixture
def graded(classroom, graders):
    """What ada gets by a policy for `notebook`, with these files handed in beside it."""

    def grade(policy, notebook=None, **files):
        hand_in(classroom, "ada", ACTIVATIONS, notebook or solution(ACTIVATIONS))
        for name, text in files.items():
            if text is not None:
                file = classroom.own_package("ada", ACTIVATIONS) / "core" / f"{name}.py"
                atomic_write(file, text)
        return graders[policy].grade(take(classroom, "ada", ACTIVATIONS, policy))

    return grade


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("policy", ["reference", "best"])
def test_nobody_loses_by_an_earlier_module(graded, policy, own):
    result = graded(policy, tensor=OWN[own])
    assert lost(result) == {} and result.policy == policy and result.flags == []


def test_by_their_own_a_right_module_gives_full_marks(graded):
    result = graded("own", tensor=OWN["right"])
    assert lost(result) == {} and result.flags == []


def test_by_their_own_a_wrong_module_costs_what_it_breaks(graded):
    told = lost(graded("own", tensor=OWN["wrong"]))
    assert "test-slope" in told  # slope subtracts tensors
    assert told.keys().isdisjoint({"test-relu", "test-leaky-relu", "test-stateless"})


def test_by_their_own_a_module_that_cannot_be_imported_costs_all(graded):
    result = graded("own", tensor=OWN["crashing"])
    assert result.points == 0 and result.problem == ""
    assert "RuntimeError: mine never loads" in cell(result, "test-relu").message


def test_by_their_own_the_reference_fills_in_and_it_is_flagged(graded):
    result = graded("own")
    assert lost(result) == {}
    assert result.flags == ["not handed in, so the reference's was imported: 01_tensor"]


def test_the_better_one_counts(graded):
    """Who built on a quirk of their own is right with it."""
    own = REFERENCE + "\ndef mine(x):\n    return np.maximum(x, 0)\n"
    quirk = "from tinytorch.core import tensor\n@op\ndef relu(x):\n    return tensor.mine(x)\n"
    notebook = with_cells(solution(ACTIVATIONS), {"relu": quirk})
    assert "test-relu" in lost(graded("reference", notebook, tensor=own))
    assert lost(graded("best", notebook, tensor=own)) == {}


@pytest.mark.parametrize("policy", ["reference", "own", "best"])
@pytest.mark.parametrize("name", ["activations", "layers", "extra"])
def test_no_later_module_and_no_other_file_is_imported(graded, policy, name):
    cheat = f"from tinytorch.core.{name} import relu"
    notebook = with_cells(solution(ACTIVATIONS), {"relu": cheat})
    later = "import numpy as np\n\ndef relu(x):\n    return x\n"
    result = graded(policy, notebook, tensor=OWN["right"], **{name: later})
    assert cell(result, "test-relu").points == 0
    assert "relu ends in ModuleNotFoundError" in cell(result, "test-relu").message


def test_files_are_taken_as_they_are_named_and_never_through_links(classroom):
    hand_in(classroom, "ada", ACTIVATIONS, solution(ACTIVATIONS))
    package = classroom.own_package("ada", ACTIVATIONS)
    for file in ("core/tensor.py", "core/activations.py", "core/__init__.py", "_index.py"):
        atomic_write(package / file, f"# {file}")
    own = take(classroom, "ada", ACTIVATIONS, "own").own
    assert own == {"core/tensor.py": b"# core/tensor.py"}
    assert take(classroom, "ada", ACTIVATIONS, "reference").own == {}
    (package / "core" / "tensor.py").unlink()
    (package / "core" / "tensor.py").symlink_to(classroom.root / "gradebook.db")
    assert take(classroom, "ada", ACTIVATIONS, "own").own == {}


def test_a_huge_export_is_a_problem(classroom):
    hand_in(classroom, "ada", ACTIVATIONS, solution(ACTIVATIONS))
    path = classroom.own_package("ada", ACTIVATIONS) / "core" / "tensor.py"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(21 << 20)
    found = take(classroom, "ada", ACTIVATIONS, "own")
    assert found.problem.startswith("tensor.py has 21 MiB: at most 20") and found.own == {}


def test_a_student_s_module_is_loaded_by_the_submission_s_process_alone(graded):
    """Else it could change what runs the cells."""
    own = REFERENCE + "\nimport os\nLOADED_IN = os.getpid()\n"
    code = (
        "import os\nfrom tinytorch.core import tensor\n"
        "assert tensor.LOADED_IN == os.getpid(), 'loaded before'\n"
        "@op\ndef relu(x):\n    return np.maximum(x, 0)\n"
    )
    assert lost(graded("own", with_cells(solution(ACTIVATIONS), {"relu": code}), tensor=own)) == {}
