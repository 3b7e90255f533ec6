"""An instructor's course folder: the one that `tito grade init` makes and nbgrader works in.

    my-classroom/
      nbgrader_config.py     marks the folder; nbgrader reads it
      gradebook.db           nbgrader's gradebook (SQLite)
      source/01_tensor/tensor.ipynb               solutions and hidden tests: the master
      private/01.py          hidden tests of the instructor's own, merged into the master
      release/01_tensor/tensor.ipynb              what students get
      submitted/STUDENT/01_tensor/tensor.ipynb    what they handed in, and tinytorch/, their exports
      autograded/STUDENT/01_tensor/tensor.ipynb   as graded, for a person to look at
      feedback/STUDENT/01_tensor/tensor.html      what the student is told
      .tito/results/ENGINE/01_tensor/STUDENT.json what each cell earned, and why

The layout is nbgrader's, so that each of its commands works here unmodified.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tito.course import Course, Module
from tito.errors import TitoError

MARKER = "nbgrader_config.py"


@dataclass(frozen=True)
class Classroom:
    """The course folder at `root`, for the modules of `course`."""

    root: Path
    course: Course

    @property
    def gradebook(self) -> str:
        """The gradebook's address, as nbgrader's `Gradebook` takes it."""
        return f"sqlite:///{self.root / 'gradebook.db'}"

    def source(self, module: Module) -> Path:
        """The master notebook of `module`, with solutions and hidden tests."""
        return self.root / "source" / module.folder / f"{module.name}.ipynb"

    def private(self, module: Module) -> Path:
        """The instructor's own hidden tests of `module`."""
        return self.root / "private" / f"{module.number}.py"

    def release(self, module: Module) -> Path:
        """The notebook of `module` that students get."""
        return self.root / "release" / module.folder / f"{module.name}.ipynb"

    def submission(self, student: str, module: Module) -> Path:
        """The notebook that `student` handed in."""
        return self.root / "submitted" / student / module.folder / f"{module.name}.ipynb"

    def own_package(self, student: str, module: Module) -> Path:
        """The exports of the modules before, that `student` handed in with the notebook."""
        return self.submission(student, module).parent / "tinytorch"

    def autograded(self, student: str, module: Module) -> Path:
        """The graded notebook of `student`, with outputs."""
        return self.root / "autograded" / student / module.folder / f"{module.name}.ipynb"

    def feedback(self, student: str, module: Module) -> Path:
        """The page that tells `student` what came of it."""
        return self.root / "feedback" / student / module.folder / f"{module.name}.html"

    def results(self, module: Module, engine: str = "fast") -> Path:
        """The folder of what `engine` gave each student for `module`."""
        return self.root / ".tito" / "results" / engine / module.folder

    def students(self, module: Module, pattern: str = "*") -> list[str]:
        """Who handed `module` in, in alphabetical order; of those, whom `pattern` matches."""
        handed_in = self.root / "submitted"
        found = (path.parent.name for path in handed_in.glob(f"*/{module.folder}"))
        return sorted(student for student in found if fnmatch(student, pattern))


def find_classroom(course: Course, start: Path | None = None) -> Classroom:
    """The course folder around `start`, the current folder if None."""
    start = start or Path.cwd()
    for folder in [start, *start.parents]:
        if (folder / MARKER).is_file():
            return Classroom(folder, course)
    raise TitoError(f"no {MARKER} here or above: run tito grade init my-classroom")
