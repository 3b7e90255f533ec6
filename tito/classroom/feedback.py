"""The page that tells a student what came of a submission: points, and why some are missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tito.classroom.folder import Classroom
from tito.classroom.marks import CellMark, Mark
from tito.course import Module
from tito.files import atomic_write

if TYPE_CHECKING:
    from jinja2 import Template

POLICIES = {
    "reference": "Your notebook ran on the course's own modules before this one. What went wrong "
    "in an earlier module of yours costs nothing here.",
    "own": "Your notebook ran on the modules before this one as you exported and handed them in. "
    "A mistake in one of them can cost points here.",
    "best": "Your notebook ran twice: on the course's own modules before this one, and on those "
    "that you exported. The better of the two counts.",
}
_MANY = re.compile(r" \(\d+ of \d+ values differ\)$")


def write_feedback(classroom: Classroom, module: Module, marks: Iterable[Mark]) -> dict[str, int]:
    """Write the page of everybody whose submission was graded; how many changed, and how many
    were already there just so."""
    counts = {"written": 0, "unchanged": 0}
    for mark in marks:
        path = classroom.feedback(mark.student.id, module)
        page = feedback_page(module, mark).encode(errors="backslashreplace")
        if path.is_file() and path.read_bytes() == page:
            counts["unchanged"] += 1
        else:
            atomic_write(path, page)
            counts["written"] += 1
    return counts


def feedback_page(module: Module, mark: Mark) -> str:
    """The page as HTML, complete in itself: no script, and nothing from the network."""
    return _template().render(
        module=module,
        mark=mark,
        cells=[_told(cell) for cell in mark.cells],
        waiting=sum(cell.result.possible for cell in mark.cells if cell.waiting),
        policy=_policy(module, mark),
    )


def _policy(module: Module, mark: Mark) -> str:
    """On whose modules the notebook ran; "" where it didn't run, and for the first module."""
    if not mark.result or mark.problem or module.number == "01":
        return ""
    return POLICIES.get(mark.result.policy, "")


def _told(cell: CellMark) -> dict[str, Any]:
    """A cell in the words of the page."""
    message = "" if cell.passed else cell.result.message
    if cell.waiting:
        state, word = "waiting", "to be graded"
    elif cell.passed:
        state, word = "passed", "full points"
    else:
        state, word = ("partial", "some points") if cell.points else ("failed", "no points")
    return {
        "id": cell.result.id,
        "points": cell.points,
        "possible": cell.result.possible,
        "state": state,
        "word": word,
        "hidden": cell.result.hidden,
        "message": message,
        "parts": _parts(message),
        "by_person": cell.by_person,
        "comment": cell.comment,
    }


def _parts(message: str) -> list[tuple[str, str]]:
    """What `check` says, taken apart; nothing where that isn't certain: what is asked and expected
    must be Python, as only then the hint's colon is found."""
    asked, _, told = message.partition(" gave ")
    came, _, rest = told.partition(", expected ")
    if message.count(" gave ") != 1 or message.count(", expected ") != 1 or not _is_python(asked):
        return []
    for colon in re.finditer(": ", rest):
        expected, hint = rest[: colon.start()], rest[colon.end() :]
        if _is_python(_MANY.sub("", expected)):
            return [("asked", asked), ("came", came), ("expected", expected), ("hint", hint)]
    return []


def _is_python(text: str) -> bool:
    """Whether `text` is an expression, or the beginning of one that was cut short."""
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text.endswith("...")
    return True


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # students' text is shown, never obeyed
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = "{:g}".format
    return environment.get_template("feedback.html.jinja")
