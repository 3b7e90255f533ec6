"""Grading on several machines, by Dask: https://distributed.dask.org

    dask scheduler                                   # on one machine
    dask worker tcp://HOST:8786 --nworkers auto      # on each, with tinytorch[cluster,classroom]

A worker gets a submission and gives a result; it never sees the course folder. Dask gives what a
lost worker had to another one; this process alone keeps results, each once.
"""

from __future__ import annotations

import atexit
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tito.classroom.assignment import Assignment, Grader
from tito.classroom.results import Result
from tito.classroom.submission import Submission
from tito.course import find_course
from tito.errors import TitoError

if TYPE_CHECKING:
    from distributed import Client

SECONDS_TO_CONNECT = 10
AT_HAND = 4  # submissions on their way, for each thread of a worker

_graders: dict[str, Grader] = {}  # a worker's own, by assignment: one at a time
_opening = threading.Lock()


def grade_on_cluster(
    scheduler: str, assignment: Assignment, tasks: Iterable[tuple[Submission, Result | None]]
) -> Iterator[Result]:
    """Results as workers send them. TitoError if there is no cluster at that address."""
    try:
        from distributed import CancelledError, KilledWorker, as_completed
    except ImportError:
        raise TitoError("--scheduler needs Dask: pip install 'tinytorch[cluster]'") from None

    lost: list[str] = []
    with _connect(scheduler) as client:
        room = AT_HAND * sum(client.nthreads().values())
        if not room:
            raise TitoError(f"{scheduler} has no workers: dask worker {scheduler} starts one")
        shared = client.scatter(assignment, broadcast=True, hash=False)
        students: dict[str, str] = {}  # by key of what is on its way
        waiting = as_completed(loop=client.loop)

        def take_one() -> Iterator[Result]:
            future = next(waiting)
            student = students.pop(future.key)
            try:
                yield future.result()
            except KilledWorker:
                lost.append(student)
            except CancelledError:
                raise TitoError(
                    f"{scheduler} has ended: run the command again, what came so far is kept"
                ) from None

        try:
            for submission, known in tasks:
                future = client.submit(grade_one, shared, submission, known, pure=False)
                students[future.key] = submission.student
                waiting.add(future)
                if len(students) == room:
                    yield from take_one()
            while students:
                yield from take_one()
        finally:
            if client.status == "running":
                client.cancel(list(waiting.futures))
                client.run(close_graders, on_error="ignore")  # of a worker that has just gone
    if lost:
        raise TitoError(
            f"{', '.join(lost)}: every worker that graded this ended, by its fault or by chance: "
            "grade it without --scheduler"
        )


def grade_one(assignment: Assignment, submission: Submission, known: Result | None) -> Result:
    """Grade a submission on this worker, whose sandbox stays open for the next."""
    with _opening:
        if assignment.key not in _graders:
            _close_all()
            grader = Grader(assignment, find_course())
            if grader.version != assignment.version:
                grader.close()
                raise TitoError(
                    f"the worker on {socket.gethostname()} has another version of the course: "
                    "install the same one on all machines"
                )
            _graders[assignment.key] = grader
        grader = _graders[assignment.key]
    return grader.grade(submission, known)


def close_graders() -> None:
    """End this worker's sandboxes."""
    with _opening:
        _close_all()


atexit.register(close_graders)


def _close_all() -> None:
    while _graders:
        _graders.popitem()[1].close()


def _connect(scheduler: str) -> Client:
    from distributed import Client

    try:
        return Client(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise TitoError(f"no Dask scheduler at {scheduler}: {error}") from None
