"""Runs notebooks and earns their points; proves that wrong solutions lose some.

Cells run as plain Python in a fresh process that sees the package of the modules before, so
that no lesson passes with the help of its own solution.
"""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import symtable
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from tito.course import Course, Module
from tito.errors import TitoError
from tito.export import fill_package
from tito.notebook import graded_cells, is_exported

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
QUIET = {
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Wrong:
    """A plausible wrong solution, and the test cells that must notice it.

    `code` stands in place of the solution region (of the whole cell, where it has none); `change`
    instead turns one piece of the right cell into another.
    """

    grade_id: str
    name: str  # the misunderstanding, in words
    code: str = ""
    loses: tuple[str, ...] | list[str] = ()
    change: tuple[str, str] | None = None

    def apply(self, source: str) -> str:
        """The cell `source` with the wrong solution in it."""
        if self.change:
            right, wrong = self.change
            if source.count(right) != 1:
                raise TitoError(
                    f"wrong solution {self.name!r}: {self.grade_id} holds {right!r} "
                    f"{source.count(right)} times: give a piece that stands there once"
                )
            return source.replace(right, wrong)
        lines = source.split("\n")
        begins = [i for i, line in enumerate(lines) if line.strip() == BEGIN]
        ends = [i for i, line in enumerate(lines) if line.strip() == END]
        code = textwrap.dedent(self.code).strip("\n")
        if not begins:
            return code
        if len(begins) > 1:
            raise TitoError(
                f"wrong solution {self.name!r}: {self.grade_id} has {len(begins)} solution "
                "regions: say what to replace with change=(right, wrong)"
            )
        indent = lines[begins[0]][: len(lines[begins[0]]) - len(lines[begins[0]].lstrip())]
        lines[begins[0] : ends[0] + 1] = textwrap.indent(code, indent).split("\n")
        return "\n".join(lines)


@dataclass(frozen=True)
class CellRun:
    """What one cell did: its error in one line (empty if none), its stderr, its CPU time."""

    id: str
    error: str
    stderr: str
    seconds: float


def run_notebook(
    notebook: NotebookNode,
    package: Path,
    twice: bool = False,
    without: Iterable[str] = (),
    timeout: float = 300,
) -> list[list[CellRun]]:
    """Every code cell in order, in a namespace that imports `package`; then, if `twice`, those that
    define and test once more in the same.

    The modules named in `without` can't be imported. TitoError if a cell ends Python, or if all
    have not ended within `timeout` seconds.
    """
    cells = _code_cells(notebook)
    passes = [cells]
    if twice:
        passes.append(needed_cells(cells, [cell.id for cell in _tests(notebook)]))
    result = _work(passes, package, without=without, timeout=timeout)
    return [[CellRun(**cell) for cell in run] for run in result["passes"]]


def run_wrongs(
    notebook: NotebookNode, wrongs: Iterable[Wrong], package: Path, seconds: float = 30
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Errors by test cell of the right solution, and of each wrong one by its name.

    Only cells that tests need are run, and without matplotlib. The wrong ones branch off the right
    one's run where they differ, as forks; where the system can't fork, each runs from the top. One
    that gives no answer within `seconds` has failed its tests.
    """
    cells = _code_cells(notebook)
    tests = [cell.id for cell in _tests(notebook)]
    variants = [_variant(wrong, cells, tests) for wrong in wrongs]
    names = [variant["name"] for variant in variants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TitoError(f"two wrong solutions are called {twice.pop()!r}: rename one")
    kept = needed_cells(cells, tests)
    work = partial(_work, package=package, without=["matplotlib"])
    if hasattr(os, "fork"):
        result = work([kept], variants=variants, variant_seconds=seconds)
        outcomes = result["variants"]
    else:
        result = work([kept])
        outcomes = {}
        for variant in variants:
            place = [cell["id"] for cell in kept].index(variant["cell"])
            [run] = work([kept[:place] + variant["cells"]])["passes"]
            outcomes[variant["name"]] = {cell["id"]: cell["error"] for cell in run}
    right = {cell["id"]: cell["error"] for cell in result["passes"][0] if cell["id"] in tests}
    return right, outcomes


def _variant(wrong: Wrong, cells: list[dict[str, Any]], tests: list[str]) -> dict[str, Any]:
    """The changed cell and those behind it that the tests in `loses` need."""
    order = [cell["id"] for cell in cells if cell["kept"] or cell["id"] in tests]
    if wrong.grade_id not in order:
        raise TitoError(f"wrong solution {wrong.name!r}: no exercise is called {wrong.grade_id}")
    behind = order[order.index(wrong.grade_id) + 1 :]
    if not wrong.loses or not {*wrong.loses} <= {*behind} & {*tests}:
        raise TitoError(
            f"wrong solution {wrong.name!r}: loses={list(wrong.loses)} must name test cells "
            f"below {wrong.grade_id}"
        )
    needed = needed_cells(cells, wrong.loses)
    ids = [cell["id"] for cell in cells]
    first = ids.index(wrong.grade_id)
    last = max(map(ids.index, wrong.loses))
    changed = {"id": wrong.grade_id, "source": wrong.apply(cells[first]["source"])}
    rest = [cell for cell in cells[first + 1 : last + 1] if cell in needed]
    return {"name": wrong.name, "cell": wrong.grade_id, "cells": [changed, *rest]}


def load_wrongs(path: Path) -> list[Wrong]:
    """The list WRONG of a file tests/modules/wrong_NN_name.py."""
    if not path.is_file():
        raise TitoError(f"{path} is missing: every module lists its wrong solutions there")
    return list(runpy.run_path(str(path))["WRONG"])


def needed_cells(cells: list[dict[str, Any]], tests: Iterable[str]) -> list[dict[str, Any]]:
    """The cells that `tests` need: all that define something exported, and of the others those
    that define a name which a needed cell uses. Slow demonstrations fall away."""
    tests = set(tests)
    needed: list[dict[str, Any]] = []
    wanted: set[str] = set()
    for cell in reversed(cells):
        defined, used = names_of(cell["source"])
        if cell["kept"] or cell["id"] in tests or defined & wanted:
            needed.insert(0, cell)
            wanted |= used
    return needed


@lru_cache(maxsize=1024)  # every wrong solution asks about the same cells
def names_of(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell defines (or changes a part of), and those that it uses."""
    try:
        top = symtable.symtable(source, "<cell>", "exec")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # too deep, no characters
        return set(), set()
    symbols = top.get_symbols()
    defined = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in symbols if s.is_referenced()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            base: ast.expr = node
            while isinstance(base, ast.Attribute | ast.Subscript):
                base = base.value
            if isinstance(base, ast.Name):
                defined.add(base.id)
    scopes = list(top.get_children())
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        used |= {s.get_name() for s in scope.get_symbols() if s.is_global()}
    return defined, used


def _tests(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that earn points."""
    return [cell for cell in graded_cells(notebook) if cell.cell_type == "code"]


def _code_cells(notebook: NotebookNode) -> list[dict[str, Any]]:
    """The code cells as plain data for the worker, `kept` where they define the solution."""
    return [
        {
            "id": cell.id,
            "source": cell.source,
            "kept": is_exported(cell) or bool(cell.metadata.get("nbgrader", {}).get("solution")),
        }
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _work(
    passes: list[list[dict[str, Any]]],
    package: Path,
    variants: Iterable[dict[str, Any]] = (),
    variant_seconds: float = 0,
    without: Iterable[str] = (),
    timeout: float = 300,
) -> dict[str, Any]:
    """Let a fresh process run the cells, pass by pass, in an empty folder."""
    job = {
        "passes": passes,
        "variants": [*variants],
        "variant_seconds": variant_seconds,
        "without": [*without],
    }
    tito = Path(__file__).resolve().parent
    paths = [package.resolve().parent, tito.parent]
    environment = os.environ | QUIET | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    with tempfile.TemporaryDirectory(prefix="tito-cells-") as name:
        folder = Path(name).resolve()
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (folder / "work").mkdir()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tito.cellworker", str(folder)],
                cwd=folder / "work",
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise TitoError(f"cell {_running(folder)} did not end within {timeout:g} s") from None
        if not (folder / "result.json").is_file():
            raise TitoError(f"cell {_running(folder)} ended Python (status {done.returncode})")
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if done.stderr and passes[-1]:  # what got past sys.stderr, from a child process or from C
        result["passes"][-1][-1]["stderr"] += done.stderr
    return result


def _running(folder: Path) -> str:
    """The name of the cell that a worker came to."""
    note = folder / "running"
    return note.read_text(encoding="utf-8") if note.is_file() else "1"


def partial_package(course: Course, module: Module, folder: Path) -> Path:
    """`folder`/tinytorch with the reference's modules before `module`, as its notebook sees it."""
    package = folder / "tinytorch"
    fill_package(course, package, course.before(module))
    return package
