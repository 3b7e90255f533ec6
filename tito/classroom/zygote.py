"""The sandbox's first process: it has loaded the package, and forks one child a submission.

Started by tito.classroom.sandbox, inside bubblewrap where that is to be had. The grader passes it
one end of a socket for each submission. Two processes then serve it: a keeper, which enforces the
limits and holds no student's code, and in namespaces of its own the one that runs the cells.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import posix
import resource
import select
import signal
import socket
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

from tito.classroom.cells import run_submission
from tito.classroom.originals import Originals
from tito.classroom.seccomp import refuse_system_calls
from tito.classroom.wire import send

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h
NEW_MOUNT, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = (
    0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, RECURSIVE, PRIVATE = 1, 2, 4, 0x4000, 0x40000
DIE_WITH_PARENT, DROP_BOUND, NO_NEW_PRIVILEGES, DUMPABLE = 1, 24, 38, 4
CAPABILITY_VERSION = 0x20080522
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def main(control: socket.socket, options: dict[str, Any]) -> None:
    """Serve submissions until the grader has gone."""
    if options["isolated"]:
        become_nobody()
    for name in ("matplotlib", "matplotlib.pyplot"):
        sys.modules[name] = Later(name)
    vars(sys.modules["matplotlib"])["pyplot"] = sys.modules["matplotlib.pyplot"]
    for statement in options["preload"]:
        with contextlib.suppress(Exception):  # then the cell that needs it says so
            exec(statement, {})
    for module in (os, posix):  # a student's function would run where we fork for a test
        vars(module)["register_at_fork"] = dict  # takes what comes, and does nothing
    originals = Originals()
    gc.collect()
    gc.freeze()  # a child's collector leaves these pages shared
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not message:
            return
        [descriptor] = descriptors
        if os.fork() == 0:
            control.close()
            try:
                keep(socket.socket(fileno=descriptor), options, originals)
            except Exception:
                traceback.print_exc()
            os._exit(0)
        os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


class Later(types.ModuleType):
    """Stands for a module of matplotlib, which takes a second to load, until a cell draws."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for module in ("matplotlib", "matplotlib.pyplot"):
            if isinstance(sys.modules.get(module), Later):
                del sys.modules[module]
        return getattr(importlib.import_module(self.__name__), name)


def keep(channel: socket.socket, options: dict[str, Any], originals: Originals) -> None:
    """Start a submission's process, and end it with all that it started: when it is done, when the
    grader hangs up, when it takes too long or too much memory."""
    if options["isolated"]:
        new_namespaces()
    else:
        os.setpgid(0, 0)
    child = os.fork()
    if child == 0:
        serve(channel, options, originals)
    deadline = time.monotonic() + options["limit_seconds"]
    hung_up = select.poll()
    hung_up.register(channel, 0)
    ended = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
    if ended is not None:
        hung_up.register(ended, select.POLLIN)
    while time.monotonic() < deadline:
        if hung_up.poll(50) or os.waitpid(child, os.WNOHANG)[0]:
            break
        if options["isolated"] and memory_of_descendants() > options["memory"]:
            break
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # and with it its whole namespace
    if not options["isolated"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGKILL)


def serve(channel: socket.socket, options: dict[str, Any], originals: Originals) -> None:
    """Run the submission's cells, cut off from everything but the channel; never returns."""
    try:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if options["isolated"]:
            new_view_of_files(options["work"], options["disk"])
        os.chdir(options["work"])
        set_limits(options)
        if options["isolated"]:
            drop_capabilities()
            refuse_system_calls(libc)
    except Exception:
        traceback.print_exc()  # to the grader, which says so
        os._exit(1)
    channel = only(channel)
    try:
        run_submission(channel, originals)
    except BaseException:
        with contextlib.suppress(BaseException):
            send(channel, {"broken": traceback.format_exc()[-2000:]})
    os._exit(0)


def only(channel: socket.socket) -> socket.socket:
    """The channel as the one open file of this process besides the three streams, now deaf."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    descriptor = os.dup2(channel.detach(), 3)
    os.closerange(4, 1 << 12)
    return socket.socket(fileno=descriptor)


def become_nobody() -> None:
    """Limits on processes don't hold for root: be another user where we are root."""
    if os.getuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1":
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        libc.prctl(DUMPABLE, 1, 0, 0, 0)  # so that we may write our children's user maps


def new_namespaces() -> None:
    """Leave the zygote's users, mounts, network and, for children, processes."""
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(NEW_USER | NEW_MOUNT | NEW_IPC | NEW_PID | NEW_NET), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def new_view_of_files(work: str, size: int) -> None:
    """Folders of our own, in memory and of `size` bytes, where files can be written; no /proc."""
    mount("none", "/", "", RECURSIVE | PRIVATE, "")
    for place in (work, "/dev/shm"):
        mount("tmpfs", place, "tmpfs", NO_SUID | NO_DEVICES, f"size={size},mode=700")
    mount("tmpfs", "/proc", "tmpfs", NO_SUID | NO_DEVICES | READ_ONLY, "size=4k")


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    code = libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode())
    check(code, f"mount {target}")


def set_limits(options: dict[str, Any]) -> None:
    """Limits of each process; those of all together are the keeper's."""
    limits = {
        resource.RLIMIT_AS: options["memory"],
        resource.RLIMIT_NPROC: options["processes"],
        resource.RLIMIT_FSIZE: options["disk"],
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(options["limit_seconds"]) + 1,
    }
    if not options["isolated"]:
        del limits[resource.RLIMIT_NPROC]  # it would count all that the user runs
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS knows no limit of memory
            resource.setrlimit(kind, (limit, limit))


def drop_capabilities() -> None:
    """Give up, for good, the rights that a new user namespace brought."""
    check(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    for capability in range(64):
        if libc.prctl(DROP_BOUND, capability, 0, 0, 0):
            break
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    libc.prctl(DUMPABLE, 0, 0, 0, 0)  # none of the submission's other processes reads this one


def memory_of_descendants() -> int:
    """Bytes that processes below us hold, alone or shared (pages of files not counted)."""
    parents, sizes = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, KeyError):
                lines = (folder / "status").read_text(errors="replace").splitlines()
                status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                process = int(folder.name)
                parents[process] = int(status["PPid"])
                held = (status.get(name, "0 kB") for name in ("RssAnon", "RssShmem", "VmPTE"))
                sizes[process] = sum(int(size.split()[0]) << 10 for size in held)
    below = {os.getpid()}
    for _ in range(len(parents)):
        more = {child for child, parent in parents.items() if parent in below} - below
        if not more:
            break
        below |= more
    return sum(sizes.get(process, 0) for process in below)


def check(code: int, what: str) -> None:
    if code:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
