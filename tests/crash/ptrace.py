"""ptrace(2) in as few words as possible: who can stop a program at any system call needs no hooks in it.

strace can inject signals as well, but it can't choose a call by what it means: the first write to a file
whose name is random, or the answer to this very instance.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SEIZE, _INTERRUPT, _SYSCALL, _POKEUSER, _SETREGSET, _INFO = 0x4206, 0x4207, 24, 6, 0x4205, 0x420E
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100000  # SYSGOOD, FORK, VFORK, CLONE, EXEC, EXITKILL
_NT_PRSTATUS, _NT_ARM_SYSTEM_CALL = 1, 0x404
_RAX, _ORIG_RAX = 80, 120

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> int:
    result = _libc.ptrace(request, thread, address, data)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def seize(thread: int) -> None:
    """Begins to trace a thread of a child and whatever it starts; it stops once, soon."""
    _ptrace(_SEIZE, thread, 0, _OPTIONS)
    _ptrace(_INTERRUPT, thread)


def go_on(thread: int, signal: int = 0) -> None:
    """Lets a stopped thread run to its next system call, or the end of this one."""
    _ptrace(_SYSCALL, thread, 0, signal)


_info = ctypes.create_string_buffer(96)


@dataclass(frozen=True)
class Stop:
    """Why a thread stopped: at the entry or exit of a call."""

    entry: bool
    number: int = 0
    arguments: tuple[int, ...] = ()
    result: int = 0


def stop_of(thread: int) -> Stop | None:
    """What a syscall-stop is about."""
    _ptrace(_INFO, thread, len(_info), ctypes.addressof(_info))
    kind = _info.raw[0]
    if kind == 1:
        number, *arguments = struct.unpack_from("<Q6Q", _info.raw, 24)
        return Stop(entry=True, number=number, arguments=tuple(arguments))
    if kind == 2:
        return Stop(entry=False, result=struct.unpack_from("<q", _info.raw, 24)[0])
    return None


def skip_call(thread: int) -> None:
    """At an entry: the call will not be made."""
    if platform.machine() == "x86_64":
        _ptrace(_POKEUSER, thread, _ORIG_RAX, 2**64 - 1)
        return
    number = ctypes.c_int(-1)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(number), ctypes.sizeof(number))
    _ptrace(_SETREGSET, thread, _NT_ARM_SYSTEM_CALL, ctypes.addressof(vector))


def set_result(thread: int, result: int) -> None:
    """At an exit: what the program will see."""
    if platform.machine() == "x86_64":
        _ptrace(_POKEUSER, thread, _RAX, result % 2**64)
        return
    first = ctypes.c_int64(result)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(first), ctypes.sizeof(first))
    _ptrace(_SETREGSET, thread, _NT_PRSTATUS, ctypes.addressof(vector))


def memory(thread: int, address: int, count: int) -> bytes:
    """Bytes of its memory."""
    if not count:
        return b""
    fd = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    try:
        return os.pread(fd, count, address)
    finally:
        os.close(fd)


def text(thread: int, address: int) -> str:
    """A string that ends with NUL, from its memory."""
    raw = b""
    while b"\0" not in raw:
        step = 4096 - (address + len(raw)) % 4096
        raw += memory(thread, address + len(raw), min(step, 256))
    return os.fsdecode(raw[: raw.index(b"\0")])


def vector(thread: int, address: int, count: int, limit: int) -> bytes:
    """What an array of iovec points to, up to ``limit`` bytes."""
    parts, raw = [], memory(thread, address, 16 * count)
    for at in range(0, len(raw), 16):
        base, length = struct.unpack_from("<QQ", raw, at)
        length = min(length, limit)
        parts.append(memory(thread, base, length))
        limit -= length
    return b"".join(parts)


def process_of(thread: int) -> int:
    """The process that a thread belongs to."""
    for line in Path(f"/proc/{thread}/status").read_text().splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise ProcessLookupError(thread)


def threads_below(process: int) -> set[int]:
    """All threads of a process and of the processes below it."""
    below: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                below.setdefault(int(parent), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [process]
    while waiting:
        one = waiting.pop()
        waiting += below.get(one, [])
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(int(task.name) for task in Path(f"/proc/{one}/task").iterdir())
    return found
