"""What the course costs in CPU seconds: the import, an export of all, and each lesson's notebook.

python benchmarks/course_time.py [--quick] [--json PATH] [--check]

CPU seconds of fresh processes, children included: another program's load hardly touches them.
"""

from common import Row, arguments, report  # isort: skip (pins the threads first)

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from tito.course import find_course
from tito.grading import partial_package, run_notebook
from tito.notebook import read_module

IMPORT_SECONDS, EXPORT_SECONDS, LESSON_SECONDS = 0.2, 2.0, 20.0
IMPORTS = {"TinyTorch": "import tinytorch; tinytorch.Tensor", "NumPy": "import numpy"}
EXPORT = """
export(Course(course.root, Path(sys.argv[1])))
"""
EXPORT_SETUP = """
import sys
from pathlib import Path
from tito.course import Course, find_course
from tito.export import export, export_text
course = find_course()
export_text(course.modules[0])  # which loads the libraries
"""


def cpu_seconds(code, setup, folder):
    """The CPU time of `code` in a fresh interpreter, behind `setup`."""
    timed = f"{setup}\nimport time\nstart = time.process_time()\n{code}\n"
    timed += "print(time.process_time() - start)"
    command = [sys.executable, "-c", timed, str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(contenders, rounds, setup=""):
    """Median CPU seconds of each piece of code; they run in turn."""
    times = {who: [] for who in contenders}
    for _ in tqdm(range(rounds), desc=", ".join(contenders), leave=False, file=sys.stderr):
        for who, code in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                times[who].append(cpu_seconds(code, setup, folder))
    return {who: statistics.median(values) for who, values in times.items()}


def lessons(course):
    """A row for each lesson's solution notebook."""
    modules = tqdm(course.modules, desc="lessons", leave=False, file=sys.stderr)
    for module in modules:
        modules.set_postfix_str(module.folder)
        with tempfile.TemporaryDirectory() as name:
            package = partial_package(course, module, Path(name))
            [run] = run_notebook(read_module(module), package)
        errors = [f"{cell.id}: {cell.error}" for cell in run if cell.error]
        if errors:
            sys.exit(f"{module.folder}, {errors[0]}")
        slowest = max(run, key=lambda cell: cell.seconds)
        seconds = sum(cell.seconds for cell in run)
        notes = {"slowest cell": f"{slowest.id} {slowest.seconds:.1f} s"}
        yield Row(module.folder, {"CPU": seconds}, most=LESSON_SECONDS, notes=notes)


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    rounds = 5 if options.quick else 21
    course = find_course()
    importing = measure(IMPORTS, rounds)
    exporting = measure({"export": EXPORT}, max(1, rounds // 5), EXPORT_SETUP)
    modules = f"export of {len(course.modules)} modules"
    tables = {
        "CPU time of an import": [Row("import, with Tensor", importing, most=IMPORT_SECONDS)],
        "CPU time of tito": [Row(modules, exporting, most=EXPORT_SECONDS)],
        "CPU time of a lesson": list(lessons(course)),
    }
    report(tables, options)
