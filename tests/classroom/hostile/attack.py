"""What a hostile submission is, and the bench on which it is graded among honest ones."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import nbformat
from nbformat import NotebookNode
from processes import family
from submissions import solution, stub, with_cells

from tito.classroom.assignment import Assignment, Grader, Submission, prepare
from tito.classroom.folder import Classroom
from tito.classroom.results import Result
from tito.classroom.sandbox import Limits, problem

LIMITS = Limits(seconds=1.0, all_seconds=30.0, memory=600 << 20, disk=8 << 20, processes=32)
RELU = "test-relu"


@dataclass(frozen=True)
class Attack:
    """A submission of module 02 with some cells replaced, and what must come of it."""

    name: str
    cells: Mapping[str, str]  # sources by grade_id
    loses: tuple[str, ...] = (RELU,)  # tests that earn nothing: all others earn their points,
    spares: bool = True  # unless chance, or the attack's place, says what it costs
    flag: str | None = ""  # found in one of the flags; "": there are none; None: chance says
    says: str = ""  # found in the message of the first lost test
    base: str = "solution"


def in_cell(code: str) -> dict[str, str]:
    """`code` runs in a solution cell, which then defines a relu that tells what it `found`."""
    tell = '\n\ndef relu(x):\n    raise ValueError(f"found {found}")\n'
    return {"relu": f"found = []\n{code}\n{tell}"}


def in_test(code: str) -> dict[str, str]:
    """`code` runs in a function when a test calls it; then it tells what it `found`."""
    body = "\n".join(f"        {line}" for line in code.strip("\n").split("\n"))
    return {
        "relu": f"""
def relu(x):
    found = []
    try:
{body}
    except BaseException as error:
        found.append(type(error).__name__)
    raise ValueError(f"found {{found}}")
"""
    }


def added(notebook: NotebookNode, place: int, source: str) -> NotebookNode:
    """`notebook` with a code cell of the student's own at `place`."""
    notebook.cells.insert(place, nbformat.v4.new_code_cell(source))
    return notebook


def descendants(process: int) -> set[int]:
    """The live processes that `process` started; the dead are collected at the next submission."""
    return {id for id, state in family(process).items() if state != "Z"} - {process}


def ends(condition, seconds: float = 20.0) -> bool:
    """Whether `condition` holds before long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Bench:
    """Graders of one course folder, which stay open from attack to attack."""

    def __init__(self, classroom: Classroom):
        self.classroom = classroom
        self.module = classroom.course.module("02")
        self._assignments: dict[tuple[bool, Limits], Assignment] = {}
        self._graders: dict[tuple[bool, Limits], Grader] = {}
        self._honest: dict[bool, Result] = {}

    def assignment(self, isolated: bool, limits: Limits = LIMITS) -> Assignment:
        key = isolated, limits
        if key not in self._assignments:
            made = prepare(self.classroom, self.module, "reference", limits, isolated)
            self._assignments[key] = replace(made, limits=limits)
        return self._assignments[key]

    def grader(self, isolated: bool, limits: Limits = LIMITS) -> Grader:
        key = isolated, limits
        if key not in self._graders:
            grader = Grader(self.assignment(isolated, limits), self.classroom.course)
            self._graders[key] = grader
        return self._graders[key]

    def close(self) -> None:
        for grader in self._graders.values():
            grader.close()

    def grade(self, notebook: NotebookNode, isolated: bool, limits: Limits = LIMITS) -> Result:
        return self.grade_bytes(json.dumps(notebook).encode(), isolated, limits)

    def grade_bytes(self, raw: bytes, isolated: bool, limits: Limits = LIMITS) -> Result:
        return self.grader(isolated, limits).grade(Submission("eve", raw))

    def assert_holds(self, attack: Attack, isolated: bool = True) -> Result:
        """Grade the attack: the right mark and flags, nothing left behind, a neighbour's marks."""
        if isolated and (why_not := problem()):
            import pytest

            pytest.skip(f"no sandbox: {why_not}")
        base = {"solution": solution, "stub": stub}[attack.base](self.module)
        return self.assert_marks(with_cells(base, attack.cells), attack, isolated)

    def assert_marks(self, notebook: NotebookNode, attack: Attack, isolated: bool) -> Result:
        """The same for a notebook of any make."""
        self.honest(isolated)
        zygote = self.grader(isolated)._sandbox._zygote.pid
        files = self.files(isolated)
        result = self.grade(notebook, isolated)
        self.assert_result(result, attack)
        self.honest(isolated)
        grader = self.grader(isolated)
        assert grader._sandbox._zygote.pid == zygote, "the zygote is another one"
        resting = 3 if isolated else 1  # bubblewrap's two, and the zygote
        running = lambda: {zygote} | descendants(zygote)  # noqa: E731
        assert ends(lambda: len(running()) <= resting), f"left running: {running()}"
        if isolated:
            assert self.files(isolated) == files
        return result

    def assert_result(self, result: Result, attack: Attack) -> None:
        story = "\n".join([*result.flags, *(f"{c.id}: {c.message}" for c in result.cells)])
        tests = {cell.id: cell for cell in result.cells if not cell.by_hand}
        for id, cell in tests.items():
            if id in attack.loses:
                assert cell.points == 0, story
                assert cell.message, story
            elif attack.spares:
                assert cell.points == cell.possible, story
        if attack.flag:
            assert any(re.search(attack.flag, line) for line in result.flags), story
        elif attack.flag == "":
            assert not result.flags, story
        if attack.says:
            assert re.search(attack.says, tests[attack.loses[0]].message), story

    def files(self, isolated: bool) -> set[tuple[str, int]]:
        """What lies in the folders of the grader, of its sandbox and of the class."""
        grader = self.grader(isolated)
        roots = [grader._folder, grader._sandbox._folder, self.classroom.root]
        paths = [path for root in roots for path in root.rglob("*")]
        return {(str(path), path.stat().st_size if path.is_file() else 0) for path in paths}

    def honest(self, isolated: bool) -> None:
        """An honest neighbour earns what it always earned."""
        result = self.grade(solution(self.module), isolated)
        plain = [(cell.id, cell.points, cell.message) for cell in result.cells], result.flags
        before = self._honest.setdefault(isolated, plain)
        assert plain == before
        assert result.flags == []
        assert all(cell.passed for cell in result.cells if not cell.by_hand)
