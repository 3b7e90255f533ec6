"""Reaching out of the sandbox: files, processes, the network."""

import re
import socket
from dataclasses import replace

import pytest
from attack import LIMITS, Attack, in_cell, in_test
from submissions import hand_in, solution, with_cells

pytestmark = pytest.mark.slow

NOTHING = r"found \[\]"


def test_no_file_of_the_course_is_there(bench):
    """The gradebook, masters, private tests and others' submissions lie out of sight."""
    classroom, module = bench.classroom, bench.module
    hand_in(classroom, "ada", module, solution(module))
    classroom.private(module).parent.mkdir(exist_ok=True)
    classroom.private(module).write_text("# nothing")
    places = [
        classroom.root, classroom.source(module), classroom.private(module),
        classroom.root / "gradebook.db", classroom.submission("ada", module),
        classroom.results(module), classroom.root / ".tito", classroom.course.root / "modules",
        classroom.course.root / "tinytorch", classroom.course.root / "tests",
    ]  # fmt: skip
    assert all(place.exists() for place in places if place != classroom.results(module))
    code = f"import os\nfound += [p for p in {list(map(str, places))} if os.path.lexists(p)]"
    bench.assert_holds(Attack("", in_cell(code), says=NOTHING))


def test_nothing_of_the_lesson_lies_anywhere(bench):
    """A walk over all that can be seen finds no notebook, and no text of a hidden test."""
    code = """
import os
for folder, _, files in os.walk("/"):
    for name in files:
        path = os.path.join(folder, name)
        if name.endswith((".ipynb", "_dev.py", ".db", "activations.py")) and "/nb" not in path:
            found.append(path)
        if folder.startswith(("/usr", "/lib", "/dev", "/bin")) or "site-packages" in folder:
            continue
        if name.endswith((".py", ".json", ".ipynb", ".txt")):
            with open(path, errors="replace") as file:
                if "use the floats of the given" in file.read():
                    found.append(path)
"""
    limits = replace(LIMITS, seconds=100.0, all_seconds=250.0)
    notebook = with_cells(solution(bench.module), in_cell(code))
    result = bench.grade(notebook, True, limits)
    [cell] = (cell for cell in result.cells if cell.id == "test-relu")
    words = re.findall(r"'(/[^']*)'", cell.message)
    course = [w for w in words if "tinytorch" in w or "tito" in w or w.endswith("_dev.py")]
    assert cell.message.startswith("ValueError: found")
    assert course == []


REACHING = [
    Attack("no /proc", in_cell("import os; found += os.listdir('/proc')"), says=NOTHING),
    Attack("writing outside", in_cell("""
import os, sys
for folder in ("/", "/usr", "/grading", "/grading/tito", "/grading/tinytorch", "/dev", "/etc",
               "/tmp", "/var/tmp", "/home", "/proc", sys.prefix, os.path.dirname(os.__file__)):
    for attempt in (lambda p: open(p, "w"), os.mkdir, lambda p: os.symlink("/", p)):
        try:
            attempt(os.path.join(folder, "mine"))
            found.append(folder)
        except OSError:
            pass
"""), says=NOTHING),
    Attack("becoming root", in_cell("""
import os
for attempt in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]),
                lambda: os.chroot("/submission"), lambda: os.mknod("device", 0o60600, 1),
                lambda: os.nice(-5)):
    try:
        attempt()
        found.append(len(found))
    except OSError:
        pass
"""), says=NOTHING),
    Attack("mounting, and new namespaces", in_cell("""
import subprocess
for command in ("mount -t tmpfs none /submission", "umount /proc", "unshare -U true",
                "unshare -Urm true", "unshare -n true"):
    if subprocess.run(command, shell=True, capture_output=True).returncode == 0:
        found.append(command)
"""), says=NOTHING),
    Attack("reading the parent's memory", in_cell("""
import os, subprocess, sys
code = "import ctypes, os; print(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0))"
done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
found += [] if done.stdout == "-1\\\\n" else [done.stdout]
""".replace("\\\\", "\\")), says=NOTHING),
    Attack("processes of others", in_test("""
import os
for process in range(2, 500):
    try:
        os.kill(process, 0)
        if process != os.getpid():
            found.append(process)
    except OSError:
        pass
"""), says=NOTHING),
    Attack("names on the network", in_cell("""
import socket
for name in ("localhost.localdomain", "example.org"):
    try:
        found.append(socket.getaddrinfo(name, 80))
    except OSError:
        pass
"""), says=NOTHING),
]  # fmt: skip


@pytest.mark.parametrize("attack", REACHING, ids=lambda attack: attack.name)
def test_nothing_is_in_reach(bench, attack):
    """What lies outside can be neither seen nor changed."""
    bench.assert_holds(attack)


def test_no_listener_is_in_reach(bench, tmp_path):
    """Neither TCP on the host's loopback nor UNIX sockets, by path or abstract."""
    listeners = [socket.create_server(("127.0.0.1", 0))]
    port = listeners[0].getsockname()[1]
    paths = [str(tmp_path / "listening"), f"\0tinytorch-test-{port}"]
    for path in paths:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listeners.append(listener)
    code = f"""
import socket
for kind, place in [(socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_UNIX, {paths[0]!r}),
                    (socket.AF_UNIX, {paths[1]!r})]:
    try:
        socket.socket(kind).connect(place)
        found.append(place)
    except OSError:
        pass
"""
    try:
        bench.assert_holds(Attack("", in_cell(code), says=NOTHING))
        for listener in listeners:
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
    finally:
        for listener in listeners:
            listener.close()


def test_a_submission_finds_nothing_of_the_one_before(bench):
    """Neither files nor variables stay."""
    code = """
import builtins, os, tinytorch
found += os.listdir("/submission") + os.listdir("/dev/shm")
found += [m for m in (builtins, os, np, tinytorch) if hasattr(m, "left_by_eve")]
for module in (builtins, os, np, tinytorch):
    module.left_by_eve = True
for folder in ("/submission", "/dev/shm"):
    open(folder + "/left", "w").close()
"""
    attack = Attack("", in_cell(code), says=NOTHING)
    bench.assert_holds(attack)
    bench.assert_holds(attack)
