"""A submission as graded: what the student wrote, the master's tests, and what each test said.

It is what nbgrader's pages and its feedback show. A submission may hold anything: of its cells only
type, text and name are taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tito.classroom.results import Result

if TYPE_CHECKING:
    from nbformat import NotebookNode


class Answer(NamedTuple):
    """What a student wrote, and whether it is more than the stub that was given out."""

    text: str
    is_written: bool


def graded_notebook(submission: Path, template: NotebookNode, result: Result) -> NotebookNode:
    """The notebook at `submission` with the template's tests, and below each what it said.

    One that couldn't be graded isn't opened: the template is shown, with the problem on top.
    """
    import nbformat

    from tito.classroom.preprocessors import restore

    cells = [] if result.problem else list(_cells(submission))
    notebook = nbformat.from_dict(template | {"cells": cells})
    restore(notebook, template)
    if result.problem:
        note = f"**This could not be graded**: {result.problem}"
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(note))
    messages = {cell.id: cell.message for cell in result.cells}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        message = messages.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        cell.outputs, cell.execution_count = [], None
        if message:
            error = {"ename": "AssertionError", "evalue": message, "traceback": [message]}
            cell.outputs = [nbformat.v4.new_output("error", **error)]
    return notebook


def answers(notebook: NotebookNode) -> dict[str, Answer]:
    """What the student wrote in a graded notebook, by the cell's name."""
    from nbgrader.utils import compute_checksum

    found = {}
    for cell in notebook.cells:
        grading = cell.metadata.get("nbgrader", {})
        if grading.get("solution"):
            written = grading.get("checksum") != compute_checksum(cell)
            found[grading.grade_id] = Answer(cell.source, written)
    return found


def answers_in(path: Path) -> dict[str, Answer]:
    """The answers in the graded notebook at `path`; none if it isn't there, or is damaged."""
    import nbformat

    try:
        return answers(nbformat.from_dict(json.loads(path.read_bytes())))
    except (OSError, ValueError, AttributeError, KeyError):
        return {}


def _cells(path: Path) -> Iterator[dict[str, Any]]:
    """The readable cells of the notebook at `path`, each with its type, text and name alone."""
    try:
        cells = json.loads(path.read_bytes())["cells"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return
    for number, cell in enumerate(cells if isinstance(cells, list) else []):
        if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
            continue
        source, metadata = cell.get("source"), cell.get("metadata")
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str):
            continue
        kept: dict[str, Any] = {"cell_type": cell["cell_type"], "source": source, "metadata": {}}
        if isinstance(metadata, dict) and isinstance(metadata.get("nbgrader"), dict):
            kept["metadata"] = {"nbgrader": {"grade_id": metadata["nbgrader"].get("grade_id")}}
        yield kept | {"id": f"cell-{number}"}
