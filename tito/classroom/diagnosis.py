"""What is wrong with a submissions folder, and what to do about it. Nothing is changed here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from tito.classroom.combine import combine
from tito.classroom.folder import Classroom
from tito.classroom.overlay import own_file
from tito.classroom.submission import LARGEST
from tito.course import Module
from tito.notebook import read_module, read_notebook, student_version

KERNELS = ("tinytorch", "tinytorch-grade", "python3", "python")
_NAMED = re.compile(r'"grade_id": *"([^"]+)"')


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, where, and what to do."""

    student: str
    module: str
    found: str
    advice: str


class Doctor:
    """Looks at the submissions of one module; whatever it needs of the master is read once."""

    def __init__(self, classroom: Classroom, module: Module, policy: str, roster: Collection[str]):
        self.classroom = classroom
        self.module = module
        self.policy = policy
        self.roster = roster

    def look(self, student: str) -> Iterator[Finding]:
        """Everything that is wrong with what `student` handed in."""
        try:
            for found, advice in self._look(student):
                yield Finding(student, self.module.folder, found, advice)
        except OSError as error:
            found = f"{self._relative(error.filename)} can't be read: {error.strerror}"
            yield Finding(student, self.module.folder, found, "mend its owner or permissions")

    def _look(self, student: str) -> Iterator[tuple[str, str]]:
        if self.roster and student not in self.roster:
            yield (
                "the student is not in the gradebook",
                f"nbgrader db student add {quote(student)}, or rename the folder",
            )
        notebook = self.classroom.submission(student, self.module)
        names, odd = _walk(notebook.parent)
        for what in odd:
            yield what, "replace it by a plain copy of the file or folder"
        if not names and not odd:
            yield "the folder is empty", "ask for the notebook, or delete the folder"
        if not names:
            return
        yield from self._other_notebooks(notebook.name, names)
        if notebook.name in names:
            yield from self._notebook(notebook)
        if self.policy != "reference":
            yield from self._own_exports(student)

    def _other_notebooks(self, wanted: str, names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Notebooks by other names; autosaves and the student's exports aren't looked at."""
        others = sorted(name for name in names if name.endswith(".ipynb") and name != wanted)
        listed = ", ".join(others)
        if wanted in names:
            if others:
                yield f"more notebooks than one: {listed}", f"{wanted} counts; delete the others"
        elif len(others) == 1:
            yield f"the notebook is called {listed}", f"rename it to {wanted}"
        elif others:
            yield f"no {wanted}, but {listed}", f"rename the right one to {wanted}"
        else:
            yield f"no {wanted} in the folder", "ask for the notebook"

    def _notebook(self, path: Path) -> Iterator[tuple[str, str]]:
        size = path.stat().st_size
        if size > LARGEST:
            yield (
                f"{path.name} has {size / 2**20:.0f} MB, more than {LARGEST / 2**20:.0f}",
                "clear its outputs and save it again",
            )
            return
        try:
            data = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:80]
            yield f"{path.name} is no valid JSON: {reason}", "ask for the notebook again"
            return
        if not _is_notebook(data):
            version = data.get("nbformat") if isinstance(data, dict) else None
            if isinstance(version, int) and version != 4:
                found = f"{path.name} has notebook format {version}, not 4"
                yield found, "open and save it in JupyterLab 4"
            else:
                yield f"{path.name} is no notebook", "ask for the notebook again"
            return
        yield from self._content(path, data)

    def _content(self, path: Path, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if kernel := _foreign_kernel(data):
            found = f"the kernel is {kernel}, not {KERNELS[0]}"
            yield found, "grading uses its own; look whether the code is Python"
        cells = _cells_by_id(data)
        if other := self._better_match(cells):
            yield (
                f"{path.name} is the notebook of {other}",
                f"move it to {other}, or ask for {self.module.folder}",
            )
            return
        for note in combine(self._master, data).notes:  # type: ignore[arg-type]
            found, _, effect = note.partition(": ")
            yield found, effect
        solutions = _solutions(cells)
        if solutions and all(self._stubs.get(name, "") == solutions[name] for name in solutions):
            yield "nothing is written: all solutions are as released", "ask for the saved notebook"

    def _own_exports(self, student: str) -> Iterator[tuple[str, str]]:
        before = self.classroom.course.before(self.module)
        place = self.classroom, student, self.module
        missing = [each.number for each in before if not own_file(*place, each)]
        if missing:
            found = f"no own exports of {', '.join(missing)} for --policy {self.policy}"
            yield found, "the reference's stand in; ask for tito module submit"

    def _better_match(self, ids: Collection[str]) -> str:
        """Another module whose cells the notebook shares more of, "" if none."""
        shares = {
            folder: len(names.intersection(ids)) / max(len(names), 1)
            for folder, names in self._named.items()
        }
        best = max(shares, key=lambda folder: shares[folder])
        return best if shares[best] > max(0.5, shares[self.module.folder]) else ""

    @cached_property
    def _named(self) -> dict[str, set[str]]:
        """The grade_ids of every module of the course."""
        return {
            module.folder: set(_NAMED.findall(module.source.read_text(encoding="utf-8")))
            for module in self.classroom.course.modules
        }

    @cached_property
    def _master(self) -> Any:
        path = self.classroom.source(self.module)
        return read_notebook(path) if path.is_file() else read_module(self.module)

    @cached_property
    def _stubs(self) -> dict[str, str]:
        """The solution cells as students got them."""
        path = self.classroom.release(self.module)
        notebook = read_notebook(path) if path.is_file() else student_version(self._master)
        return _solutions(_cells_by_id(notebook))

    def _relative(self, path: Any) -> str:
        return os.path.relpath(path, self.classroom.root) if path else "the folder"


def look_around(classroom: Classroom, pattern: str = "*") -> Iterator[Finding]:
    """What lies in submitted/ outside of any module's folder."""
    modules = {module.folder for module in classroom.course.modules}
    example = f"submitted/STUDENT/{classroom.course.modules[0].folder}"
    for entry in _scan(classroom.root / "submitted"):
        if not fnmatch(entry.name, pattern):
            continue
        name = entry.name
        if entry.is_symlink():
            yield Finding(name, "", "is a symbolic link", "replace it by the folder itself")
        elif not entry.is_dir():
            yield Finding(name, "", "is a file, no student's folder", f"move it to {example}")
        else:
            inside = [each.name for each in _scan(Path(entry.path))]
            for other in sorted({*inside} - modules):
                found = f"{other} is no module's folder"
                yield Finding(name, "", found, f"move the work to {example}, or delete it")
            if not inside:
                yield Finding(name, "", "handed nothing in: the folder is empty", "delete it")


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """What is in `folder`, but for hidden files."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)


def _walk(folder: Path) -> tuple[set[str], list[str]]:
    """The names of the files that lie directly in `folder`, and what within is neither a file nor
    a folder."""
    for place in (folder.parent, folder):
        if place.is_symlink():
            return set(), [f"{place.name} is a symbolic link"]
    names, odd, waiting = set(), [], [folder]
    while waiting:
        for entry in _scan(waiting.pop()):
            name = os.path.relpath(entry.path, folder)
            if entry.is_symlink():
                odd.append(f"{name} is a symbolic link")
            elif entry.is_dir():
                waiting.append(Path(entry.path))
            elif not entry.is_file():
                odd.append(f"{name} is a pipe or device")
            elif name == entry.name:
                names.add(name)
    return names, odd


def _is_notebook(data: Any) -> bool:
    return (
        isinstance(data, dict) and data.get("nbformat") == 4 and isinstance(data.get("cells"), list)
    )


def _foreign_kernel(data: dict[str, Any]) -> str:
    """The name of the notebook's kernel, "" if it is ours, another Python, or not given."""
    metadata = _dict(data.get("metadata"))
    kernel, language = _dict(metadata.get("kernelspec")), _dict(metadata.get("language_info"))
    name = str(kernel.get("name", ""))
    spoken = str(kernel.get("language") or language.get("name") or "")
    return "" if name in KERNELS or spoken.lower() == "python" else name


def _cells_by_id(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The cells that have a grade_id."""
    cells = {}
    for cell in map(_dict, data["cells"]):
        name = _dict(_dict(cell.get("metadata")).get("nbgrader")).get("grade_id")
        if isinstance(name, str):
            cells[name] = cell
    return cells


def _solutions(cells: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What stands in each cell for the student to write."""
    texts = {}
    for name, cell in cells.items():
        source = cell.get("source", "")
        text = "".join(map(str, source)) if isinstance(source, list) else str(source)
        if cell["metadata"]["nbgrader"].get("solution"):
            texts[name] = text.strip()
    return texts


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
