"""Runs a submission's cells in the sandbox: all in a row, or each test in a fork of its own.

The process holds nothing but the student's own work. A test's code arrives when it is its turn,
with a token that its messages carry; of what is expected only that comes along which has to be
computed here. What cells replaced is put back before anything is sent.
"""

from __future__ import annotations

import builtins
import contextlib
import marshal
import os
import select
import signal
import socket
import sys
import types
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import numpy

from tito.cellworker import run_cell
from tito.classroom.guard import Guard
from tito.classroom.originals import Originals
from tito.classroom.wire import encode, receive, send

MISSING = object()
PYTHONS = frozenset(vars(builtins)) - {
    "__name__",
    "__doc__",
    "__loader__",
    "__package__",
    "__spec__",
}
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
