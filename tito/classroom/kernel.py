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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tito.classroom import sandbox
from tito.classroom.folder import Classroom, find_classroom
from tito.classroom.overlay import make_overlay
from tito.course import Module, find_course
from tito.errors import TitoError
from tito.files import atomic_write

if TYPE_CHECKING:
    from traitlets.config import Config

NAME = "tinytorch-grade"
POLICY = "TITO_GRADE_POLICY"
ARGUMENTS = [sys.executable, "-P", "-m", "tito.classroom.kernel", "-f", "{connection_file}"]
MEMORY = 4 << 30  # bytes of address space
FILE_SIZE = 256 << 20  # bytes of the largest file that a notebook may write
DISK = 512 << 20  # bytes of all its files, which lie in memory
STEPS = ("autograded", "submitted")  # folders of nbgrader's that hold a folder a student


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
    """Let nbgrader talk to the kernel by sockets in a folder, where it will run in the sandbox."""
    if not sandbox.problem():
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = str(_meeting_place() / "sockets" / "k")


@cache
def _meeting_place() -> Path:
    """A folder for sockets and overlays that lives as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="tito-grade-")).resolve()
    (folder / "sockets").mkdir()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def main() -> int:
    """Start the kernel for the submission in the current folder and wait until it ends."""
    connection, here = Path(sys.argv[sys.argv.index("-f") + 1]).resolve(), Path.cwd()
    classroom = find_classroom(find_course(), here)
    address = json.loads(connection.read_text(encoding="utf-8"))
    sockets = Path(address["ip"]).parent if address["transport"] == "ipc" else None
    # beside the sockets it goes with nbgrader, should this process be killed
    beside = sockets.parent if sockets else None
    folder = Path(tempfile.mkdtemp(prefix="tito-grade-", dir=beside)).resolve()
    try:
        _lay_out(classroom, here, folder)
        command = [sys.executable, "-P", "-m", "ipykernel_launcher", "-f", str(connection)]
        command.append("--HistoryManager.hist_file=:memory:")
        problem = sandbox.problem()
        if not sockets:
            problem = problem or "nbgrader didn't read nbgrader_config.py: run it in its folder"
        if problem:
            _log(classroom, f"WARNING: {here} ran without a sandbox: {problem}")
            environment = (
                os.environ | sandbox.QUIET | _variables(str(folder / "code"), str(folder / "work"))
            )
        else:
            command = [*_sandboxed(folder, connection, Path(address["ip"]).parent), *command]
            environment = dict(os.environ)
        done = subprocess.run(
            command,
            cwd=folder / "work",
            env=environment,
            stdout=subprocess.DEVNULL,  # what cells print goes to nbgrader by the sockets
            preexec_fn=_limit,
            check=False,
        )
        return done.returncode
    except Exception as error:
        _log(classroom, f"ERROR: {here}: {error}")
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


def _lay_out(classroom: Classroom, here: Path, folder: Path) -> None:
    """Put into `folder` what the kernel sees: code/, to import from, and work/, to write in."""
    student, module = whose(classroom, here)
    code, work, course = folder / "code", folder / "work", classroom.course
    make_overlay(classroom, student, module, os.environ.get(POLICY, "reference"), code)
    tito = Path(__file__).resolve().parents[1]
    others = shutil.ignore_patterns("_course", "classroom", "commands", "__pycache__")
    shutil.copytree(tito, code / "tito", ignore=others)
    # of the course no more than what each module is called and exports, for the first cell
    atomic_write(code / "pyproject.toml", "")
    for each in course.modules:
        atomic_write(code / each.source_name, f"# %%\n#| default_exp {each.export}\n")
    # to make its list of fonts, matplotlib takes seconds and says so on stderr
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
    (work / "matplotlib").mkdir(parents=True)
    for file in cache.glob("fontlist-*.json"):
        shutil.copy(file, work / "matplotlib")


def _sandboxed(folder: Path, connection: Path, sockets: Path) -> list[str]:
    """The command line in front of a kernel that sees `folder` and where nbgrader awaits it."""
    work = sandbox.WORK
    shown = [(folder / "code", sandbox.CODE)]
    shown += [(path, str(path)) for path in (connection, sockets)]
    command = [*sandbox.bubblewrap(shown), "--cap-drop", "ALL"]
    command += ["--size", str(DISK), "--tmpfs", work]
    for file in (folder / "work" / "matplotlib").iterdir():
        command += ["--ro-bind", str(file), f"{work}/matplotlib/{file.name}"]
    command += ["--bind", str(sockets), str(sockets)]
    for name, value in _variables(sandbox.CODE, work).items():
        command += ["--setenv", name, value]
    return command


def _variables(code: str, work: str) -> dict[str, str]:
    """What the kernel's environment holds besides `QUIET`: its folders."""
    return {
        "PYTHONPATH": code,
        "PYTHONWARNINGS": "ignore",  # printed to stderr, a warning would cost points
        "HOME": work,
        "TMPDIR": work,
        "IPYTHONDIR": f"{work}/ipython",
        "MPLCONFIGDIR": f"{work}/matplotlib",
    }


def _limit() -> None:
    """Bound what the notebook may take."""
    import resource

    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE_SIZE)):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _log(classroom: Classroom, text: str) -> None:
    """Say it in the classroom's log: on stderr it would cost the student points."""
    path = classroom.root / ".tito" / "kernel.log"
    path.parent.mkdir(exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")


if __name__ == "__main__":
    sys.exit(main())
