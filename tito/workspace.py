"""A student's workspace: the folder that `tito setup` makes.

    my-course/
      tito.toml            marks the folder
      modules/01_tensor/   the student's notebooks
      tinytorch/           the package that notebooks import; tito fills it
      .tito/completed/     the student's files of completed modules, as in the package
      .tito/backups/       whatever tito replaced, by date
      .tito/progress.json  when, how many points, and which module tinytorch/ reaches

tinytorch/ follows from the rest: up to the module reached it holds the student's file where there
is one, else the reference's. A module is completed when its file stands in completed/, put there in
one step; what else a command does can be done again, so that a kill leaves nothing half true.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tito import progress as records
from tito.course import Course, Module
from tito.errors import TitoError
from tito.files import atomic_write
from tito.progress import Completion, LastTest, Progress

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from tito.merge import Merged

MARKER = "tito.toml"
_MARKER_TEXT = """\
# This folder is a TinyTorch workspace: tito and the notebooks' kernel find it by this file.
[workspace]
format = 1
"""
LOCK_SECONDS = 20


class Workspace:
    """The workspace at `root`, for the modules of `course`."""

    def __init__(self, root: Path, course: Course):
        self.root = root
        self.course = course
        self.package = root / "tinytorch"
        self.private = root / ".tito"
        self.progress_file = self.private / "progress.json"
        self.notes: list[str] = []  # what the student should hear about besides the result

    def notebook(self, module: Module) -> Path:
        """The student's notebook of `module`."""
        return self.root / "modules" / module.folder / f"{module.name}.ipynb"

    def completed(self, module: Module) -> Path:
        """The student's file of `module`, which is there once the module is completed."""
        return self.private / "completed" / module.file

    def origin(self, module: Module) -> str:
        """Whose file of `module` tinytorch/ holds: "yours", "reference" or "" for none.

        Its header tells, by the notebook or lesson that it names.
        """
        file = self.package / module.file
        if not file.is_file():
            return ""
        header = re.search(rb"^# %% modules/\S+", file.read_bytes(), re.MULTILINE)
        return "yours" if header and header[0].endswith(b".ipynb") else "reference"

    def existing_notebook(self, module: Module) -> Path:
        """The student's notebook of `module`, or an error that says how to get it."""
        path = self.notebook(module)
        if path.is_file():
            return path
        backups = sorted(self._backups(module.folder).glob("*.ipynb"))
        hint = f" (your last backup is {self.relative(backups[-1])})" if backups else ""
        raise TitoError(
            f"{self.relative(path)} is not there: run tito module start {module.number}{hint}"
        )

    def relative(self, path: Path) -> str:
        """`path` as seen from the workspace."""
        return path.relative_to(self.root).as_posix()

    # --- what is remembered ---

    def progress(self) -> Progress:
        """Where the student stands. What the record lacks is read from the files themselves."""
        try:
            progress = records.read(self.progress_file)
        except (FileNotFoundError, ValueError) as error:
            if isinstance(error, ValueError):
                self._note(
                    ".tito/progress.json is damaged: it is made anew from your files "
                    "(the damaged one goes to .tito/backups/)"
                )
            there = [m.number for m in self.course.modules if (self.package / m.file).is_file()]
            progress = Progress(reach=max(there, default="00"))
        for module in self.course.modules:
            file = self.completed(module)
            entry = progress.completed.get(module.folder)
            if not file.is_file():
                progress.completed.pop(module.folder, None)
            elif entry is None or entry.export != hash_of(file.read_bytes()):
                date = datetime.fromtimestamp(file.stat().st_mtime)
                entry = Completion(minute(date), hash_of(file.read_bytes()))
                self._record(progress, module, entry)
        return progress

    @contextmanager
    def changing(self) -> Iterator[Progress]:
        """Hold the workspace's lock for a change; when the block ends, tinytorch/ is filled and the
        progress written."""
        from filelock import FileLock, Timeout

        try:
            self.private.mkdir(parents=True, exist_ok=True)
            with FileLock(self.private / "lock", timeout=LOCK_SECONDS):
                self._adopt()
                progress = self.progress()
                yield progress
                self._fill(progress)
                self._keep_damaged_record()
                records.write(self.progress_file, progress)
        except Timeout:
            raise TitoError(f"another tito is at work in {self.root}: try again soon") from None
        except OSError as error:
            raise TitoError(
                f"can't write {error.filename or self.root}: {error.strerror or error}: make the "
                "folder writable (or free some space) and try again; nothing of yours was lost"
            ) from error

    # --- what a student does ---

    def create(self) -> list[str]:
        """Make what is missing of the workspace; returns the names of what was made."""
        parts = [MARKER, "modules", "tinytorch"]
        made = [part for part in parts if not (self.root / part).exists()]
        with self.changing():
            if MARKER in made:  # first, so that a second `tito setup` may finish a killed one
                atomic_write(self.root / MARKER, _MARKER_TEXT)
            (self.root / "modules").mkdir(exist_ok=True)
        return made

    def start(self, module: Module) -> bool:
        """Give the student the notebook of `module` unless it is there: whether it was made.

        tinytorch/ then holds the modules before it.
        """
        lesson = None if self.notebook(module).exists() else self._lesson(module)
        with self.changing() as progress:
            made = lesson is not None and not self.notebook(module).exists()
            if lesson is not None and made:
                self._write_notebook(module, lesson)
            progress.reach = f"{int(module.number) - 1:02d}"
        return made

    def record_test(self, module: Module, result: LastTest) -> None:
        """Remember how the last test of `module` went."""
        with self.changing() as progress:
            progress.tested[module.folder] = result

    def record_milestone(self, folder: str, results: Iterable[str]) -> None:
        """Remember that the milestone in `folder` reached `results` today."""
        with self.changing() as progress:
            today = dict.fromkeys(results, minute(datetime.now()))
            progress.reached.setdefault(folder, {}).update(today)

    def complete(self, module: Module, text: str, code: str) -> None:
        """Make `text`, exported from a notebook whose code has the hash `code`, the student's."""
        content = text.encode()
        with self.changing() as progress:
            atomic_write(self.completed(module), content)  # in this moment it is completed
            entry = Completion(minute(datetime.now()), hash_of(content), code)
            self._record(progress, module, entry)

    def reset(self, module: Module) -> Path:
        """Begin `module` anew; returns the backup of the student's notebook."""
        notebook = self.existing_notebook(module)
        lesson = self._lesson(module)
        with self.changing():
            backup = self._back_up(notebook, module.folder)
            self._write_notebook(module, lesson)
        return backup

    def update(self, module: Module) -> tuple[Merged, Path | None]:
        """Put the student's work into today's lesson; returns the backup if anything changed."""
        from tito.merge import merge, same_cells
        from tito.notebook import read_notebook

        notebook = self.existing_notebook(module)
        lesson = self._lesson(module)
        with self.changing():
            merged = merge(read_notebook(notebook), lesson)
            if same_cells(merged.notebook, read_notebook(notebook)):
                return merged, None
            backup = self._back_up(notebook, module.folder)
            self._write_notebook(module, merged.notebook)
        return merged, backup

    def make_package(self, folder: Path, number: str) -> Path:
        """`folder`/tinytorch with the modules before `number`, as the notebook of that one sees it:
        the student's file where there is one, else the reference's."""
        from tito.export import fill_package

        package = folder / "tinytorch"
        for module in self.course.modules:
            if module.number < number:
                atomic_write(package / module.file, self._content(module))
        fill_package(self.course, package, ())
        return package

    # --- how it is kept ---

    def _record(self, progress: Progress, module: Module, entry: Completion) -> None:
        """Note that `module` is completed; tinytorch/ then reaches it and the completed next."""
        progress.completed[module.folder] = entry
        progress.reach = max(progress.reach, module.number)
        for later in self.course.modules:
            if later.number > progress.reach:
                if later.folder not in progress.completed:
                    break
                progress.reach = later.number

    def _content(self, module: Module) -> bytes:
        """What tinytorch/ holds of `module`: the student's file if it is completed."""
        own = self.completed(module)
        return (own if own.is_file() else self.course.package / module.file).read_bytes()

    def _fill(self, progress: Progress) -> None:
        """Let tinytorch/ hold the modules up to the one reached, and none behind it."""
        from tito.export import fill_package

        for module in self.course.modules:
            file = self.package / module.file
            content = self._content(module) if module.number <= progress.reach else None
            old = file.read_bytes() if file.is_file() else None
            if old is not None and old != content:
                self._keep_edits(file, module, progress)
            if content is None:
                file.unlink(missing_ok=True)
                progress.placed.pop(module.file, None)
            else:
                if old != content:
                    atomic_write(file, content)
                progress.placed[module.file] = hash_of(content)
        fill_package(self.course, self.package, ())

    def _keep_edits(self, file: Path, module: Module, progress: Progress) -> None:
        """Back up a file of tinytorch/ that isn't as tito wrote it."""
        known = [self.completed(module), self.course.package / module.file]
        hashes = {hash_of(path.read_bytes()) for path in known if path.is_file()}
        if hash_of(file.read_bytes()) in hashes | {progress.placed.get(module.file)}:
            return
        backup = self._back_up(file, "tinytorch")
        self._note(
            f"{self.relative(file)} held changes that are in no notebook: they are kept in "
            f"{self.relative(backup)} (tito fills this folder; write in modules/)"
        )

    def _adopt(self) -> None:
        """Keep the student's files that stand in tinytorch/ alone, as when .tito/ was deleted."""
        for module in self.course.modules:
            if not self.completed(module).is_file() and self.origin(module) == "yours":
                atomic_write(self.completed(module), (self.package / module.file).read_bytes())

    def _lesson(self, module: Module) -> NotebookNode:
        """The notebook that a student begins with."""
        from tito.merge import mark
        from tito.notebook import read_module, student_version

        return mark(student_version(read_module(module)))

    def _write_notebook(self, module: Module, notebook: NotebookNode) -> None:
        from tito.notebook import write_notebook

        write_notebook(self.notebook(module), notebook)

    def _backups(self, name: str) -> Path:
        return self.private / "backups" / name

    def _back_up(self, file: Path, name: str) -> Path:
        """Copy `file` into the backups called `name`, under today's date."""
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
        backup = self._backups(name) / f"{stamp}_{file.name}"
        atomic_write(backup, file.read_bytes())
        return backup

    def _keep_damaged_record(self) -> None:
        try:
            records.read(self.progress_file)
        except FileNotFoundError:
            pass
        except ValueError:
            self._back_up(self.progress_file, "progress")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def find_root(start: Path) -> Path | None:
    """The workspace around the folder `start`, None if there is none."""
    return next((f for f in [start, *start.parents] if (f / MARKER).is_file()), None)


def find_workspace(course: Course) -> Workspace:
    """The workspace around the current folder."""
    root = find_root(Path.cwd())
    if not root:
        raise TitoError("no tito.toml here or above: run tito setup my-course")
    return Workspace(root, course)


def set_up(folder: Path, course: Course) -> tuple[Workspace, list[str]]:
    """Make `folder` a workspace, or complete one; also returns what was made."""
    if folder.exists() and not folder.is_dir():
        raise TitoError(f"{folder} is a file: give a new folder, as in tito setup my-course")
    visible = [f.name for f in folder.iterdir() if f.name[0] != "."] if folder.is_dir() else []
    if visible and not (folder / MARKER).is_file():
        raise TitoError(
            f"{folder} holds other things ({min(visible)}, ...): give a new folder, "
            "as in tito setup my-course"
        )
    workspace = Workspace(folder, course)
    return workspace, workspace.create()


def hash_of(content: bytes) -> str:
    """A short name for some content."""
    return hashlib.sha256(content).hexdigest()[:16]


def code_hash(notebook: Path) -> str:
    """A hash of what the notebook's code cells say, whatever they printed; "" if unreadable."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return hash_of("\0".join(sources).encode())


def minute(time: datetime) -> str:
    """The local time, as people read it."""
    return time.strftime("%Y-%m-%d %H:%M")
