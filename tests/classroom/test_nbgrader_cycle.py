"""nbgrader's own commands and pages, unmodified, in a new course folder."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from submissions import hand_in, solution, stub, with_cells

from tito.classroom import kernel
from tito.classroom.creation import make_classroom
from tito.classroom.nbgrader_app import open_gradebook
from tito.classroom.nbgrader_engine import grade
from tito.classroom.source import release
from tito.course import find_course
from tito.notebook import read_notebook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("alembic", path=Path(sys.executable).parent), reason="no alembic"
    ),
]
PROGRAMS = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
HOMES = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "HOME")


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """A course folder in which nbgrader released, autograded and gave feedback on 01_tensor."""
    folder = tmp_path_factory.mktemp("cycle")
    with pytest.MonkeyPatch.context() as patch:
        for name in HOMES:
            patch.setenv(name, str(folder / name.lower()))
        (folder / "home").mkdir()
        course = find_course()
        classroom, _ = make_classroom(folder / "class", course, "cs101", course.modules[:1])
        kernel.install()
        module = course.module("01")
        nbgrader(classroom, "generate_assignment", module.folder)
        right = solution(module)
        hand_in(classroom, "right", module, right)
        hand_in(classroom, "stub", module, stub(module))
        hand_in(classroom, "partly", module, with_cells(right, wrong_cells(module)))
        nbgrader(classroom, "autograde", module.folder)
        nbgrader(classroom, "generate_feedback", module.folder)
        yield classroom, module


def nbgrader(classroom, *arguments):
    """Run a command of nbgrader's in the course folder."""
    done = subprocess.run(
        ["nbgrader", *arguments],
        cwd=classroom.root,
        env=os.environ | PROGRAMS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ERROR" not in done.stderr, done.stderr[-3000:]
    return done


def wrong_cells(module):
    """A solution with one wrong answer and one missing."""
    from tito.grading import load_wrongs
    from tito.notebook import grade_id, read_module

    wrong = next(w for w in load_wrongs(module.suite.with_name(f"wrong_{module.folder}.py")))
    sources = {grade_id(cell): cell.source for cell in read_module(module).cells}
    return {wrong.grade_id: wrong.apply(sources[wrong.grade_id])}


def scores(classroom, module, student):
    with open_gradebook(classroom) as gradebook:
        notebook = gradebook.find_submission_notebook(module.name, module.folder, student)
        return {grade.name: (grade.auto_score, grade.max_score) for grade in notebook.grades}


def test_marks_are_exact(cycle):
    """All for the solution, none for the stub, and all but the tests that notice for the rest."""
    from tito.grading import partial_package, run_notebook

    classroom, module = cycle
    by_hand = {name for name in scores(classroom, module, "right") if name.startswith("answer")}
    assert len(by_hand) == 4
    for name, (score, most) in scores(classroom, module, "right").items():
        assert score is None if name in by_hand else score == most, name
    assert {score for score, _ in scores(classroom, module, "stub").values()} == {0.0}
    # what fails by the course's own runner of cells, without any kernel, is what loses points
    master = read_notebook(classroom.source(module))
    expected = with_cells(master, wrong_cells(module))
    package = partial_package(classroom.course, module, classroom.root / ".tito" / "expected")
    [run] = run_notebook(expected, package)
    failing = {cell.id for cell in run if cell.error} & set(scores(classroom, module, "partly"))
    assert failing
    for name, (score, most) in scores(classroom, module, "partly").items():
        assert score is None if name in by_hand else score == (0 if name in failing else most), name


def test_the_sandbox_was_used_and_left_nothing(cycle):
    from tito.classroom import sandbox

    if sandbox.problem():
        pytest.skip(sandbox.problem())
    classroom, _ = cycle
    assert not (classroom.root / ".tito" / "kernel.log").exists()


def test_feedback_shows_what_failed_and_hides_the_hidden(cycle):
    from test_folder import secrets

    classroom, module = cycle
    page = classroom.feedback("partly", module).read_text()
    assert "expected" in page
    from html import unescape

    master = read_notebook(classroom.source(module))
    for cell in master.cells:  # solutions are the student's own
        cell.source = cell.source if not cell.metadata.get("nbgrader", {}).get("solution") else ""
    hidden = [line for line in secrets(master) if line.startswith("check(") and len(line) > 40]
    assert len(hidden) > 5
    import re

    text = unescape(re.sub(r"<[^>]+>", "", page))
    assert [line for line in hidden if line in text] == []
    graded = classroom.autograded("partly", module).read_text()
    assert any(json.dumps(line)[1:-1] in graded for line in hidden)  # a person sees them


def test_export(cycle):
    classroom, _ = cycle
    nbgrader(classroom, "export")
    with open(classroom.root / "grades.csv", newline="") as file:
        rows = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert rows["right"] > rows["partly"] > rows["stub"] == 0


def test_marks_given_by_hand_survive_autograding(cycle):
    classroom, module = cycle
    where = ("answer-{}", module.name, module.folder, "right")
    with open_gradebook(classroom) as gradebook:
        names = [name for name in scores(classroom, module, "right") if name.startswith("answer")]
        for name in names:
            gradebook.find_grade(name, *where[1:]).manual_score = 3.0
        gradebook.db.commit()
    results = []
    grade(classroom, module, ["right"], results.append)
    assert results[0].points == sum(cell.possible for cell in results[0].cells if not cell.by_hand)
    with open_gradebook(classroom) as gradebook:
        for name in names:
            assert gradebook.find_grade(name, *where[1:]).score == 3.0


def test_formgrader_answers(cycle):
    """Its pages and its API, from JupyterLab's server."""
    classroom, module = cycle
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | PROGRAMS
    subprocess.run(
        ["jupyter", "server", "extension", "enable", "--user", "--py", "nbgrader"],
        env=environment,
        check=True,
        capture_output=True,
    )
    options = [f"--port={port}", "--no-browser", "--ServerApp.token=secret", "--allow-root"]
    log = open(classroom.root / ".tito" / "server.log", "w")  # noqa: SIM115
    server = subprocess.Popen(
        ["jupyter", "server", *options],
        cwd=classroom.root,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        wait_for(f"{base}/api?token=secret", server)
        for page in ("", "/manage_assignments", "/manage_students", f"/gradebook/{module.folder}"):
            assert "formgrader" in get(f"{base}/formgrader{page}?token=secret"), page
        assignments = json.loads(get(f"{base}/formgrader/api/assignments?token=secret"))
        assert [a["name"] for a in assignments] == [module.folder]
        assert assignments[0]["num_submissions"] == 3
        api = f"{base}/formgrader/api/submissions/{module.folder}?token=secret"
        rows = {row["student"]: row for row in json.loads(get(api))}
        assert rows["right"]["score"] > rows["partly"]["score"] > rows["stub"]["score"] == 0
        assert all(row["autograded"] for row in rows.values())
        with open_gradebook(classroom) as gradebook:
            page = gradebook.find_submission_notebook(module.name, module.folder, "partly").id
        assert "test-" in get(f"{base}/formgrader/submissions/{page}/?token=secret")
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()


def get(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode()


def wait_for(address, server):
    """Until the server answers; an error if it ends instead."""
    while True:
        try:
            return get(address)
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, "the server ended"
            time.sleep(0.2)


@pytest.mark.parametrize("number", ["02", "03"])
def test_solutions_get_full_marks(classroom, number):
    """Module 01's is in the cycle above; that of every module is in another test."""
    module = classroom.course.module(number)
    kernel.install()
    make_classroom(classroom.root, classroom.course, modules=[module])
    release(classroom, module)
    hand_in(classroom, "ada", module, solution(module))
    results = []
    grade(classroom, module, ["ada"], results.append)
    assert [(cell.id, cell.message) for cell in results[0].cells if not cell.passed] == []
    assert all(cell.by_hand or cell.points == cell.possible for cell in results[0].cells)
