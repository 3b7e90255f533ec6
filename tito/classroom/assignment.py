"""A module made ready for grading, and the grader that takes its submissions one by one.

Both know nothing of the classroom's folder: an assignment can travel to another machine.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat

from tito.classroom.folder import Classroom
from tito.classroom.grader import VERSION, Marks, grade, note_expected
from tito.classroom.master import Master, digest, read_master
from tito.classroom.results import CellResult, Result
from tito.classroom.sandbox import Limits, Sandbox
from tito.classroom.submission import Submission, read
from tito.classroom.wire import WireError
from tito.course import Course, Module
from tito.errors import TitoError
from tito.export import fill_package
from tito.files import atomic_write
from tito.workspace import hash_of

POLICIES = ("reference", "own", "best")
PATIENCE = 10  # how many times longer than the reference a cell may take
ATTEMPTS = 2  # with a submission that the sandbox doesn't outlive


@dataclass(frozen=True)
class Assignment:
    """What there is to know for grading a module."""

    module: str  # "02_activations"
    notebook: str  # the master, as JSON
    policy: str
    limits: Limits
    isolated: bool
    version: str = ""  # of the grader, and of the modules before
    expected: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """A hash of all of it."""
        parts = (self.module, self.notebook, self.policy, self.limits, self.isolated, self.version)
        return digest(*parts, json.dumps(dict(self.expected)))


class Grader:
    """Grades submissions of one assignment, also several at a time, in one sandbox for all."""

    def __init__(self, assignment: Assignment, course: Course):
        self.assignment = assignment
        self.course = course
        self.module = course.module(assignment.module)
        self._folder = Path(tempfile.mkdtemp(prefix="tito-grader-"))
        self._reference = self._folder / "tinytorch"
        fill_package(course, self._reference, course.before(self.module))
        self._version = _version(self._reference)
        self._sandbox: Sandbox | None = None
        self._all: set[Sandbox] = set()  # that may be open
        self._is_closed = False
        self._opening = threading.Lock()

    @property
    def version(self) -> str:
        """A hash of what judges, and of the modules before."""
        return digest(VERSION, self._version)

    @cached_property
    def master(self) -> Master:
        """The master, read when it is first needed."""
        master = read_master(nbformat.reads(self.assignment.notebook, as_version=4))
        master.expected = dict(self.assignment.expected)
        return master

    def grade(self, submission: Submission, known: Result | None = None) -> Result:
        """What a submission earns; cells of `known` on which nothing changed are taken from it.

        Whatever a student handed in, there is a result.
        """
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
        problem = submission.problem or problem
        if not problem:
            try:
                self._fill(result, notebook, submission.own, known)
            except WireError as error:
                problem = f"the sandbox ended, {ATTEMPTS} times: {error}"
            except (OSError, TitoError):
                raise  # of this machine, not of the submission
            except Exception as error:
                problem = f"it can't be graded: {type(error).__name__}: {str(error)[:100]}"
        if problem:
            result.problem = problem
            result.cells = [self._unanswered(id, problem) for id in self.master.graded]
        return result

    def _fill(
        self,
        result: Result,
        notebook: dict[str, Any],
        own: Mapping[str, bytes],
        known: Result | None,
    ) -> None:
        """Enter the better one of the tries that the policy asks for."""
        cells = {cell.id: cell for cell in known.cells} if known else {}
        tries = [
            self._grade(notebook, files, cells)
            for files in self._packages(self.assignment.policy, own)
        ]
        best = max(tries, key=lambda each: sum(cell.points for cell in each.cells))
        result.cells, result.flags = best.cells, best.flags
        absent = [m.folder for m in self.course.before(self.module) if m.file not in own]
        if self.assignment.policy == "own" and absent:
            names = ", ".join(absent)
            result.flags.append(f"not handed in, so the reference's was imported: {names}")
        if known:
            _carry_over(result, known)

    def close(self) -> None:
        """End all sandboxes, and with them what is being graded."""
        with self._opening:
            self._is_closed = True
            for box in self._all:
                box.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def note_expected(self) -> float:
        """Let the reference solve the module in the sandbox; returns its slowest test's seconds."""
        try:
            with self._opening:
                other = self._new_sandbox(self._reference, self.master.imports)
            with other:
                boxes = (self._open_sandbox(), other)
                return note_expected(self.master, boxes, self.assignment.limits)
        except WireError as error:
            raise TitoError(f"{self.module.folder} can't be graded here: {error}") from None

    def version_of_expected(self) -> str:
        """A hash of what the reference's answers depend on."""
        return digest(self.version, self.assignment.notebook)

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
        if not own:
            return self._attempt(notebook, self._open_sandbox, self._version, known)
        folder = Path(tempfile.mkdtemp(prefix="own-", dir=self._folder))
        try:
            package = folder / "tinytorch"
            for file, content in own.items():
                atomic_write(package / file, content)
            missing = [m for m in self.course.before(self.module) if m.file not in own]
            fill_package(self.course, package, missing)
            # the student's files are no part of the first process: cells import them
            preload = [line for line in self.master.imports if "tinytorch" not in line]
            with self._opening:
                box = self._new_sandbox(package, preload)
            try:
                return self._attempt(notebook, lambda: box, _version(package), known)
            finally:
                box.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _attempt(
        self,
        notebook: dict[str, Any],
        sandbox: Callable[[], Sandbox],
        version: str,
        known: dict[str, CellResult],
    ) -> Marks:
        """Grade, and once more where the sandbox ended meanwhile: by whose fault, nobody knows."""
        error = WireError("no reason")
        for _ in range(ATTEMPTS):
            used: list[Sandbox] = []

            def take_one(used: list[Sandbox] = used) -> Sandbox:
                used.append(sandbox())
                return used[-1]

            try:
                marks = grade(
                    self.master, notebook, take_one, version, self.assignment.limits, known
                )
            except WireError as caught:
                error = caught
                continue
            if not any(box.has_ended for box in used):
                return marks
        raise error

    def _open_sandbox(self) -> Sandbox:
        with self._opening:
            if self._sandbox is None or self._sandbox.has_ended:
                self._sandbox = self._new_sandbox(self._reference, self.master.imports)
            return self._sandbox

    def _new_sandbox(self, package: Path, preload: list[str]) -> Sandbox:
        """Another sandbox; whoever calls this holds the lock."""
        if self._is_closed:
            raise WireError("the grader is closed")
        for box in [box for box in self._all if box.has_ended]:
            box.close()
            self._all.remove(box)
        limits, isolated = self.assignment.limits, self.assignment.isolated
        self._all.add(box := Sandbox(package, limits, preload, isolated))
        return box


def _carry_over(result: Result, known: Result) -> None:
    """Keep what an earlier run saw of tests that this one didn't run again."""
    keys = {cell.id: cell.key for cell in known.cells if cell.key}
    taken = {cell.id for cell in result.cells if cell.key and cell.key == keys.get(cell.id)}
    same = (known.notebook, known.policy) == (result.notebook, result.policy)
    kept = [flag for flag in known.flags if same or flag.partition(":")[0] in taken]
    result.flags = list(dict.fromkeys([*result.flags, *kept]))
    if same and all(cell.id in taken or cell.by_hand for cell in result.cells):
        result.graded = known.graded


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
        key, version = grader.version_of_expected(), grader.version
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
    return replace(assignment, limits=limits, version=version, expected=kept["tests"])


def _read_expected(file: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run noted, if it still holds."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return kept if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _version(package: Path) -> str:
    """A hash of the files of a package."""
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".npz"))
    return digest(*(f"{path.relative_to(package)} {hash_of(path.read_bytes())}" for path in files))
