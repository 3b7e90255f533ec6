"""What a submission earned, cell by cell, and the files in which the classroom keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tito.classroom.folder import Classroom
from tito.course import Module
from tito.errors import TitoError
from tito.files import atomic_write

FORMAT = 1


@dataclass
class CellResult:
    """One graded cell: a test, or an answer that a person reads."""

    id: str  # grade_id
    points: float  # earned
    possible: float
    # why it failed: what came, what was expected, the hint (of a hidden check that alone);
    # "" if it passed
    message: str = ""
    hidden: bool = False  # whether a hidden check failed
    by_hand: bool = False  # a person gives the points, so far 0
    seconds: float = 0.0
    key: str = ""  # hash of all that the result depends on

    @property
    def passed(self) -> bool:
        return not self.message


@dataclass
class Result:
    """What one engine gave one student for one module."""

    student: str
    module: str  # "01_tensor"
    engine: str  # "fast" or "nbgrader"
    policy: str  # whose modules before it were imported: "reference", "own" or "best"
    cells: list[CellResult]  # in the master's order
    flags: list[str] = field(default_factory=list)  # what a person should look at, a line each
    problem: str = ""  # why nothing could be graded; then every cell has 0 points
    notebook: str = ""  # hash of the submitted file
    graded: str = ""  # when: "2026-11-22 14:05:09"

    @property
    def points(self) -> float:
        return sum(cell.points for cell in self.cells)

    @property
    def possible(self) -> float:
        return sum(cell.possible for cell in self.cells)


def write_result(classroom: Classroom, module: Module, result: Result) -> Path:
    """Keep `result` in its file, in one step."""
    path = classroom.results(module, result.engine) / f"{result.student}.json"
    text = json.dumps({"format": FORMAT, **asdict(result)}, indent=1)
    atomic_write(path, text + "\n")
    return path


def read_result(path: Path) -> Result:
    """The result kept at `path`; TitoError if it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        data["cells"] = [CellResult(**cell) for cell in data["cells"]]
        return Result(**data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TitoError(
            f"{path} is no result of grading ({error}): delete it and grade again"
        ) from None


def read_results(classroom: Classroom, module: Module, engine: str = "fast") -> Iterator[Result]:
    """All results of `engine` for `module`, in the students' order."""
    for path in sorted(classroom.results(module, engine).glob("*.json")):
        yield read_result(path)
