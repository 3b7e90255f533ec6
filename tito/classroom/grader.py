"""Grading one submission: a conversation with the sandbox, and the judgement of what it says.

Nothing that arrives from the sandbox is believed but values, and of those only that they came from
the cell that was asked: what is right, how many points it earns and what a hidden test looks for
never leave this side.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from tito.classroom.combine import Cell, combine
from tito.classroom.master import Master, Test, digest
from tito.classroom.results import CellResult
from tito.classroom.sandbox import Limits, Sandbox
from tito.classroom.wire import WireError, decode, receive, send, shown
from tito.errors import TitoError
from tito.grading import names_of
from tito.testing import difference, error_difference

VERSION = 2  # of judgement: another one grades everything anew
UNWRITTEN = "is not written yet"
OVERTIME = "longer than it may"
NOT_RUN = "it was not run"
CANARY = "the-canary"
GRACE = 10.0  # seconds more than a limit, before a process is given up
_STUB = re.compile(r"NotImplementedError:  ?\(cell (\S+), line \d+\)")
_CHANCE = re.compile(r" at 0x[0-9a-f]+|(?<=/tmp)[a-z0-9_]{8}\b")  # another one in every run
_TEST_LINE = re.compile(r"(\(cell [\w.-]+), line \d+\)$")


@dataclass
class Heard:
    """What the sandbox said of a test."""

    records: list[dict[str, Any]] = field(default_factory=list)  # one for each check
    error: str | None = None  # how the cell ended, "" if well; None if it said no more
    seconds: float = 0.0


@dataclass
class Marks:
    """The graded cells of a submission, and what a person should look at."""

    cells: list[CellResult]
    flags: list[str]


def grade(
    master: Master,
    submission: Any,
    sandbox: Callable[[], Sandbox],
    version: str,
    limits: Limits,
    known: Mapping[str, CellResult] | None = None,
) -> Marks:
    """Run and judge a submission's cells.

    `version` names the package that the sandbox holds, which `sandbox` opens if need be. Results in
    `known` are taken as they are, if nothing changed of what they depend on.
    """
    known = known or {}
    combined = combine(master.notebook, submission)
    cells = runnable(master, combined.cells)
    keys = _keys(master, cells, version)
    old = {id: known[id] for id in master.tests if id in known and known[id].key == keys[id]}
    flags = list(combined.notes)
    done = dict(old)
    for fork in (False, True):
        left = [
            cell for cell in cells if cell.kind != "test" or not _is_settled(done, cell.id, old)
        ]
        if all(cell.kind != "test" for cell in left):
            break
        canary = secrets.token_hex(8)
        with sandbox().open() as channel:
            talk = Conversation(channel, master, limits, canary, fork)
            talk.run(left)
        if not talk.is_trusted():
            talk.heard.clear()
        flags += talk.flags
        for cell in left:
            if cell.kind == "test":
                done[cell.id], notes = judge(master, master.tests[cell.id], talk)
                done[cell.id].key = keys[cell.id]
                flags += notes
    for id, points in master.answers.items():
        done[id] = CellResult(id, 0.0, points, by_hand=True)
    return Marks([done[id] for id in master.graded], list(dict.fromkeys(flags)))


def _is_settled(done: Mapping[str, CellResult], test: str, old: Mapping[str, CellResult]) -> bool:
    """Whether another run can't change what a test gave."""
    found = done.get(test)
    if test in old or found is None:
        return test in old
    if found.message.startswith(NOT_RUN):
        return False
    return found.passed or found.message.endswith((UNWRITTEN, OVERTIME))


def note_expected(master: Master, sandboxes: tuple[Sandbox, Sandbox], limits: Limits) -> float:
    """Let the reference solve the module, and note what each check of it expects.

    It runs twice, with tests in forks and without, as submissions do: what differs then (random
    numbers without a seed, a process's number) is asked of nobody.

    Returns the seconds that its slowest test took. TitoError if it fails one.
    """
    runs = []
    for sandbox, fork in zip(sandboxes, (True, False), strict=True):
        with sandbox.open() as channel:
            runs.append(Conversation(channel, master, limits, fork=fork, is_reference=True))
            runs[-1].run(runnable(master, master.cells))
    talk, other = runs
    for id, test in master.tests.items():
        heard = talk.heard.get(id, Heard())
        if heard.error != "":
            earlier = (f"{error} in {cell}" for cell, error in talk.errors.items())
            reason = next(earlier, "") or heard.error or talk.ending or "it gave no answer"
            raise TitoError(f"the course's own solution fails {id}: {reason}")
        pairs = zip_longest(
            heard.records, other.heard.get(id, Heard()).records[: len(heard.records)]
        )
        master.expected[id] = [_expectation(*pair) for pair in pairs]
        result, _ = judge(master, test, talk)
        if not result.passed:
            raise TitoError(f"the course's own solution fails {id}: {result.message}")
    return max((heard.seconds for heard in talk.heard.values()), default=0.0)


def _expectation(record: dict[str, Any], again: dict[str, Any] | None) -> dict[str, Any]:
    """What a check expects, from what it said when the reference ran once and once more."""
    rest = record["rest"]
    if "raised" in record:
        kind, part, hint = rest
        return {"site": record["site"], "error": kind["type"], "part": part, "hint": hint}
    tolerance = rest[2] if len(rest) > 2 else 1e-6
    varies = again is not None and again.get("rest", rest)[:1] != rest[:1]
    noted = {"expected": rest[0], "hint": rest[1], "tolerance": tolerance, "varies": varies}
    return {"site": record["site"]} | noted


def runnable(master: Master, cells: list[Cell]) -> list[Cell]:
    """The cells that are run: the student's, the tests, and of the given ones those in use."""
    kept = set(master.needed)
    for cell in cells:
        if cell.kind in ("solution", "own") and master.loose.search(cell.source):
            used = names_of(cell.source)[1]
            kept |= {id for id, names in master.defined.items() if names & used}
    return [cell for cell in cells if cell.kind in ("solution", "own") or cell.id in kept]


def _keys(master: Master, cells: list[Cell], version: str) -> dict[str, str]:
    """By test, a hash of all that its result depends on."""
    keys = {}
    so_far = digest(VERSION, version)
    for cell in cells:
        if cell.kind == "test":
            test = master.tests[cell.id]
            sources = [master.for_students[id] for id in (*test.helpers, cell.id)]
            keys[cell.id] = digest(so_far, *sources, json.dumps(master.expected[cell.id]))
        else:
            so_far = digest(so_far, cell.id, cell.source)
    return keys


class Conversation:
    """One submission's way through the sandbox."""

    def __init__(
        self,
        channel: socket.socket,
        master: Master,
        limits: Limits,
        canary: str = "",
        fork: bool = True,
        is_reference: bool = False,
    ):
        self.heard: dict[str, Heard] = {}
        self.errors: dict[str, str] = {}  # of cells that are no tests
        self.flags: list[str] = []
        self.ending = ""  # why it ended before its time
        self._channel, self._master, self._canary = channel, master, canary
        self._code = master.code_for_reference if is_reference else master.code_for_students
        self._secret = secrets.token_hex(16)
        self._seconds, self._fork = limits.seconds, fork
        self._deadline = time.monotonic() + limits.all_seconds + GRACE

    def run(self, cells: list[Cell]) -> None:
        """Have the cells run in order, to the end or to where it breaks off."""
        place = "the start"
        if self._canary:
            cells = [*cells, Cell(CANARY, "test", "")]
        try:
            self._send_job(cells)
            waiting = 0.0
            for cell in cells:
                place = cell.id
                waiting += self._seconds
                if cell.kind == "test":
                    self._take_test(cell.id, waiting)
                    waiting = 0.0
            self._take_ran(self._next(waiting, "done"))
        except TimeoutError:
            self.ending = f"{place} took {OVERTIME}"
        except (WireError, OSError) as error:
            self.ending = f"{place} ended Python"
            if "gone" not in str(error) and not isinstance(error, ConnectionError):
                self.ending = f"{place} sent what no cell sends ({shown(error, 200)})"
        if self.ending:
            self.flags.append(self.ending)

    def is_trusted(self) -> bool:
        """Whether the canary, a value that only we know, came back as it was sent.

        Where each test has a fork of its own, one before it may have ended the process instead.
        """
        heard = self.heard.get(CANARY)
        if not heard or heard.error is None:
            return self._fork
        try:
            is_right = [decode(record.get("got")) for record in heard.records] == [self._canary]
        except WireError:
            is_right = False
        if not is_right:
            self.ending = "what is checked was tampered with"
            self.flags.append(f"the canary came back changed: {self.ending}")
        return is_right

    def _send_job(self, cells: list[Cell]) -> None:
        job = {"fork": self._fork, "seconds": self._seconds, "secret": self._secret}
        self._channel.settimeout(self._seconds + GRACE)
        send(self._channel, job | {"cells": [self._shown(cell) for cell in cells]})

    def _shown(self, cell: Cell) -> dict[str, Any]:
        """What the process gets of a cell before it is its turn."""
        shown: dict[str, Any] = {"id": cell.id, "kind": cell.kind, "source": ""}
        if cell.kind == "given":
            shown["code"] = _packed(self._code[cell.id])
        elif cell.kind != "test":
            shown["source"] = cell.source
        return shown

    def _take_ran(self, message: dict[str, Any]) -> None:
        """Note what went wrong in cells since the last test."""
        ran = message.get("ran")
        cells = [cell for cell in ran if isinstance(cell, dict)] if isinstance(ran, list) else []
        for cell in cells[:200]:
            name = shown(cell.get("id", ""), 60)
            if error := shown(cell.get("error", ""), 500):
                self.errors[name] = error
            self._take_flags(name, cell)

    def _take_test(self, test: str, waiting: float) -> None:
        heard = self.heard[test] = Heard()
        message = self._next(waiting, "ready", "left")
        start = time.perf_counter()
        if "ready" not in message:
            return
        self._take_ran(message)
        token = secrets.token_hex(16)
        send(self._channel, self._test(test) | {"token": token})
        message = self._next(self._seconds, "ended", "left", token=token)
        if "ended" in message:
            heard.error = shown(message.get("error", ""), 500)
            values = message.get("values")
            heard.records = (
                [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []
            )
            self._take_flags(test, message)
        heard.seconds = time.perf_counter() - start

    def _test(self, test: str) -> dict[str, Any]:
        if test == CANARY:
            source = f"__check__('{CANARY}:0', {self._canary!r})"
            return {"id": test, "source": source, "helpers": [], "inside": False, "shared": False}
        return self._cell(test) | {
            "helpers": [self._cell(helper) for helper in self._master.tests[test].helpers],
            "inside": self._master.tests[test].is_inside,
            "shared": self._master.helpers_check,
        }

    def _cell(self, id: str) -> dict[str, Any]:
        return {"id": id, "source": "", "code": _packed(self._code[id])}

    def _next(self, seconds: float, *kinds: str, token: str = "") -> dict[str, Any]:
        """The next message, which must be of one of these kinds and know our secret."""
        # the sandbox keeps the limits; the grader's are for one that no longer does
        left = min(seconds + GRACE, self._deadline - time.monotonic())
        self._channel.settimeout(max(left, 0.01))
        message = receive(self._channel)
        if "broken" in message:
            raise WireError(f"broken: {str(message['broken']).strip().splitlines()[-1:]}")
        if not any(kind in message for kind in kinds):
            raise WireError(f"{list(message)[:5]} instead of {' or '.join(kinds)}")
        key = ("token", token) if "ended" in message else ("secret", self._secret)
        if (not token and "ended" in message) or message.get(key[0]) != key[1]:
            raise WireError("a message without its token")
        return message

    def _take_flags(self, cell: str, message: dict[str, Any]) -> None:
        flags = message.get("flags")
        for flag in flags[:20] if isinstance(flags, list) else []:
            self.flags.append(f"{cell}: {shown(flag, 200)}")


def _packed(code: bytes) -> str:
    return base64.b64encode(code).decode()


def judge(master: Master, test: Test, talk: Conversation) -> tuple[CellResult, list[str]]:
    """What a test earns by what was heard of it, and flags."""
    result = CellResult(test.id, 0.0, test.points)
    flags: list[str] = []
    heard = talk.heard.get(test.id)
    if heard is None:
        result.message = f"{NOT_RUN}: {talk.ending}"
        return result, flags
    result.seconds = round(heard.seconds, 3)
    records = iter(heard.records)
    hidden = False
    for expectation in master.expected[test.id]:
        site, hint = master.sites[expectation["site"]], str(expectation["hint"])
        hidden = site.hidden
        record = next(records, None)
        if record is None:
            break
        if record.get("site") != expectation["site"]:
            result.message = f"{site.asked} was not checked in its turn"
        elif "error" in expectation:
            result.message = _error_message(record, expectation)
        else:
            result.message, flag = _value_message(record, expectation, site.asked)
            flags += [f"{test.id}: {flag}"] if flag else []
        if result.message:
            result.message, result.hidden = (hint if hidden else result.message), hidden
            return result, flags
    if heard.error != "":
        result.message, result.hidden = _broken_off(master, heard, talk.errors, hidden)
    elif len(heard.records) < len(master.expected[test.id]):
        result.message = "it ended before all was checked"
    elif len(heard.records) > len(master.expected[test.id]):
        result.message = "more was checked than the lesson checks"
    else:
        result.points = test.points
    return result, flags


def _value_message(
    record: dict[str, Any], expectation: dict[str, Any], asked: str
) -> tuple[str, str]:
    """How a value differs from what is expected, and a flag."""
    try:
        got = decode(record.get("got"))
        expected = decode(expectation["expected"])
        found = difference(got, expected, expectation["tolerance"])
        rest = record.get("rest")
        if not found or not isinstance(rest, list) or not rest:
            return (f"{asked} {found}: {expectation['hint']}" if found else ""), ""
        # the test computes it in the student's process: from draws of the student's own, perhaps
        theirs = difference(got, decode(rest[0]), expectation["tolerance"])
    except (WireError, TypeError) as error:
        return f"{asked} gave a value that can't be compared ({error})", ""
    if theirs:
        return f"{asked} {theirs}: {expectation['hint']}", ""
    if expectation["varies"]:
        return "", ""
    return "", f"{asked} is what the student's process expected, but not what the reference gave"


def _error_message(record: dict[str, Any], expectation: dict[str, Any]) -> str:
    kinds = record.get("raised")
    kinds = [str(kind) for kind in kinds] if isinstance(kinds, list) else []
    wanted = expectation["error"].rpartition(".")[2]
    return error_difference(
        kinds[0] if kinds else "",
        str(record.get("said", "")),
        wanted in kinds,
        wanted,
        expectation["part"],
        expectation["hint"],
    )


def _broken_off(
    master: Master, heard: Heard, errors: Mapping[str, str], hidden: bool
) -> tuple[str, bool]:
    """Why a test came to no good end; `hidden` if it was at a hidden check."""
    if heard.error is None:
        return "it ended Python, or took too long", hidden
    if heard.error.startswith("OverTime:"):
        return f"it took {OVERTIME}", hidden
    if stub := _STUB.fullmatch(heard.error):
        return f"{stub[1]} {UNWRITTEN}", False
    if name := re.match(r"NameError: name '(\w+)'", heard.error):
        for cell, error in errors.items():
            if name[1] in master.defined.get(cell, ()):
                return f"{cell} ends in {error}", False
    if hidden:  # the error's text could tell what a hidden test asks
        return f"a hidden test ends in {heard.error.partition(':')[0][:40]}", True
    error = _CHANCE.sub("", heard.error.removeprefix("AssertionError: "))
    return _TEST_LINE.sub(r"\1)", error), False
