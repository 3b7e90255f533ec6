"""Grading on several machines, by Dask: https://distributed.dask.org

    dask scheduler                                   # on one machine
    dask worker tcp://HOST:8786 --nworkers auto      # on each, with tinytorch[cluster,classroom]

A worker gets a submission and gives a result; it never sees the course folder. Dask gives what a
lost worker had to another one; this process alone keeps results, each once.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tito.classroom.assignment import Assignment, Grader, Submission
from tito.classroom.results import Result
from tito.course import find_course
from tito.errors import TitoError

if TYPE_CHECKING:
    from distributed import Client

SECONDS_TO_CONNECT = 10

_graders: dict[str, Grader] = {}  # a worker's own, by assignment


def grade_on_cluster(
    scheduler: str, assignment: Assignment, tasks: Iterable[tuple[Submission, Result | None]]
) -> Iterator[Result]:
    """Results as workers send them. TitoError if there is no cluster at that address."""
    try:
        from distributed import as_completed
    except ImportError:
        raise TitoError("--scheduler needs Dask: pip install 'tinytorch[cluster]'") from None

    with _connect(scheduler) as client:
        if not client.scheduler_info()["workers"]:
            raise TitoError(f"{scheduler} has no workers: dask worker {scheduler} starts one")
        shared = client.scatter(assignment, broadcast=True, hash=False)
        futures = [client.submit(grade_one, shared, *task, pure=False, retries=2) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
            future.release()


def grade_one(assignment: Assignment, submission: Submission, known: Result | None) -> Result:
    """Grade a submission on this worker, whose sandbox stays open for the next."""
    if assignment.key not in _graders:
        for grader in _graders.values():
            grader.close()
        _graders.clear()
        _graders[assignment.key] = Grader(assignment, find_course())
        atexit.register(_graders[assignment.key].close)
    return _graders[assignment.key].grade(submission, known)


def _connect(scheduler: str) -> Client:
    from distributed import Client

    try:
        return Client(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise TitoError(f"no Dask scheduler at {scheduler}: {error}") from None
