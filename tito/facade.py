"""The package's public names: where each lives, and how `tinytorch.nn.Linear` finds it."""

# This is the text of tinytorch/_index.py, where `tito export` fills in the two tables.
from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

# public name -> (file of the package, module of the course)
HOMES: dict[str, tuple[str, str]] = {}
# the classes with a `forward` method, which tinytorch.nn offers
LAYERS: set[str] = set()

ROOT = Path(__file__).parent
FACADES = ("nn", "optim")


def facade(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for `package`, which loads a name when it is used."""
    below = package.partition(".")[2]
    homes = _homes(below)
    children = _children(below)

    def __getattr__(name: str) -> Any:
        if name == "__version__" and not below:
            from importlib.metadata import version

            return version("tinytorch")
        file, module = children.get(name) or homes.get(name) or ("", "")
        if not file:
            raise AttributeError(_unknown(package, name, [*homes, *children]))
        if not _is_there(file):
            raise AttributeError(_absent(f"{package}.{name}", module))
        if name in children:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(f"tinytorch.{file}"), name)

    def __dir__() -> list[str]:
        return _held({**homes, **children})

    if below == "core" and _is_there("core.autograd"):
        # whoever uses a tensor gets gradients
        importlib.import_module("tinytorch.core.autograd")
    facades = () if below else FACADES
    return __getattr__, __dir__, sorted([*_held(homes), *facades])


def offers(package: str, file: str, is_layer: bool) -> bool:
    """Whether a package offers a public name of `file`; the empty one, tinytorch, offers all."""
    if package == "nn":
        return is_layer
    if package == "optim":
        return file == "core.optimizers"
    return not package or file.startswith(f"{package}.")


def _homes(package: str) -> dict[str, tuple[str, str]]:
    """The entries of HOMES that `tinytorch.<package>` offers."""
    return {name: home for name, home in HOMES.items() if offers(package, home[0], name in LAYERS)}


def _children(package: str) -> dict[str, tuple[str, str]]:
    """Packages and files directly inside `tinytorch.<package>`, as entries like those of HOMES."""
    prefix = f"{package}." if package else ""
    children = {}
    for file, module in HOMES.values():
        if file.startswith(prefix):
            name, _, deeper = file.removeprefix(prefix).partition(".")
            children[name] = (prefix + name, module) if deeper else (file, module)
    if not package:
        children |= {name: (name, "") for name in FACADES}
    return children


def _held(homes: dict[str, tuple[str, str]]) -> list[str]:
    """The names whose file this package holds."""
    there = {file for file in {file for file, _ in homes.values()} if _is_there(file)}
    return sorted(name for name, (file, _) in homes.items() if file in there)


def _is_there(file: str) -> bool:
    """Whether this package holds the file or folder: a student's grows module by module."""
    path = ROOT.joinpath(*file.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _absent(name: str, module: str) -> str:
    return f"{name} comes with module {module}: tito module start {module[:2]}"


def _unknown(package: str, name: str, known: list[str]) -> str:
    by_letters = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_letters, n=1)
    hint = f": did you mean {by_letters[close[0]]!r}?" if close else ""
    return f"module {package!r} has no attribute {name!r}{hint}"


class _AbsentFinder(MetaPathFinder):
    """Says which module brings a file or name when `from tinytorch.nn import Conv2d` finds none.

    Python drops the AttributeError of a `from` import and looks for a submodule instead; this
    finder stands behind all others, so it is asked only about what isn't there.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if not fullname.startswith("tinytorch."):
            return
        package, _, name = fullname.removeprefix("tinytorch.").rpartition(".")
        file, module = _children(package).get(name) or _homes(package).get(name) or ("", "")
        if file and not _is_there(file):
            raise ModuleNotFoundError(_absent(fullname, module))


sys.meta_path.append(_AbsentFinder())
