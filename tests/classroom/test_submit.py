"""Handing in: what is packed, what is told, and that a package arrives as it was sent."""

import json
import os
import re
import shutil
import stat
import zipfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nbformat
import pytest

from tito.classroom.submit import (
    MOST_BYTES,
    MOST_ENTRIES,
    Submission,
    hand_in,
    make_submission,
    read_submission,
)
from tito.course import find_course
from tito.errors import TitoError
from tito.main import main
from tito.notebook import grade_id, read_module, read_notebook, write_notebook
from tito.workspace import Workspace, set_up

course = find_course()
activations = course.module("02")


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A workspace with the notebook of module 02, and a student's own file of 01."""
    root = tmp_path_factory.mktemp("template") / "my-course"
    workspace, _ = set_up(root, course)
    workspace.start(activations)
    own = workspace.completed(course.module("01"))
    own.parent.mkdir(parents=True)
    reference = course.package / course.module("01").file
    own.write_bytes(reference.read_bytes() + b"# my own\n")
    return root


@pytest.fixture
def workspace(template, tmp_path, monkeypatch) -> Workspace:
    root = shutil.copytree(template, tmp_path / "my-course")
    monkeypatch.chdir(root)
    return Workspace(root, course)


@pytest.fixture
def target(tmp_path) -> Path:
    folder = tmp_path / "handed in"
    folder.mkdir()
    return folder


@pytest.fixture
def submit(workspace, target, capsys):
    """Runs the command without tests; gives its data, or the one line of its failure."""

    def run(*options: str, to: Path = target):
        capsys.readouterr()
        words = ["module", "submit", "02", "--to", str(to), "--no-test", "--json", *options]
        status = call(words)
        captured = capsys.readouterr()
        if status:
            assert captured.err.count("\n") == 1
            return captured.err
        return json.loads(captured.out)

    return run


def call(words: list[str]) -> int:
    """The exit status of a command line."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def edit(workspace: Workspace, **sources: str | None) -> None:
    """Write `sources` into the notebook, by grade_id with `_` for `-`; None deletes the cell."""
    path = workspace.notebook(activations)
    notebook = read_notebook(path)
    names = {cell.id: (grade_id(cell) or "").replace("-", "_") for cell in notebook.cells}
    assert set(sources) <= set(names.values())
    for cell in notebook.cells:
        cell.source = sources.get(names[cell.id], cell.source) or ""
    deleted = [name for name, source in sources.items() if source is None]
    notebook.cells = [cell for cell in notebook.cells if names[cell.id] not in deleted]
    write_notebook(path, notebook)


def rezip(path: Path, change) -> None:
    """Write the zip at `path` anew, after `change` to its dict of names and contents."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_a_package_holds_notebook_own_exports_and_receipt(workspace, target, submit):
    data = submit("--student", "ada")
    path = Path(data["file"])
    receipt = data["receipt"]
    assert path == target / f"ada_02_activations_{receipt['hash']}.zip"
    assert re.fullmatch("[0-9a-f]{12}", receipt["hash"])
    assert datetime.fromisoformat(receipt["submitted"]).tzinfo
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [
            "02_activations/activations.ipynb",
            "02_activations/tinytorch/core/tensor.py",
            "02_activations/receipt.json",
        ]
        assert json.loads(archive.read("02_activations/receipt.json")) == receipt
        notebook = workspace.notebook(activations).read_bytes()
        assert archive.read("02_activations/activations.ipynb") == notebook
        assert archive.read("02_activations/tinytorch/core/tensor.py").endswith(b"# my own\n")
    assert list(target.iterdir()) == [path]


def test_a_folder_holds_the_same(submit, target):
    zipped = read_submission(Path(submit("--student", "ada")["file"]))
    data = submit("--student", "ada", "--folder")
    folder = target / f"ada_02_activations_{zipped.hash}"
    assert data["file"] == str(folder)
    assert (folder / "02_activations" / "activations.ipynb").read_bytes() == zipped.notebook
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert read_submission(folder).files == zipped.files


def test_the_same_content_is_said_to_be_there(submit, target):
    first = submit("--student", "ada")
    content = Path(first["file"]).read_bytes()
    again = submit()
    assert (first["new"], again["new"]) == (True, False)
    assert again["receipt"] == first["receipt"]
    assert len(list(target.iterdir())) == 1
    assert Path(first["file"]).read_bytes() == content
    assert submit("--folder")["new"]
    assert not submit("--folder")["new"]


def test_another_content_gets_another_name(workspace, submit, target):
    first = submit("--student", "ada")
    before = Path(first["file"]).read_bytes()
    edit(workspace, relu="relu = abs")
    second = submit()
    assert second["new"]
    assert second["receipt"]["hash"] != first["receipt"]["hash"]
    assert Path(first["file"]).read_bytes() == before
    assert len(list(target.iterdir())) == 2


def test_exports_count_for_the_hash(workspace, submit):
    first = submit("--student", "ada")
    workspace.completed(course.module("01")).unlink()
    second = submit()
    assert (first["own"], second["own"]) == (["core/tensor.py"], [])
    assert first["receipt"]["hash"] != second["receipt"]["hash"]


def test_something_else_under_the_name_stays(submit, target):
    path = Path(submit("--student", "ada")["file"])
    path.write_bytes(b"mine")
    assert f"{path} is no submission" in submit()
    assert path.read_bytes() == b"mine"
    path.unlink()
    hand_in(replace(sample(), student="eve"), target)
    [other] = target.iterdir()
    other.rename(path)
    assert "holds something else: move it away" in submit()


def test_a_zip_depends_on_its_content_alone(tmp_path):
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(hand_in(sample(), tmp_path / name)[0])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_who_hands_in(workspace, submit, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "login")
    assert submit()["receipt"]["student"] == "login"
    assert submit("--student", "ada")["receipt"]["student"] == "ada"
    assert submit()["receipt"]["student"] == "ada"
    assert (workspace.private / "student").read_text() == "ada\n"
    for wrong in ("../eve", "a b", "x" * 101):
        assert "is no student's id" in submit("--student", wrong)
    assert submit()["receipt"]["student"] == "ada"


def test_a_login_name_that_cannot_be_an_id(submit, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "Ada Lovelace")
    assert "who hands in? Give --student ID once" in submit()


def test_what_would_cost_points_is_told(workspace, submit):
    edit(workspace, test_relu="pass", relu=None, answer_collapse="Because it is linear.")
    problems = submit("--student", "ada")["problems"]
    assert problems[:3] == [
        "relu was deleted: nothing stands in its place",
        "test-relu was edited: the course's own is used",
        "tito module update 02 brings the lesson's cells back",
    ]
    assert problems[3].startswith("not answered yet, for 15 points: answer-slopes,")
    assert len(problems) == 4


def test_a_solved_notebook_has_no_problem(workspace, submit):
    written = [cell for cell in read_module(activations).cells if grade_id(cell)]
    solutions = [cell for cell in written if cell.metadata.nbgrader.solution]
    edit(workspace, **{grade_id(cell).replace("-", "_"): cell.source for cell in solutions})
    assert submit("--student", "ada")["problems"] == []


def test_a_notebook_against_the_format_is_told(workspace, submit):
    path = workspace.notebook(activations)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"][1]["id"] = notebook["cells"][0]["id"]
    notebook["cells"][2]["colour"] = "red"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert "breaks the rules of the format" in submit("--student", "ada")["problems"][0]


def test_an_unreadable_notebook_is_not_handed_in(workspace, submit, target):
    workspace.notebook(activations).write_text('{"cells": [')
    assert "is not a readable notebook" in submit("--student", "ada")
    assert list(target.iterdir()) == []


def test_the_notebook_of_another_module_is_not_handed_in(workspace, submit, target):
    write_notebook(workspace.notebook(activations), read_module(course.module("03")))
    assert submit("--student", "ada") == (
        "activations.ipynb is no notebook of 02_activations: it exports core.layers, not "
        "core.activations; tito module update 02 puts your solutions into the lesson again\n"
    )
    assert list(target.iterdir()) == []


def test_a_notebook_full_of_outputs_is_not_handed_in(workspace, submit, target, monkeypatch):
    monkeypatch.setattr("tito.classroom.submit.MOST_BYTES", 1_000_000)
    path = workspace.notebook(activations)
    notebook = read_notebook(path)
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.outputs = [nbformat.v4.new_output("stream", text="x" * 1_000_000)]
    write_notebook(path, notebook)
    assert "clear the notebook's outputs" in submit("--student", "ada")
    assert list(target.iterdir()) == []


def test_a_folder_that_is_not_there(submit, tmp_path):
    assert "there is no folder" in submit("--student", "ada", to=tmp_path / "typo")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that refuses")
def test_a_folder_that_refuses(submit, target):
    target.chmod(0o500)
    assert "Permission denied" in submit("--student", "ada")


@pytest.mark.slow
def test_the_tests_are_tried_and_their_points_printed(workspace, target, capsys):
    """A syntax error, too, keeps nobody from handing in."""
    words = ["module", "submit", "02", "--to", str(target), "--student", "ada"]
    assert call(words) == 0
    out = capsys.readouterr().out
    assert "to do  test-relu" in out
    assert "0 of 80 points, and 20 for a person to give" in out
    assert f"Handed in: {target}/ada_02_activations_" in out
    assert workspace.progress().tested["02_activations"].points == 0
    edit(workspace, relu="#| export\ndef relu(x:\n")
    assert call(words) == 0
    out = capsys.readouterr().out
    assert "the tests could not be tried: 02_activations, cell relu, line 2" in out
    assert len(list(target.iterdir())) == 2


# --- at the instructor's ---


def sample() -> Submission:
    exports = {"tinytorch/core/tensor.py": b"x = 1\n", "tinytorch/text/bpe.py": b"y = 2\n"}
    time = "2026-11-22T14:00:00+01:00"
    return Submission("ada", "02_activations", b"{}", exports, time, "0.1.0")


@pytest.fixture(params=["zip", "folder"])
def package(request, tmp_path) -> Path:
    return hand_in(sample(), tmp_path, as_zip=request.param == "zip")[0]


def test_what_was_sent_arrives(package, tmp_path):
    assert read_submission(package) == sample()
    assert read_submission(package.rename(tmp_path / "renamed")) == sample()


def change_file(package: Path, name: str, content: bytes) -> None:
    name = f"02_activations/{name}"
    if package.is_dir():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_bytes(content)
    else:
        rezip(package, lambda files: files.update({name: content}))


def receipt_with(**changed) -> bytes:
    return json.dumps(sample().receipt | changed).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("activations.ipynb", b"{ }", "it was changed after it was handed in"),
        ("tinytorch/core/tensor.py", b"x = 2\n", "it was changed after it was handed in"),
        ("tinytorch/core/more.py", b"x = 2\n", "it was changed after it was handed in"),
        ("receipt.json", b"{", "is no submission"),
        ("receipt.json", b"[]", "is no submission"),
        ("receipt.json", b"[" * 100_000, "is no submission"),
        ("receipt.json", b"{}", "is no submission: 'student'"),
        ("receipt.json", receipt_with(student="../eve"), "is no student's id"),
        ("receipt.json", receipt_with(student=7), "its receipt is damaged"),
        ("receipt.json", receipt_with(module="../02_x"), "its receipt names the module"),
        ("receipt.json", receipt_with(module="03_layers"), "is no submission: 'layers.ipynb'"),
        ("receipt.json", receipt_with(submitted="soon"), "is no submission"),
        ("receipt.json", receipt_with(submitted="2026-11-22T14:00:00"), "time without a zone"),
        ("receipt.json", receipt_with(hash="\x1b[31m"), "its receipt is damaged"),
    ],
)
def test_a_changed_package_is_refused(package, name, content, message):
    change_file(package, name, content)
    with pytest.raises(TitoError) as caught:
        read_submission(package)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_an_archiver_adds_is_passed_over(package):
    change_file(package, ".DS_Store", b"junk")
    change_file(package, "notes.txt", b"junk")
    assert read_submission(package) == sample()


def test_a_folder_packed_by_hand_is_read(tmp_path):
    folder, _ = hand_in(sample(), tmp_path, as_zip=False)
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path, folder.name)
    assert read_submission(Path(archive)) == sample()


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path, _ = hand_in(sample(), tmp_path)
    bomb = bytes(MOST_BYTES + 1)
    rezip(path, lambda files: files.update({"02_activations/activations.ipynb": bomb}))
    assert path.stat().st_size < 100_000
    with pytest.raises(TitoError, match="it holds more than 50 MB"):
        read_submission(path)


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    path, _ = hand_in(replace(sample(), notebook=b"x" * 1000), tmp_path)
    content = path.read_bytes()
    size = (1000).to_bytes(4, "little")
    assert size in content
    path.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(TitoError, match="is no submission"):
        read_submission(path)


def test_too_many_files_are_refused(package):
    if package.is_dir():
        for i in range(MOST_ENTRIES):
            (package / f"{i}.txt").touch()
    else:
        rezip(package, lambda files: files.update({f"{i}": b"" for i in range(MOST_ENTRIES)}))
    with pytest.raises(TitoError, match="files"):
        read_submission(package)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_refused(tmp_path):
    path, _ = hand_in(sample(), tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("02_activations/activations.ipynb", b"{}")
    with pytest.raises(TitoError, match="two files of one name"):
        read_submission(path)


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(sample().notebook)
    path, _ = hand_in(sample(), tmp_path, as_zip=False)
    notebook = path / "02_activations" / "activations.ipynb"
    notebook.unlink()
    notebook.symlink_to(secret)
    with pytest.raises(TitoError, match=r"activations\.ipynb"):
        read_submission(path)


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_a_pipe_or_a_link_is_not_opened(tmp_path):
    """Opening a pipe would wait for ever."""
    path, _ = hand_in(sample(), tmp_path)
    (tmp_path / "link.zip").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.zip")
    for name in ("link.zip", "pipe.zip", "nothing.zip"):
        with pytest.raises(TitoError, match=f"{name} is no submission"):
            read_submission(tmp_path / name)


def test_unusual_compression_is_refused(tmp_path):
    """LZMA unpacks all at once, whatever size the entry claims."""
    path, _ = hand_in(sample(), tmp_path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(TitoError, match="compressed in an unusual way"):
        read_submission(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", os.urandom(1000)])
def test_what_is_no_zip_is_refused(tmp_path, content):
    (tmp_path / "file.zip").write_bytes(content)
    with pytest.raises(TitoError, match=r"file\.zip is no submission"):
        read_submission(tmp_path / "file.zip")


def test_nothing_is_left_of_a_package_that_could_not_be_written(workspace, target, monkeypatch):
    submission = make_submission(workspace, activations, "ada")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    for as_zip in (True, False):
        with pytest.raises(OSError, match="No space"):
            hand_in(submission, target, as_zip)
    assert list(target.iterdir()) == []
