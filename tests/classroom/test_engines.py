"""The fast grader and nbgrader's real kernels, side by side, on every module."""

import json
from dataclasses import replace

import pytest
from graders import cell, course, lost, sources, wrongs
from marked import tito
from submissions import hand_in, solution, stub, with_cells

from tito.classroom import kernel
from tito.classroom.creation import make_classroom
from tito.classroom.nbgrader_engine import grade as grade_by_nbgrader
from tito.classroom.results import read_results, write_result
from tito.classroom.source import release

pytestmark = pytest.mark.slow
HOMES = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
every_module = pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A course folder with all modules; the kernel that grades is installed."""
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        for name in HOMES:
            patch.setenv(name, str(folder / name.lower()))
        kernel.install()
        yield make_classroom(folder / "class", course)[0]


@pytest.fixture
def classroom(everything, monkeypatch):
    """The same, as the current folder."""
    monkeypatch.chdir(everything.root)
    return everything


def by_student(classroom, module, engine="fast"):
    return {result.student: result for result in read_results(classroom, module, engine)}


@every_module
def test_the_fast_one_gives_solutions_everything_and_stubs_nothing(classroom, module, capsys):
    release(classroom, module)
    hand_in(classroom, "right", module, solution(module))
    hand_in(classroom, "stub", module, stub(module))
    ran = tito(capsys, "grade", "autograde", module.number, "--json")
    assert ran.status == 0, ran.err
    found = by_student(classroom, module)
    assert lost(found["right"]) == {} and found["right"].flags == []
    assert found["right"].possible == 100
    assert found["stub"].points == 0 and found["stub"].flags == []


@every_module
def test_nbgrader_gives_solutions_everything(classroom, module):
    release(classroom, module)
    hand_in(classroom, "right", module, solution(module))
    found = []
    grade_by_nbgrader(classroom, module, ["right"], found.append)
    assert found[0].problem == "" and lost(found[0]) == {}


@pytest.mark.parametrize("module", course.modules[:4], ids=lambda module: module.folder)
def test_they_agree_on_wrong_solutions(classroom, module, capsys):
    release(classroom, module)
    chosen = wrongs(module)
    for wrong in (chosen[0], chosen[len(chosen) // 2], chosen[-1]):
        code = wrong.apply(sources(module)[wrong.grade_id])
        notebook = with_cells(solution(module), {wrong.grade_id: code})
        hand_in(classroom, f"wrong-{wrong.grade_id}", module, notebook)
    hand_in(classroom, "stub", module, stub(module))
    autograde = ["grade", "autograde", module.number, "--students", "[sw]*"]
    assert tito(capsys, *autograde).status == 0
    compare = ["grade", "compare", module.number, "--students", "[sw]*"]
    ran = tito(capsys, *compare)
    assert ran.status == 0, ran.out
    assert "the same marks" in ran.out

    # a disagreement, forged, is told cell by cell
    result = by_student(classroom, module)["stub"]
    forged = result.cells[0]
    cells = [replace(forged, points=forged.possible, message=""), *result.cells[1:]]
    write_result(classroom, module, replace(result, cells=cells))
    ran = tito(capsys, *compare, "--json")
    assert ran.status == 1
    [row] = json.loads(ran.out)["rows"]
    assert (row["student"], row["cell"]) == ("stub", forged.id)
    assert (row["fast"], row["nbgrader"]) == (forged.possible, 0)
    assert (
        row["says_nbgrader"]
        == cell(by_student(classroom, module, "nbgrader")["stub"], forged.id).message
    )
    said = tito(capsys, *compare).out
    assert f"stub {forged.id}: fast {forged.possible:g}, nbgrader 0" in said
    assert "1 difference, of 1 student." in said
