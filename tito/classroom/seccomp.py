"""System calls that a submission is refused: a filter that the kernel keeps (seccomp, BPF).

Those that hold memory which no process answers for, read other processes, make new namespaces, or
are of no use to a lesson and known for the kernel's errors in them.

    https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

# by machine: the number of its calling convention (linux/audit.h), and of `clone` and the refused
# calls (asm/unistd.h)
_NATIVE = {
    "x86_64": (
        0xC000003E,
        56,
        {
            "shmget": 29, "msgget": 68, "ptrace": 101, "pivot_root": 155, "chroot": 161,
            "mount": 165, "umount2": 166, "kexec_load": 246, "add_key": 248, "request_key": 249,
            "keyctl": 250, "unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304,
            "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319,
            "bpf": 321, "userfaultfd": 323,
        },
    ),
    "aarch64": (
        0xC00000B7,
        220,
        {
            "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "unshare": 97,
            "kexec_load": 104, "ptrace": 117, "msgget": 186, "shmget": 194, "add_key": 217,
            "request_key": 218, "keyctl": 219, "perf_event_open": 241, "open_by_handle_at": 265,
            "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "memfd_create": 279,
            "bpf": 280, "userfaultfd": 282,
        },
    ),
}  # fmt: skip
_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsmount": 432, "pidfd_getfd": 438, "mount_setattr": 442,
    "memfd_secret": 447,
}  # fmt: skip
_CLONE3 = 435  # its flags are out of a filter's sight: libraries then take `clone`
_FOREIGN = 0x40000000  # from here on: calls of x86_64's other convention
_NEW_USER = 0x10000000

# linux/filter.h, linux/seccomp.h, linux/prctl.h
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_SET_SECCOMP, _MODE_FILTER = 22, 2


def refuse_system_calls(libc: ctypes.CDLL) -> None:
    """Filter the calls of this process and of its children, for good; where the machine's numbers
    aren't known here, nothing happens. Needs `no_new_privs`."""
    if platform.machine() not in _NATIVE:
        return
    code = _program(*_NATIVE[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    program = Program(len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def _program(architecture: int, clone: int, refused: dict[str, int]) -> bytes:
    """The filter's instructions, of 8 bytes each."""
    no = (_RETURN, 0, 0, _REFUSE | errno.EPERM)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _FOREIGN),
        no,
        (_IF_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
    ]
    for number in [*refused.values(), *_EVERYWHERE.values()]:
        steps += [(_IF_EQUAL, 0, 1, number), no]
    steps += [
        (_IF_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_ANY_BIT, 0, 1, _NEW_USER),
        no,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
