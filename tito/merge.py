"""A newer lesson under a student's work: `tito module update`.

Every cell that a student is given carries a hash of its text. A cell whose text still has that hash
is the lesson's; any other holds something that the student wrote.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from uuid import uuid4

import nbformat
from nbformat import NotebookNode

from tito.notebook import grade_id


@dataclass
class Merged:
    """The notebook that `merge` made, and what became of the student's cells, by name."""

    notebook: NotebookNode
    kept: list[str] = field(default_factory=list)  # the student's, now in the newer lesson
    replaced: list[str] = field(default_factory=list)  # locked ones that the student had changed


def mark(lesson: NotebookNode) -> NotebookNode:
    """Note in each cell of a lesson what its text is when the student gets it."""
    for cell in lesson.cells:
        cell.metadata["tito"] = nbformat.from_dict({"lesson": _hash(cell.source)})
    return lesson


def merge(student: NotebookNode, lesson: NotebookNode) -> Merged:
    """The marked `lesson` with what the student wrote.

    Solutions go to the cells of their names, and so do texts and examples that the student changed
    and the lesson did not; the student's other cells stay behind the cell that they followed.
    Locked cells are the lesson's.
    """
    merged = Merged(lesson)
    named = {_name(cell): cell for cell in lesson.cells}
    own: dict[str, list[NotebookNode]] = {"": []}  # the student's, by the cell that they follow
    place = ""
    for cell in student.cells:
        name = _name(cell)
        place = name if name in named else place
        if name in named and named[name].source == cell.source:
            _take_over(cell, named[name])
            continue
        if _is_lessons(cell):
            continue
        if name in named and _is_locked(named[name]):
            merged.replaced.append(name)
            continue
        merged.kept.append(name)
        if name in named and name not in merged.kept[:-1]:
            _take_over(cell, named[name])
        else:
            own.setdefault(place, []).append(_as_own(cell))
    lesson.cells = own[""] + [
        each for cell in lesson.cells for each in (cell, *own.get(_name(cell), []))
    ]
    return merged


def same_cells(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks ask and say the same, whatever they printed."""

    def content(notebook: NotebookNode) -> list[tuple]:
        return [
            (cell.cell_type, cell.source, cell.metadata.get("nbgrader")) for cell in notebook.cells
        ]

    return content(one) == content(other)


def _name(cell: NotebookNode) -> str:
    return grade_id(cell) or cell.get("id", "")


def _is_lessons(cell: NotebookNode) -> bool:
    return cell.metadata.get("tito", {}).get("lesson") == _hash(cell.source)


def _is_locked(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("locked"))


def _take_over(cell: NotebookNode, into: NotebookNode) -> None:
    """Put what the student wrote, and what it printed, into the lesson's cell."""
    into.source = cell.source
    if cell.cell_type == into.cell_type == "code":
        into.outputs, into.execution_count = cell.outputs, cell.execution_count


def _as_own(cell: NotebookNode) -> NotebookNode:
    """The cell as one that the lesson knows nothing of."""
    cell.metadata.pop("nbgrader", None)
    cell.metadata.pop("tito", None)
    cell["id"] = uuid4().hex[:8]
    return cell


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
