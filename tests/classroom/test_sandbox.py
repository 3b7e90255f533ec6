"""The sandbox itself: what it leaves behind, who may run it, what happens where there is none."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from processes import family

from tito.classroom import sandbox
from tito.classroom.cells import names_of_kinds
from tito.classroom.sandbox import Limits, Sandbox
from tito.classroom.wire import WireError, receive, send
from tito.course import find_course
from tito.errors import TitoError
from tito.export import fill_package

LIMITS = Limits(seconds=2.0, all_seconds=60.0)
needs_sandbox = pytest.mark.skipif(bool(sandbox.problem()), reason=sandbox.problem())


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """tinytorch/ with the first module."""
    course = find_course()
    folder = tmp_path_factory.mktemp("package") / "tinytorch"
    fill_package(course, folder, course.modules[:1])
    return folder


@pytest.fixture(params=["sandbox", "limits"])
def box(request, package):
    """An open sandbox."""
    isolated = request.param == "sandbox"
    if isolated and sandbox.problem():
        pytest.skip(sandbox.problem())
    with Sandbox(package, LIMITS, [], isolated) as opened:
        yield opened


def run(box: Sandbox, source: str) -> dict:
    """What a submission of one cell says at its end."""
    with box.open() as channel:
        channel.settimeout(60)
        cell = {"id": "mine", "kind": "own", "source": textwrap.dedent(source)}
        send(channel, {"fork": False, "seconds": 2, "secret": "s", "cells": [cell]})
        return receive(channel)


def test_a_cell_runs_and_is_heard(box):
    """What a cell raises comes back, with the secret."""
    answer = run(box, "import numpy, tinytorch\nraise ValueError('so it is')")
    [cell] = answer["ran"]
    assert cell["error"].startswith("ValueError: so it is")
    assert answer["secret"] == "s"


@pytest.mark.slow
def test_two_hundred_submissions_leave_nothing(box):
    """Processes, zombies and open files of the zygote are as many as after the first few."""
    zygote = box._zygote.pid

    def left():
        members = family(zygote)
        files = sum(len(os.listdir(f"/proc/{member}/fd")) for member in members)
        return len(members), files

    for _ in range(5):
        run(box, "")
    few = left()
    for _ in range(200):
        run(box, "import os\nif os.fork() == 0:\n    while True: pass" if _ % 20 == 0 else "")
    many = left()
    assert many[0] <= few[0] + 1  # at most the last one waits to be collected
    assert many[1] <= few[1] + 20
    assert len(os.listdir("/proc/self/fd")) < 200


@pytest.mark.slow
@pytest.mark.parametrize("isolated", [pytest.param(True, marks=needs_sandbox), False])
def test_a_killed_grader_leaves_no_process(package, tmp_path, isolated):
    """SIGKILL for the grader in the middle of a submission ends all that it had started."""
    marker = f"tito-test-{os.getpid()}-{isolated}"
    script = tmp_path / f"{marker}.py"
    script.write_text(f"""
import sys, time
from pathlib import Path
from tito.classroom.sandbox import Limits, Sandbox
from tito.classroom.wire import send
box = Sandbox(Path({str(package)!r}), Limits(all_seconds=600.0), [], {isolated})
channel = box.open()
source = "import os, time\\nos.fork()\\ntime.sleep(500)"
cell = {{"id": "mine", "kind": "own", "source": source}}
send(channel, {{"fork": False, "seconds": 500, "secret": "s", "cells": [cell]}})
time.sleep(500)
""")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    grader = subprocess.Popen([sys.executable, str(script)], env=environment)
    enough = 6 if isolated else 4  # grader, bubblewrap, zygote, keeper, submission, its fork
    assert ends(lambda: len(family(grader.pid)) > enough), family(grader.pid)
    started = set(family(grader.pid))
    grader.kill()
    grader.wait()
    assert ends(lambda: not any(Path(f"/proc/{each}").exists() for each in started))


def ends(condition, seconds: float = 60.0) -> bool:
    """Whether `condition` holds before long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_the_environment_stays_outside(package, monkeypatch):
    """No variable of the instructor's reaches a submission."""
    monkeypatch.setenv("SECRET_OF_THE_INSTRUCTOR", "1234")
    for isolated in (True, False) if not sandbox.problem() else (False,):
        with Sandbox(package, LIMITS, [], isolated) as opened:
            answer = run(opened, "import os; raise ValueError(' '.join(os.environ))")
        said = answer["ran"][0]["error"]
        assert "PATH" in said
        assert "SECRET" not in said


def test_closing_removes_the_folder(package, monkeypatch, tmp_path):
    """Nothing of a sandbox lies around after it is closed, whatever was written there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Sandbox(package, LIMITS, [], isolated=False) as opened:
        assert len(list(tmp_path.iterdir())) == 1
        run(opened, "open('mine', 'w').close()")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("isolated", [pytest.param(True, marks=needs_sandbox), False])
def test_a_sandbox_that_ended_says_so(package, isolated):
    """A dead zygote is an error in one line, not silence."""
    with Sandbox(package, LIMITS, [], isolated) as opened:
        assert run(opened, "")["done"]
        for process in family(opened._zygote.pid):
            with contextlib.suppress(ProcessLookupError):  # it went with the one before
                os.kill(process, signal.SIGKILL)
        opened._zygote.wait()
        with pytest.raises((WireError, ConnectionError)), opened.open() as channel:
            receive(channel)


@needs_sandbox
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.slow
def test_a_normal_user_has_a_sandbox_too(package, tmp_path):
    """As nobody, bubblewrap brings a user namespace of its own; root takes another uid inside."""
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed (util-linux)")
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    spot = Path(tempfile.mkdtemp())
    spot.chmod(0o777)
    try:
        script = spot / "try.py"
        script.write_text(
            "import sys\nfrom tito.classroom import sandbox\nprint('problem:', sandbox.problem())\n"
        )
        script.chmod(0o644)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(spot)}
        environment |= {"HOME": str(spot)}
        command = [*become, sys.executable, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=spot)
        if "problem:" not in done.stdout:
            pytest.skip(f"nobody may not run this Python: {done.stderr.strip()[-100:]}")
        if "problem: \n" not in done.stdout:
            pytest.skip(f"no sandbox for uid 65534 here: {done.stdout.strip()}")
        copied = shutil.copytree(package, spot / "tinytorch")
        script.write_text(f"""
from pathlib import Path
from tito.classroom.sandbox import Limits, Sandbox
from tito.classroom.wire import receive, send
with Sandbox(Path({str(copied)!r}), Limits(), [], True) as box, box.open() as channel:
    cell = {{"id": "mine", "kind": "own", "source": "import os; raise ValueError(os.getuid())"}}
    send(channel, {{"fork": False, "seconds": 9, "secret": "s", "cells": [cell]}})
    print(receive(channel)["ran"][0]["error"])
""")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=spot)
        assert done.stdout.startswith("ValueError: 65534"), done.stderr
    finally:
        shutil.rmtree(spot)


@needs_sandbox
def test_libraries_of_the_system_are_seen(package):
    """Whoever a submission runs as may read the system's libraries, but not where courses lie."""
    with Sandbox(package, LIMITS, [], isolated=True) as opened:
        code = (
            "import os, safetensors.numpy; raise ValueError(os.listdir('/usr'), os.listdir('/etc'))"
        )
        said = run(opened, code)["ran"][0]["error"]
    assert said.startswith("ValueError: ([")
    assert "'lib'" in said
    assert "'src'" not in said


@needs_sandbox
@pytest.mark.skipif(os.getuid() != 0, reason="this process is no root")
def test_root_is_nobody_inside(package):
    """Limits on processes don't hold for root: submissions run as another user."""
    with Sandbox(package, LIMITS, [], isolated=True) as opened:
        answer = run(opened, "import os; raise ValueError(os.getuid(), os.getgid())")
    assert "65534, 65534" in answer["ran"][0]["error"]


@pytest.fixture
def no_bubblewrap(monkeypatch, tmp_path):
    """A machine on which bubblewrap is not installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.problem.cache_clear()
    yield
    monkeypatch.undo()
    sandbox.problem.cache_clear()


def test_without_bubblewrap_there_is_a_reason(no_bubblewrap):
    """It is told in one line what is missing; --require-sandbox refuses with it."""
    assert "bubblewrap" in sandbox.problem()
    assert sandbox.available() is False
    with pytest.raises(TitoError, match=r"^--require-sandbox: bubblewrap is .*") as refusal:
        sandbox.available(require=True)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_grading_without_bubblewrap_warns_or_refuses(classroom, no_bubblewrap):
    """`autograde` says loudly that nothing is sandboxed, and grades; or refuses if asked to."""
    from submissions import hand_in, solution

    from tito.commands.grade_marks import _fast

    module = classroom.course.module("02")
    hand_in(classroom, "ada", module, solution(module))
    options = (classroom, module, ["ada"], 1, "reference", 10.0)
    with pytest.raises(TitoError, match="--require-sandbox"):
        _fast(*options, True, "")
    assert not list(classroom.results(module).glob("*"))
    [result], notes = _fast(*options, False, "")
    assert notes[0].startswith("NOT SANDBOXED: bubblewrap is not installed")
    assert all(cell.passed for cell in result.cells if not cell.by_hand)


def test_a_kernel_without_namespaces_is_a_reason(monkeypatch, tmp_path):
    """A bubblewrap that fails is a problem with its own words."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'no permission to do this' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox.problem.cache_clear()
    if sys.platform == "linux":
        assert sandbox.problem() == "the system allows no namespaces: no permission to do this"
    monkeypatch.undo()
    sandbox.problem.cache_clear()


def test_limits_hold_without_a_sandbox(package):
    """Memory, size of files, and time of a cell are limited for a process that is not isolated."""
    limits = Limits(seconds=2.0, all_seconds=60.0, memory=1 << 30, disk=1 << 20)
    with Sandbox(package, limits, [], isolated=False) as opened:
        assert "MemoryError" in run(opened, "bytearray(2 << 30)")["ran"][0]["error"]
        assert "OverTime" in run(opened, "while True: pass")["ran"][0]["error"]
        big = "import signal\nopen('big', 'wb').write(bytes(2 << 20))"
        assert "OSError" in run(opened, big)["ran"][0]["error"]
        with pytest.raises((WireError, ConnectionError)):
            run(opened, "import os; os._exit(0)")
        assert run(opened, "")["done"]


def test_survivors_without_a_sandbox_end_with_the_group(package):
    """A process that a submission forked is killed with its group."""
    with Sandbox(package, LIMITS, [], isolated=False) as opened:
        run(opened, "import os, time\nif os.fork() == 0:\n    time.sleep(500)\n    os._exit(0)")
        live = lambda: [s for s in family(opened._zygote.pid).values() if s != "Z"]  # noqa: E731
        assert ends(lambda: len(live()) == 1)


def test_names_of_an_errors_classes():
    """A class that calls itself like one of Python's errors is not taken for it."""

    class Mine(ValueError):
        pass

    class Lying(type):
        __mro__ = (KeyError,)

    false = Lying("TypeError", (Exception,), {})
    assert names_of_kinds(Mine())[:2] == ["Mine", "ValueError"]
    assert "TypeError" not in names_of_kinds(false())
    assert "KeyError" not in names_of_kinds(false())
    assert "Exception" in names_of_kinds(false())
