"""What tests rely on, as it was before any cell of a student's ran: to be put back."""

from __future__ import annotations

import importlib
import sys
import types
from operator import is_
from typing import Any

# what tests and this file rely on: put back, and flagged, where a student's cell replaced a part
TRUSTED = (
    *("builtins", "math", "numpy", "numpy.linalg", "numpy.random", "numpy.testing"),
    *("base64", "contextlib", "json", "json.encoder", "json.decoder", "linecache", "os", "select"),
    *("signal", "socket", "struct", "traceback"),
)
VOLATILE = {"builtins._", "numpy.__warningregistry__"}
ADDED_BY_PYTHON = {"__annotations__", "__abstractmethods__", "_abc_impl", "__doc__"}
MISSING = object()


class Originals:
    """The parts of trusted modules and of their classes, as they were before any cell ran.

    Of the package and of our own code, the functions and classes.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[str, Any, dict[str, Any]]] = []
        for name in TRUSTED:
            module = importlib.import_module(name)
            self._add(name, module, dict(vars(module)))
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ("tinytorch", "tito"):
                parts = {key: value for key, value in vars(module).items() if callable(value)}
                self._add(name, module, parts)

    def _add(self, name: str, module: types.ModuleType, parts: dict[str, Any]) -> None:
        self._parts.append((name, module, parts))
        for part in parts.values():
            if isinstance(part, type) and part.__module__ == name and _is_mutable(part):
                self._parts.append((f"{name}.{part.__name__}", part, dict(vars(part))))

    def restore(self) -> list[str]:
        """Put back what was replaced; returns the names."""
        found = []
        for owner, place, right in self._parts:
            now = vars(place)
            is_class = isinstance(place, type) and owner.startswith(TRUSTED)
            # compared by identity, as `==` may be a student's; and in C, as this is done often
            is_same = all(map(is_, map(now.get, right), right.values()))
            if is_same and not (is_class and len(now) != len(right)):
                continue
            for name, value in right.items():
                if now.get(name, MISSING) is not value and f"{owner}.{name}" not in VOLATILE:
                    found.append(f"{owner}.{name}")
                    setattr(place, name, value)
            if is_class:
                for name in now.keys() - right.keys() - ADDED_BY_PYTHON:
                    found.append(f"{owner}.{name}")
                    delattr(place, name)
        return found


def _is_mutable(kind: type) -> bool:
    return bool(kind.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE: written in Python
