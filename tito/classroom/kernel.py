"""The Jupyter kernel `tinytorch-grade`, which nbgrader grades with.

It derives student and module from the folder that nbgrader starts it in, makes the overlay that
this student's notebook imports, and runs IPython in bubblewrap: without network, and without the
course folder. nbgrader reaches it by sockets in a folder, as `connect` asks it to.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tito.classroom.folder import Classroom, find_classroom
from tito.course import Module, find_course
from tito.errors import TitoError

if TYPE_CHECKING:
    from traitlets.config import Config

NAME = "tinytorch-grade"
POLICY = "TITO_GRADE_POLICY"
ARGUMENTS = [sys.executable, "-P", "-m", "tito.classroom.kernel", "-f", "{connection_file}"]
MEMORY = 4 << 30  # bytes of address space
FILE_SIZE = 256 << 20  # bytes of the largest file that a notebook may write
TEMPORARY = 512 << 20  # bytes of its /tmp
STEPS = ("autograded", "submitted")  # folders of nbgrader's that hold a folder a student
# whatever a right answer prints to stderr would cost its points
QUIET = {
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def install() -> Path:
    """Register the kernel for this user, with this Python; returns the folder that describes it."""
    from ipykernel.kernelspec import write_kernel_spec
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            "argv": ARGUMENTS,
            "display_name": "TinyTorch (grading)",
            "interrupt_mode": "message",  # signals don't reach into the sandbox
        }
        source = write_kernel_spec(Path(folder) / NAME, overrides)
        return Path(KernelSpecManager().install_kernel_spec(source, NAME, user=True))


def connect(config: Config) -> None:
    """Let nbgrader talk to the kernel by sockets in a folder, where it will run in bubblewrap."""
    if sandbox_works():
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = str(_rendezvous() / "sockets" / "k")


@lru_cache(maxsize=1)
def _rendezvous() -> Path:
    """A folder for sockets and overlays that lives as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="tito-grade-"))
    (folder / "sockets").mkdir()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def sandbox_works() -> bool:
    """Whether bubblewrap is there and may make namespaces."""
    if not shutil.which("bwrap"):
        return False
    try:
        done = subprocess.run([*_namespaces(), "--ro-bind", "/", "/", "true"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def main() -> int:
    """Start the kernel for the submission in the current folder and wait until it ends."""
    connection = Path(sys.argv[sys.argv.index("-f") + 1])
    here = Path.cwd()
    classroom = find_classroom(find_course(), here)
    student, module = whose(classroom, here)
    policy = os.environ.get(POLICY, "reference")
    meeting_place = json.loads(connection.read_text(encoding="utf-8"))
    by_sockets = meeting_place["transport"] == "ipc"
    sockets = Path(meeting_place["ip"]).parent if by_sockets else None
    folder = Path(
        tempfile.mkdtemp(prefix="tito-grade-", dir=sockets.parent if sockets else None)
    ).resolve()
    try:
        from tito.classroom.overlay import make_overlay

        make_overlay(classroom, student, module, policy, folder)
        _copy_fonts(folder)
        command = [sys.executable, "-P", "-m", "ipykernel_launcher", "-f", str(connection)]
        command.append("--HistoryManager.hist_file=:memory:")
        environment = _environment(folder)
        if sockets and sandbox_works():
            command = [*bubblewrap(folder, [sockets], [connection], environment), *command]
        else:
            _log(classroom, f"{here}: graded without a sandbox: {_why(by_sockets)}")
        return subprocess.run(command, cwd=folder, env=environment, preexec_fn=_limit).returncode
    except Exception as error:
        _log(classroom, f"{here}: {error}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def whose(classroom: Classroom, folder: Path) -> tuple[str, Module]:
    """The student ("" for the master) and the module whose notebook lies in `folder`."""
    parts = folder.resolve().relative_to(classroom.root.resolve()).parts
    with suppress(TitoError):
        if len(parts) == 3 and parts[0] in STEPS:
            return parts[1], classroom.course.module(parts[2])
        if len(parts) == 2 and parts[0] in ("source", "release"):
            return "", classroom.course.module(parts[1])
    raise TitoError(
        f"the kernel {NAME} grades notebooks in autograded/STUDENT/NN_name, not in {folder}: "
        "choose the kernel TinyTorch for your own"
    )


def bubblewrap(
    folder: Path, writable: list[Path], readable: list[Path], environment: dict[str, str]
) -> list[str]:
    """The beginning of a command line that runs what follows in a sandbox.

    It sees the system, this Python without the course's solutions, what lies in `folder` and what
    else is named; what it writes elsewhere than in `writable` goes to memory, and with it.
    """
    tito = Path(__file__).resolve().parents[1]
    course = find_course()
    pythons = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
    command = [*_namespaces(), "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives"):
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind-try", path, path]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    command += ["--proc", "/proc", "--dev", "/dev", *_scratch("/tmp")]
    for path in sorted({*pythons, tito}, key=lambda path: len(path.parts)):
        command += ["--ro-bind", str(path), str(path)]
    # where the course is installed among Python's packages, solutions lie there
    for path in (tito / "_course", course.package):
        if any(path.is_relative_to(python) for python in pythons) and path.is_dir():
            command += ["--tmpfs", str(path)]
    command += _scratch(str(folder))
    for path in writable:
        command += ["--bind", str(path), str(path)]
    for path in [*folder.iterdir(), *readable]:
        command += ["--ro-bind", str(path), str(path)]
    command += ["--chdir", str(folder), "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return command


def _namespaces() -> list[str]:
    """bubblewrap with namespaces of its own; for users other than root it adds the user's."""
    kinds = ("pid", "ipc", "net", "uts")
    return ["bwrap", *[f"--unshare-{kind}" for kind in kinds], "--unshare-cgroup-try"]


def _scratch(path: str) -> list[str]:
    return ["--size", str(TEMPORARY), "--tmpfs", path]


def _environment(folder: Path) -> dict[str, str]:
    """All variables that a graded notebook sees."""
    tito = Path(__file__).resolve().parents[1]
    return QUIET | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(tito.parent)]),
    }


def _copy_fonts(folder: Path) -> None:
    """Give matplotlib its list of fonts: to make one takes seconds and is told on stderr."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
    if cache.is_dir():
        shutil.copytree(cache, folder / "matplotlib", ignore=shutil.ignore_patterns("*.lock"))


def _limit() -> None:
    """Bound what the notebook may take."""
    import resource

    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE_SIZE)):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _why(by_sockets: bool) -> str:
    if sandbox_works():
        return "nbgrader didn't read nbgrader_config.py: run it in the course folder"
    return "bubblewrap (bwrap) is missing or may not make namespaces: install it"


def _log(classroom: Classroom, text: str) -> None:
    """Say it in the classroom's log: on stderr it would cost the student points."""
    path = classroom.root / ".tito" / "kernel.log"
    path.parent.mkdir(exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")


if __name__ == "__main__":
    sys.exit(main())
