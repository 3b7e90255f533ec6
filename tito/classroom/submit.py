"""Handing in: a student's notebook and own exports as one package with a receipt.

    ada_02_activations_1f3a9c0b7d2e.zip       (or a folder of that name)
      02_activations/activations.ipynb        the notebook, byte by byte
      02_activations/tinytorch/core/tensor.py the student's own files of the modules before
      02_activations/receipt.json             who, what, when, and the hash of all the above

The hash shows whether a package arrived as it was sent. It is no signature: who may put a package
where the instructor collects is the business of that place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tito.classroom.creation import check_student
from tito.errors import TitoError
from tito.files import atomic_write

if TYPE_CHECKING:
    from tito.course import Module
    from tito.workspace import Workspace

RECEIPT = "receipt.json"
NO_ANSWER = ("", "YOUR ANSWER HERE")  # the latter is what nbgrader puts in place of an answer
MOST_BYTES = 50_000_000  # of all that a package holds, unpacked
MOST_ENTRIES = 1000
_FIELDS = ("student", "module", "hash", "submitted", "version")
_EXPORT = re.compile(r"tinytorch/(?:\w+/)*\w+\.py", re.ASCII)


@dataclass(frozen=True)
class Submission:
    """What a student hands in for a module."""

    student: str
    module: str  # "02_activations"
    notebook: bytes
    exports: dict[str, bytes]  # by place: "tinytorch/core/tensor.py"
    submitted: str  # ISO time with its zone
    version: str  # of tinytorch

    @property
    def files(self) -> dict[str, bytes]:
        """Notebook and exports by their place in the package, sorted."""
        name = self.module.partition("_")[2]
        return dict(sorted({f"{name}.ipynb": self.notebook, **self.exports}.items()))

    @property
    def hash(self) -> str:
        """The first 12 digits of the SHA-256 of names, sizes and contents."""
        digest = hashlib.sha256()
        for name, content in self.files.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:12]

    @property
    def receipt(self) -> dict[str, str]:
        return {field: getattr(self, field) for field in _FIELDS}

    @property
    def name(self) -> str:
        """What the package is called, without `.zip`."""
        return f"{self.student}_{self.module}_{self.hash}"


def make_submission(workspace: Workspace, module: Module, student: str) -> Submission:
    """The notebook of `module` as it is now, and the student's files of the modules before."""
    from importlib.metadata import version

    own = [each for each in workspace.course.before(module) if workspace.completed(each).is_file()]
    submission = Submission(
        student=check_student(student, "--student"),
        module=module.folder,
        notebook=workspace.existing_notebook(module).read_bytes(),
        exports={f"tinytorch/{m.file}": workspace.completed(m).read_bytes() for m in own},
        submitted=datetime.now().astimezone().isoformat(timespec="seconds"),
        version=version("tinytorch"),
    )
    size = sum(map(len, submission.files.values()))
    if size > MOST_BYTES:
        raise TitoError(
            f"{module.folder} has {size / 1e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} can be "
            "handed in: clear the notebook's outputs (Edit > Clear Outputs of All Cells) and save"
        )
    return submission


def problems(module: Module, path: Path) -> list[str]:
    """What in the notebook at `path` would cost points, a line each.

    TitoError if it can't be read, or is of another module.
    """
    import nbformat

    from tito.classroom.combine import combine
    from tito.notebook import grade_id, graded_cells, read_module, read_notebook

    notebook = read_notebook(path)
    lines = [line for cell in notebook.cells for line in cell.source.splitlines()]
    exports = [line.split()[-1] for line in lines if re.match(r"#\|\s*default_exp\b", line)]
    if module.export not in exports:
        raise TitoError(
            f"{path.name} is no notebook of {module.folder}: it exports "
            f"{exports[0] if exports else 'nothing'}, not {module.export}; "
            f"tito module update {module.number} puts your solutions into the lesson again"
        )
    lesson = read_module(module)
    found = []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        reason = error.message.splitlines()[0][:100]
        found.append(
            f"{path.name} breaks the rules of the format ({reason}): save it in JupyterLab"
        )
    combined = combine(lesson, notebook)
    if combined.notes:
        mend = f"tito module update {module.number} brings the lesson's cells back"
        found += [*combined.notes, mend]
    empty = [name for name, text in combined.answers.items() if text.strip() in NO_ANSWER]
    if empty:
        points = {grade_id(cell): cell.metadata.nbgrader.points for cell in graded_cells(lesson)}
        total = sum(points[name] for name in empty)
        found.append(f"not answered yet, for {total:g} points: {', '.join(empty)}")
    return found


def hand_in(submission: Submission, folder: Path, as_zip: bool = True) -> tuple[Path, Submission]:
    """Put the package into `folder` in one step: its path, and the submission that is there now.

    What was handed in before stays: another content has another hash, and so another name; the same
    content is there already, as of an earlier time.
    """
    path = folder / (f"{submission.name}.zip" if as_zip else submission.name)
    if path.exists():
        earlier = read_submission(path)
        if earlier.hash != submission.hash:
            raise TitoError(f"{path} is there and holds something else: move it away")
        return path, earlier
    receipt = json.dumps(submission.receipt, indent=2).encode() + b"\n"
    files = {
        f"{submission.module}/{name}": content
        for name, content in [*submission.files.items(), (RECEIPT, receipt)]
    }
    if as_zip:
        atomic_write(path, _zipped(files))
    else:
        _write_folder(path, files)
    return path, submission


def read_submission(path: Path) -> Submission:
    """The package at `path`, a zip or a folder, whatever it is called.

    TitoError if it is damaged, too large, or isn't what its receipt says.
    """
    try:
        kind = path.lstat().st_mode  # in a shared place there may be links and pipes
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise ValueError("it is neither a file nor a folder")
        contents = dict(_in_folder(path) if stat.S_ISDIR(kind) else _in_zip(path))
        receipts = [name for name in contents if name.rpartition("/")[2] == RECEIPT]
        if len(receipts) != 1:
            raise ValueError(f"it holds {len(receipts)} receipts")
        base = receipts[0].removesuffix(RECEIPT)
        sizes = 0
        parts = {}
        for name, (size, read) in contents.items():
            part = name.removeprefix(base)
            if name.startswith(base) and (part.count("/") == 0 or _EXPORT.fullmatch(part)):
                sizes += size
                if sizes > MOST_BYTES:
                    raise ValueError(f"it holds more than {MOST_BYTES / 1e6:.0f} MB")
                parts[part] = read()
        return _checked(json.loads(parts.pop(RECEIPT)), parts)
    except TitoError:
        raise
    except Exception as error:  # whatever a hostile file makes zipfile or json raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TitoError(f"{path} is no submission: {reason}") from error


def _checked(receipt: dict[str, str], parts: dict[str, bytes]) -> Submission:
    """The submission of these parts, if the receipt is theirs; ValueError or KeyError if not."""
    values = {field: receipt[field] for field in _FIELDS}
    if not all(isinstance(value, str) and value.isprintable() for value in values.values()):
        raise ValueError("its receipt is damaged")
    if not re.fullmatch(r"\d\d_\w+", values["module"], re.ASCII):
        raise ValueError(f"its receipt names the module {values['module'][:40]!r}")
    if datetime.fromisoformat(values["submitted"]).tzinfo is None:
        raise ValueError("its receipt has a time without a zone")
    submission = Submission(
        student=check_student(values["student"], "its receipt"),
        module=values["module"],
        notebook=parts[f"{values['module'].partition('_')[2]}.ipynb"],
        exports={name: content for name, content in parts.items() if _EXPORT.fullmatch(name)},
        submitted=values["submitted"],
        version=values["version"],
    )
    if submission.hash != values["hash"]:
        raise ValueError(
            f"its content has the hash {submission.hash}, its receipt says {values['hash'][:40]}: "
            "it was changed after it was handed in"
        )
    return submission


_Entries = Iterator[tuple[str, tuple[int, Callable[[], bytes]]]]


def _in_zip(path: Path) -> _Entries:
    """Name, size and reader of each file in the zip at `path`."""
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"it holds {len(entries)} files")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it holds two files of one name")
    for entry in entries:
        yield entry.filename, (entry.file_size, partial(_unpacked, archive, entry))


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of an entry, in no more memory than it says that it takes."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed in an unusual way")
    with archive.open(entry) as file:
        return file.read(entry.file_size + 1)


def _in_folder(path: Path) -> _Entries:
    """Name, size and reader of each plain file below `path`; links are not followed."""
    count = 0
    for folder, _, names in os.walk(path):
        for file in (Path(folder) / name for name in sorted(names)):
            count += 1
            if count > MOST_ENTRIES:
                raise ValueError(f"it holds more than {MOST_ENTRIES} files")
            status = file.lstat()
            if stat.S_ISREG(status.st_mode):
                yield file.relative_to(path).as_posix(), (status.st_size, file.read_bytes)


def _zipped(files: dict[str, bytes]) -> bytes:
    """A zip of `files` that depends on nothing else, neither time nor user."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Make the folder `path` with `files` in one step."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            atomic_write(temporary / name, content)
        temporary.chmod(0o755)  # mkdtemp's is private, and the instructor has to read it
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


# --- who hands in ---


def student_of(workspace: Workspace, given: str | None) -> str:
    """The student's id: the one that is `given`, else the last one given, else the login name."""
    import getpass

    memory = workspace.private / "student"
    if given:
        check_student(given, "--student")
        if not memory.is_file() or memory.read_text(encoding="utf-8").strip() != given:
            atomic_write(memory, given + "\n")
        return given
    try:
        student = memory.read_text(encoding="utf-8").strip() if memory.is_file() else ""
        return check_student(student or getpass.getuser(), "your login name")
    except (TitoError, OSError, KeyError, ImportError, UnicodeDecodeError) as error:
        raise TitoError(f"who hands in? Give --student ID once ({error})") from None
