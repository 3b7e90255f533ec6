"""The grader's talk with the sandbox about one submission.

Of what arrives nothing is believed but values, and of those only that they came from the cell that
was asked.
"""

from __future__ import annotations

import base64
import secrets
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from tito.classroom.combine import Cell
from tito.classroom.master import Master
from tito.classroom.sandbox import Limits
from tito.classroom.wire import WireError, decode, receive, send, shown

OVERTIME = "longer than it may"
CANARY = "the-canary"
GRACE = 10.0  # seconds more than a limit, before a process is given up


@dataclass
class Heard:
    """What the sandbox said of a test."""

    records: list[dict[str, Any]] = field(default_factory=list)  # one for each check
    error: str | None = None  # how the cell ended, "" if well; None if it said no more
    seconds: float = 0.0


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
