"""System calls by number, and which of their arguments mean what."""

from __future__ import annotations

import platform
from dataclasses import dataclass

_X86_64 = {
    0: "read", 1: "write", 2: "open", 9: "mmap", 17: "pread", 18: "pwrite", 19: "readv", 20: "writev",
    40: "sendfile", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg", 73: "flock",
    74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir",
    85: "creat", 86: "link", 87: "unlink", 88: "symlink", 137: "statfs", 138: "fstatfs", 162: "sync",
    257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat", 266: "symlinkat",
    275: "splice", 277: "sync_file_range", 285: "fallocate", 288: "accept4", 296: "pwritev", 299: "recvmmsg",
    306: "syncfs", 307: "sendmmsg", 316: "renameat2", 326: "copy_file_range", 328: "pwritev2",
    425: "io_uring_setup", 437: "openat2",
}  # fmt: skip
_AARCH64 = {
    32: "flock", 34: "mkdirat", 35: "unlinkat", 36: "symlinkat", 37: "linkat", 38: "renameat", 43: "statfs",
    44: "fstatfs", 45: "truncate", 46: "ftruncate", 47: "fallocate", 56: "openat", 63: "read", 64: "write",
    65: "readv", 66: "writev", 67: "pread", 68: "pwrite", 70: "pwritev", 71: "sendfile", 76: "splice",
    81: "sync", 82: "fsync", 83: "fdatasync", 84: "sync_file_range", 202: "accept", 206: "sendto",
    207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 222: "mmap", 242: "accept4", 243: "recvmmsg",
    267: "syncfs", 269: "sendmmsg", 276: "renameat2", 285: "copy_file_range", 287: "pwritev2",
    425: "io_uring_setup", 437: "openat2",
}  # fmt: skip
NAMES: dict[int, str] = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine(), {})


@dataclass(frozen=True)
class Shape:
    """Where the arguments of a call stand; -1: it has none.

    Attributes:
        fd: the descriptor that is acted on.
        paths: (index of the directory's descriptor or -1, index of the path) of each path.
        flags: flags of an open, a rename or an unlink.
        buffer: address of the data; its length is the result (reading) or the next argument.
        vector: address of an iovec array; its count is the next argument.
        message: address of a msghdr.
        offset: explicit position in the file.
        length: length, of a truncation or an allocation.
    """

    fd: int = -1
    paths: tuple[tuple[int, int], ...] = ()
    flags: int = -1
    buffer: int = -1
    vector: int = -1
    message: int = -1
    offset: int = -1
    length: int = -1


SHAPES = {
    "read": Shape(fd=0, buffer=1),
    "pread": Shape(fd=0, buffer=1, offset=3),
    "readv": Shape(fd=0, vector=1),
    "recvfrom": Shape(fd=0, buffer=1),
    "recvmsg": Shape(fd=0, message=1),
    "write": Shape(fd=0, buffer=1),
    "pwrite": Shape(fd=0, buffer=1, offset=3),
    "writev": Shape(fd=0, vector=1),
    "pwritev": Shape(fd=0, vector=1, offset=3),
    "pwritev2": Shape(fd=0, vector=1, offset=3, flags=5),
    "sendto": Shape(fd=0, buffer=1),
    "sendmsg": Shape(fd=0, message=1),
    "sendfile": Shape(fd=0),
    "splice": Shape(fd=2),
    "copy_file_range": Shape(fd=2),
    "accept": Shape(fd=0),
    "accept4": Shape(fd=0),
    "flock": Shape(fd=0, flags=1),
    "fsync": Shape(fd=0),
    "fdatasync": Shape(fd=0),
    "sync_file_range": Shape(fd=0),
    "syncfs": Shape(fd=0),
    "sync": Shape(),
    "statfs": Shape(paths=((-1, 0),)),
    "fstatfs": Shape(fd=0),
    "open": Shape(paths=((-1, 0),), flags=1),
    "openat": Shape(paths=((0, 1),), flags=2),
    "openat2": Shape(paths=((0, 1),)),
    "creat": Shape(paths=((-1, 0),)),
    "mkdir": Shape(paths=((-1, 0),)),
    "mkdirat": Shape(paths=((0, 1),)),
    "rmdir": Shape(paths=((-1, 0),)),
    "unlink": Shape(paths=((-1, 0),)),
    "unlinkat": Shape(paths=((0, 1),), flags=2),
    "rename": Shape(paths=((-1, 0), (-1, 1))),
    "renameat": Shape(paths=((0, 1), (2, 3))),
    "renameat2": Shape(paths=((0, 1), (2, 3)), flags=4),
    "link": Shape(paths=((-1, 0), (-1, 1))),
    "linkat": Shape(paths=((0, 1), (2, 3)), flags=4),
    "symlink": Shape(paths=((-1, 1),)),
    "symlinkat": Shape(paths=((1, 2),)),
    "truncate": Shape(paths=((-1, 0),), length=1),
    "ftruncate": Shape(fd=0, length=1),
    "fallocate": Shape(fd=0, flags=1, offset=2, length=3),
    "mmap": Shape(fd=4, flags=3),
    "io_uring_setup": Shape(),
    "sendmmsg": Shape(fd=0),
    "recvmmsg": Shape(fd=0),
}
READING = frozenset({"read", "pread", "readv", "recvfrom", "recvmsg"})
WRITING = frozenset(
    {"write", "pwrite", "writev", "pwritev", "pwritev2", "sendfile", "splice", "copy_file_range"}
)
SENDING = frozenset({"write", "writev", "sendto", "sendmsg"})
OPENING = frozenset({"open", "openat", "openat2", "creat"})
REMOVING = frozenset({"unlink", "unlinkat", "rmdir"})
RENAMING = frozenset({"rename", "renameat", "renameat2"})
FLUSHING = frozenset({"fsync", "fdatasync", "syncfs", "sync"})
