"""From a lesson's percent file to notebooks: the solution's and the student's."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tito.course import Module
from tito.errors import TitoError
from tito.files import atomic_write

KERNELSPEC = {"display_name": "TinyTorch", "language": "python", "name": "tinytorch"}


def read_module(source: Module | Path | str) -> NotebookNode:
    """The lesson at `source` (a module, a percent file or an .ipynb) as a complete notebook.

    The same file always gives the same notebook: cells are named by their grade_id, else by a hash
    of their text, and the nbgrader metadata that a lesson may leave out is filled in.
    """
    path = source.source if isinstance(source, Module) else Path(source)
    if path.suffix == ".ipynb":
        notebook = read_notebook(path)
    else:
        notebook = read_percent(path.read_text(encoding="utf-8"))
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("nbgrader", "tags") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if "nbgrader" in kept:
            _complete(cell.metadata.nbgrader)
    name_cells(notebook)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": dict(KERNELSPEC), "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def read_percent(text: str) -> NotebookNode:
    """The notebook in a percent text; comments stay comments, even `# copy that array`."""
    return nbformat.from_dict(_parsed(text))  # a copy


@lru_cache(maxsize=64)  # jupytext takes 0.1 s for a lesson
def _parsed(text: str) -> NotebookNode:
    import jupytext  # not at the top: who grades reads no lessons

    options = {"extension": ".py", "format_name": "percent", "comment_magics": False}
    return jupytext.reads(text, fmt=options)


def student_version(notebook: NotebookNode) -> NotebookNode:
    """What a student gets: solutions stubbed, hidden tests gone, test cells locked."""
    from nbgrader.preprocessors import (
        CheckCellMetadata,
        ClearHiddenTests,
        ClearMarkScheme,
        ClearOutput,
        ClearSolutions,
        ComputeChecksums,
        LockCells,
    )

    steps = (
        LockCells,
        ClearSolutions,
        ClearOutput,
        CheckCellMetadata,
        ComputeChecksums,  # before the hidden tests go: nbgrader compares with the source's
        ClearHiddenTests,
        ClearMarkScheme,
        ComputeChecksums,
    )
    resources: dict[str, object] = {}
    notebook = nbformat.from_dict(notebook)
    for step in steps:
        preprocessor = step()
        preprocessor.log.setLevel(logging.CRITICAL)  # what goes wrong is raised as well
        try:
            notebook, resources = preprocessor.preprocess(notebook, resources)
        except Exception as error:
            raise TitoError(f"nbgrader's {step.__name__} refuses the notebook: {error}") from error
    return notebook


def read_notebook(path: Path | str) -> NotebookNode:
    """The .ipynb at `path`, in today's format; a damaged file gives one clear line."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise TitoError(f"{path}: no such notebook") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TitoError(f"{path} is not a readable notebook: {reason}") from error


def write_notebook(path: Path | str, notebook: NotebookNode) -> None:
    """Write `notebook` to `path` in one step."""
    atomic_write(path, nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n")


def grade_id(cell: NotebookNode) -> str | None:
    """The name nbgrader knows the cell by, None for a cell it leaves alone."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_exported(cell: NotebookNode) -> bool:
    """Whether the cell becomes part of the package."""
    directives = r"(?:\s*#\s*\|.*\n)*\s*#\s*\|\s*export"  # nbdev reads all lines above the code
    return cell.cell_type == "code" and re.match(directives, cell.source) is not None


def graded_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that earn points, those graded by hand included."""
    return [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]


def name_cells(notebook: NotebookNode) -> None:
    """Give every cell an id that depends on nothing but its grade_id or its text."""
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w-]", "-", grade_id(cell) or digest, flags=re.ASCII)[:56]
        seen[name] += 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"


def _complete(metadata: NotebookNode) -> None:
    """Fill in what nbgrader insists on and a lesson may leave out."""
    metadata.setdefault("grade", False)
    metadata.setdefault("solution", False)
    metadata.setdefault("locked", not metadata.solution)
    metadata.setdefault("task", False)
    metadata.setdefault("schema_version", 3)
