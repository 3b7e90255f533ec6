"""The workspace: made once, filled with the right files, and nothing in it ever lost."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest

from tito import kernel
from tito.errors import TitoError
from tito.workspace import Workspace, find_root

MINE = "# %% modules/02_activations/activations.ipynb\n__all__ = ['relu']\n"


def holds(workspace: Workspace) -> dict[str, str]:
    """Whose file tinytorch/ holds of each module."""
    return {module.number: workspace.origin(module) for module in workspace.course.modules}


@pytest.fixture
def place(course, workspace) -> Workspace:
    """A new workspace, to be worked with from Python."""
    return Workspace(workspace, course)


def complete(workspace: Workspace, number: str, text: str = MINE) -> None:
    workspace.complete(workspace.course.module(number), text, "hash of the code")


def test_setup_makes_a_workspace(tito, tmp_path):
    ran = tito("setup", str(tmp_path / "my-course"), "--json")
    root = tmp_path / "my-course"
    assert ran.status == 0
    assert ran.data["made"] == ["tito.toml", "modules", "tinytorch"]
    assert (root / "tito.toml").is_file()
    assert (root / "modules").is_dir()
    files = {path.name for path in (root / "tinytorch").iterdir() if path.is_file()}
    assert files == {"__init__.py", "__init__.pyi", "_index.py"}


def test_the_empty_package_imports_and_says_what_brings_a_name(workspace):
    code = "import tinytorch\ntry: tinytorch.relu\nexcept AttributeError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = "tinytorch.relu comes with module 02_activations: tito module start 02\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_setup_again_completes_and_overwrites_nothing(tito, workspace):
    (workspace / "tito.toml").write_text("# mine\n", encoding="utf-8")
    (workspace / "tinytorch" / "notes.py").write_text("kept = True\n", encoding="utf-8")
    (workspace / "modules").rmdir()
    ran = tito("setup", str(workspace), "--json")
    assert ran.data["made"] == ["modules"]
    assert (workspace / "tito.toml").read_text(encoding="utf-8") == "# mine\n"
    assert (workspace / "tinytorch" / "notes.py").is_file()
    assert tito("setup", "--json").data["made"] == []


def test_setup_refuses_a_folder_of_other_things(tito, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    ran = tito("setup", str(tmp_path / "thesis"))
    assert ran.status == 1
    assert ran.err == (
        f"{tmp_path / 'thesis'} holds other things (chapter.tex, ...): "
        "give a new folder, as in tito setup my-course\n"
    )
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_setup_takes_a_fresh_repository(tito, tmp_path):
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    assert tito("setup", str(tmp_path / "clone")).status == 0


@pytest.mark.parametrize("name", ["file", "file/child"])
def test_setup_where_a_file_is_in_the_way(tito, tmp_path, name):
    (tmp_path / "file").touch()
    ran = tito("setup", str(tmp_path / name))
    assert ran.status == 1
    assert ran.err.count("\n") == 1
    assert str(tmp_path / "file") in ran.err


def test_commands_find_the_workspace_from_below(tito, workspace, monkeypatch):
    below = workspace / "modules" / "some" / "where"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert tito("module", "status", "--json").data["workspace"] == str(workspace)


@pytest.mark.parametrize("words", [("status",), ("start", "02"), ("complete", "02")], ids=" ".join)
def test_outside_a_workspace(tito, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    ran = tito("module", *words)
    assert (ran.status, ran.err) == (
        1,
        "no tito.toml here or above: run tito setup my-course\n",
    )


# --- which files tinytorch/ holds ---


def test_skipped_modules_come_from_the_reference(place):
    place.start(place.course.module("03"))
    assert holds(place) == {"01": "reference", "02": "reference", "03": ""}


def test_completed_modules_are_the_students(place):
    complete(place, "02")
    assert holds(place) == {"01": "reference", "02": "yours", "03": ""}
    assert (place.package / "core" / "activations.py").read_text(encoding="utf-8") == MINE
    place.start(place.course.module("03"))
    assert holds(place) == {"01": "reference", "02": "yours", "03": ""}


def test_going_back_hides_what_comes_later_and_loses_nothing(place):
    complete(place, "02")
    complete(place, "03", MINE.replace("relu", "scale"))
    place.start(place.course.module("02"))
    assert holds(place) == {"01": "reference", "02": "", "03": ""}
    complete(place, "02", MINE + "# better\n")
    assert holds(place) == {"01": "reference", "02": "yours", "03": "yours"}
    text = (place.package / "core" / "activations.py").read_text(encoding="utf-8")
    assert text.endswith("# better\n")
    assert not place.notes


def test_completing_an_earlier_module_leaves_the_later_ones(place):
    place.start(place.course.module("03"))
    complete(place, "01", MINE.replace("relu", "Tensor"))
    assert holds(place) == {"01": "yours", "02": "reference", "03": ""}


def test_the_facades_offer_what_is_there(place):
    place.start(place.course.module("02"))
    stub = (place.package / "__init__.pyi").read_text(encoding="utf-8")
    assert "Tensor" in stub
    assert "relu" not in stub


def test_edits_in_the_package_are_kept(place):
    """The folder is tito's to fill, but what a student wrote there isn't tito's to delete."""
    complete(place, "02")
    file = place.package / "core" / "activations.py"
    file.write_text("# a late idea\n", encoding="utf-8")
    place.start(place.course.module("02"))
    assert not file.exists()
    [backup] = (place.private / "backups" / "tinytorch").iterdir()
    assert backup.read_text(encoding="utf-8") == "# a late idea\n"
    assert place.relative(backup) in place.notes[0]


def test_a_newer_reference_replaces_the_older_without_a_backup(place):
    place.start(place.course.module("03"))
    reference = place.course.package / "core" / "activations.py"
    reference.write_text(reference.read_text(encoding="utf-8") + "# newer\n", encoding="utf-8")
    place.start(place.course.module("03"))
    copied = (place.package / "core" / "activations.py").read_text(encoding="utf-8")
    assert copied.endswith("# newer\n")
    assert not (place.private / "backups").exists()


# --- what can go wrong ---


def test_damaged_progress_is_made_anew(tito, workspace, course):
    place = Workspace(workspace, course)
    complete(place, "02")
    place.progress_file.write_text('{"format": 1, "completed"', encoding="utf-8")
    ran = tito("module", "status")
    assert ran.status == 0
    assert re.search(r"02_activations +yours", ran.out)
    assert "Note: .tito/progress.json is damaged" in ran.out
    assert tito("module", "start", "03").status == 0
    [backup] = (place.private / "backups" / "progress").iterdir()
    assert backup.read_text(encoding="utf-8") == '{"format": 1, "completed"'
    assert holds(place) == {"01": "reference", "02": "yours", "03": ""}
    assert "Note" not in tito("module", "status").out


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"format": 2}', '{"format": 1, "reach": "x"}', "\0\1"]
)
def test_any_damage_to_progress_is_noticed(place, text):
    complete(place, "02")
    place.progress_file.write_text(text, encoding="utf-8")
    progress = place.progress()
    assert "is damaged" in place.notes[0]
    assert list(progress.completed) == ["02_activations"]
    assert progress.reach == "02"


def test_without_the_private_folder_the_students_files_are_found_again(place):
    complete(place, "02")
    for path in sorted(place.private.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    place.start(place.course.module("03"))
    assert holds(place) == {"01": "reference", "02": "yours", "03": ""}
    assert list(place.progress().completed) == ["02_activations"]


def test_without_the_package_it_is_filled_again(tito, workspace, course):
    place = Workspace(workspace, course)
    complete(place, "02")
    (place.package / "core" / "activations.py").unlink()
    assert tito("setup", str(workspace)).status == 0
    assert holds(place)["02"] == "yours"


@pytest.fixture
def refuse_writes(workspace, monkeypatch):
    """Lets the system refuse every new file in the workspace, with an error number."""
    replace = os.replace

    def install(number: int) -> None:
        def refuse(source, target):
            if str(target).startswith(str(workspace)):
                raise OSError(number, os.strerror(number), str(target))
            replace(source, target)

        monkeypatch.setattr(os, "replace", refuse)

    return install


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written(tito, workspace, course, refuse_writes, number):
    """One line that names the file and what to do; everything stays as it was."""
    complete(Workspace(workspace, course), "02")
    tito("module", "start", "03")
    files = [path for path in workspace.rglob("*") if path.is_file() and path.name != "lock"]
    before = {path: path.read_bytes() for path in files}
    refuse_writes(number)
    for words in (("start", "02"), ("reset", "03")):
        ran = tito("module", *words)
        assert ran.status == 1
        assert ran.err.count("\n") == 1
        assert ran.err.startswith(f"can't write {workspace}")
        assert os.strerror(number) in ran.err
    after = [path for path in workspace.rglob("*") if path.is_file() and path.name != "lock"]
    unchanged = {path: path.read_bytes() for path in after if path in before}
    assert unchanged == before


def test_a_read_only_folder_can_be_looked_at_and_tested(tito, workspace, write, refuse_writes):
    tito("module", "start", "02")
    write("02")
    refuse_writes(errno.EACCES)
    assert tito("module", "status").status == 0
    data = tito("module", "test", "02", "--json").data
    assert data["ok"]
    assert data["notes"][0].startswith(f"the result was not recorded: can't write {workspace}")


def test_another_tito_at_work(place, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr("tito.workspace.LOCK_SECONDS", 0.01)
    with (
        FileLock(place.private / "lock"),
        pytest.raises(TitoError, match="another tito is at work in"),
    ):
        place.start(place.course.module("01"))


# --- the kernel ---


def test_setup_registers_the_kernel(tito, workspace, tmp_path):
    tito("setup")
    spec = tmp_path / "jupyter" / "kernels" / "tinytorch" / "kernel.json"
    described = json.loads(spec.read_text(encoding="utf-8"))
    assert described["display_name"] == "TinyTorch"
    assert described["argv"] == kernel.ARGUMENTS == kernel.installed()
    assert described["argv"][0] == sys.executable


def test_setup_without_a_writable_jupyter_folder(tito, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file"))
    ran = tito("setup", str(tmp_path / "my-course"))
    assert ran.status == 0
    assert "the kernel was not installed" in ran.out


def test_the_root_is_found_upwards(place, tmp_path):
    assert find_root(place.root / "modules") == place.root
    assert find_root(place.root) == place.root
    assert find_root(tmp_path / "elsewhere") is None


@pytest.mark.slow
def test_the_kernel_imports_the_workspaces_package(tito, workspace, course):
    """A real kernel, started as Jupyter does: in the notebook's folder."""
    from jupyter_client.manager import start_new_kernel

    complete(Workspace(workspace, course), "02")
    tito("setup")
    tito("module", "start", "03")
    manager, client = start_new_kernel(
        kernel_name="tinytorch", cwd=str(workspace / "modules" / "03_layers")
    )
    try:
        printed = []
        client.execute_interactive(
            "import subprocess, sys\n"
            "import tinytorch.core.activations as activations\n"
            "print(activations.__file__)\n"
            "child = [sys.executable, '-c', 'import tinytorch; print(tinytorch.__file__)']\n"
            "print(subprocess.run(child, capture_output=True, text=True).stdout)\n",
            timeout=60,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
        assert "".join(printed).split() == [
            str(workspace / "tinytorch" / "core" / "activations.py"),
            str(workspace / "tinytorch" / "__init__.py"),
        ]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
