"""Submissions that are odd as files: links, sizes, JSON, names."""

import json
import os
from dataclasses import replace

import nbformat
import pytest
from attack import LIMITS, Attack
from submissions import hand_in, solution

from tito.classroom.assignment import prepare
from tito.classroom.autograde import autograde
from tito.classroom.results import read_result

pytestmark = pytest.mark.slow

ADA = "ada"


def notebook_of(*cells) -> bytes:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def code(source, **more) -> dict:
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], **more}


BROKEN = {  # no points, and a problem that says why
    "empty": (b"", "no notebook"),
    "no JSON": (b"{", "no notebook"),
    "no text": (b"\xff\xfe\x00", "no notebook"),
    "no object": (b"[1, 2]", "no notebook"),
    "cells that are no list": (b'{"cells": {"0": 1}}', "no notebook"),
    "nested too deep": (b'{"cells": ' + b"[" * 100_000, "no notebook"),
    "a great many cells": (notebook_of(*[{}] * 100_000), "at most 5000 are graded"),
    "a number too long": (b'{"cells": [' + b"9" * 10_000 + b"]}", "no notebook"),
    "a program": (b"print('hello')", "no notebook"),
}
ODD = {  # no points: nothing of the lesson is in it
    "no cells": notebook_of(),
    "cells that are no objects": notebook_of(1, "x", None, [], [[]], True, 1.5),
    "numbers that are none": b'{"cells": [NaN, Infinity, -Infinity, 1e999]}',
    "sources that are no text": notebook_of(code(1), code([1]), code({"a": 1}), code(None)),
    "metadata that is none": notebook_of(
        code("1", metadata=[]), code("1", metadata={"nbgrader": 1})
    ),
    "names that are no text": notebook_of(code("1", id=1, metadata={"nbgrader": {"grade_id": []}})),
    "names of all kinds": notebook_of(
        *(
            code("x", metadata={"nbgrader": {"grade_id": name, "solution": True}})
            for name in (
                "\0",
                "\x1b[31m",
                "\u202e",
                "\u200b",
                "\ud800",
                "../../x",
                "[/red]",
                "n" * 9999,
            )
        )
    ),
    "nested metadata": b'{"cells": [{"metadata": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]}",
    "a mark of byte order": b"\xef\xbb\xbf" + notebook_of(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_notebook_has_a_problem(bench, name):
    """A file that is no notebook earns nothing, and the result says why."""
    raw, problem = BROKEN[name]
    result = bench.grade_bytes(raw, isolated=False)
    assert problem in result.problem
    assert result.points == 0
    bench.honest(isolated=False)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_notebook_earns_nothing(bench, name):
    """A notebook without the lesson's cells earns nothing; what it holds stops nobody."""
    result = bench.grade_bytes(ODD[name], isolated=False)
    assert result.points == 0
    assert all(line.isprintable() for line in result.flags)
    json.dumps(result.flags).encode()
    bench.honest(isolated=False)


def test_a_source_of_ten_megabytes(bench):
    """A long source costs time, but nobody else's marks."""
    notebook = solution(bench.module)
    notebook.cells.append(nbformat.v4.new_code_cell("# " + "x" * 10_000_000))
    bench.assert_marks(notebook, Attack("", {}, loses=(), flag=None), isolated=False)


def link(path, classroom, module):
    path.unlink()
    path.symlink_to(classroom.submission(ADA, module))


def link_folder(path, classroom, module):
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(classroom.submission(ADA, module).parent)


def link_student(path, classroom, module):
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    path.parent.parent.symlink_to(classroom.root / "submitted" / ADA)


def pipe(path, classroom, module):
    path.unlink()
    os.mkfifo(path)


def huge(path, classroom, module):
    with path.open("wb") as file:
        file.truncate(200 << 20)  # sparse: it takes no room


def folder(path, classroom, module):
    path.unlink()
    path.mkdir()


def no_file(path, classroom, module):
    path.unlink()


PLACES = [
    (link, "is a link"),
    (link_folder, "is a link"),
    (link_student, "is a link"),
    (pipe, "is no file"),
    (huge, "200 MiB"),
    (folder, "is no file"),
    (no_file, "there is no"),
]


@pytest.mark.parametrize(
    ("place", "problem"), PLACES, ids=lambda part: getattr(part, "__name__", "")
)
def test_only_real_files_are_graded(bench, classroom, place, problem):
    """Links, pipes and files of 200 MB are refused, and the neighbour's marks stay."""
    module = classroom.course.module("02")
    hand_in(classroom, ADA, module, solution(module))
    path = classroom.submission("eve", module)
    path.parent.mkdir(parents=True)
    path.touch()
    place(path, classroom, module)
    results = {r.student: r for r in graded(bench, classroom, [ADA, "eve"])}
    assert problem in results["eve"].problem
    assert results["eve"].points == 0
    assert results[ADA].points == results[ADA].possible - by_hand(results[ADA])
    assert sorted(path.stem for path in classroom.results(module).iterdir()) == [ADA, "eve"]


NAMES = ["..eve", "-eve", "eve eve", "e\nve", "\x1b[31meve", "\u202eeve", "e\u200bve", "[red]eve",
         "e'; DROP TABLE student; --", "%s{0}", "é" * 100, "con", "eve.json"]  # fmt: skip


def test_odd_names_of_students(bench, classroom):
    """A folder may be called anything: results are kept under that name, in their folder."""
    module = classroom.course.module("02")
    for name in [ADA, *NAMES]:
        hand_in(classroom, name, module, solution(module))
    before = {path for path in classroom.root.rglob("*") if ".tito" not in path.parts}
    results = {r.student: r for r in graded(bench, classroom, classroom.students(module))}
    assert sorted(results) == sorted([ADA, *NAMES])
    assert len({result.points for result in results.values()}) == 1
    after = {path for path in classroom.root.rglob("*") if ".tito" not in path.parts}
    assert after == before
    for name in NAMES:
        kept = classroom.results(module) / f"{name}.json"
        assert read_result(kept).student == name


def test_own_exports_that_are_links(bench, classroom):
    """With the policy own, a link among the exports is not followed."""
    module = classroom.course.module("02")
    hand_in(classroom, "eve", module, solution(module))
    secret = classroom.root / "secret.py"
    secret.write_text("raise SystemExit('the secret')\n")
    core = classroom.own_package("eve", module) / "core"
    core.mkdir(parents=True)
    (core / "tensor.py").symlink_to(secret)
    [result] = graded(bench, classroom, ["eve"], policy="own")
    assert "the secret" not in json.dumps([cell.message for cell in result.cells])


def by_hand(result) -> float:
    return sum(cell.possible for cell in result.cells if cell.by_hand)


def graded(bench, classroom, students, policy="reference"):
    """Results of a run over the class, without a sandbox: these attacks are not on it."""
    module = classroom.course.module("02")
    assignment = bench.assignment(isolated=False)
    if policy != "reference":
        assignment = prepare(classroom, module, policy, LIMITS, isolated=False)
        assignment = replace(assignment, limits=LIMITS)
    return list(autograde(classroom, module, assignment, students, jobs=1))
