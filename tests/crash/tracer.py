"""``python -m tests.crash.tracer [options] -- COMMAND``: sees every system call of a command.

It can write them all down, kill the whole tree at a named point (:mod:`tests.crash.points`), or make the call
at that point fail. The command's first line goes to stdout as it is. The exit code is the command's,
128 + signal if one ended it.
"""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import re
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.crash import calls, ptrace
from tests.crash.events import Event
from tests.crash.points import POINTS

_AT_FDCWD = 0xFFFFFF9C
_NO_FILE = 0xFFFFFFFF
_MAX_DATA = 4 * 1024 * 1024
_LITTLE = 4096
_STOP = 128
_OPENED = re.compile(r"/proc/self/fd/([0-9]+)")
_WALL = 0x40000000


class Tracer:
    """Follows one command.

    Args:
        root: the data root; paths below it are told relative to it.
        record: where to pickle events to.
        point: name of the point to watch for.
        error: the error number to fail the call with at the point; 0 kills everything instead.
        times: how often the call at the point fails; 0 is for ever.
    """

    def __init__(self, root: Path, record: IO[bytes] | None, point: str, error: int, times: int) -> None:
        self._root = f"{root}/"
        self._record = record
        self._point = POINTS[point]() if point else None
        self._error, self._times = error, times
        self._known: set[int] = set()
        self._process: dict[int, int] = {}
        self._open: dict[int, Event] = {}
        self._raw: dict[int, ptrace.Stop] = {}
        self._failing: set[int] = set()
        self.hits = 0

    def attach(self, process: int) -> None:
        """Seizes everything there is below a process."""
        while True:
            new = ptrace.threads_below(process) - self._known
            if not new:
                return
            for thread in new:
                self._known.add(thread)
                with suppress(ProcessLookupError, PermissionError):  # it ended, or is followed
                    ptrace.seize(thread)

    def follow(self, process: int) -> int:
        """Until the process ends; its exit code."""
        code = 0
        while True:
            try:
                thread, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return code
            batch = [(thread, status)]
            while True:  # what has happened goes before what is about to happen
                with suppress(ChildProcessError):
                    thread, status = os.waitpid(-1, _WALL | os.WNOHANG)
                    if thread:
                        batch.append((thread, status))
                        continue
                break
            stops = []
            for thread, status in batch:
                if os.WIFSTOPPED(status):
                    stops.append((thread, status))
                elif thread == process:
                    code = os.waitstatus_to_exitcode(status)
            for thread, status in sorted(stops, key=lambda stop: stop[0] not in self._raw):
                with suppress(ProcessLookupError):  # killed meanwhile
                    ptrace.go_on(thread, self._stopped(thread, status))

    def _stopped(self, thread: int, status: int) -> int:
        """Handles a stop; the signal to go on with."""
        number = os.WSTOPSIG(status)
        if status >> 16:
            return 0
        if number != signal.SIGTRAP | 0x80:
            return number
        stop = ptrace.stop_of(thread)
        if stop is None:
            return 0
        if stop.entry:
            self._raw[thread] = stop
            name = calls.NAMES.get(stop.number)
            if name is not None:
                self._entered(thread, name, stop)
        else:
            began = self._raw.pop(thread, None)
            event = self._open.pop(thread, None)
            if event is not None and began is not None:
                self._returned(event, began, stop.result)
        return 0

    # -- what a call is about -------------------------------------------------------------------

    def _entered(self, thread: int, name: str, stop: ptrace.Stop) -> None:
        event = self._describe(thread, name, stop)
        if event is None:
            return
        self._open[thread] = event
        if self._tell(event):
            ptrace.skip_call(thread)
            self._failing.add(thread)

    def _returned(self, entry: Event, began: ptrace.Stop, result: int) -> None:
        thread = entry.thread
        if thread in self._failing:
            self._failing.discard(thread)
            result = -self._error
            ptrace.set_result(thread, result)
        shape = calls.SHAPES[entry.name]
        values = dict(vars(entry), at="exit", result=result)
        if result >= 0:
            if entry.name in calls.OPENING:
                values["inode"] = _inode(thread, result)
                with suppress(OSError):  # without a name until it is linked
                    if entry.flags & os.O_TMPFILE == os.O_TMPFILE:
                        values["paths"] = (self._name(str(Path(f"/proc/{thread}/fd/{result}").readlink())),)
            elif entry.name in calls.READING and entry.socket:
                values["data"] = _data(thread, shape, began.arguments, result, _LITTLE)
            elif entry.name in calls.WRITING and not entry.socket:
                values |= _written(thread, entry, shape, began.arguments, result)
        self._tell(Event(**values))

    def _describe(self, thread: int, name: str, stop: ptrace.Stop) -> Event | None:
        shape, arguments = calls.SHAPES[name], stop.arguments
        paths: list[str] = []
        is_socket = False
        try:
            for folder, path in shape.paths:
                paths.append(self._path(thread, arguments[folder] if folder >= 0 else None, arguments[path]))
            inode = _opened_inode(thread, paths)
            if name == "mmap" and arguments[4] & 0xFFFFFFFF == _NO_FILE:
                return None
            if shape.fd >= 0:
                target = str(Path(f"/proc/{thread}/fd/{arguments[shape.fd]}").readlink())
                is_socket = target.startswith("socket:")
                if not is_socket and not target.startswith("/"):
                    return None  # a pipe, an event
                paths.append(target if is_socket else self._name(target))
                if not is_socket:
                    inode = _inode(thread, arguments[shape.fd])
        except OSError:
            return None  # a wrong descriptor or address: the call will say so
        if not (is_socket or any(not path.startswith("/") for path in paths) or not paths):
            return None
        if thread not in self._process:
            self._process[thread] = ptrace.process_of(thread)
        data = b""
        if name in calls.SENDING:
            size = arguments[shape.buffer + 1] if shape.buffer >= 0 else _MAX_DATA
            data = _data(thread, shape, arguments, size, _MAX_DATA)
        flags = arguments[shape.flags] if shape.flags >= 0 else 0
        if name == "openat2":
            (flags,) = struct.unpack("<Q", ptrace.memory(thread, arguments[2], 8))
        elif name == "creat":
            flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        return Event(
            "entry",
            name,
            thread,
            self._process[thread],
            paths=tuple(paths),
            flags=flags,
            data=data,
            offset=arguments[shape.offset] if shape.offset >= 0 else 0,
            length=arguments[shape.length] if shape.length >= 0 else 0,
            inode=inode,
            socket=is_socket,
        )

    def _path(self, thread: int, folder: int | None, address: int) -> str:
        path = ptrace.text(thread, address)
        if not path.startswith("/"):
            here = folder is None or folder & 0xFFFFFFFF == _AT_FDCWD
            base = Path(f"/proc/{thread}/cwd" if here else f"/proc/{thread}/fd/{folder}").readlink()
            path = f"{base}/{path}"
        return self._name(path)

    def _name(self, path: str) -> str:
        path = os.path.normpath(path)
        return "." if f"{path}/" == self._root else path.removeprefix(self._root)

    # -- what is done about it ------------------------------------------------------------------

    def _tell(self, event: Event) -> bool:
        """Writes it down and looks whether it is the point; whether the call shall fail."""
        if self._record is not None:
            pickle.dump(event, self._record)
        if self._point is None or not self._point.seen(event):
            return False
        if self._times and self.hits >= self._times:
            return False
        self.hits += 1
        sys.stderr.write(f"tracer: {event}\n")
        if self._error:
            return event.at == "entry"
        for process in {ptrace.process_of(thread) for thread in self._threads()}:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return False

    def _threads(self) -> set[int]:
        return {t for t in self._known | set(self._raw) | set(self._process) if Path(f"/proc/{t}").exists()}


def _opened_inode(thread: int, paths: list[str]) -> tuple[int, int]:
    """Of the file that a link is made to by its descriptor."""
    opened = _OPENED.fullmatch(paths[0]) if paths else None
    return _inode(thread, int(opened[1])) if opened else (0, 0)


def _inode(thread: int, fd: int) -> tuple[int, int]:
    state = Path(f"/proc/{thread}/fd/{fd}").stat()
    return state.st_dev, state.st_ino


def _data(thread: int, shape: calls.Shape, arguments: tuple[int, ...], count: int, limit: int) -> bytes:
    limit = min(count, limit)
    if shape.buffer >= 0:
        return ptrace.memory(thread, arguments[shape.buffer], limit)
    if shape.vector >= 0:
        return ptrace.vector(thread, arguments[shape.vector], arguments[shape.vector + 1], limit)
    if shape.message >= 0:
        raw = ptrace.memory(thread, arguments[shape.message], 40)
        address, number = struct.unpack_from("<QQ", raw, 16)
        return ptrace.vector(thread, address, number, limit)
    return b""


def _written(
    thread: int, entry: Event, shape: calls.Shape, arguments: tuple[int, ...], count: int
) -> dict[str, object]:
    """The bytes that a call wrote, and where; those that never were in its memory come from the file."""
    fd = arguments[shape.fd]
    offset = entry.offset
    if shape.offset < 0 or offset == 2**64 - 1:
        position = Path(f"/proc/{thread}/fdinfo/{fd}").read_text().split(None, 2)[1]
        offset = int(position) - count
    if entry.name in calls.SENDING or shape.buffer >= 0 or shape.vector >= 0:
        return {"offset": offset, "data": _data(thread, shape, arguments, count, count)}
    with open(f"/proc/{thread}/fd/{fd}", "rb") as file:  # noqa: PTH123
        file.seek(offset)
        return {"offset": offset, "data": file.read(count)}


def _spawn(command: list[str]) -> tuple[int, int, int]:
    """Starts the command, held back: (process, descriptor that lets it go, its stdout)."""
    wait, go = os.pipe()
    out, into = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(go)
        os.read(wait, 1)
        os.dup2(into, 1)
        os.execvp(command[0], command)  # noqa: S606
    os.close(wait)
    os.close(into)
    return process, go, out


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pid", type=Path, required=True, help="file for the command's process id")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--from-start", action="store_true")
    parser.add_argument("--point", default="", choices=["", *POINTS])
    parser.add_argument("--error", default="", choices=["", *errno.errorcode.values()])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    process, go, out = _spawn(options.command)
    options.pid.write_text(str(process))
    record = options.record.open("wb") if options.record else None
    error = getattr(errno, options.error) if options.error else 0
    tracer = Tracer(options.root, record, options.point, error, options.times)
    if options.from_start:
        tracer.attach(process)
    os.close(go)
    if options.from_start:
        if os.fork() == 0:  # passes the line on meanwhile
            os.write(1, os.read(out, 4096))
            os._exit(0)
    else:
        line = os.read(out, 4096)
        tracer.attach(process)
        os.write(1, line)
    code = tracer.follow(process)
    if record is not None:
        record.close()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
