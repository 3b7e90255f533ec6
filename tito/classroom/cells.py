"""Runs a submission's cells in the sandbox: all in a row, or each test in a fork of its own.

The process holds nothing but the student's own work. A test's code arrives when it is its turn,
with a token that its messages carry; of what is expected only that comes along which has to be
computed here. Python's audit hooks close the ways by which code looks into its caller's variables.
"""

from __future__ import annotations

import _signal
import builtins
import contextlib
import importlib
import marshal
import os
import select
import signal
import socket
import sys
import threading
import types
from base64 import b64decode
from collections.abc import Callable, Iterator
from operator import is_
from typing import Any

import numpy

from tito.cellworker import run_cell
from tito.classroom.wire import encode, receive, send

# what tests and this file rely on: put back, and flagged, where a student's cell replaced a part
TRUSTED = (
    *("builtins", "math", "numpy", "numpy.linalg", "numpy.random", "numpy.testing"),
    *("base64", "contextlib", "json", "json.encoder", "json.decoder", "linecache", "os", "select"),
    *("signal", "socket", "struct", "traceback"),
)
VOLATILE = {"builtins._", "numpy.__warningregistry__"}
ADDED_BY_PYTHON = {"__annotations__", "__abstractmethods__", "_abc_impl", "__doc__"}
MISSING = object()
PYTHONS = frozenset(vars(builtins)) - {
    "__name__",
    "__doc__",
    "__loader__",
    "__package__",
    "__spec__",
}
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


# what stands for `check` outside of tests: of its own globals, for a student's cell can see them
DEAF: dict[str, Any] = {"contextlib": contextlib}
exec(
    """
def __check__(*arguments): pass
def __check_raises__(*arguments): return contextlib.suppress(Exception)
""",
    DEAF,
)


class OverTime(BaseException):
    """A cell took longer than it may; no `except Exception` of the cell's own swallows it."""


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


def run_submission(channel: socket.socket, originals: Originals) -> None:
    """Take a job from the grader, run its cells in order, and say what came of each."""
    job = receive(channel)
    notebook = types.ModuleType("__main__")
    given: dict[str, Any] = {}  # functions, classes and modules that the course's own cells named
    told: set[str] = set()  # of these, what cells of the student bound anew
    guard = Guard({cell["id"] for cell in job["cells"] if cell["kind"] in ("given", "test")})
    forget_ourselves()
    sys.modules["__main__"] = notebook
    notebook.__dict__.update(DEAF)
    ours = os.getpid()
    ran: list[dict[str, Any]] = []  # what cells did since the grader last heard of us
    for cell in map(unpacked, job["cells"]):
        if cell["kind"] == "test":
            put_back(originals, ran)
            run = run_in_fork if job["fork"] else run_test
            run(channel, cell["id"], ran, job, notebook, given, originals, guard)
            ran = []
            continue
        before = dict(notebook.__dict__)
        with time_limit(job["seconds"]):
            done = run_cell(cell, notebook)
        if os.getpid() != ours:
            os._exit(0)  # a fork that the cell made and let go on
        flags = guard.take_flags()
        if cell["kind"] == "given":
            given |= named(notebook, before)
        else:
            taken = [name for name in given if notebook.__dict__.get(name) is not given[name]]
            flags += [
                f"{name}, which is given, was bound anew" for name in sorted(set(taken) - told)
            ]
            told.update(taken)
        if done["error"] or flags:
            ran.append({"id": cell["id"], "error": done["error"], "flags": flags})
    put_back(originals, ran)
    send(channel, {"done": True, "ran": ran, "secret": job["secret"]})


def unpacked(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell with its code ready to run, if the course compiled it."""
    return cell | {"code": marshal.loads(b64decode(cell["code"]))} if "code" in cell else cell


def named(notebook: types.ModuleType, before: dict[str, Any]) -> dict[str, Any]:
    """The functions, classes and modules to which the notebook gave names since `before`."""
    return {
        name: value
        for name, value in notebook.__dict__.items()
        if before.get(name, MISSING) is not value
        and (callable(value) or isinstance(value, types.ModuleType))
    }


def put_back(originals: Originals, ran: list[dict[str, Any]]) -> None:
    """Undo what cells replaced, before anything is sent, and note it."""
    if flags := [f"{name} was replaced" for name in originals.restore()]:
        ran.append({"id": "cells so far", "error": "", "flags": flags[:20]})


def run_in_fork(
    channel: socket.socket,
    test: str,
    ran: list[dict[str, Any]],
    job: dict[str, Any],
    notebook: types.ModuleType,
    given: dict[str, Any],
    originals: Originals,
    guard: Guard,
) -> None:
    """Run one test in a fork, so that whatever it does to the process costs this test alone."""
    if os.getpid() == 1:  # in a namespace of our own: nothing that earlier cells started lives on
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
    well = random_status()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            run_test(channel, test, ran, job, notebook, given, originals, guard)
            os._exit(well)
        os._exit(0)
    # the fork has an alarm of its own; this limit is for one that blocks it
    if hasattr(os, "pidfd_open"):
        waiting = os.pidfd_open(child)
        if not select.select([waiting], [], [], job["seconds"] + 5)[0]:
            os.kill(child, signal.SIGKILL)
        os.close(waiting)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != well:
        send(channel, {"left": test, "secret": job["secret"]})


def random_status() -> int:
    """By which a fork says that it came to its end: a student's `os._exit` hardly guesses it."""
    return 1 + os.urandom(1)[0] % 255


def run_test(
    channel: socket.socket,
    test: str,
    ran: list[dict[str, Any]],
    job: dict[str, Any],
    notebook: types.ModuleType,
    given: dict[str, Any],
    originals: Originals,
    guard: Guard,
) -> None:
    """Ask for a test's code and run it; send the values that it checks, and how it ended."""
    send(channel, {"ready": test, "ran": ran, "secret": job["secret"]})
    answer = receive(channel)
    # names that a test defines are out of reach of the student's functions, if it can do with that
    before = dict(notebook.__dict__)
    space = notebook if answer["inside"] else types.ModuleType("__main__")
    # a student's own `np` or `len` is none of the test's
    space.__dict__.update(before | given)
    for name in before.keys() & PYTHONS:
        del space.__dict__[name]
    values: list[dict[str, Any]] = []

    def check(site: str, got: Any, *rest: Any) -> None:
        plain = [value.item() if isinstance(value, numpy.generic) else value for value in rest]
        values.append({"site": site, "got": encode(got), "rest": [*map(encode, plain)]})

    @contextlib.contextmanager
    def check_raises(site: str, *rest: Any) -> Iterator[None]:
        kinds, said = [], ""
        try:
            yield
        except Exception as error:
            kinds, said = names_of_kinds(error), str(error)[:2000]
        others = [encode(value) for value in rest]
        values.append({"site": site, "raised": kinds, "said": said, "rest": others})

    ours = os.getpid()
    checks = {"__check__": check, "__check_raises__": check_raises}
    if answer["shared"]:  # a given helper, which lives in the notebook, checks something
        notebook.__dict__.update(checks)
    with time_limit(job["seconds"]):
        for helper in answer["helpers"]:
            run_cell(unpacked(helper), space)
        space.__dict__.update(checks)
        done = run_cell(unpacked(answer), space)
    if os.getpid() != ours:
        os._exit(0)
    flags = [f"{name} was replaced" for name in originals.restore()] + guard.take_flags()
    ended = {"ended": True, "values": values, "error": done["error"], "flags": flags[:20]}
    send(channel, ended | {"token": answer["token"]})
    for name in notebook.__dict__.keys() - before.keys():
        del notebook.__dict__[name]
    notebook.__dict__.update(DEAF)


def names_of_kinds(error: BaseException) -> list[str]:
    """The classes of an error, without those that only call themselves like one of Python's."""
    kinds = type.__dict__["__mro__"].__get__(type(error))
    names = [type.__dict__["__name__"].__get__(kind) for kind in kinds]
    pairs = zip(names, kinds, strict=True)
    return [name for name, kind in pairs if vars(builtins).get(name, kind) is kind]


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OverTime in the block once it has taken `seconds`."""

    def stop(number: int, frame: Any) -> None:
        raise OverTime(f"it took longer than {seconds:g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except OverTime:
        pass  # run_cell has noted it, unless it came just before the cell or after it
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def forget_ourselves() -> None:
    """Take this file and what it works with out of the reach of `import` and `sys.modules`."""
    for name in [name for name in sys.modules if name.startswith("tito.") or name == "ctypes"]:
        if name != "tito.testing":
            del sys.modules[name]


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
