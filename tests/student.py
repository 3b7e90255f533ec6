"""Somebody who takes the course: a home folder of their own, and a notebook with solutions."""

import os
import sys
from collections.abc import Collection
from pathlib import Path

from tito.course import find_course
from tito.notebook import grade_id, read_module, read_notebook, write_notebook


def environment(home: Path) -> dict[str, str]:
    """The environment of a person whose home is `home`: this Python's programs come first."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "XDG_", "PYTHON", "PYTEST", "TITO_", "COLUMNS"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path}


def write_solutions(notebook: Path, number: str, but: Collection[str] = (), **given: str) -> None:
    """Put the course's solutions into a notebook, but for some, and what is `given` by grade_id."""
    lesson = read_module(find_course().module(number))
    solutions = {grade_id(cell): cell.source for cell in lesson.cells} | given
    content = read_notebook(notebook)
    for cell in content.cells:
        if cell.metadata.get("nbgrader", {}).get("solution") and grade_id(cell) not in but:
            cell.source = solutions[grade_id(cell)]
    write_notebook(notebook, content)
