"""Grading a class: on the cores of this machine, or on those of a cluster.

Results are kept one by one as they come, so that a run which was ended goes on where it was.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

from tito.classroom.assignment import Assignment, Grader, Submission, take
from tito.classroom.folder import Classroom
from tito.classroom.results import Result, read_result, write_result
from tito.course import Course, Module
from tito.errors import TitoError

AT_HAND = 4  # submissions read ahead, for each grader


def autograde(
    classroom: Classroom,
    module: Module,
    assignment: Assignment,
    students: Iterable[str],
    jobs: int,
    scheduler: str = "",
) -> Iterator[Result]:
    """Grade `module` for each student; yields results as they come, already kept.

    Students' code runs in `jobs` sandboxes at a time, or on the Dask cluster at `scheduler`.
    """
    tasks = (
        (take(classroom, student, module, assignment.policy), _known(classroom, module, student))
        for student in students
    )
    if scheduler:
        from tito.classroom.cluster import grade_on_cluster

        results = grade_on_cluster(scheduler, assignment, tasks)
    else:
        results = grade_here(assignment, classroom.course, tasks, jobs)
    for result in results:
        write_result(classroom, module, result)
        yield result


def grade_here(
    assignment: Assignment,
    course: Course,
    tasks: Iterable[tuple[Submission, Result | None]],
    jobs: int,
) -> Iterator[Result]:
    """Grade with `jobs` graders, each of them a thread with a sandbox of its own."""
    graders: queue.SimpleQueue[Grader] = queue.SimpleQueue()
    for _ in range(jobs):
        graders.put(Grader(assignment, course))
    room = threading.Semaphore(AT_HAND * jobs)

    def work(submission: Submission, known: Result | None) -> Result:
        grader = graders.get()
        try:
            return grader.grade(submission, known)
        finally:
            graders.put(grader)
            room.release()

    def feed(pool: ThreadPoolExecutor) -> Iterator[Result]:
        waiting = set()
        for task in tasks:
            room.acquire()
            waiting.add(pool.submit(work, *task))
            done = {future for future in waiting if future.done()}
            waiting -= done
            for future in done:
                yield future.result()
        for future in as_completed(waiting):
            yield future.result()

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="grader")
    try:
        yield from feed(pool)
    finally:
        pool.shutdown(cancel_futures=True)
        for _ in range(jobs):
            graders.get().close()


def _known(classroom: Classroom, module: Module, student: str) -> Result | None:
    """What an earlier run gave the student; None if nothing that can be read."""
    try:
        return read_result(classroom.results(module) / f"{student}.json")
    except TitoError:
        return None
