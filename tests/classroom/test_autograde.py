"""`tito grade autograde` as an instructor meets it: kept, resumed, regraded, and never stopped."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from graders import cell, course, lost, sources
from marked import give, tito
from submissions import hand_in, solution, stub, with_cells

from tito.classroom import sandbox
from tito.classroom.assignment import Grader, prepare
from tito.classroom.conversation import Conversation
from tito.classroom.folder import Classroom
from tito.classroom.results import read_results
from tito.classroom.sandbox import Limits
from tito.classroom.source import release
from tito.classroom.wire import send

RELU = "@op\ndef relu(x):\n    return {}\n"


@pytest.fixture(scope="module")
def prepared(classroom_template, tmp_path_factory) -> Path:
    """A course folder whose module 02 was released and is ready for grading."""
    root = shutil.copytree(classroom_template, tmp_path_factory.mktemp("prepared") / "class")
    classroom = Classroom(root, course)
    release(classroom, course.module("02"))
    isolated = sandbox.available()
    prepare(classroom, course.module("02"), "reference", Limits(), isolated)
    return root


@pytest.fixture
def classroom(prepared, tmp_path, monkeypatch) -> Classroom:
    """A copy of it, which is the current folder."""
    root = shutil.copytree(prepared, tmp_path / "class")
    monkeypatch.chdir(root)
    return Classroom(root, course)


@pytest.fixture
def module(classroom):
    """Activations."""
    return classroom.course.module("02")


@pytest.fixture
def autograde(capsys):
    """Types the command; gives what it printed."""

    def run(*words, status=0):
        ran = tito(capsys, "grade", "autograde", *words)
        assert ran.status == status, ran
        return ran

    return run


@pytest.fixture
def results(classroom, module):
    """The kept results, by student."""
    return lambda engine="fast": {r.student: r for r in read_results(classroom, module, engine)}


@pytest.fixture
def tests_run(monkeypatch):
    """The tests that are run in a sandbox, as they come."""
    names = []
    take = Conversation._take_test

    def spy(self, test, *rest):
        names.append(test)
        return take(self, test, *rest)

    monkeypatch.setattr(Conversation, "_take_test", spy)
    return names


def with_relu(module, code):
    return with_cells(solution(module), {"relu": RELU.format(code)})


def grades(classroom, module, student):
    """The points in the gradebook, as nbgrader's interface gives them: by cell, automatic ones and
    those that a person gave."""
    from nbgrader.api import Gradebook

    with Gradebook(classroom.gradebook) as book:
        notebook = book.find_submission_notebook(module.name, module.folder, student)
        return {grade.name: (grade.auto_score, grade.manual_score) for grade in notebook.grades}


def plain(result):
    """A result without what a clock says."""
    data = asdict(result) | {"graded": ""}
    data["cells"] = [each | {"seconds": 0} for each in data["cells"]]
    return data


class TestAClass:
    @pytest.fixture
    def handed_in(self, classroom, module):
        hand_in(classroom, "ada", module, solution(module))
        hand_in(classroom, "grace", module, stub(module))
        hand_in(classroom, "linus", module, with_relu(module, "x"))

    def test_everyone_gets_a_result_and_the_gradebook_the_same(
        self, classroom, module, handed_in, autograde, results
    ):
        said = autograde("02").out
        assert "3 submissions graded, mean 51.3 of 80 points; 1 without a failed test" in said
        assert "20 points are for a person to give: jupyter lab, menu Nbgrader" in said
        found = results()
        assert {name: result.points for name, result in found.items()} == {
            "ada": 80,
            "grace": 0,
            "linus": 74,
        }
        for student, result in found.items():
            entered = grades(classroom, module, student)
            for each in result.cells:
                if not each.by_hand:
                    assert entered[each.id] == (each.points, None)

    def test_a_person_s_points_stay(self, classroom, module, handed_in, autograde):
        autograde("02")
        give(classroom, module, "ada", "answer-slopes", 4.0, "Good.")
        give(classroom, module, "linus", "test-relu", 2.0)
        autograde("02", "--fresh")
        assert grades(classroom, module, "ada")["answer-slopes"][1] == 4.0
        assert grades(classroom, module, "linus")["test-relu"] == (0.0, 2.0)

    def test_only_who_is_asked_for(self, handed_in, autograde, results):
        autograde("02", "--students", "*a")
        assert results().keys() == {"ada"}
        autograde("02", "--students", "g*")
        assert results().keys() == {"ada", "grace"}

    def test_nothing_is_run_twice(self, handed_in, autograde, results, tests_run):
        autograde("02")
        first = results()
        assert tests_run
        tests_run.clear()
        autograde("02")
        assert tests_run == [] and results() == first
        autograde("02", "--fresh")
        assert "test-relu" in tests_run

    def test_as_data(self, handed_in, autograde):
        data = json.loads(autograde("02", "--json").out)
        assert (data["students"], data["full"], data["possible"]) == (3, 1, 100)
        assert data["problems"] == {} and data["flagged"] == []

    def test_a_changed_submission_is_graded_anew(
        self, classroom, module, handed_in, autograde, results, tests_run
    ):
        autograde("02")
        tests_run.clear()
        code = sources(module)["gelu"]
        hand_in(classroom, "grace", module, with_cells(stub(module), {"gelu": code}))
        autograde("02")
        assert cell(results()["grace"], "test-gelu").points == 10
        order = list(sources(module))
        above = set(order[: order.index("gelu")])
        assert not above & set(tests_run)  # nothing changed for the tests above gelu

    @pytest.mark.slow
    def test_a_damaged_result_is_made_again(self, classroom, module, handed_in, autograde, results):
        autograde("02")
        right = plain(results()["ada"])
        for damage in ("", "{", '{"format": 1}', "[]", '{"format": 1, "cells": [{"id": 3}]}'):
            (classroom.results(module) / "ada.json").write_text(damage)
            autograde("02")
            assert plain(results()["ada"]) == right

    @pytest.mark.slow
    def test_jobs_make_no_difference(self, handed_in, autograde, results):
        autograde("02", "--jobs", "1")
        one = {student: plain(result) for student, result in results().items()}
        autograde("02", "--jobs", "3", "--fresh")
        assert {student: plain(result) for student, result in results().items()} == one

    def test_a_flag_stays_where_nothing_is_run_again(
        self, classroom, module, handed_in, autograde, results
    ):
        if not sandbox.available():
            pytest.skip(f"no sandbox: {sandbox.problem()}")
        spying = "(__import__('sys')._getframe(), np.maximum(x, 0))[1]"
        hand_in(classroom, "linus", module, with_relu(module, spying))
        autograde("02")
        first = results()["linus"].flags
        assert any("sys._getframe" in flag for flag in first)
        assert "1 with something to look at (linus)" in autograde("02").out
        assert results()["linus"].flags == first

    @pytest.mark.slow
    def test_a_progress_bar_is_for_terminals(self, handed_in, autograde, classroom):
        assert autograde("02").err == ""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        with subprocess.Popen(
            [sys.executable, "-m", "tito.main", "grade", "autograde", "02", "--fresh"],
            cwd=classroom.root,
            stderr=theirs,
            stdout=subprocess.DEVNULL,
        ) as process:
            os.close(theirs)
            said = b""
            try:
                while piece := os.read(ours, 1000):
                    said += piece
            except OSError:
                pass  # the other end is closed
        os.close(ours)
        assert process.returncode == 0
        assert b"Grading 02_activations: 100%" in said and b"3/3" in said


class TestAChangedMaster:
    @pytest.fixture
    def handed_in(self, classroom, module, autograde):
        hand_in(classroom, "ada", module, solution(module))
        hand_in(classroom, "linus", module, with_relu(module, "np.abs(x)"))
        autograde("02")

    def test_a_new_private_test_is_all_that_is_run(
        self, classroom, module, handed_in, autograde, results, tests_run
    ):
        classroom.private(module).write_text(
            '# %% nbgrader={"grade": true, "grade_id": "test-own", "points": 5}\n'
            'check(relu(Tensor([-7.0])), [0.0], "negative inputs are cut off")\n'
        )
        autograde("02")
        # by the reference all, twice; by both students the new one, and linus fails: in a fork too
        assert tests_run.count("test-own") == 2 + 2 + 1
        assert tests_run.count("test-softmax") == 2
        assert cell(results()["ada"], "test-own").points == 5
        failed = cell(results()["linus"], "test-own")
        assert failed.hidden and failed.message == "negative inputs are cut off"
        assert grades(classroom, module, "ada")["test-own"] == (5.0, None)

    def test_a_changed_hidden_test_touches_its_cell_alone(
        self, classroom, module, handed_in, autograde, results, tests_run
    ):
        before = results()
        classroom.private(module).write_text(
            '# %% test-gelu\ncheck(gelu(Tensor([0.0])), [0.0], "gelu goes through 0")\n'
        )
        autograde("02")
        after = results()
        changed = {
            new.id
            for old, new in zip(before["ada"].cells, after["ada"].cells, strict=True)
            if old.key != new.key
        }
        assert changed == {"test-gelu"}
        assert tests_run.count("test-gelu") == 2 + 2 and tests_run.count("test-silu") == 2
        assert lost(after["ada"]) == {}

    def test_students_see_nothing_of_it(self, classroom, module, handed_in, autograde):
        def shown():
            notebook = nbformat.read(classroom.release(module), as_version=4)
            return [cell.source.rstrip() for cell in notebook.cells]

        before = shown()
        classroom.private(module).write_text(
            '# %% test-relu\ncheck(relu(Tensor([0.25])), [0.25], "secret hint")\n'
        )
        autograde("02")
        assert shown() == before


class TestOddSubmissions:
    def test_they_have_a_problem_and_stop_nobody(self, classroom, module, autograde, results):
        def place(student):
            path = classroom.submission(student, module)
            path.parent.mkdir(parents=True)
            return path

        notebook = nbformat.writes(solution(module))
        for student, content in {
            "empty": b"",
            "binary": bytes(range(256)) * 10,
            "cut": notebook.encode()[:-100],
            "list": b"[1, 2]",
            "old": b'{"nbformat": 3, "worksheets": []}',
            "deep": b"[" * 100_000,
            "nan": b'{"cells": NaN}',
        }.items():
            place(student).write_bytes(content)
        (classroom.root / "elsewhere.ipynb").write_text(notebook)
        place("linked").symlink_to(classroom.root / "elsewhere.ipynb")
        place("folder").mkdir()
        os.mkfifo(place("pipe"))
        place("missing")
        with place("huge").open("wb") as file:
            file.truncate(200 << 20)
        hand_in(classroom, "zoe", module, solution(module))

        said = autograde("02").out
        found = results()
        assert found["zoe"].points == 80 and found["zoe"].problem == ""
        odd = found.keys() - {"zoe"}
        assert len(odd) == 12
        for student in odd:
            result = found[student]
            assert result.points == 0 and result.problem and "\n" not in result.problem
            assert len(result.cells) == len(found["zoe"].cells)
            assert f"not graded {student}: {result.problem}" in said
            assert grades(classroom, module, student)["test-relu"] == (0.0, None)
        assert found["huge"].problem == (
            "activations.ipynb has 200 MiB: at most 20 are graded; clear its outputs"
        )
        assert found["linked"].problem == "activations.ipynb is a link: only real files are graded"
        assert found["missing"].problem == "there is no activations.ipynb"
        assert found["pipe"].problem == found["folder"].problem == "activations.ipynb is no file"

    @pytest.mark.slow
    def test_odd_cells_cost_themselves_alone(self, classroom, module, autograde, results):
        """Each is a right solution with one cell more or less as it should be."""
        data = json.loads(nbformat.writes(solution(module)))
        odd = {
            "no-object": 7,
            "no-source": {"cell_type": "code"},
            "half-a-character": {"cell_type": "code", "source": "x = '\ud800'", "metadata": {}},
            "null": {"cell_type": "code", "source": "x = '\0'", "metadata": {}},
            "nested": {"cell_type": "code", "source": "time = " + "-" * 50_000 + "1"},
            "brackets": {"cell_type": "code", "source": "time = " + "(" * 5000},
            "long": {"cell_type": "code", "source": "x = 1\n" * 200_000},
            "no-metadata": {"cell_type": "code", "source": "x = 1", "metadata": [1]},
            "names": {"cell_type": "code", "source": "\u5909\u6570 = 'é' # \U0001f642"},
        }
        for student, cell_ in odd.items():
            path = hand_in(classroom, student, module, solution(module))
            changed = data | {"cells": [cell_, *data["cells"]]}
            path.write_bytes(json.dumps(changed).encode())
        autograde("02")
        assert {s: (r.points, r.problem) for s, r in results().items()} == dict.fromkeys(
            odd, (80.0, "")
        )

    @pytest.mark.slow
    def test_one_s_crash_is_nobody_else_s(self, classroom, module, autograde, results, monkeypatch):
        """The sandbox's first process ends while ada is graded: she is graded again, and so is
        whoever else was in it."""
        boxes = []

        def remember(self, *arguments):
            boxes.append(make(self, *arguments))
            return boxes[-1]

        def kill_first(channel, message):
            send(channel, message)
            if message.get("id") == "test-gelu" and len(boxes) == 1:
                boxes[0]._zygote.kill()
                boxes[0]._zygote.wait()

        make = Grader._new_sandbox
        monkeypatch.setattr(Grader, "_new_sandbox", remember)
        monkeypatch.setattr("tito.classroom.conversation.send", kill_first)
        for student in ("ada", "grace", "linus"):
            hand_in(classroom, student, module, solution(module))
        autograde("02", "--jobs", "2")
        assert len(boxes) == 2
        assert {(r.points, *r.flags) for r in results().values()} == {(80.0,)}


@pytest.mark.slow
class TestAnEndedRun:
    """The process is killed, or interrupted, while it grades."""

    STUDENTS = 24

    @pytest.fixture
    def run(self, classroom, module, results):
        """Starts a run, and ends it by a signal when some results are there."""
        for number in range(self.STUDENTS):
            code = "np.maximum(x, 0)" if number % 2 else "x"
            slow = f"(__import__('time').sleep(0.05), {code})[1]"
            hand_in(classroom, f"s{number:02}", module, with_relu(module, slow))

        def start(with_signal):
            command = [sys.executable, "-m", "tito.main", "grade", "autograde", "02", "--jobs", "2"]
            folder = classroom.results(module)
            with subprocess.Popen(
                command, cwd=classroom.root, stderr=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                while len(list(folder.glob("*.json"))) < 3:
                    assert process.poll() is None, process.stderr.read()
                    time.sleep(0.01)
                process.send_signal(with_signal)
                process.wait(60)
                said = process.stderr.read().decode()
            assert process.returncode
            return said

        return start

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
    def test_the_rest_is_graded_afterwards(
        self, classroom, module, run, autograde, results, number, tests_run
    ):
        said = run(number)
        assert "Traceback" not in said
        done = results()
        assert 3 <= len(done) < self.STUDENTS
        kept = {
            student: (classroom.results(module) / f"{student}.json").read_bytes()
            for student in done
        }
        autograde("02")
        after = results()
        assert len(after) == self.STUDENTS
        for student, content in kept.items():
            assert (classroom.results(module) / f"{student}.json").read_bytes() == content
        # each of the others ran once; wrong ones' failed tests once more, in a fork
        assert tests_run.count("test-softmax") == self.STUDENTS - len(done)
        assert {r.points for s, r in after.items()} == {74.0, 80.0}
        for student, result in after.items():
            assert grades(classroom, module, student)["test-relu"][0] == result.cells[0].points
        left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        assert str(classroom.root) not in left


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["99"], "99"),
            (["02"], "nobody handed in 02_activations: tito grade collect --from"),
            (["02", "--engine", "nbgrader", "--policy", "best"], "takes one policy"),
        ],
    )
    def test_in_one_line(self, classroom, module, autograde, words, message):
        if "--engine" in words:
            hand_in(classroom, "ada", module, solution(module))
        said = autograde(*words, status=1).err
        assert message in said and said.count("\n") == 1

    def test_outside_of_a_course_folder(self, classroom, autograde, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert "run tito grade init" in autograde("02", status=1).err

    def test_a_master_whose_solution_fails_its_own_test(self, classroom, module, autograde):
        hand_in(classroom, "ada", module, solution(module))
        classroom.private(module).write_text(
            '# %% test-relu\ncheck(relu(Tensor([1.0])), [2.0], "a mistake of mine")\n'
        )
        said = autograde("02", status=1).err
        assert "the course's own solution fails test-relu" in said
        assert "a mistake of mine" in said and said.count("\n") == 1

    def test_without_a_sandbox_it_says_so_or_refuses(
        self, classroom, module, autograde, monkeypatch
    ):
        monkeypatch.setattr(sandbox, "problem", lambda: "bubblewrap is not installed")
        hand_in(classroom, "ada", module, solution(module))
        said = autograde("02", "--require-sandbox", status=1).err
        assert "bubblewrap is not installed" in said and said.count("\n") == 1
        ran = autograde("02")
        assert "NOT SANDBOXED" in ran.out + ran.err and "1 submission graded" in ran.out


def test_temporary_folders_are_removed(classroom, module, autograde, monkeypatch):
    folder = Path(classroom.root.parent / "temporary")
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    hand_in(classroom, "ada", module, solution(module))
    autograde("02")
    assert list(folder.iterdir()) == []
