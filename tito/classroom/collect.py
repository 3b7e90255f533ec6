"""Taking in what students handed in, from wherever it lies.

Understood are the packages of `tito module submit`, nbgrader's exchange (STUDENT+NN_name+TIME/),
nbgrader's own layout (STUDENT/NN_name/name.ipynb), and what an LMS lets one download, if a pattern
says how to read student and module from a file's name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath

from tito.classroom.creation import check_student
from tito.classroom.folder import Classroom
from tito.classroom.submit import MOST_BYTES, RECEIPT, Submission, read_submission
from tito.course import Module
from tito.errors import TitoError
from tito.files import atomic_write

_MODULE = r"\d\d_[a-z]\w*"
_EXCHANGE = re.compile(rf"(?P<student>[^+]+)\+(?P<module>{_MODULE})\+(?P<time>[^+]+)(?:\+.*)?")
_PACKAGE = re.compile(rf".+_{_MODULE}_[0-9a-f]{{12}}")
_NBGRADER_TIME = "%Y-%m-%d %H:%M:%S.%f %Z"


@dataclass
class Collected:
    """What came of it: "STUDENT NN_name" of each submission, and what was refused, and why."""

    new: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # by place below the folder


def collect(
    classroom: Classroom,
    folder: Path,
    pattern: str = "",
    on_found: Callable[[str], None] = lambda place: None,
) -> Collected:
    """Put the newest submission of each student and module below `folder` into submitted/.

    What was there before is kept in submitted_old/, unless it is the same. TitoError if nothing
    below `folder` looks like a submission.
    """
    collected = Collected()
    newest: dict[tuple[str, str], tuple[str, Submission]] = {}
    for place, read in _places(folder, _compiled(pattern)):
        on_found(place)
        try:
            submission = read()
            module = classroom.course.module(submission.module)
            submission = replace(submission, module=module.folder)
            key = (check_student(submission.student, place), module.folder)
            if key not in newest or _time(newest[key][1]) < _time(submission):
                newest[key] = (place, submission)
        except TitoError as error:
            collected.refused[place] = str(error)
    if not newest and not collected.refused:
        raise TitoError(
            f"nothing in {folder} looks like a submission (see tito grade collect --help): "
            "--pattern says how to read student and module from the names of files"
        )
    for (student, name), (place, submission) in sorted(newest.items()):
        try:
            outcome = _take_in(classroom, classroom.course.module(name), submission)
        except OSError as error:
            raise TitoError(f"{place}: can't be kept: {error}") from error
        getattr(collected, outcome).append(f"{student} {name}")
    return collected


def _places(
    folder: Path, pattern: re.Pattern[str] | None
) -> Iterator[tuple[str, Callable[[], Submission]]]:
    """Every place below `folder` that looks like a submission, and how to read it."""

    def place(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    def visit(here: Path) -> Iterator[tuple[str, Callable[[], Submission]]]:
        for path in sorted(here.iterdir()):
            named = pattern.search(place(path)) if pattern else None
            if path.is_symlink():
                continue
            if path.is_dir():
                exchange = _EXCHANGE.fullmatch(path.name)
                if exchange:
                    yield place(path), partial(_plain, path, **exchange.groupdict())
                elif re.fullmatch(_MODULE, path.name) and here != folder:
                    yield place(path), partial(_plain, path, path.parent.name, path.name)
                elif _PACKAGE.fullmatch(path.name):
                    yield place(path), partial(_package, path)
                else:
                    yield from visit(path)
            elif named and path.suffix in (".zip", ".ipynb"):
                yield place(path), partial(_downloaded, path, **named.groupdict())
            elif path.suffix == ".zip":
                yield place(path), partial(_package, path)

    if not folder.is_dir():
        raise TitoError(f"{folder} is no folder: give the one in which submissions lie")
    yield from visit(folder)


def _compiled(pattern: str) -> re.Pattern[str] | None:
    """The pattern of --pattern, None if it is empty."""
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise TitoError(f"--pattern is no regular expression: {error}") from None
    if "student" not in compiled.groupindex or {*compiled.groupindex} - {"student", "module"}:
        raise TitoError(
            "--pattern must have a group (?P<student>...), may have (?P<module>...), and no other"
        )
    return compiled


def _package(path: Path, student: str = "") -> Submission:
    """What `tito module submit` made; by `student`, if another says who handed it in."""
    _refuse_tricks(path)
    submission = read_submission(path)
    if student and submission.student != student:
        raise TitoError(f"it comes from {student}, but its receipt names {submission.student}")
    return submission


def _plain(path: Path, student: str, module: str, time: str = "") -> Submission:
    """A folder with a notebook, as nbgrader lays it out."""
    _refuse_tricks(path)
    if (path / RECEIPT).is_file():
        return _package(path, student)
    notebook = path / f"{module.partition('_')[2]}.ipynb"
    if not notebook.is_file():
        raise TitoError(f"it holds no {notebook.name}")
    said = path / "timestamp.txt"
    time = time or (said.read_text(encoding="utf-8").strip() if said.is_file() else "")
    exports = {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted((path / "tinytorch").rglob("*.py"))
    }
    when = _parsed(time) if time else datetime.fromtimestamp(notebook.stat().st_mtime, UTC)
    return Submission(student, module, notebook.read_bytes(), exports, when.isoformat(), "")


def _downloaded(path: Path, student: str, module: str | None = None) -> Submission:
    """A file from an LMS: a package, a zip with a notebook, or a notebook."""
    _refuse_tricks(path)
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    if path.suffix == ".ipynb":
        name = module or re.sub(r"[^A-Za-z_].*", "", path.stem) or path.stem
        return Submission(student, name, path.read_bytes(), {}, when, "")
    with zipfile.ZipFile(path) as archive:
        names = [entry for entry in archive.namelist() if not entry.startswith("__MACOSX/")]
        if any(PurePosixPath(name).name == RECEIPT for name in names):
            return _package(path, student)
        notebooks = [name for name in names if name.endswith(".ipynb")]
        if len(notebooks) != 1:
            raise TitoError(f"it holds {len(notebooks)} notebooks: one was expected")
        name = module or PurePosixPath(notebooks[0]).stem
        return Submission(student, name, archive.read(notebooks[0]), {}, when, "")


def _refuse_tricks(path: Path) -> None:
    """TitoError if a folder or zip holds a link, a way out of itself, or too much."""
    try:
        entries = list(_entries(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise TitoError(f"it can't be read: {error}") from None
    for name, _, is_link in entries:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if is_link:
            raise TitoError(f"{name} in it is a link")
        if ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
            raise TitoError(f"{name} in it leads out of its folder")
    total = sum(size for _, size, _ in entries)
    if total > MOST_BYTES:
        largest = max(entries, key=lambda entry: entry[1])
        raise TitoError(
            f"it holds {total / 1e6:.0f} MB ({largest[0]}: {largest[1] / 1e6:.0f} MB); at most "
            f"{MOST_BYTES / 1e6:.0f} MB are taken"
        )


def _entries(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Name and size of all that `path` holds, and whether it is a link or other odd thing."""
    if path.is_dir():
        for parent, folders, files in os.walk(path):
            for name in [*folders, *files]:
                status = (Path(parent) / name).lstat()
                odd = not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode))
                size = status.st_size if stat.S_ISREG(status.st_mode) else 0
                yield (Path(parent) / name).relative_to(path).as_posix(), size, odd
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                yield entry.filename, entry.file_size, kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    else:
        yield path.name, path.stat().st_size, False


def _take_in(classroom: Classroom, module: Module, submission: Submission) -> str:
    """Put `submission` where it is graded: "new", "updated" or "unchanged"."""
    place = classroom.submission(submission.student, module).parent
    there = place.is_dir() and any(place.iterdir())
    if there:
        old = _plain_or_none(place, submission.student, module)
        if old and (old.files == submission.files or _time(old) > _time(submission)):
            return "unchanged"
    temporary = classroom.root / ".tito" / "collecting"
    shutil.rmtree(temporary, ignore_errors=True)
    for name, content in submission.files.items():
        atomic_write(temporary / name, content)
    atomic_write(temporary / "timestamp.txt", f"{_time(submission):{_NBGRADER_TIME}}\n")
    if submission.version:
        receipt = json.dumps(submission.receipt, indent=2)
        atomic_write(temporary / RECEIPT, receipt + "\n")
    place.parent.mkdir(parents=True, exist_ok=True)
    if there:
        stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        kept = classroom.root / "submitted_old" / submission.student / f"{module.folder}_{stamp}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.rename(place, kept)
    elif place.is_dir():
        place.rmdir()
    os.rename(temporary, place)
    return "updated" if there else "new"


def _plain_or_none(place: Path, student: str, module: Module) -> Submission | None:
    """What was taken in before; None if it is damaged, and so to be replaced."""
    try:
        said = place / "timestamp.txt"
        time = said.read_text(encoding="utf-8").strip() if said.is_file() else ""
        submission = _plain(place, student, module.folder)
        return replace(submission, submitted=_parsed(time).isoformat()) if time else submission
    except (TitoError, OSError, ValueError):
        return None


def _time(submission: Submission) -> datetime:
    """When it was handed in, in UTC."""
    return _parsed(submission.submitted)


def _parsed(text: str) -> datetime:
    """A time as ISO or nbgrader writes it, in UTC; what names no zone is local time."""
    try:
        return datetime.fromisoformat(text.replace(" UTC", "+00:00")).astimezone(UTC)
    except ValueError:
        raise TitoError(f"{text[:40]!r} is no time, as in 2026-11-22 14:05:09 UTC") from None
