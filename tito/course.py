"""The course: which modules there are, where each lives, and what it exports.

A module's folder name and its `#| default_exp` line are the whole manifest; everything here is
read from them with the standard library alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tito.errors import TitoError

_FOLDER = re.compile(r"(\d\d)_(\w+)")
_EXPORT = re.compile(r"^#\|\s*default_exp\s+([\w.]+)\s*$", re.MULTILINE)
_TITLE = re.compile(r"^# %% \[markdown\].*?^(?:# )?# (?!%%)(.+?)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Module:
    """One lesson: `modules/02_activations/activations_dev.py` and what derives from it."""

    number: str  # "02"
    name: str  # "activations"
    title: str  # the first heading, "Activations"
    source: Path  # the percent file
    export: str  # "core.activations"
    suite: Path  # tests/modules/test_02_activations.py, whether or not it is there

    @property
    def folder(self) -> str:
        """The name by which people call the module: `02_activations`."""
        return f"{self.number}_{self.name}"

    @property
    def source_name(self) -> str:
        """The source as the course calls it, with forward slashes everywhere."""
        return f"modules/{self.folder}/{self.name}_dev.py"

    @property
    def file(self) -> str:
        """The exported file within the package: `core/activations.py`."""
        return self.export.replace(".", "/") + ".py"


@dataclass(frozen=True)
class Course:
    """The modules in order, and the reference package that is exported from them."""

    root: Path  # holds modules/, tests/modules/ and milestones/
    package: Path  # the reference's tinytorch/

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """All modules, ordered by number."""
        folders = sorted((self.root / "modules").iterdir())
        found = [_read_module(folder) for folder in folders if _FOLDER.fullmatch(folder.name)]
        modules = tuple(module for module in found if module)
        for key in ("number", "export"):
            seen: dict[str, Module] = {}
            for module in modules:
                value = getattr(module, key)
                if value in seen:
                    other = seen[value].folder
                    raise TitoError(f"modules {other} and {module.folder} have one {key}: {value}")
                seen[value] = module
        return modules

    def module(self, which: str | int) -> Module:
        """The module called `which`: "2", "02", "activations" or "02_activations"."""
        text = str(which)
        for module in self.modules:
            if text.zfill(2) == module.number or text in (module.name, module.folder):
                return module
        known = ", ".join(module.folder for module in self.modules)
        raise TitoError(f"there is no module {text!r}: the course has {known}")

    def before(self, module: Module) -> tuple[Module, ...]:
        """The modules that `module` may build on."""
        return tuple(other for other in self.modules if other.number < module.number)


def find_course() -> Course:
    """The course of this installation: the checkout if tito runs from one, else the wheel's."""
    tito = Path(__file__).resolve().parent
    checkout = tito.parent
    if (checkout / "modules").is_dir() and (checkout / "pyproject.toml").is_file():
        return Course(checkout, checkout / "tinytorch")
    if (tito / "_course" / "modules").is_dir():
        return Course(tito / "_course", checkout / "tinytorch")
    raise TitoError(
        f"no course beside {tito}: reinstall tinytorch, or run tito from a complete checkout"
    )


def _read_module(folder: Path) -> Module | None:
    """The module in `folder`, None where no lesson stands yet."""
    number, name = folder.name.split("_", 1)
    source = folder / f"{name}_dev.py"
    if not source.is_file():
        return None
    text = source.read_text(encoding="utf-8")
    export = _EXPORT.search(text)
    if not export:
        raise TitoError(f"{source}: add a cell `#| default_exp package.file` at the top")
    title = _TITLE.search(text)
    suite = folder.parent.parent / "tests" / "modules" / f"test_{folder.name}.py"
    return Module(number, name, title[1].strip() if title else name, source, export[1], suite)
