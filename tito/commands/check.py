"""`tito check`: what continuous integration runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from tito import output
from tito.commands import Data, command
from tito.course import Course, find_course
from tito.errors import TitoError


def _stale(course: Course) -> list[str]:
    from tito.export import check_export

    return [*check_export(course).values()]


def _broken_rules(course: Course) -> list[str]:
    from tito.lint import lint

    return [str(finding) for finding in lint(course)]


# a step is a look at the course that gives complaints, or the arguments of a `python -m`
STEPS: dict[str, Callable[[Course], list[str]] | list[str]] = {
    "export": _stale,
    "lessons": _broken_rules,
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "tests": ["pytest"],
    "slow": ["pytest", "-m", "slow"],
    "reference": ["pytest", "tests/reference", "-m", "slow or not slow"],
}
LONG = ("slow", "reference")


@command(output.check)
@click.argument("steps", nargs=-1, metavar="[STEP ...]", type=click.Choice(list(STEPS)))
@click.option("--all", "everything", is_flag=True, help="Run the steps slow and reference too.")
def check(steps: tuple[str, ...], everything: bool) -> Data:
    """Check a checkout as CI does, up to the first step that fails.

    \b
    The steps:
      export     tinytorch/ is a fresh export of modules/
      lessons    the lessons keep the rules of docs/authoring.md
      lint       ruff check
      format     ruff format --check
      types      mypy
      tests      pytest
      slow       pytest -m slow: real kernels, nbgrader, the wheel
      reference  the comparisons with PyTorch, slow ones too

    \b
    Example:  tito check
              tito check lint types
    """
    course = find_course()
    if not (course.root / "pyproject.toml").is_file():
        raise TitoError("tito check works in a checkout of the project")
    chosen = steps or [name for name in STEPS if everything or name not in LONG]
    done = []
    for name in chosen:
        output.say(f"== {name}")
        start = time.perf_counter()
        ok = _run(name, course)
        done.append({"name": name, "ok": ok, "seconds": round(time.perf_counter() - start, 1)})
        if not ok:
            break
    return {"ok": done[-1]["ok"], "steps": done}


def _run(name: str, course: Course) -> bool:
    step = STEPS[name]
    if isinstance(step, list):
        command = [sys.executable, "-m", *step]
        return _succeeds(command, course.root)
    complaints = step(course)
    for complaint in complaints:
        output.say(complaint)
    return not complaints


def _succeeds(command: list[str], folder: Path) -> bool:
    # stdout is for the result, so that what a step says goes to stderr, number 2
    return subprocess.run(command, cwd=folder, stdout=2, check=False).returncode == 0
