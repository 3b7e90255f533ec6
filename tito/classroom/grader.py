"""Grading one submission: what is run of it, and the judgement of what the sandbox says.

What is right, how many points it earns and what a hidden test looks for never leave this side.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from tito.classroom.combine import Cell, combine
from tito.classroom.conversation import OVERTIME, Conversation, Heard
from tito.classroom.master import Master, Test, digest
from tito.classroom.results import CellResult
from tito.classroom.sandbox import Limits, Sandbox
from tito.classroom.wire import WireError, decode
from tito.errors import TitoError
from tito.grading import names_of
from tito.testing import difference, error_difference

VERSION = 2  # of judgement: another one grades everything anew
UNWRITTEN = "is not written yet"
NOT_RUN = "it was not run"
_STUB = re.compile(r"NotImplementedError:  ?\(cell (\S+), line \d+\)")
_CHANCE = re.compile(r" at 0x[0-9a-f]+|(?<=/tmp)[a-z0-9_]{8}\b")  # another one in every run
_TEST_LINE = re.compile(r"(\(cell [\w.-]+), line \d+\)$")


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
