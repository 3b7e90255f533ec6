"""Which milestones there are, what each needs, and running one.

A milestone is a folder `milestones/NN_year_name` with README.md and main.py; nothing else lists it.
What its files share when they run is in tito/milestone.py.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tito.course import Course, Module
from tito.errors import TitoError

_FOLDER = re.compile(r"(\d\d)_(\d{4})_(\w+)")


@dataclass(frozen=True)
class Milestone:
    """One result of the history of deep learning: `milestones/03_1986_mlp`."""

    path: Path
    course: Course

    @property
    def folder(self) -> str:
        """The name by which people call it: `03_1986_mlp`."""
        return self.path.name

    @property
    def number(self) -> str:
        return self.folder[:2]

    @property
    def year(self) -> int:
        return int(self.folder[3:7])

    @property
    def name(self) -> str:
        return self.folder[8:]

    @cached_property
    def readme(self) -> str:
        """Its history, in Markdown."""
        return (self.path / "README.md").read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """The first heading of its README, without the year that the folder tells."""
        heading = re.search(r"^# (.+)$", self.readme, re.MULTILINE)
        return heading[1].removeprefix(f"{self.year}: ") if heading else self.name

    @cached_property
    def needs(self) -> tuple[Module, ...]:
        """The modules that its files import, and those that these build on."""
        return _needed(self.course, self.path.glob("*.py"))


def find_milestones(course: Course) -> list[Milestone]:
    """All milestones, ordered by number."""
    folders = sorted(readme.parent for readme in (course.root / "milestones").glob("*/README.md"))
    return [Milestone(folder, course) for folder in folders if _FOLDER.fullmatch(folder.name)]


def find_milestone(course: Course, which: str) -> Milestone:
    """The milestone called `which`: "3", "03", "mlp" or "03_1986_mlp"."""
    milestones = find_milestones(course)
    for milestone in milestones:
        if which.zfill(2) == milestone.number or which in (milestone.name, milestone.folder):
            return milestone
    known = ", ".join(milestone.folder for milestone in milestones) or "none"
    raise TitoError(f"there is no milestone {which!r}: the course has {known}")


def run(
    milestone: Milestone, arguments: Sequence[str], workspace: Path | None, quiet: bool
) -> tuple[int, list[dict[str, Any]]]:
    """Run main.py with `arguments`: its exit status, and the rows of the results that it wrote.

    The package of `workspace` is imported, if there is one. If `quiet`, stdout stays free: what
    main.py prints goes to stderr.
    """
    # small matrix products gain little by a second thread and lose much on a busy machine, and with
    # one the same seed gives the same numbers, however many cores there are
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
    if workspace:
        paths = [str(workspace), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory(prefix="tito-milestone-") as folder:
        results = Path(folder) / "results.json"
        main = [sys.executable, "-u", str(milestone.path / "main.py"), "--json", str(results)]
        # stderr is number 2
        with subprocess.Popen(
            [*main, *arguments], env=environment, stdout=2 if quiet else None
        ) as process:
            while process.poll() is None:
                try:
                    process.wait()
                except KeyboardInterrupt:  # main.py gets it too, and ends
                    continue
        rows = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else []
    status = process.returncode
    return (status if status >= 0 else 128 - status), rows  # by a signal: as shells count


def _needed(course: Course, files: Iterable[Path]) -> tuple[Module, ...]:
    """The modules of which `files` use something, directly or through a file of the package."""
    from tito.lint import facade_homes

    by_file = {module.export: module for module in course.modules}
    homes = {name: by_file[file] for name, file in facade_homes(course).items() if file in by_file}
    found: set[Module] = set()
    waiting = list(files)
    while waiting:
        for dotted in _mentioned(waiting.pop().read_text(encoding="utf-8")):
            words = dotted.split(".")[1:]
            prefixes = [".".join(words[: end + 1]) for end in range(len(words))]
            named = [by_file[prefix] for prefix in prefixes if prefix in by_file]
            named += [homes[word] for word in words if word in homes]
            if named and named[0] not in found:
                found.add(named[0])
                waiting.append(course.package / named[0].file)
    return tuple(module for module in course.modules if module in found)


@cache  # files of the package are asked for by several milestones
def _mentioned(code: str) -> set[str]:
    """What the code takes from the package: "tinytorch.Digits", "tinytorch.nn.Linear", ..."""
    tree = ast.parse(code)
    aliases = {}  # `nn` -> "tinytorch.nn"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = alias.name if start or alias.asname else alias.name.partition(".")[0]
                aliases[alias.asname or name] = start + name
    mentioned = set(aliases.values())
    for node in ast.walk(tree):
        words = []
        while isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in aliases:
            mentioned.add(".".join([aliases[node.id], *reversed(words)]))
    return {name for name in mentioned if name.split(".")[0] == "tinytorch"}
