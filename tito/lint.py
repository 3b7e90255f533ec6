"""The rules on lessons that a machine can hold them to; docs/authoring.md explains them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from nbformat import NotebookNode

from tito import facade
from tito.course import Course, Module
from tito.notebook import is_exported, read_percent

SOLUTION_LINES = 25
FUNCTION_LINES = 40
POINTS = 100
_HEADER = re.compile(r"^# %%.*$", re.MULTILINE)
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\ufe0f]")
_WALL = re.compile(r"\b(TODO|FIXME|APPROACH|HINTS?|STEPS?)\b")
_REGIONS = {"SOLUTION": "solution", "HIDDEN TESTS": "grade"}
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Finding:
    """A broken rule: where, and what to do about it."""

    source: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.message}"


Found = Iterator[tuple[int, str]]


@dataclass(frozen=True)
class Cell:
    """A cell as it stands in the percent file."""

    header: str
    line: int  # of the header
    node: NotebookNode

    @property
    def source(self) -> str:
        return self.node.source

    @property
    def is_code(self) -> bool:
        return self.node.cell_type == "code"

    @property
    def nbgrader(self) -> dict:
        return self.node.metadata.get("nbgrader", {})

    @property
    def is_exported(self) -> bool:
        return is_exported(self.node)

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed code; empty where it is none or doesn't parse, which is told elsewhere."""
        try:
            return ast.parse(self.source if self.is_code else "")
        except SyntaxError:
            return ast.parse("")


def lint(course: Course, modules: Iterable[Module] | None = None) -> list[Finding]:
    """What is wrong with the lessons of `modules` (default: all), in order of place."""
    findings = []
    for module in course.modules if modules is None else modules:
        found = sorted(set(_lint_module(course, module)))
        findings += [Finding(module.source_name, line, message) for line, message in found]
    return findings


def _lint_module(course: Course, module: Module) -> Found:
    text = module.source.read_text(encoding="utf-8")
    headers = list(_HEADER.finditer(text))
    nodes = read_percent(text).cells
    if len(headers) != len(nodes):
        yield 1, f"{len(headers)} cell headers make {len(nodes)} cells: begin each cell with # %%"
        return
    cells = [
        Cell(match[0], text.count("\n", 0, match.start()) + 1, node)
        for match, node in zip(headers, nodes, strict=True)
    ]
    yield from _opening(cells)
    yield from _names_and_points(cells)
    yield from _imports(cells, course, module)
    for cell in cells:
        yield from _metadata(cell)
        yield from _regions(cell)
        if cell.is_code:
            yield from _code(cell)
        elif cell.node.metadata.get("cell_marker") == '"""' and "\\" in cell.source:
            yield cell.line, 'the text holds a backslash: write r""" before it'
        if cell.is_exported:
            yield from _exported(cell)
        if cell.is_code and cell.nbgrader.get("grade"):
            yield from _test(cell)


def _opening(cells: list[Cell]) -> Found:
    if not cells[0].source.startswith("#| default_exp"):
        yield cells[0].line, "the first cell must be `#| default_exp package.file`"
    title = next((cell for cell in cells if not cell.is_code), None)
    if not title or not re.match(r"# \S.*\n+> \S", title.source):
        line = title.line if title else 1
        yield line, "begin the text with `# Title` and `> one sentence`, the package's docstring"


def _names_and_points(cells: list[Cell]) -> Found:
    seen: dict[str, int] = {}
    for cell in cells:
        name = cell.nbgrader.get("grade_id")
        if name in seen:
            yield cell.line, f"grade_id {name!r} is taken by line {seen[name]}: choose another"
        elif name:
            seen[name] = cell.line
    total = sum(cell.nbgrader.get("points", 0) for cell in cells if cell.nbgrader.get("grade"))
    if total != POINTS:
        yield 1, f"the points add up to {total}: make it {POINTS}"


def _metadata(cell: Cell) -> Found:
    if re.search(r"=.*\[(markdown|md|raw)\]", cell.header):
        yield cell.line, "write `# %% [markdown] nbgrader={...}`: this order makes a code cell"
    if not cell.nbgrader:
        if "nbgrader" in cell.header:
            yield cell.line, "the nbgrader metadata must be JSON: nbgrader={...}"
        return
    required = ["grade", "grade_id", "solution"] + ["points"] * bool(cell.nbgrader.get("grade"))
    missing = [key for key in required if key not in cell.nbgrader]
    if missing:
        yield cell.line, f"the nbgrader metadata lacks {', '.join(missing)}"


def _regions(cell: Cell) -> Found:
    lines = cell.source.split("\n")
    for kind, key in _REGIONS.items():
        begins = [i for i, line in enumerate(lines) if f"BEGIN {kind}" in line]
        ends = [i for i, line in enumerate(lines) if f"END {kind}" in line]
        marked = [lines[i].strip() for i in begins + ends]
        if marked != [f"### BEGIN {kind}"] * len(begins) + [f"### END {kind}"] * len(ends):
            yield cell.line, f"write the markers `### BEGIN {kind}` and `### END {kind}`, alone"
        pairs = list(zip(begins, ends, strict=False))
        if len(begins) != len(ends) or any(end < begin for begin, end in pairs):
            yield cell.line, f"every `### BEGIN {kind}` needs an `### END {kind}` below it"
        if begins and not cell.nbgrader.get(key):
            yield cell.line, f'a region of {kind.lower()} needs "{key}": true in its nbgrader'
        for begin, end in pairs if kind == "SOLUTION" else []:
            if (length := end - begin - 1) > SOLUTION_LINES:
                advice = f"split it, {SOLUTION_LINES} are the limit"
                yield cell.line + 1 + begin, f"a solution of {length} lines: {advice}"
        if kind == "SOLUTION" and cell.is_code and cell.nbgrader.get("solution") and not begins:
            yield cell.line, "a solution cell needs `### BEGIN SOLUTION` and `### END SOLUTION`"


def _code(cell: Cell) -> Found:
    first = cell.line + 1
    try:
        compile(cell.source, "cell", "exec", dont_inherit=True)
    except SyntaxError as error:
        offset = (error.lineno or 1) - 1
        is_magic = cell.source.split("\n")[offset].lstrip().startswith(("%", "!"))
        problem = "no magics: cells are run as plain Python"
        yield first + offset, problem if is_magic else f"the cell does not compile: {error.msg}"
    for offset, line in enumerate(cell.source.split("\n")):
        if emoji := _EMOJI.search(line):
            yield first + offset, f"no emoji in code: {emoji[0]}"
        if offset and line.startswith("#| export"):
            yield first + offset, "`#| export` must be the first line of its cell"


def _exported(cell: Cell) -> Found:
    first = cell.line + 1
    if not re.fullmatch(r"#\| exporti?", cell.source.split("\n")[0]):
        yield first, "write `#| export` alone: a module has one file, that of `#| default_exp`"
    if not cell.nbgrader.get("grade_id"):
        yield cell.line, "an exported cell needs nbgrader metadata with a grade_id"
    elif not cell.nbgrader.get("solution") and not cell.nbgrader.get("locked"):
        yield cell.line, 'an exported cell is an exercise ("solution": true) or "locked": true'
    for node in ast.walk(cell.tree):
        if isinstance(node, _Definition):
            yield from _definition(node, cell)
    for line in _prints(cell.tree.body):
        yield first + line - 1, "exported code must not print when the package is imported"


def _definition(node: _Definition, cell: Cell) -> Found:
    line = cell.line + node.lineno
    is_given_class = isinstance(node, ast.ClassDef) and not cell.nbgrader.get("solution")
    length = _length(node)
    if length > FUNCTION_LINES and not is_given_class:
        yield line, f"{node.name} has {length} lines: {FUNCTION_LINES} are the limit"
    if wall := _WALL.search(ast.get_docstring(node) or ""):
        advice = "put steps and hints into the text above"
        yield line, f"{node.name}: {wall[0]} in a docstring: {advice}"


def _length(node: _Definition) -> int:
    """The lines of a definition without its docstrings."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    for inner in ast.walk(node):
        if isinstance(inner, _Definition) and ast.get_docstring(inner) is not None:
            docstring = inner.body[0]
            length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return length


def _prints(body: list[ast.stmt]) -> Iterator[int]:
    """The lines on which statements print as soon as they run."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call) and _called(node) in ("print", "display"):
            yield node.lineno
        waiting += ast.iter_child_nodes(node)


def _test(cell: Cell) -> Found:
    calls = {_called(node) for node in ast.walk(cell.tree) if isinstance(node, ast.Call)}
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(cell.tree))
    if not asserts and not any(c.startswith(("check", "assert_", "fail")) for c in calls):
        yield cell.line, "a graded cell that checks nothing can't fail: call check(...)"
    at_top = {
        _called(node.value)
        for node in cell.tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    }
    functions = [node for node in cell.tree.body if isinstance(node, ast.FunctionDef)]
    for node in functions:
        if node.name.startswith("test_") and node.name not in at_top:
            yield cell.line + node.lineno, f"{node.name} is never called in its cell"


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _imports(cells: list[Cell], course: Course, module: Module) -> Found:
    """What the lesson takes from tinytorch must come from modules before this one."""
    files = {other.export: other for other in course.modules}
    homes = {name: files[file] for name, file in facade_homes(course).items() if file in files}
    for line, dotted in _taken(cells):
        parent, _, name = dotted.removeprefix("tinytorch.").rpartition(".")
        home = files.get(f"{parent}.{name}") or files.get(parent) or homes.get(name)
        if home == module:
            yield line, f"{dotted} is this lesson's own: use the cell above"
        elif home and home.number > module.number:
            yield line, f"{dotted} comes later, with {home.folder}"


def _taken(cells: list[Cell]) -> Iterator[tuple[int, str]]:
    """Every name of the package that the cells import, or reach as `nn.Linear`."""
    aliases: dict[str, str] = {}  # `nn` -> "tinytorch.nn"
    for cell in cells:
        for node in ast.walk(cell.tree):
            names: list[tuple[str, str | None]] = []
            if isinstance(node, ast.Import):
                names = [(alias.name, alias.asname) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(f"{node.module}.{alias.name}", alias.asname) for alias in node.names]
            for dotted, alias in names:
                if dotted.split(".")[0] == "tinytorch":
                    aliases[alias or dotted.rpartition(".")[2]] = dotted
                    yield cell.line + getattr(node, "lineno", 0), dotted
    for cell in cells:
        for node in ast.walk(cell.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                dotted = aliases.get(node.value.id, "")
                if dotted.removeprefix("tinytorch.") in ("tinytorch", *facade.FACADES):
                    yield cell.line + node.lineno, f"{dotted}.{node.attr}"


def facade_homes(course: Course) -> dict[str, str]:
    """Public name -> file, from the reference's _index.py; empty before the first export."""
    index = course.package / "_index.py"
    if index.is_file():
        for node in ast.parse(index.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, ast.AnnAssign)
                and node.value
                and ast.unparse(node.target) == "HOMES"
            ):
                return {name: home[0] for name, home in ast.literal_eval(node.value).items()}
    return {}
