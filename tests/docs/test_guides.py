"""Every command that a guide gives runs, and prints what the guide shows.

A guide is one session in a folder of its own. Its commands stand in ```console blocks behind `$ `;
the lines below a command are what it prints, with `...` for anything. Comments that readers don't
see help: `% setup: NAME` (a function below plays the people of the guide), `% file: PATH` (what
the next block says is a file), `% exits: 1` (the status of the next command).
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from student import environment, write_solutions

from tito.course import find_course
from tito.notebook import grade_id, read_notebook

COURSE = find_course()
DOCS = COURSE.root / "docs"
GUIDES = sorted(DOCS.glob("*.md"))
NOT_RUN = {
    "pip install": "the tests' environment has it",
    "python -m pip": "a fresh clone's first words; .ci/run says them",
    "python -m uv": "the same",
    "tito module view": "opens JupyterLab until Ctrl-C; tests/classroom/test_browser.py does it",
    "jupyter lab": "the same",
    "dask ": "serves until Ctrl-C; tests/classroom has a cluster",
}
PROGRAMS = r"(?:uv run |python -m )?(?:tito|pip|pytest|nbgrader|jupyter|dask|uv|git|cd)\b"
MARKS = re.compile(
    r"^% (?P<mark>setup|file|exits): (?P<value>.+)$|"
    r"^```\{?(?P<kind>[\w-]*).*\n(?P<text>(?:.*\n)*?)```$",
    re.MULTILINE,
)


@dataclass
class Step:
    """What a guide asks for at a line: a command, a file to write, or people to act."""

    line: int
    kind: str
    text: str
    printed: str = ""
    status: int = 0


def steps(guide: Path) -> Iterator[Step]:
    text = guide.read_text(encoding="utf-8")
    file, status = "", 0
    for found in MARKS.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["mark"] == "setup":
            yield Step(line, "setup", found["value"])
        elif found["mark"] == "file":
            file = found["value"]
        elif found["mark"] == "exits":
            status = int(found["value"])
        elif file:
            yield Step(line, "file", file, found["text"])
            file = ""
        elif found["kind"] == "console":
            _, *commands = re.split(r"^\$ ", found["text"], flags=re.MULTILINE)
            for command in commands:
                words, _, printed = command.partition("\n")
                yield Step(line, "command", words, printed.strip(), status)
                status = 0


def is_shown(printed: str, got: str) -> bool:
    """Whether a command that prints `got` prints what a guide shows, whatever the spacing."""
    parts = [re.escape(" ".join(part.split())) for part in printed.split("...")]
    return not printed or bool(re.fullmatch(".*".join(parts), " ".join(got.split())))


# --- the people of the guides ---


def solve_all_but_one(folder: Path, run) -> None:
    """Module 01 is written; `var` forgets the correction."""
    notebook = folder / "modules/01_tensor/tensor.ipynb"
    lesson = {grade_id(cell): cell.source for cell in read_notebook(notebook).cells}
    body = (
        "distance = a - np.mean(a, axis=axis, keepdims=True)\n"
        "    return np.mean(distance**2, axis=axis, keepdims=keepdims)"
    )
    stub = "# YOUR CODE HERE\n    raise NotImplementedError()"
    assert stub in lesson["var"]
    write_solutions(notebook, "01", var=lesson["var"].replace(stub, body))


def solve(folder: Path, run) -> None:
    """Module 01 is written, and all of it is right."""
    write_solutions(folder / "modules/01_tensor/tensor.ipynb", "01")


def take_the_course(folder: Path, run) -> None:
    """Ada, Grace and Linus hand in module 01: all right, one function wrong, nothing written."""
    run("mkdir ../exchange && cd .. && tito setup students", folder)
    workspace = folder.parent / "students"
    for student, work in (("linus", None), ("grace", solve_all_but_one), ("ada", solve)):
        run("tito module start 01", workspace)
        if work:
            work(workspace, run)
        run(f"tito module submit 01 --no-test --to ../exchange --student {student}", workspace)


def make_exchange(folder: Path, run) -> None:
    run("mkdir ~/exchange", folder)


def skip(folder: Path, run) -> None:
    run("tito module start 09", folder)


SETUPS = {
    "modules 02 to 08 are skipped": skip,
    "there is a folder ~/exchange": make_exchange,
    "module 01 is written, but var forgets the correction": solve_all_but_one,
    "module 01 is written": solve,
    "three students hand in module 01": take_the_course,
}


# --- the tests ---


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_commands_of_a_guide(guide, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    variables, note = environment(home), tmp_path / "where"

    def run(command: str, folder: Path) -> subprocess.CompletedProcess:
        script = f"{command}\nstatus=$?\npwd >'{note}'\nexit $status"
        return subprocess.run(
            ["bash", "-c", script], cwd=folder, env=variables, capture_output=True, text=True
        )

    folder = home
    for step in steps(guide):
        place = f"{guide.name}, line {step.line}: {step.text}"
        if step.kind == "setup":
            SETUPS[step.text](folder, run)
        elif step.kind == "file":
            (folder / step.text).write_text(step.printed, encoding="utf-8")
        elif not step.text.startswith(tuple(NOT_RUN)):
            done = run(step.text, folder)
            assert done.returncode == step.status, f"{place}\n{done.stdout}{done.stderr}"
            got = done.stdout or done.stderr
            assert is_shown(step.printed, got), f"{place} prints\n{got}\nnot\n{step.printed}"
            folder = Path(note.read_text().strip())


def test_what_is_shown_is_compared():
    got = "passes test-relu   5 points\nfails  test-gelu  4 points\n"
    assert is_shown("passes test-relu 5 points\n...", got)
    assert is_shown("...\nfails  test-gelu  4 points", got)
    assert not is_shown("passes test-relu 5 points", got)
    assert not is_shown("...test-gelu  5 points", got)


def test_commands_stand_where_they_are_found():
    for guide in GUIDES:
        text = guide.read_text(encoding="utf-8")
        hidden = re.findall(rf"^    {PROGRAMS}.*", text, re.MULTILINE)
        for found in MARKS.finditer(text):
            if found["kind"] in ("", "sh", "bash", "shell", "text"):
                hidden += re.findall(rf"^(?:\$ )?{PROGRAMS}.*", found["text"], re.MULTILINE)
        assert not hidden, f"{guide.name}: put these into ```console: {hidden}"


def test_what_is_not_run_is_in_a_guide():
    commands = [step.text for guide in GUIDES for step in steps(guide) if step.kind == "command"]
    assert len(commands) > 20
    for beginning in NOT_RUN:
        assert any(command.startswith(beginning) for command in commands), beginning
