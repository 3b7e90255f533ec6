"""A module made ready for grading, and the grader that takes its submissions one by one.

Both know nothing of the classroom's folder: an assignment can travel to another machine.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat

from tito.classroom.folder import Classroom
from tito.classroom.grader import VERSION, Marks, grade, note_expected
from tito.classroom.master import digest, read_master
from tito.classroom.overlay import own_file
from tito.classroom.results import CellResult, Result
from tito.classroom.sandbox import Limits, Sandbox
from tito.course import Course, Module
from tito.errors import TitoError
from tito.export import fill_package
from tito.files import atomic_write
from tito.workspace import hash_of

LARGEST = 20 << 20  # bytes of a submitted notebook
POLICIES = ("reference", "own", "best")
PATIENCE = 10  # how many times longer than the reference a cell may take


@dataclass(frozen=True)
class Assignment:
    """What there is to know for grading a module."""

    module: str  # "02_activations"
    notebook: str  # the master, as JSON
    policy: str
    limits: Limits
    isolated: bool
    expected: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """A hash of all of it."""
        parts = (self.module, self.notebook, self.policy, self.limits, self.isolated)
        return digest(*parts, json.dumps(dict(self.expected)))


@dataclass(frozen=True)
class Submission:
    """What a student handed in, as it was found."""

    student: str
    notebook: bytes
    problem: str = ""  # why it can't be graded
    own: Mapping[str, bytes] = field(default_factory=dict)  # exports, by file: "core/tensor.py"


class Grader:
    """Grades submissions of one assignment, in a sandbox that stays open between them."""

    def __init__(self, assignment: Assignment, course: Course):
        self.assignment = assignment
        self.course = course
        self.module = course.module(assignment.module)
        self.master = read_master(nbformat.reads(assignment.notebook, as_version=4))
        self.master.expected = dict(assignment.expected)
        self._folder = Path(tempfile.mkdtemp(prefix="tito-grader-"))
        self._reference = self._folder / "tinytorch"
        fill_package(course, self._reference, course.before(self.module))
        self._version = _version(self._reference)
        self._sandbox: Sandbox | None = None

    def grade(self, submission: Submission, known: Result | None = None) -> Result:
        """What a submission earns; cells of `known` on which nothing changed are taken from it."""
        result = Result(
            submission.student,
            self.module.folder,
            "fast",
            self.assignment.policy,
            [],
            notebook=hash_of(submission.notebook),
            graded=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        )
        notebook, problem = read(submission.notebook)
        if problem := submission.problem or problem:
            result.problem = problem
            result.cells = [self._unanswered(id, problem) for id in self.master.graded]
            return result
        cells = {cell.id: cell for cell in known.cells} if known else {}
        marks = [
            self._grade(notebook, own, cells)
            for own in self._packages(self.assignment.policy, submission.own)
        ]
        best = max(marks, key=lambda each: sum(cell.points for cell in each.cells))
        result.cells, result.flags = best.cells, best.flags
        return result

    def close(self) -> None:
        """End the sandbox."""
        if self._sandbox:
            self._sandbox.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def note_expected(self) -> float:
        """Let the reference solve the module in the sandbox; returns its slowest test's seconds."""
        return note_expected(self.master, self._open_sandbox(), self.assignment.limits)

    def version_of_expected(self) -> str:
        """A hash of what the reference's answers depend on."""
        return digest(VERSION, self._version, self.assignment.notebook)

    def _unanswered(self, id: str, problem: str) -> CellResult:
        points = {id: test.points for id, test in self.master.tests.items()} | self.master.answers
        by_hand = id in self.master.answers
        return CellResult(id, 0.0, points[id], "" if by_hand else problem, by_hand=by_hand)

    def _packages(self, policy: str, own: Mapping[str, bytes]) -> list[Mapping[str, bytes]]:
        """The student's files to import in place of the reference's, for each try."""
        if policy == "reference" or not own:
            return [{}]
        return [own] if policy == "own" else [{}, own]

    def _grade(
        self, notebook: dict[str, Any], own: Mapping[str, bytes], known: dict[str, CellResult]
    ) -> Marks:
        limits = self.assignment.limits
        if not own:
            version = self._version
            return grade(self.master, notebook, self._open_sandbox, version, limits, known)
        folder = Path(tempfile.mkdtemp(prefix="own-", dir=self._folder))
        try:
            package = folder / "tinytorch"
            for file, content in own.items():
                atomic_write(package / file, content)
            missing = [m for m in self.course.before(self.module) if m.file not in own]
            fill_package(self.course, package, missing)
            with self._new_sandbox(package) as box:
                version = _version(package)
                return grade(self.master, notebook, lambda: box, version, limits, known)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _open_sandbox(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = self._new_sandbox(self._reference)
        return self._sandbox

    def _new_sandbox(self, package: Path) -> Sandbox:
        assignment = self.assignment
        return Sandbox(package, assignment.limits, self.master.imports, assignment.isolated)


def prepare(
    classroom: Classroom, module: Module, policy: str, limits: Limits, isolated: bool
) -> Assignment:
    """The assignment as the course folder has it today.

    What the reference gives is kept beside the results, so that it is the same at every run.
    TitoError where the master is damaged or its own solution fails.
    """
    if policy not in POLICIES:
        raise TitoError(f"there is no policy {policy!r}: take one of {', '.join(POLICIES)}")
    path = classroom.source(module)
    if not path.is_file():
        raise TitoError(f"{path} is missing: tito grade release {module.number} makes it")
    text = path.read_text(encoding="utf-8")
    assignment = Assignment(module.folder, text, policy, limits, isolated)
    grader = Grader(assignment, classroom.course)
    try:
        key = grader.version_of_expected()
        file = classroom.root / ".tito" / "expected" / f"{module.folder}.json"
        kept = _read_expected(file, key)
        if kept is None:
            slowest = grader.note_expected()
            kept = {"key": key, "slowest": slowest, "tests": grader.master.expected}
            atomic_write(file, json.dumps(kept))
    finally:
        grader.close()
    seconds = max(limits.seconds, PATIENCE * kept["slowest"])
    limits = replace(limits, seconds=seconds, all_seconds=max(limits.all_seconds, 3 * seconds))
    return replace(assignment, limits=limits, expected=kept["tests"])


def _read_expected(file: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run noted, if it still holds."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return kept if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def take(classroom: Classroom, student: str, module: Module, policy: str) -> Submission:
    """A student's submission as it lies in the course folder; links are not followed."""
    path = classroom.submission(student, module)
    places = [path, path.parent, path.parent.parent]
    try:
        if any(place.is_symlink() for place in places):
            return Submission(student, b"", f"{path.name} is a link: only real files are graded")
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return Submission(student, b"", f"{path.name} is no file")
        if status.st_size > LARGEST:
            size = f"{status.st_size >> 20} MiB: at most {LARGEST >> 20} are graded"
            return Submission(student, b"", f"{path.name} has {size}; clear its outputs")
        own = {}
        if policy != "reference":
            files = {
                other.file: own_file(classroom, student, module, other)
                for other in classroom.course.before(module)
            }
            own = {file: found.read_bytes() for file, found in files.items() if found}
        return Submission(student, path.read_bytes(), "", own)
    except FileNotFoundError:
        return Submission(student, b"", f"there is no {path.name}")
    except OSError as error:
        return Submission(student, b"", f"{path.name}: {error.strerror}")


def read(raw: bytes) -> tuple[dict[str, Any], str]:
    """A submitted notebook, or why it is none."""
    try:
        notebook = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return {}, f"it is no notebook: {str(error)[:100] or 'not text'}"
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        return {}, "it is no notebook of format 4: it has no list of cells"
    return notebook, ""


def _version(package: Path) -> str:
    """A hash of the files of a package."""
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".npz"))
    return digest(*(f"{path.relative_to(package)} {hash_of(path.read_bytes())}" for path in files))
