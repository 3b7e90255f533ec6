"""What `tito doctor` looks at."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tito import kernel
from tito.course import find_course
from tito.errors import TitoError
from tito.workspace import find_root

OLDEST_PYTHON = (3, 11)
COURSE_HINT = "pip install 'tinytorch[course]'"


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """All checks, in the order in which to mend what is wrong."""
    return [_python(), *_packages(), *_blas(), _kernel(), _course(), _workspace(), _data()]


def _python() -> Check:
    ok = sys.version_info >= OLDEST_PYTHON
    oldest = ".".join(map(str, OLDEST_PYTHON))
    advice = "" if ok else f"install Python {oldest} or newer"
    return Check("Python", ok, f"{platform.python_version()} ({sys.executable})", advice)


def _packages() -> Iterator[Check]:
    """What tinytorch and its extra `course` ask for, as the installed package says it."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("tinytorch") or []]
    except metadata.PackageNotFoundError:
        yield Check("tinytorch", False, "not installed", COURSE_HINT)
        return
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": "course"}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Check(requirement.name, False, "not installed", COURSE_HINT)
            continue
        ok = requirement.specifier.contains(version, prereleases=True)
        advice = "" if ok else f"pip install '{requirement.name}{requirement.specifier}'"
        yield Check(requirement.name, ok, version, advice)


def _blas() -> Iterator[Check]:
    """Which matrix multiplication NumPy calls, and whether something slows it down."""
    pinned = os.environ.get("OPENBLAS_CORETYPE")
    if pinned:
        yield Check(
            "OPENBLAS_CORETYPE",
            False,
            pinned,
            "unset it: it pins NumPy's kernels, and the wrong ones take twice the time",
        )
    if not importlib.util.find_spec("threadpoolctl"):
        yield Check("BLAS", True, "unknown", "pip install 'tinytorch[fast]' to see it")
        return
    import numpy  # noqa: F401  # loads the library that is asked about next
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["user_api"] == "blas":
            name, version = library["internal_api"], library["version"]
            found = f"{name} {version}, {library.get('architecture', 'unknown architecture')}"
            yield Check("BLAS", True, f"{found}, {library['num_threads']} threads")


def _kernel() -> Check:
    arguments = kernel.installed()
    if arguments is None:
        return Check("kernel", False, "not installed", "tito setup, in your workspace")
    if arguments[0] != sys.executable:  # by name: two environments may share one real Python
        return Check("kernel", False, f"of {arguments[0]}", "tito setup, in your workspace")
    return Check("kernel", True, kernel.NAME)


def _course() -> Check:
    try:
        course = find_course()
        return Check("course", True, f"{len(course.modules)} modules in {course.root}")
    except TitoError as error:
        return Check("course", False, "none", str(error))


def _workspace() -> Check:
    root = find_root(Path.cwd())
    if not root:
        return Check("workspace", False, "not in one", "tito setup my-course && cd my-course")
    if not os.access(root, os.W_OK):
        return Check("workspace", False, str(root), "make the folder writable")
    return Check("workspace", True, str(root))


def _data() -> Check:
    """Where the loaders of data sets look first."""
    given = os.environ.get("TINYTORCH_DATA")
    if not given:
        return Check("data", True, "~/.cache/tinytorch", "set TINYTORCH_DATA to use another folder")
    if not Path(given).is_dir():
        return Check("data", False, f"{given} is no folder", "make it, or unset TINYTORCH_DATA")
    return Check("data", True, given)
