"""What the doctor finds in a submissions folder, and that it changes nothing."""

import json
import os
import shutil

import pytest
from marked import tito
from nbformat import from_dict
from submissions import hand_in, solution, stub, with_cells

from tito.classroom.diagnosis import Doctor, look_around
from tito.classroom.submission import LARGEST
from tito.notebook import grade_id

ROSTER = ("ada", "grace", "linus")


@pytest.fixture
def module(classroom):
    return classroom.course.module("02")


@pytest.fixture(scope="module")
def solved():
    """The solution of module 02 as a dict, to change at will."""
    from tito.course import find_course

    return solution(find_course().module("02"))


@pytest.fixture
def handed_in(classroom, module, solved):
    """Ada's perfect notebook."""
    return hand_in(classroom, "ada", module, solved)


@pytest.fixture
def look(classroom, module):
    """What is found in a student's submission of module 02, as "what: what to do"."""

    def found(student="ada", policy="reference") -> list[str]:
        findings = Doctor(classroom, module, policy, ROSTER).look(student)
        return [f"{finding.found}: {finding.advice}" for finding in findings]

    return found


def change(path, **keys):
    """Other values for some of a notebook's own keys."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | keys))


def test_nothing_is_wrong_with_a_solution(handed_in, look):
    assert look() == []


def test_a_student_whom_the_gradebook_does_not_know(classroom, module, solved, look):
    hand_in(classroom, "eve o'x", module, solved)
    [line] = look("eve o'x")
    assert line == (
        "the student is not in the gradebook: "
        """nbgrader db student add 'eve o'"'"'x', or rename the folder"""
    )


@pytest.mark.parametrize("text", ["", "{", '{"cells": [}', "\0\0", "[" * 100_000])
def test_no_json(handed_in, look, text):
    handed_in.write_text(text)
    [line] = look()
    assert line.startswith("activations.ipynb is no valid JSON")
    assert line.endswith(": ask for the notebook again")
    assert len(line) < 200


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"nbformat": 4, "cells": 5}'])
def test_json_that_is_no_notebook(handed_in, look, text):
    handed_in.write_text(text)
    assert look() == ["activations.ipynb is no notebook: ask for the notebook again"]


def test_a_notebook_of_another_format(handed_in, look):
    change(handed_in, nbformat=3)
    [line] = look()
    assert (
        line == "activations.ipynb has notebook format 3, not 4: open and save it in JupyterLab 4"
    )


def test_a_notebook_that_is_too_large(handed_in, look):
    os.truncate(handed_in, LARGEST + 1)
    [line] = look()
    assert line.startswith("activations.ipynb has 20 MB, more than 20: clear its outputs")


@pytest.mark.parametrize(
    "kernel, language, wrong",
    [
        ({"name": "ir", "language": "R"}, {}, "ir"),
        ({"name": "xeus"}, {"name": "c++"}, "xeus"),
        ({"name": "unheard"}, {}, "unheard"),
        ({"name": "conda-env-x-py", "language": "python"}, {}, ""),
        ({"name": "python3"}, {}, ""),
        ({}, {}, ""),
        ("R", [], ""),
    ],
)
def test_a_kernel_that_is_not_python(handed_in, look, kernel, language, wrong):
    change(handed_in, metadata={"kernelspec": kernel, "language_info": language})
    advice = "grading uses its own; look whether the code is Python"
    assert look() == ([f"the kernel is {wrong}, not tinytorch: {advice}"] if wrong else [])


def test_the_notebook_of_another_module(classroom, module, look):
    hand_in(classroom, "ada", module, solution(classroom.course.module("01")))
    [line] = look()
    assert line.startswith("activations.ipynb is the notebook of 01_tensor: move it to 01_tensor")


def test_a_stub_in_which_nothing_was_written(classroom, module, look):
    notebook = stub(module)
    hand_in(classroom, "ada", module, notebook)
    assert look() == [
        "nothing is written: all solutions are as released: ask for the saved notebook"
    ]
    hand_in(classroom, "ada", module, with_cells(notebook, {"relu": "relu = max"}))
    assert look() == []


def test_deleted_edited_and_copied_cells(classroom, module, solved, look):
    notebook = from_dict(solved)
    names = [grade_id(cell) or "" for cell in notebook.cells]
    deleted, edited, copied = [name for name in names if name.startswith("test-")][:3]
    notebook = with_cells(notebook, {edited: "pass"})
    notebook.cells = [cell for cell in notebook.cells if grade_id(cell) != deleted]
    again = next(cell for cell in notebook.cells if grade_id(cell) == copied)
    notebook.cells.append(from_dict(again | {"id": "another"}))
    hand_in(classroom, "ada", module, notebook)
    found = look()
    assert f"{deleted} was deleted: the course's own is used" in found
    assert f"{edited} was edited: the course's own is used" in found
    assert any(line.startswith(f"{copied} is there 2 times: ") for line in found)
    assert len(found) == 3


def test_a_wrong_file_name(handed_in, look):
    handed_in.rename(handed_in.with_name("activations (1).ipynb"))
    assert look() == [
        "the notebook is called activations (1).ipynb: rename it to activations.ipynb"
    ]
    shutil.copy(handed_in.with_name("activations (1).ipynb"), handed_in.with_name("b.ipynb"))
    assert look() == [
        "no activations.ipynb, but activations (1).ipynb, b.ipynb: "
        "rename the right one to activations.ipynb"
    ]


def test_several_notebooks(handed_in, look):
    shutil.copy(handed_in, handed_in.with_name("copy.ipynb"))
    checkpoints = handed_in.parent / ".ipynb_checkpoints"
    checkpoints.mkdir()
    shutil.copy(handed_in, checkpoints)
    assert look() == [
        "more notebooks than one: copy.ipynb: activations.ipynb counts; delete the others"
    ]


def test_no_notebook(handed_in, look):
    handed_in.unlink()
    assert look() == ["no activations.ipynb in the folder: ask for the notebook"]
    handed_in.with_name("timestamp.txt").unlink()
    assert look() == ["the folder is empty: ask for the notebook, or delete the folder"]


def test_symbolic_links_are_not_followed(classroom, module, handed_in, look):
    secret = classroom.source(module)
    (handed_in.parent / "data").mkdir()
    (handed_in.parent / "data" / "up").symlink_to("..")
    handed_in.unlink()
    handed_in.symlink_to(secret)
    advice = "replace it by a plain copy of the file or folder"
    assert look() == [
        f"activations.ipynb is a symbolic link: {advice}",
        f"{os.path.join('data', 'up')} is a symbolic link: {advice}",
        "no activations.ipynb in the folder: ask for the notebook",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_nobody_waits_at_a_pipe(handed_in, look):
    handed_in.unlink()
    os.mkfifo(handed_in)
    assert look()[0].startswith("activations.ipynb is a pipe or device: ")


@pytest.mark.parametrize("level", [0, 1])
def test_a_folder_that_is_a_symbolic_link(classroom, handed_in, look, level):
    folder = handed_in.parents[level]
    elsewhere = classroom.root / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    assert look() == [
        f"{folder.name} is a symbolic link: replace it by a plain copy of the file or folder"
    ]


def test_what_can_not_be_read(handed_in, look, monkeypatch):
    """The system's refusal is simulated: root, whom CI may run as, may read everything."""
    read = type(handed_in).read_bytes

    def refuse(path):
        if path == handed_in:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(type(handed_in), "read_bytes", refuse)
    place = os.path.join("submitted", "ada", "02_activations", "activations.ipynb")
    assert look() == [f"{place} can't be read: Permission denied: mend its owner or permissions"]


def test_a_file_in_place_of_the_folder(handed_in, look):
    shutil.rmtree(handed_in.parent)
    handed_in.parent.write_text("")
    [line] = look()
    assert "can't be read: Not a directory" in line


def test_own_exports_for_the_policy(classroom, module, handed_in, look):
    assert look(policy="reference") == []
    [line] = look(policy="own")
    assert line.startswith("no own exports of 01 for --policy own: the reference's stand in")
    own = classroom.own_package("ada", module) / "core" / "tensor.py"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert look(policy="own") == []


def test_damaged_cells_end_nothing(handed_in, look):
    cells = json.loads(handed_in.read_text(encoding="utf-8"))["cells"]
    odd = [None, 3, {}, {"source": 5, "metadata": {"nbgrader": {"grade_id": "relu"}}}]
    odd.append({"source": "", "metadata": {"nbgrader": {"grade_id": ["x"]}}, "cell_type": []})
    change(handed_in, cells=cells + odd)
    assert any("is damaged" in line for line in look())


def test_what_lies_around(classroom, handed_in):
    submitted = classroom.root / "submitted"
    (submitted / "notes.txt").write_text("")
    (submitted / ".hidden").write_text("")
    (submitted / "ada" / "activations").mkdir()
    (submitted / "grace").mkdir()
    (submitted / "linus").symlink_to("ada")
    found = {(each.student, each.found) for each in look_around(classroom)}
    assert found == {
        ("notes.txt", "is a file, no student's folder"),
        ("ada", "activations is no module's folder"),
        ("grace", "handed nothing in: the folder is empty"),
        ("linus", "is a symbolic link"),
    }
    assert [each.student for each in look_around(classroom, "g*")] == ["grace"]


def test_the_exit_status_says_whether_all_is_well(classroom, handed_in, capsys):
    ran = tito(capsys, "grade", "doctor", "02")
    assert (ran.status, ran.out) == (0, "1 submission: nothing is wrong\n")
    shutil.copy(handed_in, handed_in.with_name("[red]\x1b[2J.ipynb"))
    ran = tito(capsys, "grade", "doctor")
    assert ran.status == 1
    assert r"more notebooks than one: [red]\x1b[2J.ipynb" in ran.out
    assert "\x1b" not in ran.out
    data = json.loads(tito(capsys, "grade", "doctor", "--json").out)
    assert (data["ok"], data["submissions"], len(data["findings"])) == (False, 1, 1)
    assert tito(capsys, "grade", "doctor", "--students", "g*").status == 0


def test_without_submissions(classroom, capsys):
    shutil.rmtree(classroom.root / "submitted", ignore_errors=True)
    ran = tito(capsys, "grade", "doctor")
    assert ran.status == 1
    assert "run tito grade collect" in ran.err


def test_the_doctor_changes_nothing(classroom, module, handed_in, capsys):
    hand_in(classroom, "linus", module, stub(module))
    shutil.copy(handed_in, handed_in.with_name("copy.ipynb"))

    def state():
        files = [path for path in classroom.root.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    assert tito(capsys, "grade", "doctor", "--policy", "own").status == 1
    assert state() == before
