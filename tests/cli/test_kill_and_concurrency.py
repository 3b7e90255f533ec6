"""A command that is killed at any moment, or runs beside another one, loses and breaks nothing."""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tito import export, progress
from tito.course import Course
from tito.notebook import read_module, read_notebook
from tito.progress import LastTest
from tito.workspace import Workspace

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of this process")

OWN = "# %% modules/02_activations/activations.ipynb\n__all__ = ['relu']\n"
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate")
WRITES = ("write", "fsync")


def in_a_fork(action: Callable[[], None]) -> Callable[[], int]:
    """Start `action` in a child process; call the result to wait for its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_before(step: int, root: Path) -> None:
    """Kill this process when it is about to change something in `root`, or to write into an open
    file, for the step-th time."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_event(event: str, arguments: tuple) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(str(root)):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            count()

    def on_call(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in WRITES:
            count()

    sys.addaudithook(on_event)
    sys.setprofile(on_call)


def setup(place: Workspace) -> None:
    place.create()


def start(place: Workspace) -> None:
    place.start(place.course.module("03"))


def go_back(place: Workspace) -> None:
    place.start(place.course.module("01"))


def test(place: Workspace) -> None:
    place.record_test(place.course.module("02"), LastTest("today", 1, 0, 60, 60))


test.__test__ = False  # type: ignore[attr-defined]  # a command, as the others


def complete(place: Workspace) -> None:
    place.complete(place.course.module("02"), OWN, "code")


def complete_again(place: Workspace) -> None:
    place.complete(place.course.module("02"), OWN + "# better\n", "code")


def reset(place: Workspace) -> None:
    place.reset(place.course.module("02"))


def update(place: Workspace) -> None:
    place.update(place.course.module("02"))


def prepare(place: Workspace, action: Callable) -> None:
    """A student in the middle of module 02, who wrote a solution."""
    if action is setup:
        shutil.rmtree(place.root)
        place.root.mkdir()
        return
    module = place.course.module("02")
    place.start(module)
    notebook = place.notebook(module)
    text = notebook.read_text(encoding="utf-8")
    notebook.write_text(text.replace("raise NotImplementedError()", "return 'mine'"))
    if action in (complete_again, go_back, reset):
        complete(place)
    if action is update:
        source = module.source.read_text(encoding="utf-8")
        module.source.write_text(source.replace("## Relu", "## A better title"))


def contents(root: Path) -> dict[str, bytes]:
    """The files of a workspace, apart from the lock and what a killed write left behind."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "lock" and path.name[0] != "."
    }


def essential(root: Path) -> dict[str, bytes]:
    """What must be the same whether or not a command was killed once: all but dates and backups."""
    return {
        name: content
        for name, content in contents(root).items()
        if "backups/" not in name and not name.endswith("progress.json")
    }


@pytest.fixture
def quick(monkeypatch) -> None:
    """Each lesson goes through nbgrader once."""
    made: dict[str, str] = {}
    original = Workspace._lesson

    def lesson(self: Workspace, module):
        import nbformat

        key = module.source.read_text(encoding="utf-8")
        if key not in made:
            made[key] = nbformat.writes(original(self, module))
        return nbformat.reads(made[key], 4)

    monkeypatch.setattr(Workspace, "_lesson", lesson)


@pytest.mark.parametrize(
    "action",
    [
        start,
        complete_again,
        reset,
        update,
        *[pytest.param(each, marks=pytest.mark.slow) for each in (setup, go_back, test, complete)],
    ],
)
def test_killed_at_any_moment(action, workspace: Path, course: Course, tmp_path, quick):
    prepare(Workspace(workspace, course), action)
    before = contents(workspace)
    done = shutil.copytree(workspace, tmp_path / "done")
    action(Workspace(done, course))
    after = contents(done)
    assert before != after or action is test

    step, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        step += 1
        root = shutil.copytree(workspace, tmp_path / f"killed-{step}")
        place = Workspace(root, course)

        def run(root: Path = root, place: Workspace = place, step: int = step) -> None:
            die_before(step, root)
            action(place)

        status = in_a_fork(run)()
        left = contents(root)
        for name, content in left.items():
            if "backups/" in name or name.endswith("progress.json"):
                continue
            assert content in (before.get(name), after.get(name)), f"step {step}: {name} is broken"
        for name, content in before.items():
            if name.startswith("modules/"):
                assert content in left.values(), f"step {step}: {name} is lost"
        if ".tito/progress.json" in left:
            progress.read(place.progress_file)
        action(place)
        assert essential(root) == essential(done), f"step {step}: the next command does not mend it"
        assert not place.notes
        shutil.rmtree(root)
    assert status == 0
    assert step > 4, "the kills hit something"


def test_an_export_killed_at_any_moment_keeps_a_whole_package(course: Course, tmp_path):
    source = course.module("02").source
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("LIMIT = 3.0", "LIMIT = 4.0"), encoding="utf-8")
    read_module(source)
    before = contents(course.package)
    step, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        step += 1
        copy = shutil.copytree(course.package, tmp_path / f"killed-{step}")

        def run(copy: Path = copy, step: int = step) -> None:
            die_before(step, copy)
            export.export(Course(course.root, copy))

        status = in_a_fork(run)()
        left = contents(copy)
        assert set(left) == set(before)
        changed = left["core/activations.py"].replace(b"LIMIT = 4.0", b"LIMIT = 3.0")
        assert changed == before["core/activations.py"]
    assert status == 0
    assert step > 2


def test_commands_at_once_lose_no_progress(workspace: Path, course: Course):
    """Each process notes results of its own module; without the lock, some would vanish."""
    times = 8

    def note(number: str) -> None:
        place = Workspace(workspace, course)
        for count in range(1, times + 1):
            module = course.module(number)
            place.record_test(module, LastTest("today", count, 0, count, times))
            seen = place.progress().tested[module.folder].passed
            assert seen == count, "another process undid what this one wrote"

    waits = [in_a_fork(lambda n=module.number: note(n)) for module in course.modules]
    assert [wait() for wait in waits] == [0] * len(waits)
    tested = Workspace(workspace, course).progress().tested
    assert {folder: result.passed for folder, result in tested.items()} == {
        module.folder: times for module in course.modules
    }


def test_two_starts_make_one_notebook(workspace: Path, course: Course, quick):
    module = course.module("02")
    Workspace(workspace, course)._lesson(module)  # known to both processes

    def begin(name: str) -> None:
        made = Workspace(workspace, course).start(module)
        (workspace.parent / name).write_text(json.dumps(made), encoding="utf-8")

    waits = [in_a_fork(lambda n=name: begin(n)) for name in ("one", "other")]
    assert [wait() for wait in waits] == [0, 0]
    made = [json.loads((workspace.parent / name).read_text()) for name in ("one", "other")]
    assert sorted(made) == [False, True]
    read_notebook(Workspace(workspace, course).notebook(module))
