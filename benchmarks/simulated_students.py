"""Sixteen kinds of students, each with the marks that the grader must give.

A kind is a function of (module, seed): what is handed in, and the tests that it loses. Which tests
a wrong or missing exercise loses is found without the grader: the lesson runs with that exercise in
plain Python (tito.grading), as `tito module test` does, with the hidden tests in it.
"""

import ast
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tito.course import Module, find_course
from tito.errors import TitoError
from tito.grading import load_wrongs, needed_cells, partial_package, run_notebook
from tito.notebook import grade_id, graded_cells, is_exported, read_module

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "classroom"))
import submissions

STUB = "raise NotImplementedError()"
PASSING = "assert True"  # what stands in a test that a student edited


@dataclass(frozen=True)
class Handed:
    """The file that a student hands in, and the tests that it must lose."""

    content: bytes
    lost: frozenset[str] = frozenset()


def perfect(module: Module, seed: int) -> Handed:
    return _hand_in(_solution(module))


def other_style(module: Module, seed: int) -> Handed:
    """Right code under other names, with another layout and comments of the student's own."""
    return _hand_in(_with(module, {name: restyled(cell) for name, cell in _exercises(module)}))


def own_cells(module: Module, seed: int) -> Handed:
    """Helper functions, prints, magics and a figure between the lesson's cells."""
    notebook = _with(module, {})
    figure = "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()"
    helper = "def my_square(x):\n    return x * x\n\nprint(my_square(7), flush=True)"
    added = [f"%matplotlib inline\n{figure}\n\n{helper}", "!ls\nmy_square?", "%%bash\necho done"]
    exercises = [cell for cell in notebook.cells if _is_exercise(cell)]
    for number, (cell, source) in enumerate(zip(exercises, added, strict=False)):
        place = notebook.cells.index(cell) + 1
        notebook.cells.insert(place, new_code_cell(source, id=f"own-{number}"))
    exercises[-1].source = f"assert my_square(3) == 9\n{exercises[-1].source}"
    return _hand_in(notebook)


def moved_cells(module: Module, seed: int) -> Handed:
    """One exercise at the end of the notebook, and another there twice."""
    notebook = _with(module, {})
    exercises = [cell for cell in notebook.cells if _is_exercise(cell)]
    moved, twice = random.Random(seed).sample(exercises, 2)
    notebook.cells.remove(moved)
    notebook.cells.append(moved)
    copy = nbformat.from_dict({**twice, "id": "a-copy"})  # JupyterLab's paste keeps the metadata
    notebook.cells.insert(notebook.cells.index(twice) + 1, copy)
    return _hand_in(notebook)


def tests_deleted(module: Module, seed: int) -> Handed:
    notebook = _with(module, {})
    tests = set(_points(module))
    notebook.cells = [cell for cell in notebook.cells if grade_id(cell) not in tests]
    return _hand_in(notebook)


def on_stderr(module: Module, seed: int) -> Handed:
    """Every function says on stderr that it is at work: nbgrader alone gives no point for that."""
    say = "print('at work', file=__import__('sys').stderr)"
    return _in_each_function(module, say)


def slow(module: Module, seed: int) -> Handed:
    """Every function counts to a thousand first."""
    return _in_each_function(module, "sum((i for i in range(1000)))")


def stub(module: Module, seed: int) -> Handed:
    return _hand_in(_stub(module), _points(module).keys())


def half_done(module: Module, seed: int) -> Handed:
    """The first half of the exercises is written."""
    names = [name for name, _ in _exercises(module)]
    released = {grade_id(cell): cell.source for cell in _stub(module).cells}
    return _wrong(module, {name: released[name] for name in names[len(names) // 2 :]})


def one_misunderstanding(module: Module, seed: int) -> Handed:
    return _misunderstood(module, seed, 1)


def several_misunderstandings(module: Module, seed: int) -> Handed:
    return _misunderstood(module, seed, 3)


def tests_edited(module: Module, seed: int) -> Handed:
    """A wrong solution, with tests and `check` changed so that everything passes."""
    handed = _misunderstood(module, seed, 1)
    notebook = nbformat.reads(handed.content.decode(), as_version=4)
    tests = submissions.with_cells(notebook, dict.fromkeys(_points(module), PASSING))
    cheat = "def check(*arguments, **options):\n    pass\n\ncheck_raises = check"
    tests.cells.insert(1, new_code_cell(cheat, id="cheat"))
    return _hand_in(tests, handed.lost)


def syntax_error(module: Module, seed: int) -> Handed:
    """One exercise is no Python."""
    name, cell = random.Random(seed).choice(_exercises(module))
    return _wrong(module, {name: cell.source + "\nprint('done'"})


def infinite_loop(module: Module, seed: int) -> Handed:
    """One exercise's functions never return."""
    return _broken(module, seed, "while True:\n    pass")


def ends_python(module: Module, seed: int) -> Handed:
    """One exercise's functions end the process."""
    return _broken(module, seed, "__import__('os')._exit(0)")


def damaged_file(module: Module, seed: int) -> Handed:
    """The upload broke off."""
    content = _hand_in(_solution(module)).content
    place = random.Random(seed).randrange(len(content) // 4, len(content) // 2)
    return Handed(content[:place], frozenset(_points(module)))


Kind = Callable[[Module, int], Handed]
# how many of a thousand students are of each kind
SHARES: dict[Kind, int] = {
    perfect: 300,
    other_style: 80,
    own_cells: 100,
    moved_cells: 30,
    tests_deleted: 20,
    on_stderr: 40,
    slow: 30,
    stub: 30,
    half_done: 80,
    one_misunderstanding: 140,
    several_misunderstandings: 80,
    tests_edited: 15,
    syntax_error: 30,
    infinite_loop: 4,
    ends_python: 6,
    damaged_file: 15,
}
RIGHT = (perfect, other_style, own_cells, moved_cells, tests_deleted, on_stderr, slow)


def a_class(module: Module, seed: int, size: int = 1000, variants: int = 5) -> list[Handed]:
    """What `size` students hand in, in random order; each kind has `variants` wordings."""
    draw = random.Random(seed)
    counts = {kind: max(1, round(share * size / 1000)) for kind, share in SHARES.items()}
    handed = [(kind, i % variants) for kind, count in counts.items() for i in range(count)]
    draw.shuffle(handed)
    made = {each: each[0](module, each[1]) for each in dict.fromkeys(handed)}
    return [made[each] for each in handed]


def expected(module: Module, handed: Handed) -> dict[str, float]:
    """The points of each test."""
    points = _points(module)
    return {test: 0.0 if test in handed.lost else worth for test, worth in points.items()}


def restyled(cell: NotebookNode) -> str:
    """The cell's code with other names for local variables and NumPy, comments and blank lines."""
    tree = ast.parse(cell.source)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and _is_flat(function):
            _rename_locals(function)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    if any(node.id == "np" for node in names):
        for node in names:
            node.id = "numeric" if node.id == "np" else node.id
        tree.body.insert(0, ast.parse("numeric = np").body[0])
    lines = ast.unparse(tree).splitlines()
    bodies = [getattr(node, "body", None) for node in ast.walk(ast.parse("\n".join(lines)))]
    for number in sorted({body[-1].lineno for body in bodies if isinstance(body, list) and body}):
        line = lines[number - 1]
        if not line.lstrip().startswith(("def ", "class ", "elif ")):  # may follow a decorator
            indent = line[: len(line) - len(line.lstrip())]
            lines[number - 1] = f"\n{indent}# and that is it\n{line}"
    return "\n".join([*(["#| export"] if is_exported(cell) else []), *lines])


def _is_flat(function: ast.FunctionDef) -> bool:
    """Whether its local variables are nobody else's."""
    scopes = ast.FunctionDef | ast.Lambda | ast.ClassDef | ast.Global | ast.Nonlocal
    return not any(isinstance(node, scopes) for part in function.body for node in ast.walk(part))


def _rename_locals(function: ast.FunctionDef) -> None:
    names = [
        node for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)
    ]
    parameters = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in names:
        if node.id in stored - parameters:
            node.id = f"my_{node.id}"


def _in_each_function(module: Module, statement: str) -> Handed:
    """The solution with a statement at the start of every function."""
    changes = {name: _begun(cell, statement) for name, cell in _exercises(module)}
    return _hand_in(_with(module, changes))


def _begun(cell: NotebookNode, statement: str) -> str:
    """The cell's code with a statement at the start of every function."""
    tree = ast.parse(cell.source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            place = 0 if ast.get_docstring(node) is None else 1
            node.body[place:place] = ast.parse(statement).body
    return ast.unparse(tree)


def _broken(module: Module, seed: int, statement: str) -> Handed:
    """The solution with a statement that never ends well in the functions of one exercise, of
    which nothing but tests makes use."""
    exercises = _exercises(module)
    random.Random(seed).shuffle(exercises)
    for name, cell in exercises:
        stubbed = _begun(cell, STUB)
        lost, others = _errors(module, frozenset({(name, stubbed)}))
        if 0 < len(lost) <= 3 and not others:  # each takes as long as it may
            return _hand_in(_with(module, {name: _begun(cell, statement)}), lost)
    raise TitoError(f"{module.folder} has no exercise that one to three tests use")


def _misunderstood(module: Module, seed: int, number: int) -> Handed:
    """Wrong solutions, from the module's list, of some exercises."""
    wrongs = load_wrongs(module.suite.with_name(f"wrong_{module.folder}.py"))
    draw = random.Random(seed)
    draw.shuffle(wrongs)
    chosen = {wrong.grade_id: wrong for wrong in wrongs}
    exercises = dict(_exercises(module))
    names = draw.sample(sorted(chosen.keys() & exercises.keys()), number)
    handed = _wrong(module, {name: chosen[name].apply(exercises[name].source) for name in names})
    if not {test for name in names for test in chosen[name].loses} <= handed.lost:
        raise TitoError(f"{module.folder}: {names} lose no more than {sorted(handed.lost)}")
    return handed


def _wrong(module: Module, changes: Mapping[str, str]) -> Handed:
    """The solution with other sources for some exercises, and what plain Python says of them."""
    lost, _ = _errors(module, frozenset(changes.items()))
    return _hand_in(_with(module, changes), lost)


@cache
def _errors(module: Module, changes: frozenset[tuple[str, str]]) -> tuple[frozenset[str], bool]:
    """The tests that fail in plain Python, and whether another cell does that isn't changed."""
    notebook = submissions.with_cells(read_module(module), dict(changes))
    tests = set(_points(module))
    kept = {cell["id"] for cell in needed_cells(_plain(read_module(module)), tests)}
    notebook.cells = [cell for cell in notebook.cells if cell.id in kept]
    with tempfile.TemporaryDirectory() as folder:
        package = partial_package(find_course(), module, Path(folder))
        [runs] = run_notebook(notebook, package, without=["matplotlib"])
    failed = {run.id for run in runs if run.error}
    return frozenset(failed & tests), bool(failed - tests - {name for name, _ in changes})


def _plain(notebook: NotebookNode) -> list[dict[str, object]]:
    """The code cells as `needed_cells` takes them."""
    return [
        {"id": cell.id, "source": cell.source, "kept": _is_exercise(cell) or is_exported(cell)}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _exercises(module: Module) -> list[tuple[str, NotebookNode]]:
    """The cells that students write, solved, by grade_id."""
    cells = _solution(module).cells
    return [(cell.metadata.nbgrader.grade_id, cell) for cell in cells if _is_exercise(cell)]


def _is_exercise(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.metadata.get("nbgrader", {}).get("solution"))


@cache
def _points(module: Module) -> dict[str, float]:
    """What each test is worth."""
    return {
        cell.metadata.nbgrader.grade_id: float(cell.metadata.nbgrader.points)
        for cell in graded_cells(read_module(module))
        if cell.cell_type == "code"
    }


@cache
def _solution(module: Module) -> NotebookNode:
    return submissions.solution(module)


@cache
def _stub(module: Module) -> NotebookNode:
    return submissions.stub(module)


def _with(module: Module, changes: Mapping[str, str]) -> NotebookNode:
    """A copy of the solved lesson with other sources for some cells."""
    return submissions.with_cells(_solution(module), changes)


def _hand_in(notebook: NotebookNode, lost: Set[str] = frozenset()) -> Handed:
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    return Handed(text.encode(), frozenset(lost))
