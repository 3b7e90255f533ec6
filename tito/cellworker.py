"""Runs the cells of a notebook as plain Python, in a process of its own.

`python -m tito.cellworker FOLDER`, started by tito.grading: reads FOLDER/job.json, notes in
FOLDER/running which cell it came to, and writes FOLDER/result.json. Standard library only: what the
cells need, they import.
"""

import __future__

import contextlib
import io
import json
import linecache
import os
import select
import signal
import sys
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

# `from __future__ import annotations` in one cell holds for all that follow, as in Jupyter
future = 0


def main(folder: Path) -> None:
    """Run the cells, pass by pass, in one namespace, and each variant of a cell in a fork."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    for name in job["without"]:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it now fails
    # figures are drawn, not shown; and a fork of this process is safe, as it has one thread
    warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
    warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
    notebook = types.ModuleType("__main__")  # so that what the cells define can be pickled
    sys.modules["__main__"] = notebook
    results: dict[str, Any] = {"passes": [], "variants": {}}
    for cells in job["passes"]:
        run = []
        for cell in cells:
            for variant in job["variants"]:
                if variant["cell"] == cell["id"]:
                    outcome = run_in_fork(variant["cells"], notebook, job["variant_seconds"])
                    results["variants"][variant["name"]] = outcome
            (folder / "running").write_text(cell["id"], encoding="utf-8")
            run.append(run_cell(cell, notebook))
        results["passes"].append(run)
    (folder / "result.json").write_text(json.dumps(results), encoding="utf-8")


def run_cell(cell: dict[str, Any], notebook: types.ModuleType) -> dict[str, Any]:
    """Execute one cell, as source or already compiled; what it raises and prints is the result."""
    global future
    name, source = f"<cell {cell['id']}>", cell["source"]
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    out, err, error = Bounded(0), Bounded(10_000), ""
    start = cpu_seconds()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cell.get("code") or compile(source, name, "exec", future, dont_inherit=True)
            future |= code.co_flags & __future__.annotations.compiler_flag
            exec(code, notebook.__dict__)
        except BaseException as raised:
            error = describe(raised)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot and hasattr(
            pyplot, "__file__"
        ):  # unless it is to be loaded when a cell first draws
            pyplot.close("all")  # as a notebook does after a cell
    seconds = cpu_seconds() - start
    return {"id": cell["id"], "error": error, "stderr": err.getvalue(), "seconds": seconds}


class Bounded(io.StringIO):
    """A stream that keeps the first `size` characters, however much is printed."""

    def __init__(self, size: int):
        super().__init__()
        self._left = size

    def write(self, text: str) -> int:
        self._left -= super().write(text[: self._left])
        return len(text)


def cpu_seconds() -> float:
    """The work done so far, by child processes too: unlike the clock it counts no one else's."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def describe(error: BaseException) -> str:
    """The error in one line, with the place in the notebook it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    cells = [frame for frame in frames if frame.filename.startswith("<cell ")]
    place = f" ({cells[-1].filename[1:-1]}, line {cells[-1].lineno})" if cells else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def run_in_fork(
    cells: list[dict[str, str]], notebook: types.ModuleType, seconds: float
) -> dict[str, str]:
    """The errors of `cells`, run from the present state on without touching it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), os.fdopen(writer, "w") as pipe:
            pipe.write(
                json.dumps({cell["id"]: run_cell(cell, notebook)["error"] for cell in cells})
            )
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        if not select.select([pipe], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
        text = pipe.read()
    os.waitpid(child, 0)
    if text:
        return json.loads(text)
    return {cell["id"]: f"no answer: it crashed or took over {seconds:g} s" for cell in cells}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
