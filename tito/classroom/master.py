"""The master of a module: which cells are run, what each test checks, and what it expects.

A test's calls of `check(got, expected, hint)` are rewritten before they reach a student's process:
only `got` and the place of the call stay. What is expected comes from a run of the reference, and
is compared where no student's code runs. An `expected` that names anything but constants, NumPy and
Python's builtins is computed in the student's process as well, because it may follow from the
student's own values (weights drawn in another order, say).
"""

from __future__ import annotations
import __future__

import ast
import builtins
import hashlib
import marshal
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nbformat import NotebookNode

from tito.classroom.combine import Cell, combine
from tito.errors import TitoError
from tito.grading import names_of, needed_cells
from tito.notebook import graded_cells, is_exported
from tito.testing import asked_text

CHECK, RAISES = "__check__", "__check_raises__"
_REPLACED = {"check": CHECK, "check_raises": RAISES}
_HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS", re.DOTALL)
_KNOWN = {"np", "numpy", "math"} | set(dir(builtins))


@dataclass(frozen=True)
class Site:
    """A place in a cell where `check` or `check_raises` is called."""

    asked: str  # the source of what is checked, "relu(Tensor([-0.5]))"
    hidden: bool


@dataclass(frozen=True)
class Test:
    """A graded cell of code."""

    id: str
    points: float
    helpers: tuple[str, ...]  # tests before it whose definitions it uses
    is_inside: bool  # whether it must run among the notebook's own names, which it changes


@dataclass
class Master:
    """A module as it is graded."""

    notebook: NotebookNode
    cells: list[Cell]  # the code cells of the solution's notebook, in order
    tests: dict[str, Test]
    answers: dict[str, float]  # points of what a person reads, by grade_id
    graded: list[str]  # tests and answers, as they stand in the notebook
    sites: dict[str, Site]
    needed: set[str]  # cells that a test or an exported cell needs
    defined: dict[str, set[str]]  # names that each cell defines
    for_students: dict[str, str]  # cells as a student's process runs them
    for_reference: dict[str, str]  # cells as the reference runs them, to note what is expected
    # by test: what the reference gave, check by check (tito.classroom.grader notes it)
    expected: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Cell]:
        """The code cells by name."""
        return {cell.id: cell for cell in self.cells}

    @cached_property
    def loose(self) -> re.Pattern[str]:
        """Finds the names that only given cells without use for any test define."""
        known = {name for id in self.needed for name in self.defined[id]}
        names = {name for names in self.defined.values() for name in names} - known
        return re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b" if names else r"(?!)")

    @cached_property
    def code_for_students(self) -> dict[str, bytes]:
        """`for_students`, compiled once for all."""
        return compiled(self.for_students)

    @cached_property
    def code_for_reference(self) -> dict[str, bytes]:
        """`for_reference`, compiled."""
        return compiled(self.for_reference)

    @cached_property
    def helpers_check(self) -> bool:
        """Whether a given cell, which student's functions can see, checks something."""
        return any(self.by_id[site.rpartition(":")[0]].kind == "given" for site in self.sites)

    @cached_property
    def imports(self) -> list[str]:
        """The import statements of given cells: what a process may load before it has a job."""
        statements = [
            ast.unparse(node)
            for cell in self.cells
            if cell.kind == "given" and cell.id in self.needed
            for node in ast.parse(cell.source).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        return [text for text in dict.fromkeys(statements) if "__future__" not in text]


def read_master(notebook: NotebookNode) -> Master:
    """The master in a source notebook. TitoError if a test can't be rewritten."""
    cells = combine(notebook, notebook).cells
    exported = {cell.id for cell in notebook.cells if is_exported(cell)}
    points = {
        cell.metadata.nbgrader.grade_id: float(cell.metadata.nbgrader.points)
        for cell in graded_cells(notebook)
    }
    sites: dict[str, Site] = {}
    defined, students, reference = {}, {}, {}
    for cell in cells:
        defined[cell.id] = names_of(cell.source)[0]
        if cell.kind != "solution":
            students[cell.id], found = rewrite(cell.id, cell.source, keep_all=False)
            reference[cell.id], _ = rewrite(cell.id, cell.source, keep_all=True)
            sites |= found
    tests = {}
    for position, cell in enumerate(cells):
        if cell.kind == "test":
            used = names_of(cell.source)[1]
            before = [other for other in cells[:position] if other.kind == "test"]
            helpers = tuple(other.id for other in before if defined[other.id] & used)
            inside = any(isinstance(node, ast.Global) for node in ast.walk(ast.parse(cell.source)))
            tests[cell.id] = Test(cell.id, points[cell.id], helpers, inside)
    plain = [
        {
            "id": cell.id,
            "source": cell.source,
            "kept": cell.kind == "solution" or cell.id in exported,
        }
        for cell in cells
    ]
    needed = {cell["id"] for cell in needed_cells(plain, tests)}
    by_hand = {id: value for id, value in points.items() if id not in tests}
    return Master(
        notebook, cells, tests, by_hand, list(points), sites, needed, defined, students, reference
    )


def rewrite(cell_id: str, source: str, keep_all: bool) -> tuple[str, dict[str, Site]]:
    """The source of a cell with its checks numbered, and the places where they stand.

    With `keep_all` calls keep what they expect and their hints, for the reference's run.
    """
    if not any(name in source for name in _REPLACED):
        return source, {}
    hidden = [
        (source[: match.start()].count("\n") + 1, source[: match.end()].count("\n") + 1)
        for match in _HIDDEN.finditer(source)
    ]
    rewriter = _Rewriter(cell_id, hidden, keep_all)
    try:
        tree = rewriter.visit(ast.parse(source))
    except SyntaxError as error:
        raise TitoError(f"cell {cell_id} of the master: {error.msg}, line {error.lineno}") from None
    return ast.unparse(ast.fix_missing_locations(tree)), rewriter.sites


class _Rewriter(ast.NodeTransformer):
    """Turns `check(got, expected, hint)` into `__check__("cell:0", got)`."""

    def __init__(self, cell_id: str, hidden: list[tuple[int, int]], keep_all: bool):
        self.cell_id, self.hidden, self.keep_all = cell_id, hidden, keep_all
        self.sites: dict[str, Site] = {}

    def visit_Call(self, node: ast.Call) -> ast.Call:
        if not (isinstance(node.func, ast.Name) and node.func.id in _REPLACED):
            self.generic_visit(node)
            return node
        names = ["got", "expected", "hint", "tolerance"]
        if node.func.id == "check_raises":
            names = ["error_type", "part", "hint"]
        given = dict(zip(names, node.args, strict=False))
        given |= {keyword.arg or "**": keyword.value for keyword in node.keywords}
        if (
            not {*names[:3]} <= {*given} <= {*names}
            or len(node.args) > len(names)
            or any(isinstance(argument, ast.Starred) for argument in node.args)
        ):
            raise TitoError(
                f"cell {self.cell_id} of the master, line {node.lineno}: "
                f"{node.func.id} takes ({', '.join(names)}), each by itself"
            )
        site = f"{self.cell_id}:{len(self.sites)}"
        hidden = any(first <= node.lineno <= last for first, last in self.hidden)
        self.sites[site] = Site(asked_text(given[names[0]]), hidden)
        if node.func.id == "check_raises":
            kept = names if self.keep_all else []
        elif self.keep_all:
            kept = names
        else:
            kept = ["got"] if _is_closed(given["expected"]) else ["got", "expected"]
        arguments: list[ast.expr] = [ast.Constant(site)]
        arguments += [self.visit(given[name]) for name in kept if name in given]
        return ast.Call(ast.Name(_REPLACED[node.func.id], ast.Load()), arguments, [])


def _is_closed(expression: ast.expr) -> bool:
    """Whether an expression names nothing but constants, NumPy and Python's builtins."""
    bound = {
        node.id
        for node in ast.walk(expression)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names = {
        node.id
        for node in ast.walk(expression)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    draws = any(
        isinstance(node, ast.Attribute) and node.attr == "random" for node in ast.walk(expression)
    )
    return names - bound <= _KNOWN and not draws


def compiled(sources: Mapping[str, str]) -> dict[str, bytes]:
    """The cells as marshalled code: a sandbox of the same Python needs no time to compile them."""
    flags, codes = 0, {}
    for id, source in sources.items():
        code = compile(source, f"<cell {id}>", "exec", flags, dont_inherit=True)
        flags |= code.co_flags & __future__.annotations.compiler_flag  # holds from then on
        codes[id] = marshal.dumps(code)
    return codes


def digest(*parts: Any) -> str:
    """A hash of some texts."""
    text = "\0".join(map(str, parts))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:20]
