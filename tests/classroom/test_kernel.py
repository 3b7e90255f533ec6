"""The overlay that a graded notebook imports, and the kernel that shows it nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from submissions import hand_in, solution, stub, with_cells

from tito.classroom import kernel, sandbox
from tito.classroom.nbgrader_engine import grade
from tito.classroom.overlay import make_overlay
from tito.classroom.preprocessors import hidden_lines, restore, template, verdict
from tito.classroom.results import read_result
from tito.classroom.source import refresh, release
from tito.errors import TitoError
from tito.export import export_text
from tito.notebook import grade_id

needs_sandbox = pytest.mark.skipif(bool(sandbox.problem()), reason=sandbox.problem())


@pytest.fixture
def module(classroom):
    return classroom.course.module("02")


# --- the overlay ---


def own_tensor(classroom, student, module, text):
    path = classroom.own_package(student, module) / "core" / "tensor.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_the_overlay_holds_what_comes_before(classroom, module, tmp_path):
    module = classroom.course.module("05")
    package = make_overlay(classroom, "ada", module, "reference", tmp_path / "overlay")
    assert package == tmp_path / "overlay" / "tinytorch"
    here = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    files = {each.file: each.number for each in classroom.course.modules}
    assert {file for file in here if file in files} == {
        file for file, number in files.items() if number < "05"
    }
    code = "import tinytorch; t = tinytorch.Tensor([2.0]); print((t * t).item())"
    run = [sys.executable, "-P", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "4.0\n", done.stderr


def test_own_files_are_taken_by_the_policy_own_alone(classroom, module, tmp_path):
    own_tensor(classroom, "ada", module, "# ada's\n")
    (classroom.own_package("ada", module) / "core" / "activations.py").write_text("# cheat\n")
    (classroom.own_package("ada", module) / "core" / "other.py").write_text("# more\n")
    reference = make_overlay(classroom, "ada", module, "reference", tmp_path / "reference")
    own = make_overlay(classroom, "ada", module, "own", tmp_path / "own")
    assert (own / "core" / "tensor.py").read_text() == "# ada's\n"
    right = (classroom.course.package / "core" / "tensor.py").read_text()
    assert (reference / "core" / "tensor.py").read_text() == right
    for package in (reference, own):
        assert not (package / "core" / "activations.py").exists()
        assert not (package / "core" / "other.py").exists()
    grace = make_overlay(classroom, "grace", module, "own", tmp_path / "grace")
    assert (grace / "core" / "tensor.py").read_text() == right


def test_links_are_not_followed(classroom, module, tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("# secret\n")
    path = own_tensor(classroom, "ada", module, "")
    path.unlink()
    path.symlink_to(secret)
    outside = tmp_path / "elsewhere" / "core"
    outside.mkdir(parents=True)
    (outside / "tensor.py").write_text("# secret\n")
    classroom.submission("grace", module).parent.mkdir(parents=True)
    classroom.own_package("grace", module).symlink_to(outside.parent)
    for student in ("ada", "grace"):
        package = make_overlay(classroom, student, module, "own", tmp_path / student)
        assert "secret" not in (package / "core" / "tensor.py").read_text()


def test_an_unknown_policy_is_refused(classroom, module, tmp_path):
    with pytest.raises(TitoError, match="no policy 'mine': take one of reference, own"):
        make_overlay(classroom, "ada", module, "mine", tmp_path)


# --- whose notebook it is, and what a submission becomes ---


def test_the_folder_says_whose_it_is(classroom, module):
    root = classroom.root
    assert kernel.whose(classroom, root / "autograded/ada/02_activations") == ("ada", module)
    assert kernel.whose(classroom, root / "source/02_activations") == ("", module)
    for folder in ("private", "autograded/ada", "autograded/ada/99_no"):
        with pytest.raises(TitoError, match="grades notebooks in autograded/STUDENT/NN_name"):
            kernel.whose(classroom, root / folder)


def test_submissions_get_the_masters_tests_back(classroom, module):
    """Whatever was deleted, copied or edited, and in whatever order."""
    right = template(classroom, module)
    names = [grade_id(cell) for cell in right.cells if grade_id(cell)]
    notebook = with_cells(solution(module), {"test-relu": "pass", "imports": "import os"})
    fake = next(c for c in stub(module).cells if grade_id(c) == "test-gelu")
    fake.source = "print('fake')"
    gone = {"imports", "relu", "test-slope", "slope", "test-softmax", names[-1]}
    notebook.cells = [c for c in notebook.cells if grade_id(c) not in gone] + [fake]
    restore(notebook, right)
    assert [grade_id(cell) for cell in notebook.cells if grade_id(cell)] == names
    by_name = {grade_id(cell): cell for cell in notebook.cells if grade_id(cell)}
    for cell in right.cells:
        if grade_id(cell) and not cell.metadata.nbgrader.solution:
            assert by_name[grade_id(cell)].source == cell.source
    assert "raise NotImplementedError()" in by_name["relu"].source
    assert "1 - out" in by_name["sigmoid"].source or "np.exp" in by_name["sigmoid"].source
    assert notebook.cells[-1].source == "print('fake')"
    assert "nbgrader" not in notebook.cells[-1].metadata


def failed(source, line, ename="AssertionError", evalue="f(1) gave 2, expected 3: the hint"):
    from nbformat.v4 import new_code_cell, new_output

    trace = [f"Cell In[\x1b[32m4\x1b[39m], line {line}", "Cell In[2], line 1, in f()"]
    output = new_output("error", ename=ename, evalue=evalue, traceback=trace)
    return new_code_cell(source, outputs=[output], execution_count=4)


HIDING = """\
check(f(1), 2, "seen")
### BEGIN HIDDEN TESTS
check(
    f(1), 3, "the hint"
)
check(f(2), 3, "hint " + str(1))
### END HIDDEN TESTS
check(f(4), 2, "seen")"""


def test_of_a_hidden_test_no_more_than_the_hint_is_told():
    assert hidden_lines(failed(HIDING, 1)) == {2, 3, 4, 5, 6, 7}
    assert verdict(failed(HIDING, 1)) == ("f(1) gave 2, expected 3: the hint", False)
    assert verdict(failed(HIDING, 4)) == ("the hint", True)
    assert verdict(failed(HIDING, 6)) == ("a hidden test failed", True)
    assert verdict(failed(HIDING, 8)) == ("f(1) gave 2, expected 3: the hint", False)
    assert verdict(failed(HIDING, 1, "NameError", "no f")) == ("NameError: no f", False)
    assert verdict(failed("", 1, "NotImplementedError", "")) == ("it is not written yet", False)
    stopped = "it took too long, and was interrupted"
    assert verdict(failed("", 1, "KeyboardInterrupt", "")) == (stopped, False)


# --- the kernel itself ---


def test_the_kernel_is_found_by_nbgrader(classroom):
    from jupyter_client.kernelspec import KernelSpecManager

    folder = kernel.install()
    assert folder.is_relative_to(os.environ["JUPYTER_DATA_DIR"])
    spec = KernelSpecManager().get_kernel_spec("tinytorch-grade")
    assert spec.interrupt_mode == "message"
    assert spec.argv[0] == sys.executable


PROBE = """\
import os, pathlib, socket, sys, warnings
warnings.warn("seen by no one")
np.log(np.array([0.0]))
seen = []
classroom = pathlib.Path({root!r})
seen += [str(path) for path in classroom.rglob("*")] if classroom.exists() else []
seen += [str(path) for path in pathlib.Path({checkout!r}).glob("modules/*/*.ipynb")]
for place in ({checkout!r}, "/grading", *sys.path):
    for path in pathlib.Path(place).rglob("*.py"):
        if path.name in ("activations_dev.py", "activations.py", "layers.py"):
            if "Stateless" in path.read_text() or "Linear" in path.read_text():
                seen.append(str(path))
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2)
    seen.append("network")
except OSError:
    pass
try:
    os.kill({pid}, 0)
    seen.append("processes")
except OSError:
    pass
assert seen == [], seen
assert os.environ["TQDM_DISABLE"] == "1" and os.environ["OPENBLAS_NUM_THREADS"] == "1"
pathlib.Path("scratch").write_text("may be written")
"""


@pytest.mark.slow
@needs_sandbox
def test_a_kernel_sees_neither_the_classroom_nor_the_network(classroom, module):
    """A notebook that looks around gets its points only if it finds nothing."""
    import socket

    kernel.install()
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {
            "root": str(classroom.root),
            "checkout": str(classroom.course.root),
            "port": server.getsockname()[1],
            "pid": os.getpid(),
        }
        probe = PROBE.format(**names)
        private = '# %% nbgrader={"grade_id": "probe", "points": 5}\nassert probed\n'
        classroom.private(module).write_text(private)
        refresh(classroom, module)
        release(classroom, module)
        notebook = solution(module)
        spy = next(c for c in notebook.cells if grade_id(c) == "relu")
        spy.source = f"probed = False\n{probe}\nprobed = True\n{spy.source.split('export')[1]}"
        hand_in(classroom, "ada", module, notebook)
        results = []
        grade(classroom, module, ["ada"], results.append)
    [cell] = [cell for cell in results[0].cells if cell.id == "probe"]
    assert (cell.points, cell.message) == (5, "")
    assert not (classroom.root / ".tito" / "kernel.log").exists()
    assert not list(classroom.autograded("ada", module).parent.glob("scratch"))


@pytest.mark.slow
def test_a_cell_that_does_not_end_costs_its_tests_alone(classroom, module):
    """It is interrupted, in the sandbox too, and the kernel goes on with what follows."""
    config = classroom.root / "nbgrader_config.py"
    config.write_text(config.read_text().replace("seconds = 60", "seconds = 3"))
    kernel.install()
    release(classroom, module)
    endless = "#| export\n@op\ndef relu(x):\n    while True:\n        pass\n"
    hand_in(classroom, "ada", module, with_cells(solution(module), {"relu": endless}))
    hand_in(
        classroom, "grace", module, with_cells(solution(module), {"relu": "import os; os._exit(0)"})
    )
    results = {}
    grade(classroom, module, ["ada", "grace"], lambda r: results.update({r.student: r}))
    cells = {cell.id: cell for cell in results["ada"].cells}
    assert cells["test-relu"].points == 0
    assert cells["test-relu"].message == "it took too long, and was interrupted"
    assert cells["test-sigmoid"].points == cells["test-sigmoid"].possible
    assert "DeadKernelError" in results["grace"].problem and results["grace"].points == 0


@pytest.mark.slow
def test_without_a_sandbox_the_log_warns(classroom, module, monkeypatch, tmp_path):
    """Marks are the same, and stderr, which would cost points, stays empty."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no bwrap there
    sandbox.problem.cache_clear()
    try:
        kernel.install()
        release(classroom, module)
        hand_in(classroom, "ada", module, solution(module))
        grade(classroom, module, ["ada"])
    finally:
        sandbox.problem.cache_clear()
    result = read_result(classroom.results(module, "nbgrader") / "ada.json")
    assert (result.points, result.possible, result.problem) == (80, 100, "")
    log = (classroom.root / ".tito" / "kernel.log").read_text()
    assert "ran without a sandbox: bubblewrap is not installed" in log


@pytest.mark.slow
def test_the_engine_grades_on_own_modules_by_the_policy_own(classroom, module, monkeypatch):
    """A wrong Tensor of the student's own costs points by the policy "own", and none else."""
    text = export_text(classroom.course.module("01"))
    assert text.count("return np.multiply(a, b)") == 1
    kernel.install()
    release(classroom, module)
    hand_in(classroom, "ada", module, solution(module))
    own_tensor(classroom, "ada", module, text.replace("np.multiply(a, b)", "np.add(a, b)"))
    points = {}
    for policy in ("reference", "own"):
        grade(classroom, module, ["ada"], lambda r: points.update({r.policy: r.points}), policy)
    assert points["reference"] == 80
    assert 0 <= points["own"] < 80


def test_no_wheel_holds_a_course_folder(classroom):
    """What `python -m build` packs is tinytorch/, tito/ and the course; private tests are not."""
    import tomllib

    config = tomllib.loads((classroom.course.root / "pyproject.toml").read_text())
    wheel = config["tool"]["hatch"]["build"]["targets"]["wheel"]
    packed = [*wheel["packages"], *wheel["force-include"]]
    found = [path for name in packed for path in (classroom.course.root / name).rglob("private/*")]
    assert packed and not found and not zipfile.is_zipfile(classroom.root / "gradebook.db")
