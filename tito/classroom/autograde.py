"""Grading a class: on the cores of this machine, or on those of a cluster.

Results are kept one by one as they come, so that a run which was ended goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait

from tito.classroom.assignment import Assignment, Grader
from tito.classroom.folder import Classroom
from tito.classroom.results import Result, read_result, write_result
from tito.classroom.submission import Submission, take
from tito.course import Course, Module
from tito.errors import TitoError

AT_HAND = 4  # submissions read ahead, for each that is graded


def autograde(
    classroom: Classroom,
    module: Module,
    assignment: Assignment,
    students: Iterable[str],
    jobs: int,
    scheduler: str = "",
) -> Iterator[Result]:
    """Grade `module` for each student; yields results as they come, already kept.

    `jobs` submissions are graded at a time, here or, if there is one, on the Dask cluster at
    `scheduler`, by all its workers.
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
    """Grade `jobs` submissions at a time; results come in the order in which they are ready."""
    grader = Grader(assignment, course)
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="grader")
    waiting: set[Future[Result]] = set()
    try:
        for task in tasks:
            waiting.add(pool.submit(grader.grade, *task))
            if len(waiting) == AT_HAND * jobs:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(waiting))
    finally:
        grader.close()  # first, so that nothing that still runs is waited for
        pool.shutdown(cancel_futures=True)


def _known(classroom: Classroom, module: Module, student: str) -> Result | None:
    """What an earlier run gave the student; None if nothing that can be read."""
    try:
        return read_result(classroom.results(module) / f"{student}.json")
    except TitoError:
        return None
