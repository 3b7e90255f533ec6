"""Keeps a student's cells from looking into their caller's variables."""

from __future__ import annotations

import _signal
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

# modules that hand out frames or memory on request: whoever called them asked for it
_LENDERS = (
    *("inspect.py", "traceback.py", "logging/__init__.py", "threading.py", "bdb.py", "pdb.py"),
    *("trace.py", "profile.py", "signal.py", "asyncio/base_tasks.py", "ctypes/__init__.py"),
)
LENDERS = frozenset(os.path.join(os.path.dirname(os.__file__), name) for name in _LENDERS)
FORBIDDEN = (
    "sys._getframe",
    "sys._current_frames",
    "sys._current_exceptions",
    "sys.settrace",
    "sys.setprofile",
    "sys.addaudithook",
    "sys.monitoring.",
    "gc.get_objects",
    "gc.get_referrers",
    "gc.get_referents",
    "code.__new__",
    "compile",
    "object.__getattr__",
    "object.__setattr__",
    "marshal.",
    "ctypes.",
)
NAMED = ("_getframe", "_current_frames", "_current_exceptions")
FRAME_ATTRIBUTES = (
    *("tb_frame", "gi_frame", "cr_frame", "ag_frame", "f_code", "gi_code", "cr_code", "ag_code"),
)


class Guard:
    """An audit hook: it refuses a student's cells what only a forger needs, and notes it.

    The events are those of Python's "Audit events table" (PEP 578). What libraries do for their own
    ends is none of its business: the nearest caller counts whose code names what is called.
    It can be got around, by raw memory for one; what is expected is not here to be found.
    """

    def __init__(self, given: set[str]):
        self._flags: list[str] = []
        self._ours = frozenset(f"<cell {name}>" for name in given)
        tito = os.path.dirname(os.path.dirname(__file__))
        libraries = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), "<frozen")
        self._libraries = (*libraries, os.path.dirname(tito) + os.sep)
        self._looking = 0  # the thread that is within the hook
        _signal.signal = self._unless_student(_signal.signal)  # a handler is passed a frame
        sys.addaudithook(self._hook)

    def take_flags(self) -> list[str]:
        """The flags so far, which are then forgotten."""
        taken, self._flags[:] = list(dict.fromkeys(self._flags))[:20], []
        return taken

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not event.startswith(FORBIDDEN):
            return
        if self._looking == threading.get_ident():
            return  # to look for the caller is an event as well
        name = event.rpartition(".")[2]
        if event.startswith("object.__"):
            name = arguments[1]
            if name not in (FRAME_ATTRIBUTES if event == "object.__getattr__" else ("__code__",)):
                return
            event = f".{name}"
        elif event == "compile" and not self._is_trusted(str(arguments[1])):
            return  # code under a name of its own
        if self._student_asks(name, 2):
            self._refuse(event)

    def _is_trusted(self, file: str) -> bool:
        return file in self._ours or file.startswith(self._libraries)

    def _student_asks(self, name: str, depth: int) -> bool:
        """Whether `name` is called by a student's code: itself, or by way of a library to which it
        was passed (`heapq.nlargest(1, [0], key=sys._getframe)`), or of one that lends frames."""
        self._looking = threading.get_ident()
        try:
            frame: types.FrameType | None = sys._getframe(depth)
            while frame:
                code = frame.f_code
                if code.co_filename in LENDERS:
                    name = code.co_name
                elif not self._is_trusted(code.co_filename):
                    return True
                elif (
                    code.co_filename in self._ours
                    or name in code.co_names
                    or (name.startswith(("_", "<")) and name not in NAMED)  # a class or a module
                ):
                    return False
                frame = frame.f_back
            return True
        finally:
            self._looking = 0

    def _refuse(self, what: str) -> None:
        self._flags.append(f"{what} was called, and refused")
        raise PermissionError(f"{what} is not available while a module is graded")

    def _unless_student(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            if self._student_asks(function.__name__, 2):
                self._refuse(f"signal.{function.__name__}")
            return function(*arguments, **options)

        return guarded
