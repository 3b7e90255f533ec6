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
from dataclasses import dataclass, field
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


class OverTime(BaseException):
    """A cell took longer than it may; no `except Exception` of the cell's own swallows it."""


# functions that a student's cells can get hold of: of their own globals, so as not to lead to ours.
# What stands for `check` outside of tests, and the alarm's handler
WITHIN_REACH: dict[str, Any] = {"suppress": contextlib.suppress, "OverTime": OverTime}
exec(
    """
def __check__(*arguments): pass
def __check_raises__(*arguments): return suppress(Exception)
def stop(number, frame): raise OverTime("it took longer than it may")
""",
    WITHIN_REACH,
)
DEAF = {name: WITHIN_REACH[name] for name in ("__check__", "__check_raises__")}


@dataclass
class Process:
    """The submission's process: the grader's channel, the job, and what cells have made so far."""

    channel: socket.socket
    job: dict[str, Any]
    originals: Originals
    guard: Guard
    notebook: types.ModuleType = field(default_factory=lambda: types.ModuleType("__main__"))
    # functions, classes and modules that the course's own cells named
    given: dict[str, Any] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)  # of these, what the student's cells bound anew
    id: int = field(default_factory=os.getpid)


def run_submission(channel: socket.socket, originals: Originals) -> None:
    """Take a job from the grader, run its cells in order, and say what came of each."""
    job = receive(channel)
    guard = Guard({cell["id"] for cell in job["cells"] if cell["kind"] in ("given", "test")})
    here = Process(channel, job, originals, guard)
    forget_ourselves()
    sys.modules["__main__"] = here.notebook
    here.notebook.__dict__.update(DEAF)
    run_test = run_in_fork if job["fork"] else run_in_turn
    ran: list[dict[str, Any]] = []  # what cells did since the grader last heard of us
    for cell in map(unpacked, job["cells"]):
        if cell["kind"] == "test":
            put_back(originals, ran)
            run_test(here, cell["id"], ran)
            ran = []
            continue
        error, flags = run_other(here, cell)
        if error or flags:
            ran.append({"id": cell["id"], "error": error, "flags": flags})
    put_back(originals, ran)
    send(channel, {"done": True, "ran": ran, "secret": job["secret"]})


def run_other(here: Process, cell: dict[str, Any]) -> tuple[str, list[str]]:
    """Run a cell that is no test: its error, and flags."""
    before = dict(here.notebook.__dict__)
    with time_limit(here.job["seconds"]):
        done = run_cell(cell, here.notebook)
    if os.getpid() != here.id:
        os._exit(0)  # a fork that the cell made and let go on
    flags = here.guard.take_flags()
    if cell["kind"] == "given":
        here.given |= named(here.notebook, before)
        return done["error"], flags
    now = here.notebook.__dict__
    taken = {name for name, value in here.given.items() if now.get(name) is not value}
    flags += [f"{name}, which is given, was bound anew" for name in sorted(taken - here.told)]
    here.told |= taken
    return done["error"], flags


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


def run_in_fork(here: Process, test: str, ran: list[dict[str, Any]]) -> None:
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
            run_in_turn(here, test, ran)
            os._exit(well)
        os._exit(0)
    # the fork has an alarm of its own; this limit is for one that blocks it
    if hasattr(os, "pidfd_open"):
        waiting = os.pidfd_open(child)
        if not select.select([waiting], [], [], here.job["seconds"] + 5)[0]:
            os.kill(child, signal.SIGKILL)
        os.close(waiting)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != well:
        send(here.channel, {"left": test, "secret": here.job["secret"]})


def random_status() -> int:
    """By which a fork says that it came to its end: a student's `os._exit` hardly guesses it."""
    return 1 + os.urandom(1)[0] % 255


def run_in_turn(here: Process, test: str, ran: list[dict[str, Any]]) -> None:
    """Ask for a test's code and run it; send the values that it checks, and how it ended."""
    send(here.channel, {"ready": test, "ran": ran, "secret": here.job["secret"]})
    answer = receive(here.channel)
    # names that a test defines are out of reach of the student's functions, if it can do with that
    before = dict(here.notebook.__dict__)
    space = here.notebook if answer["inside"] else types.ModuleType("__main__")
    # a student's own `np` or `len` is none of the test's
    space.__dict__.update(before | here.given)
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
        here.notebook.__dict__.update(checks)
    with time_limit(here.job["seconds"]):
        for helper in answer["helpers"]:
            run_cell(unpacked(helper), space)
        space.__dict__.update(checks)
        done = run_cell(unpacked(answer), space)
    if os.getpid() != ours:
        os._exit(0)
    flags = [f"{name} was replaced" for name in here.originals.restore()] + here.guard.take_flags()
    ended = {"ended": True, "values": values, "error": done["error"], "flags": flags[:20]}
    send(here.channel, ended | {"token": answer["token"]})
    for name in here.notebook.__dict__.keys() - before.keys():
        del here.notebook.__dict__[name]
    here.notebook.__dict__.update(DEAF)


def names_of_kinds(error: BaseException) -> list[str]:
    """The classes of an error, without those that only call themselves like one of Python's."""
    kinds = type.__dict__["__mro__"].__get__(type(error))
    names = [type.__dict__["__name__"].__get__(kind) for kind in kinds]
    pairs = zip(names, kinds, strict=True)
    return [name for name, kind in pairs if vars(builtins).get(name, kind) is kind]


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OverTime in the block once it has taken `seconds`."""
    signal.signal(signal.SIGALRM, WITHIN_REACH["stop"])
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
