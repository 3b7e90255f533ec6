"""Where students' code runs: behind bubblewrap, which shows it Python, the package, and no more.

    https://github.com/containers/bubblewrap

Where bubblewrap or the kernel's namespaces are missing, processes run with resource limits alone:
that holds off accidents, not attacks.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

from tito.classroom.wire import WireError
from tito.errors import TitoError
from tito.files import atomic_write
from tito.grading import QUIET

CODE = "/grading"  # where the sandbox sees the package and the code that runs cells
WORK = "/submission"  # the one folder in which a submission may write
RUNNERS = (
    *("testing.py", "cellworker.py", "classroom/__init__.py", "classroom/wire.py"),
    *("classroom/cells.py", "classroom/guard.py", "classroom/originals.py"),
    *("classroom/seccomp.py", "classroom/zygote.py"),
)


# where a system keeps programs and libraries; not /usr/src, where containers keep a course
_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "sbin", "share")
_LOCAL = ("local/bin", "local/lib", "local/lib64", "local/share")
SYSTEM = tuple(Path("/usr", name) for name in (*_PARTS, *_LOCAL))


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""

    seconds: float = 10.0  # of a cell
    all_seconds: float = 300.0  # of all cells together
    memory: int = 2 << 30  # bytes, of a process and of all together
    disk: int = 64 << 20  # bytes
    processes: int = 64


@cache
def problem() -> str:
    """Why there is no sandbox on this machine; "" if there is one."""
    if sys.platform != "linux":
        return "bubblewrap is a program for Linux"
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed (Debian, Ubuntu, Fedora: package bubblewrap)"
    attempt = f"import os, ctypes; assert not ctypes.CDLL(None).unshare({0x10000000 | 0x20000000})"
    command = [*bubblewrap([]), sys.executable, "-S", "-c", attempt]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it gives no reason"]
        return f"the system allows no namespaces: {reason[0]}"
    return ""


def bubblewrap(binds: list[tuple[Path, str]], network: bool = False) -> list[str]:
    """The command line in front of what is to see Python, `binds` (read-only) and nothing else.

    As root there is no user namespace yet: the zygote becomes another user first.
    """
    root = os.getuid() == 0
    shown = {Path(sys.base_prefix), Path(sys.prefix)}
    shown = {path.resolve() for path in shown if not _is_shown(path.resolve(), SYSTEM)}
    shown -= {Path("/usr"), Path("/usr/local")}
    command = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += [] if network else ["--unshare-net"]
    if root:
        command += ["--cap-drop", "ALL"]
        command += [
            word for right in ("SETUID", "SETGID") for word in ("--cap-add", f"CAP_{right}")
        ]
    else:
        command += ["--unshare-user"]
    for name in ("/usr", "/usr/local", "/etc"):
        command += ["--perms", "0755", "--dir", name]  # else root's alone
    for path in SYSTEM:
        command += ["--ro-bind-try", str(path), str(path)]
    for name in ("bin", "lib", "lib64", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    command += ["--proc", "/proc", "--dev", "/dev", "--perms", "0755", "--dir", WORK]
    places = [(path, str(path)) for path in sorted(shown)] + binds
    for folder in _parents(place for _, place in places):
        command += ["--perms", "0755", "--dir", folder]
    for path, place in places:
        command += ["--ro-bind", str(path), place]
    for entry in dict.fromkeys(sys.path):  # an installed course holds the solutions
        for path in (Path(entry, "tinytorch").resolve(), Path(entry, "tito").resolve()):
            if path.is_dir() and _is_shown(path, [*SYSTEM, *shown]):
                command += ["--tmpfs", str(path)]
    environment = QUIET | {"PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"PATH": "/usr/bin:/bin", "HOME": WORK, "TMPDIR": WORK, "LANG": "C.UTF-8"}
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK]


def _is_shown(path: Path, places: Iterable[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _parents(places: Iterable[str]) -> list[str]:
    """The folders above some places that bubblewrap has to make, outermost first."""
    above = {str(parent) for place in places for parent in Path(place).parents}
    return sorted(above - {"/", "/usr"}, key=len)


class Sandbox:
    """A zygote with a package loaded: `with Sandbox(package) as sandbox: channel = sandbox.open()`.

    `package` is the folder tinytorch/ that all submissions see.
    """

    def __init__(self, package: Path, limits: Limits, preload: list[str], isolated: bool):
        self._folder = Path(tempfile.mkdtemp(prefix="tito-sandbox-"))
        self._folder.chmod(0o755)
        self._lay_out(package)
        self._control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        work = WORK if isolated else tempfile.mkdtemp(dir=self._folder)
        options = asdict(limits) | {
            "limit_seconds": limits.all_seconds,
            "isolated": isolated,
            "preload": preload,
            "work": work,
        }
        code = CODE if isolated else str(self._folder / "code")
        script = [sys.executable, "-P", "-s", f"{code}/tito/classroom/zygote.py"]
        command = [*script, str(inner.fileno()), json.dumps(options)]
        environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": code, "HOME": work}
        environment |= QUIET | {"PYTHONWARNINGS": "ignore"}
        if isolated:
            wrapped = bubblewrap([(self._folder / "code", CODE)])
            command = [*wrapped, "--setenv", "PYTHONPATH", CODE, *command]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the sandbox
        self._zygote = subprocess.Popen(
            command,
            pass_fds=[inner.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
            cwd=self._folder,
        )
        inner.close()

    def open(self) -> socket.socket:
        """A channel to a fresh process, which waits for its job; closing it ends the process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            socket.send_fds(self._control, [b"new"], [theirs.fileno()])
        except OSError:
            ours.close()
            self._errors.seek(0)
            said = self._errors.read()[-500:].decode(errors="replace").strip().splitlines()
            raise WireError(f"the sandbox has ended: {said[-1] if said else 'no reason'}") from None
        finally:
            theirs.close()
        return ours

    @property
    def has_ended(self) -> bool:
        """Whether its first process is no more, and with it whatever ran."""
        return self._zygote.poll() is not None

    def close(self) -> None:
        """End all that runs in the sandbox."""
        self._control.close()
        try:
            self._zygote.wait(5)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lay_out(self, package: Path) -> None:
        """The folder that the sandbox sees: the package, and of tito what runs the cells."""
        code = self._folder / "code"
        here = Path(__file__).resolve().parent.parent
        for name in RUNNERS:
            atomic_write(code / "tito" / name, (here / name).read_bytes())
        atomic_write(code / "tito" / "__init__.py", "")
        atomic_write(code / "tito" / "whose.py", "def whose_tinytorch() -> None: ...\n")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, code / "tinytorch", ignore=ignored)


def available(require: bool = False) -> bool:
    """Whether submissions run isolated here; TitoError if they don't and `require`."""
    why_not = problem()
    if why_not and require:
        raise TitoError(f"--require-sandbox: {why_not}")
    return not why_not
