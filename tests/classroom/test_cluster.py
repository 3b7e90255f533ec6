"""Grading on a Dask cluster: two workers in processes of their own."""

import os
import signal
import subprocess
from dataclasses import asdict, replace

import pytest
from graders import wrongs
from marked import tito
from submissions import hand_in, solution, stub, with_cells

from tito.classroom import cluster, sandbox
from tito.classroom.assignment import prepare
from tito.classroom.autograde import autograde
from tito.classroom.cluster import AT_HAND, grade_on_cluster
from tito.classroom.results import read_results, write_result
from tito.classroom.sandbox import Limits
from tito.classroom.source import release
from tito.classroom.submission import take
from tito.errors import TitoError
from tito.grading import Wrong
from tito.notebook import grade_id, read_module

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

STUDENTS = [f"s{number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def two_workers():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as local:
        yield local


@pytest.fixture
def module(classroom):
    """Activations, handed in by twenty students: one solved, one empty, the others wrong."""
    module = classroom.course.module("02")
    release(classroom, module)
    right = {grade_id(cell): cell.source for cell in read_module(module).cells}
    mistakes: list[Wrong] = wrongs(module)
    for number, student in enumerate(STUDENTS):
        wrong = mistakes[number]
        code = {wrong.grade_id: wrong.apply(right[wrong.grade_id])}
        hand_in(classroom, student, module, with_cells(solution(module), code))
    hand_in(classroom, STUDENTS[0], module, solution(module))
    hand_in(classroom, STUDENTS[1], module, stub(module))
    classroom.submission(STUDENTS[2], module).write_text("{")
    return module


@pytest.fixture
def assignment(classroom, module):
    return prepare(classroom, module, "reference", Limits(), sandbox.available())


def plain(result):
    """A result without what a clock says."""
    data = asdict(result) | {"graded": ""}
    data["cells"] = [each | {"seconds": 0} for each in data["cells"]]
    return data


def children(processes):
    """The command lines of what these processes started and still runs."""
    listed = subprocess.run(
        ["ps", "-o", "args=", "--ppid", ",".join(map(str, processes))],
        capture_output=True,
        text=True,
    )
    return listed.stdout


def test_it_gives_the_same_as_this_machine(classroom, module, assignment, two_workers):
    address = two_workers.scheduler_address
    here = {r.student: plain(r) for r in autograde(classroom, module, assignment, STUDENTS, jobs=2)}
    for path in classroom.results(module).glob("*.json"):
        path.unlink()
    there = {
        r.student: plain(r)
        for r in autograde(classroom, module, assignment, STUDENTS, 2, scheduler=address)
    }
    assert there == here and there.keys() == set(STUDENTS)
    assert {plain(r)["student"]: plain(r) for r in read_results(classroom, module)} == there
    with distributed.Client(address) as client:  # and nothing of it is left
        workers = client.run(os.getpid).values()
        assert set(client.run(lambda: len(cluster._graders)).values()) == {0}
    assert "zygote" not in children(workers)


def test_a_killed_worker_loses_nothing(classroom, module, two_workers, capsys, monkeypatch):
    address = two_workers.scheduler_address
    with distributed.Client(address) as client:
        before = set(client.run(os.getpid).values())
    kept = []

    def keep(classroom, module, result):
        kept.append(result.student)
        if len(kept) == 3:
            os.kill(min(before), signal.SIGKILL)
        return write_result(classroom, module, result)

    monkeypatch.setattr("tito.classroom.autograde.write_result", keep)
    ran = tito(capsys, "grade", "autograde", "02", "--scheduler", address)
    assert ran.status == 0, ran.err
    assert sorted(kept) == STUDENTS
    results = list(read_results(classroom, module))
    assert [result.student for result in results] == STUDENTS

    from nbgrader.api import Gradebook

    with Gradebook(classroom.gradebook) as book:
        entered = book.assignment_submissions(module.folder)
        assert sorted(each.student.id for each in entered) == STUDENTS
        assert {each.student.id: each.score for each in entered} == {
            result.student: result.points for result in results
        }
    with distributed.Client(address) as client:
        client.wait_for_workers(2, timeout=60)
        assert min(before) not in client.run(os.getpid).values()


def test_submissions_go_out_a_few_at_a_time(classroom, module, assignment, two_workers):
    taken, results = 0, 0

    def tasks():
        nonlocal taken
        for student in STUDENTS:
            taken += 1
            assert taken - results <= 2 * AT_HAND
            yield take(classroom, student, module, "reference"), None

    for _ in grade_on_cluster(two_workers.scheduler_address, assignment, tasks()):
        results += 1
    assert results == len(STUDENTS)


def test_another_version_of_the_course_is_refused(classroom, module, assignment, two_workers):
    tasks = [(take(classroom, STUDENTS[0], module, "reference"), None)]
    other = replace(assignment, version="another")
    with pytest.raises(TitoError) as caught:
        list(grade_on_cluster(two_workers.scheduler_address, other, tasks))
    assert "has another version of the course: install the same one on all" in str(caught.value)


def test_without_workers_it_says_how_to_start_one(classroom, module, assignment):
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as empty,
        pytest.raises(TitoError, match="has no workers: dask worker tcp:"),
    ):
        list(grade_on_cluster(empty.scheduler_address, assignment, []))


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "nonsense://x", "tcp://nowhere.invalid:1"]
)
def test_a_wrong_address_is_told_in_one_line(module, capsys, monkeypatch, address):
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 1)
    ran = tito(capsys, "grade", "autograde", "02", "--scheduler", address)
    assert ran.status == 1
    assert f"no Dask scheduler at {address}: " in ran.err and ran.err.count("\n") == 1


def test_a_scheduler_that_ends_is_told_in_one_line(classroom, module, assignment):
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as local:
        address = local.scheduler_address
        results = autograde(classroom, module, assignment, STUDENTS, 1, scheduler=address)
        first = next(results)
        local.close()
        with pytest.raises(TitoError, match=f"{address} has ended: run the command again"):
            list(results)
    assert first.student in {result.student for result in read_results(classroom, module)}
