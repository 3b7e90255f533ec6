"""Trying a module: the lesson's tests on the student's solutions, then the pytest suite."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tito.course import Module
from tito.progress import LastTest
from tito.workspace import Workspace, code_hash, minute

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from tito.classroom.combine import Cell

NOTEBOOK_SECONDS = 120
SUITE_SECONDS = 300
REPORT = "report.jsonl"
LONGEST_MESSAGE = 200
_ERROR = re.compile(r"(?P<kind>\w+): (?P<text>.*?)(?: \(cell (?P<cell>\S+), line (?P<line>\d+)\))?")
_PYTEST_INI = """\
[pytest]
addopts = -m "not slow" -p no:cacheprovider
markers = slow: real kernels and other long tests
filterwarnings = error::RuntimeWarning
"""


@dataclass
class Test:
    """One test, of the notebook or the suite; the message is empty where it passed."""

    name: str
    message: str
    points: float = 0
    written: bool = True  # False if it failed because a solution is still the stub


@dataclass
class Trial:
    """What came of trying a module."""

    module: str
    tests: list[Test]  # the notebook's
    suite: list[Test]
    by_hand: float  # points that a person gives
    errors: list[Test]  # of cells that are no tests
    notes: list[str]  # where the notebook differs from the lesson in what isn't the student's
    text: str  # the file that the notebook exports
    code: str  # hash of the notebook's code

    @property
    def ok(self) -> bool:
        return not any(test.message for test in [*self.tests, *self.suite])

    @property
    def points(self) -> float:
        return sum(test.points for test in self.tests if not test.message)

    @property
    def possible(self) -> float:
        return sum(test.points for test in self.tests)

    @property
    def result(self) -> LastTest:
        """The trial as the workspace remembers it."""
        every = [*self.tests, *self.suite]
        failed = sum(bool(test.message) for test in every)
        now = minute(datetime.now())
        return LastTest(now, len(every) - failed, failed, self.points, self.possible)

    def data(self) -> dict[str, Any]:
        """The trial as a command's data."""
        return {
            "ok": self.ok,
            "module": self.module,
            "points": self.points,
            "possible": self.possible,
            "by_hand": self.by_hand,
            "tests": [asdict(test) for test in self.tests],
            "suite": [asdict(test) for test in self.suite],
            "errors": [asdict(test) for test in self.errors],
        }


def try_module(workspace: Workspace, module: Module) -> Trial:
    """Run all tests of `module` on the student's notebook, beside the workspace's modules before.

    Nothing of the workspace changes. TitoError if the notebook can't be exported.
    """
    from tito.classroom.combine import combine
    from tito.export import export_text
    from tito.notebook import graded_cells, read_module, read_notebook

    path = workspace.existing_notebook(module)
    lesson = read_module(module)
    with tempfile.TemporaryDirectory(prefix="tito-trial-") as name:
        folder = Path(name)
        # all that follows looks at one state of the notebook, whatever is saved meanwhile
        notebook = Path(shutil.copy(path, folder))
        text = export_text(module, read_module(notebook), workspace.relative(path))
        package = workspace.make_package(folder, module.number)
        combined = combine(lesson, read_notebook(notebook))
        tests, errors = _try_cells(combined.cells, lesson, package)
        (package / module.file).write_text(text, encoding="utf-8")
        suite = _try_suite(module, folder)
        code = code_hash(notebook)
    notes = combined.notes
    if notes:
        notes.append(f"tito module update {module.number} brings the lesson's own cells back")
    by_hand = [cell for cell in graded_cells(lesson) if _is_by_hand(cell)]
    return Trial(
        module=module.folder,
        tests=tests,
        suite=suite,
        by_hand=sum(cell.metadata.nbgrader.points for cell in by_hand),
        errors=errors,
        notes=notes,
        text=text,
        code=code,
    )


def _try_cells(
    cells: list[Cell], lesson: NotebookNode, package: Path
) -> tuple[list[Test], list[Test]]:
    """How the tests among the cells went, less what is hidden of them, and the others' errors."""
    import nbformat

    from tito.classroom.combine import title, visible
    from tito.grading import run_notebook
    from tito.notebook import grade_id, graded_cells

    sources = {c.id: visible(c.source) if c.kind == "test" else c.source for c in cells}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source, id=name) for name, source in sources.items()]
    )
    [run] = run_notebook(notebook, package, timeout=NOTEBOOK_SECONDS)
    errors = {cell.id: cell.error for cell in run}
    points = {grade_id(cell): cell.metadata.nbgrader.points for cell in graded_cells(lesson)}
    tests = [_as_test(c.id, errors.pop(c.id), points[c.id]) for c in cells if c.kind == "test"]
    titles = {cell.id: f"`{title(cell.source)}`" for cell in cells}
    titles |= {name: name for name in map(grade_id, lesson.cells) if name}
    return tests, [_as_test(titles[name], error) for name, error in errors.items() if error]


def _try_suite(module: Module, folder: Path) -> list[Test]:
    """Run the module's pytest suite on `folder`/tinytorch; nothing else is on the way to it."""
    if not module.suite.is_file():
        return []
    suites = folder / "tests" / "modules"
    shutil.copytree(module.suite.parent, suites, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text(_PYTEST_INI, encoding="utf-8")
    tito = Path(__file__).resolve().parent.parent
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(folder), str(tito)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # whatever else is installed
        "MPLBACKEND": "Agg",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tito.trial", str(suites / module.suite.name)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SUITE_SECONDS,
        )
        ended = f"ended Python (status {done.returncode}) {done.stderr.strip()[-300:]}".strip()
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        ended, failed = f"did not end within {SUITE_SECONDS} s", True
    report = folder / REPORT
    lines = report.read_text(encoding="utf-8").splitlines() if report.is_file() else []
    messages = {entry["name"]: entry["message"] for entry in map(json.loads, lines)}
    # a test that began and has no result is the one in which the process died, whatever its status
    tests = [Test(name, ended if text is None else text) for name, text in messages.items()]
    if not tests or (failed and not any(test.message for test in tests)):
        tests.append(Test(module.suite.name, ended))
    return tests


def _is_by_hand(cell: NotebookNode) -> bool:
    """Whether a person gives the points of a graded cell: it holds an answer, not a test."""
    return cell.metadata.nbgrader.solution


def _as_test(name: str, error: str, points: float = 0) -> Test:
    """The cell worker's account of an error, in the words that a student wants to read."""
    found = _ERROR.fullmatch(error)
    if not found:
        return Test(name, error, points)
    kind, text, cell, line = found.groups()
    if kind == "NotImplementedError" and not text:
        return Test(name, f"{cell} is not written yet", points, written=False)
    if kind == "AssertionError" and text:
        return Test(name, text, points)
    place = f" (cell {cell}, line {line})" if cell else ""
    return Test(name, f"{kind}: {text}{place}", points)


class _Reporter:
    """Notes every test as it begins and ends, so that a dead process tells where it died."""

    def note(self, nodeid: str, message: str | None) -> None:
        name = nodeid.partition("::")[2] or nodeid
        with open(REPORT, "a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "message": message}) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.note(nodeid, None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.note(report.nodeid, _in_a_line(report))
        elif report.when == "call" or report.skipped:
            self.note(report.nodeid, "")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.note(report.nodeid, _in_a_line(report))


def _in_a_line(report: Any) -> str:
    """What a failed test says: its error, or the last line of an import's traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else report.longreprtext.splitlines()[-1].removeprefix("E ")
    text = " ".join(text.split()).removeprefix("AssertionError: ")
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


def main(suite: str) -> int:
    """Run a suite with the package of the current folder, and no other."""
    import pytest

    import tinytorch

    if Path(tinytorch.__path__[0]).resolve() != Path("tinytorch").resolve():
        raise SystemExit(f"the suite would test {tinytorch.__path__[0]}, not your package")
    return int(pytest.main([suite, "-q"], plugins=[_Reporter()]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
