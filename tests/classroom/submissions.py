"""What students hand in, for the tests of the classroom."""

from collections.abc import Mapping
from pathlib import Path

from nbformat import NotebookNode, from_dict

from tito.classroom.folder import Classroom
from tito.course import Module
from tito.notebook import grade_id, read_module, student_version, write_notebook


def solution(module: Module) -> NotebookNode:
    """The lesson as a perfect student hands it in: all solved, hidden tests never seen."""
    notebook = student_version(read_module(module))
    return with_cells(
        notebook,
        {
            name: cell.source
            for cell in read_module(module).cells
            if (name := grade_id(cell)) and cell.metadata.nbgrader.solution
        },
    )


def stub(module: Module) -> NotebookNode:
    """The lesson as it was released: nothing written."""
    return student_version(read_module(module))


def with_cells(notebook: NotebookNode, sources: Mapping[str, str]) -> NotebookNode:
    """A copy of `notebook` with other sources for some cells, by grade_id."""
    notebook = from_dict(notebook)
    missing = set(sources)
    for cell in notebook.cells:
        if (name := grade_id(cell)) in sources:
            cell.source = sources[name]
            missing.discard(name)
    assert not missing, f"no such cells: {missing}"
    return notebook


def hand_in(classroom: Classroom, student: str, module: Module, notebook: NotebookNode) -> Path:
    """Put `notebook` where the submissions of `student` lie."""
    path = classroom.submission(student, module)
    write_notebook(path, notebook)
    (path.parent / "timestamp.txt").write_text("2026-11-20 12:00:00.000000 UTC")
    return path
