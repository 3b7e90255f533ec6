"""Two steps of nbgrader's that the course folder's settings add to its own.

They are named in nbgrader_config.py, so that nbgrader's commands and formgrader take them too.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor

from tito.classroom.folder import Classroom, find_classroom
from tito.course import Module, find_course

BEGIN, END = "BEGIN HIDDEN TESTS", "END HIDDEN TESTS"
_FRAME = re.compile(r"Cell In\[(\d+)\], line (\d+)")
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class RestoreCells(NbGraderPreprocessor):
    """Puts the master's cells back where a student deleted or changed them.

    nbgrader's own OverwriteCells, which comes next, can't when the cell before is gone as well.
    """

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        classroom = find_classroom(find_course())  # nbgrader works in its root
        module = classroom.course.module(resources["nbgrader"]["assignment"])
        restore(nb, template(classroom, module))
        return nb, resources


class HideTests(NbGraderPreprocessor):
    """Takes hidden tests, and what failed in them but for the hint, out of a student's feedback."""

    def preprocess_cell(
        self, cell: NotebookNode, resources: Any, index: int
    ) -> tuple[NotebookNode, Any]:
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("grade"):
            message, _ = verdict(cell)
            for output in cell.outputs:
                if output.output_type == "error":
                    output.traceback, output.evalue = [message], message
            lines = cell.source.split("\n")
            cell.source = "\n".join(
                line for number, line in enumerate(lines, 1) if number not in hidden_lines(cell)
            )
        return cell, resources


def template(classroom: Classroom, module: Module) -> NotebookNode:
    """The master of `module` without solutions, but with hidden tests."""
    from nbgrader.preprocessors import ClearSolutions, ComputeChecksums, LockCells

    from tito.classroom.nbgrader_app import load_config
    from tito.notebook import read_notebook

    notebook = read_notebook(classroom.source(module))
    resources: dict[str, Any] = {}
    for step in (LockCells, ClearSolutions, ComputeChecksums):
        notebook, resources = step(config=load_config(classroom)).preprocess(notebook, resources)
    return notebook


def restore(submission: NotebookNode, template: NotebookNode) -> None:
    """Let the cells of `submission` that `template` has be its tests and given cells, all of them.

    What a student may write stays, and so do cells of the student's own. Of cells with one grade_id
    the first of the right type counts, as in `combine`; the others are the student's own.
    """
    known = {name: cell for cell in template.cells if (name := _grade_id(cell))}
    seen: dict[str, NotebookNode] = {}
    for cell in submission.cells:
        name = _grade_id(cell)
        if name in known:
            first, right = seen.setdefault(name, cell), known[name].cell_type
            if first.cell_type != right and cell.cell_type == right:
                seen[name] = cell
    for cell in submission.cells:
        if seen.get(_grade_id(cell)) is cell:
            _take_over(cell, known[_grade_id(cell)])
        else:
            cell.metadata.pop("nbgrader", None)
    place = 0  # behind the template's cell before
    for name, cell in known.items():
        if name in seen:
            found = seen[name]
            place = next(n for n, each in enumerate(submission.cells, 1) if each is found)
        else:
            submission.cells.insert(place, NotebookNode(cell))
            place += 1


def verdict(cell: NotebookNode) -> tuple[str, bool]:
    """Why a graded cell that a kernel ran failed, "" if it passed, and whether a hidden test did.

    Of a hidden test no more is told than the author's hint.
    """
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            return f"printed to stderr, which nbgrader counts as a failure: {_line(output)}", False
        if output.output_type != "error":
            continue
        frames = _FRAME.findall(_COLOURS.sub("", "\n".join(output.traceback)))
        lines = [int(line) for count, line in frames if int(count) == cell.execution_count]
        if lines and lines[-1] in hidden_lines(cell):
            return _hint(cell.source, lines[-1]), True
        if output.ename == "KeyboardInterrupt":  # nbgrader's, when the cell's time was over
            return "it took too long, and was interrupted", False
        message = " ".join(str(output.evalue).split())
        if output.ename == "NotImplementedError" and not message:
            return "it is not written yet", False
        kind = "" if output.ename == "AssertionError" and message else f"{output.ename}: "
        return (kind + message).removesuffix(": "), False
    return "", False


def hidden_lines(cell: NotebookNode) -> set[int]:
    """The numbers of a cell's lines that are hidden from students."""
    hidden, inside = set(), False
    for number, line in enumerate(cell.source.split("\n"), 1):
        inside = inside or BEGIN in line
        if inside:
            hidden.add(number)
        inside = inside and END not in line
    return hidden


def _hint(source: str, line: int) -> str:
    """The literal hint of the check in that line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.lineno <= line <= (node.end_lineno or line):
            name = getattr(node.func, "id", "")
            given = node.args[2:3] + [k.value for k in node.keywords if k.arg == "hint"]
            if name in ("check", "check_raises") and given and isinstance(given[0], ast.Constant):
                return str(given[0].value)
    return "a hidden test failed"


def _take_over(cell: Any, known: Any) -> None:
    """Make a cell of the student's the template's: all of it, or all but what was written."""
    if cell.cell_type != known.cell_type:
        written = cell.source
        cell.clear()
        cell.update(NotebookNode(known), source=written)
    cell.metadata["nbgrader"] = NotebookNode(known.metadata.nbgrader)
    if not known.metadata.nbgrader.solution:
        cell.source = known.source


def _grade_id(cell: Any) -> str:
    metadata = cell.metadata.get("nbgrader")
    return str(metadata.get("grade_id", "")) if isinstance(metadata, dict) else ""


def _line(output: NotebookNode) -> str:
    return " ".join("".join(output.text).split())[:200]
