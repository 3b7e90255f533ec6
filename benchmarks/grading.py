"""Grading: marks of simulated students, time beside nbgrader's, and a class of a thousand.

python benchmarks/grading.py [--quick] [--json PATH] [--check]

On two cores, for which the limits hold. A class is graded by the command that instructors type.
"""

from common import Row, arguments, interleave, report  # isort: skip (pins the threads first)

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from simulated_students import SHARES, Handed, a_class, expected, perfect
from tqdm import tqdm

from tito.classroom import kernel, nbgrader_engine, sandbox
from tito.classroom.assignment import Assignment, Grader, prepare
from tito.classroom.autograde import grade_here
from tito.classroom.creation import make_classroom
from tito.classroom.folder import Classroom
from tito.classroom.results import Result, read_results
from tito.classroom.sandbox import Limits
from tito.classroom.source import release
from tito.classroom.submission import Submission
from tito.course import Module, find_course
from tito.files import atomic_write

CORES = 2
SUBMISSION_SECONDS, CLASS_SECONDS = 0.030, 120.0
LOOP_SECONDS = 5.0  # limit of a cell in the table of kinds: loading matplotlib takes a second
BATCH = 20  # submissions at a time, for the throughput
PRIVATE_TEST = """\
# %% test-strides-of
check(strides_of((3, 2), 4), (8, 4), "the last axis moves by one number of 4 bytes")
"""


@dataclass
class Marked(Row):
    """Submissions that were timed and marked."""

    wrong: list[str] = field(default_factory=list)  # tests that got other points than they should
    marks: dict[str, tuple[float, float]] = field(default_factory=dict)  # got, expected, by kind

    @property
    def missed(self) -> str:
        """What is wrong, in words: a mark before a limit."""
        if self.wrong:
            return f"{self.name}: {len(self.wrong)} wrong marks, as {self.wrong[0]}"
        return super().missed


def differences(handed: Handed, result: Result, module: Module) -> list[str]:
    """The tests that got other points than they should."""
    points = {cell.id: cell.points for cell in result.cells if not cell.by_hand}
    wanted = expected(module, handed)
    return [
        f"{test} got {points.get(test, 'nothing')} for {wanted.get(test, 'nothing')}"
        for test in sorted(points.keys() | wanted)
        if points.get(test) != wanted.get(test)
    ]


def assignment_of(classroom: Classroom, module: Module, seconds: float = 10) -> Assignment:
    """The module, ready to be graded."""
    return prepare(classroom, module, "reference", Limits(seconds=seconds), sandbox.available())


def mark(classroom: Classroom, modules: list[Module], seed: int) -> Iterator[Marked]:
    """Each kind of student, in each module."""
    bar = tqdm(total=len(modules) * len(SHARES), desc="kinds", leave=False, file=sys.stderr)
    for module in modules:
        handed = {}
        for kind in SHARES:
            bar.set_postfix_str(f"{module.folder} {kind.__name__}")
            handed[kind.__name__] = kind(module, seed)
            bar.update()
        tasks = [(Submission(name, each.content), None) for name, each in handed.items()]
        assignment = assignment_of(classroom, module, LOOP_SECONDS)
        start = time.perf_counter()
        results = list(grade_here(assignment, classroom.course, tasks, CORES))
        row = Marked(module.folder, {"all kinds": time.perf_counter() - start})
        for result in sorted(results, key=lambda result: [*handed].index(result.student)):
            name = result.student
            wanted = sum(expected(module, handed[name]).values())
            row.marks[name] = (result.points, wanted)
            row.wrong += [f"{name} {text}" for text in differences(handed[name], result, module)]
        row.notes = {"wrong marks": len(row.wrong)}
        yield row
    bar.close()


def print_marks(rows: list[Marked]) -> None:
    """Points by kind and module, "got/expected" where they differ."""
    print(f"\n{'points of the tests':28}" + "".join(f"{row.name[:2]:>10}" for row in rows))
    for kind in rows[0].marks:
        cells = [row.marks[kind] for row in rows]
        shown = [f"{got:g}" if got == wanted else f"{got:g}/{wanted:g}" for got, wanted in cells]
        differ = any(text.startswith(f"{kind} ") for row in rows for text in row.wrong)
        print(f"{kind:28}" + "".join(f"{s:>10}" for s in shown) + ("  DIFFERS" if differ else ""))


def time_beside_nbgrader(classroom: Classroom, module: Module, rounds: int) -> Row:
    """A right submission: as many at a time as there are cores, one at a time, and by nbgrader."""
    content = perfect(module, 0).content
    atomic_write(classroom.submission("ada", module), content)
    tasks = [Submission("ada", content)] * BATCH
    grader = Grader(assignment_of(classroom, module), classroom.course)

    def on_all_cores() -> None:
        for result in pool.map(grader.grade, tasks):
            refuse_lost_points(result)

    def one_by_one() -> None:
        for task in tasks:
            grader.grade(task)

    def by_nbgrader() -> None:
        nbgrader_engine.grade(classroom, module, ["ada"], refuse_lost_points)

    contenders = {"fast": on_all_cores, "nbgrader": by_nbgrader, "fast, 1 job": one_by_one}
    with ThreadPoolExecutor(CORES) as pool:
        medians = interleave(module.folder, contenders, rounds)
    grader.close()
    medians["fast"] /= BATCH
    medians["fast, 1 job"] /= BATCH
    most = SUBMISSION_SECONDS if module.number == "01" else None
    load = f"{os.getloadavg()[0]:.1f}"
    return Row(module.folder, medians, most=most, notes={"load": load})


def refuse_lost_points(result: Result) -> None:
    """A right submission that loses points was not graded: its time says nothing."""
    lost = [cell.id for cell in result.cells if not cell.by_hand and cell.points < cell.possible]
    if lost:
        sys.exit(f"{result.module}: {result.engine} gives no points for {lost}: {result.problem}")


def grade_class(classroom: Classroom, module: Module, size: int, seed: int) -> Iterator[Marked]:
    """A class of `size`: graded, graded again with nothing new, and after a change of one test."""
    handed = {f"student{i:04}": each for i, each in enumerate(a_class(module, seed, size))}
    for student, each in handed.items():
        atomic_write(classroom.submission(student, module), each.content)
    runs = [f"{size} submissions", "the same again", "after a change of one test"]
    for name in runs:
        if name == runs[-1]:
            atomic_write(classroom.private(module), PRIVATE_TEST)
        load = os.getloadavg()[0]
        seconds = command(classroom, "grade", "autograde", module.number, "--jobs", str(CORES))
        results = {result.student: result for result in read_results(classroom, module)}
        wrong = [
            f"{student} {text}"
            for student, each in handed.items()
            for text in differences(each, results[student], module)
        ]
        each = f"{1000 * seconds / size:.1f} ms"
        notes = {"a submission": each, "load before": f"{load:.1f}", "wrong marks": len(wrong)}
        yield Marked(name, {"wall": seconds}, most=CLASS_SECONDS, notes=notes, wrong=wrong)


def command(classroom: Classroom, *words: str) -> float:
    """Seconds that a tito command takes, in the course folder."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tito.main", *words], cwd=classroom.root, stdout=subprocess.PIPE
    )
    if done.returncode:
        sys.exit(f"tito {' '.join(words)} failed: {done.stdout.decode()}")
    return time.perf_counter() - start


@contextmanager
def new_classroom(modules: list[Module]) -> Iterator[Classroom]:
    """A course folder with some modules released; it and Jupyter's folders are temporary."""
    with tempfile.TemporaryDirectory(prefix="grading-") as name:
        folder = Path(name).resolve()
        for variable in ("DATA", "CONFIG", "RUNTIME"):
            os.environ[f"JUPYTER_{variable}_DIR"] = str(folder / "jupyter" / variable.lower())
        os.environ["IPYTHONDIR"] = str(folder / "ipython")
        kernel.install()
        classroom, _ = make_classroom(folder / "class", find_course(), modules=modules)
        for module in tqdm(modules, desc="release", leave=False, file=sys.stderr):
            release(classroom, module)
        yield classroom


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    course = find_course()
    modules = list(course.modules[: 2 if options.quick else 8])
    size, rounds = (100, 1) if options.quick else (1000, 3)
    if why_not := sandbox.problem():
        print(f"without a sandbox ({why_not}): times of a sandbox are others", file=sys.stderr)
    with new_classroom(modules) as classroom:
        marked = list(mark(classroom, modules, seed=0))
        print_marks(marked)
        beside = [time_beside_nbgrader(classroom, module, rounds) for module in modules]
    with new_classroom(modules[:1]) as classroom:
        whole = list(grade_class(classroom, modules[0], size, seed=0))
    tables = {
        "Grading one of each kind": marked,
        "Grading a right submission": beside,
        f"Grading {modules[0].folder}": whole,
    }
    report(tables, options)
