"""The `tinytorch` that a graded notebook imports: the modules before its own, and no other."""

from __future__ import annotations

from pathlib import Path

from tito.classroom.folder import Classroom
from tito.course import Module
from tito.errors import TitoError
from tito.files import atomic_write

POLICIES = ("reference", "own")


def make_overlay(
    classroom: Classroom, student: str, module: Module, policy: str, folder: Path
) -> Path:
    """`folder`/tinytorch with the modules before `module`; returns it.

    They are the reference's; by the policy "own" the student's where they were handed in. Of a
    submission only the files that the course names are taken, and no links.
    """
    from tito.export import fill_package

    if policy not in POLICIES:
        raise TitoError(f"there is no policy {policy!r}: take one of {', '.join(POLICIES)}")
    course, package = classroom.course, folder / "tinytorch"
    missing = []
    for other in course.before(module):
        own = own_file(classroom, student, module, other) if policy == "own" else None
        if own:
            atomic_write(package / other.file, own.read_bytes())
        else:
            missing.append(other)
    fill_package(course, package, missing)
    return package


def own_file(classroom: Classroom, student: str, module: Module, other: Module) -> Path | None:
    """The student's export of `other`, handed in with `module`; None if there is none."""
    package = classroom.own_package(student, module)
    path = package
    for part in ("", *Path(other.file).parts):
        path = path / part
        if path.is_symlink():
            return None
    return path if path.is_file() else None
