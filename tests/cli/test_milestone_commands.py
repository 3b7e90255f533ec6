"""`tito milestone` on a small course with two milestones of its own."""

import ast
import os
import signal
import subprocess
import sys

import pytest

from tito.course import find_course
from tito.milestone import Result
from tito.milestones import find_milestone, find_milestones

README = """\
# {year}: {title}

Somebody showed that *bending* helps.
"""
MAIN = '''\
"""Counts what relu lets through."""

from tinytorch import Tensor, relu
from tito.milestone import Result, Stopwatch, conclude, options

chosen = options(__doc__, parts=("short", "long"))
watch = Stopwatch()
count = sum(value > 0 for value in relu(Tensor([-1.0, 2.0, 3.0])).data)
wanted = 9 if chosen.seed == 9 else 2
print(f"part {chosen.part}, seed {chosen.seed}: {count}")
conclude([Result(f"values let through, {chosen.part}", count, wanted, watch.seconds, 1)], chosen)
'''
TENSORS_ONLY = "import tinytorch.core.tensor as t\n\nprint(t.Tensor([1.0]).data)\n"


@pytest.fixture(autouse=True)
def milestones(course):
    """The course's milestones: 01_1950_bend with relu, 02_1960_box with tensors alone."""
    for folder, title, main in (
        ("01_1950_bend", "What bends", MAIN),
        ("02_1960_box", "A box", TENSORS_ONLY),
    ):
        path = course.root / "milestones" / folder
        path.mkdir(parents=True)
        (path / "main.py").write_text(main, encoding="utf-8")
        text = README.format(year=folder[3:7], title=title)
        (path / "README.md").write_text(text, encoding="utf-8")
    (course.root / "milestones" / "README.md").write_text("# Milestones\n", encoding="utf-8")
    return course.root / "milestones"


@pytest.fixture
def filled(tito, workspace):
    """A workspace whose package holds the reference's 01 and 02."""
    assert tito("module", "start", "03").status == 0
    return workspace


def command(course, *words):
    """The command line of a process that runs `tito milestone` with this course."""
    code = f"""
import sys, tito.course
from pathlib import Path
course = tito.course.Course(Path({str(course.root)!r}), Path({str(course.package)!r}))
tito.course.find_course = lambda: course
from tito.main import main
sys.exit(main({["milestone", *words]}))
"""
    return [sys.executable, "-c", code]


# --- list and info ---


def test_list_outside_of_a_workspace(tito, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bend, box = tito("milestone", "list", "--json").data["milestones"]
    assert (bend["milestone"], bend["number"], bend["year"]) == ("01_1950_bend", "01", 1950)
    assert bend["title"] == "What bends"
    assert bend["needs"] == [
        {"module": "01_tensor", "state": "reference"},  # by activations, which imports it
        {"module": "02_activations", "state": "reference"},
    ]
    assert [each["module"] for each in box["needs"]] == ["01_tensor"]
    out = tito("milestone", "list").out
    assert "reference 01 02" in out
    assert "A box" in out


def test_list_tells_whose_modules_a_workspace_holds(tito, filled, write):
    tito("module", "start", "02")
    write("02")
    assert tito("module", "complete", "02").status == 0
    bend = tito("milestone", "list", "--json").data["milestones"][0]
    assert [each["state"] for each in bend["needs"]] == ["reference", "yours"]
    assert "yours 02, reference 01" in tito("milestone", "list").out


def test_list_tells_what_is_to_do(tito, workspace):
    assert "to do 01 02" in tito("milestone", "list").out


@pytest.mark.parametrize("which", ["1", "01", "bend", "01_1950_bend"])
def test_info_shows_the_readme_rendered(tito, which):
    ran = tito("milestone", "info", which)
    assert ran.status == 0
    assert "Somebody showed that bending helps." in ran.out
    assert "tito milestone run 01" in ran.out
    data = tito("milestone", "info", which, "--json").data
    assert "*bending*" in data["readme"]


@pytest.mark.parametrize("action", ["info", "run"])
def test_an_unknown_milestone_is_one_line(tito, action):
    ran = tito("milestone", action, "77")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "there is no milestone '77': the course has 01_1950_bend, 02_1960_box\n"


# --- run ---


def test_run_in_a_workspace_uses_its_package(tito, filled):
    activations = filled / "tinytorch" / "core" / "activations.py"
    text = activations.read_text(encoding="utf-8")
    activations.write_text(text.replace("max(v, 0.0)", "abs(v)"), encoding="utf-8")
    ran = tito("milestone", "run", "01", "--json")
    assert ran.status == 0, ran.err
    [result] = ran.data["results"]
    assert (result["name"], result["value"]) == ("values let through, short", 3)
    assert result["reached"]


def test_what_follows_the_number_goes_to_the_milestone(tito, filled):
    ran = tito("milestone", "run", "01", "long", "--seed", "4", "--json")
    assert ran.status == 0, ran.err
    assert ran.data["results"][0]["name"] == "values let through, long"


def test_what_it_prints_is_seen(filled, course):
    done = subprocess.run(command(course, "run", "01"), cwd=filled, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"tinytorch: {filled / 'tinytorch'}\n")
    assert "part short, seed 0: 2\n" in done.stdout
    assert "Its story: tito milestone info 01" in done.stdout


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("2", "2")])
def test_blas_gets_one_thread_unless_told_otherwise(filled, course, monkeypatch, given, used):
    main = course.root / "milestones" / "01_1950_bend" / "main.py"
    main.write_text("import os; print('threads', os.environ['OPENBLAS_NUM_THREADS'])", "utf-8")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    done = subprocess.run(command(course, "run", "01"), cwd=filled, capture_output=True, text=True)
    assert f"threads {used}\n" in done.stdout


def test_what_is_reached_is_remembered(tito, filled):
    assert tito("milestone", "list", "--json").data["milestones"][0]["reached"] == {}
    tito("milestone", "run", "01", "--json")
    bend, box = tito("milestone", "list", "--json").data["milestones"]
    assert list(bend["reached"]) == ["values let through, short"]
    assert box["reached"] == {}
    assert "Reached values let through, short" in tito("milestone", "info", "01").out
    tito("module", "start", "02")  # a later change keeps it
    assert tito("milestone", "list", "--json").data["milestones"][0]["reached"] == bend["reached"]


def test_a_missed_criterion_has_status_1(tito, filled):
    ran = tito("milestone", "run", "01", "--seed", "9", "--json")
    assert ran.status == 1
    assert ran.data["ok"] is False
    assert ran.data["results"][0]["reached"] is False
    assert tito("milestone", "list", "--json").data["milestones"][0]["reached"] == {}


@pytest.mark.parametrize("bad", [["middle"], ["--frobnicate"], ["--seed", "x"]])
def test_a_bad_argument_is_refused_as_the_milestone_does(tito, filled, bad):
    ran = tito("milestone", "run", "01", *bad, "--json")
    assert ran.status == 2
    assert ran.data == {
        "ok": False,
        "status": 2,
        "milestone": "01_1950_bend",
        "results": [],
        "notes": [],
    }


def test_missing_modules_are_told_before_it_runs(tito, workspace):
    tito("module", "start", "02")
    ran = tito("milestone", "run", "01")
    assert ran.status == 1
    assert ran.err == "01_1950_bend needs 02_activations: tito module start 02\n"
    ran = tito("milestone", "run", "02", "--json")
    assert ran.status == 0, "tensors are there"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="interrupts a process group")
def test_ctrl_c_ends_it_with_one_line(filled, course):
    """In a process group of its own, interrupted as a terminal does it."""
    main = course.root / "milestones" / "01_1950_bend" / "main.py"
    wait = 'import time\nprint("waiting", flush=True)\ntime.sleep(60)\n'
    main.write_text(MAIN.replace("watch =", wait + "watch ="), encoding="utf-8")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command(course, "run", "01"), cwd=filled, start_new_session=True, **pipes
    ) as process:
        assert any(line == "waiting\n" for line in iter(process.stdout.readline, ""))
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.strip() == "stopped"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("FileNotFoundError('mnist is missing: get it')", "mnist is missing: get it\n"),
        ("ModuleNotFoundError('pip install x')", "pip install x\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(filled, course, error, line):
    main = course.root / "milestones" / "01_1950_bend" / "main.py"
    main.write_text(MAIN.replace("watch =", f"raise {error}\nwatch ="), encoding="utf-8")
    done = subprocess.run(command(course, "run", "01"), cwd=filled, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, line)


# --- what milestones share ---


def test_a_result_reaches_or_misses():
    assert Result("accuracy", 0.98, 0.98, 1, 60).reached
    assert not Result("accuracy", 0.9799, 0.98, 1, 60).reached
    assert Result("loss", 1.7, 1.75, 1, 60, at_most=True).reached
    assert not Result("loss", float("nan"), 1.75, 1, 60, at_most=True).reached
    text = str(Result("loss", 1.8, 1.75, 12.34, 60, at_most=True))
    assert text == "MISSED: loss 1.8000 (wanted <= 1.75) in 12.3 s (wanted < 60 s on 2 cores)"


# --- the course's own ---

COURSE = find_course()
OWN = find_milestones(COURSE)
ALLOWED = {"numpy", "tinytorch", "tqdm", "tito.milestone"}


def test_every_folder_is_a_milestone_and_their_numbers_are_unique():
    folders = [main.parent.name for main in sorted((COURSE.root / "milestones").glob("*/main.py"))]
    assert [each.folder for each in OWN] == folders
    numbers = [each.number for each in OWN]
    assert len(set(numbers)) == len(numbers) >= 3
    assert find_milestone(COURSE, "1").name == "perceptron"


@pytest.mark.parametrize("milestone", OWN, ids=lambda each: each.folder)
def test_a_milestone_is_short_and_stands_on_tinytorch(milestone):
    assert milestone.readme.startswith(f"# {milestone.year}: "), "the heading gives the title"
    files = list(milestone.path.glob("*.py"))
    beside = {file.stem for file in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 120, file.name
        for name in imported(text):
            first = name.partition(".")[0]
            known = first in sys.stdlib_module_names or first in beside
            assert known or first in ALLOWED or name in ALLOWED, f"{file.name} imports {name}"


@pytest.mark.parametrize("milestone", OWN, ids=lambda each: each.folder)
def test_a_milestone_needs_modules_from_the_first_on(milestone):
    assert milestone.needs[0].folder == "01_tensor"
    assert milestone.title != milestone.name


def imported(text):
    """The modules that a file imports: "numpy", "tito.milestone", ..."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
