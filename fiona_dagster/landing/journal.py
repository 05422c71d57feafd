"""Journals of receipts in ``site/.arrived``: one per sender and study, appended to and tailed."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing.files import as_room_error, room_errors, sync_directory
from fiona_dagster.landing.flush import GroupFlush, flush_data
from fiona_dagster.landing.receipt import Caller, Receipt, decode_line, encode_line

log = logging.getLogger("fiona.landing")

_NAME = re.compile(r"\S+ \S+ \S+ scp_([0-9.]{1,64})")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_:-")
_POINT = ord(".")
_CHUNK = 1024 * 1024
_LOCK_TRIES, _LOCK_PAUSE = 100, 0.02


def _encoded(text: str) -> str:
    """``text`` as one word of a file name; a point may stand anywhere but in front."""
    raw = text.encode("utf-8", "replace")
    words = (chr(b) if b in _PLAIN or (b == _POINT and i) else f"%{b:02X}" for i, b in enumerate(raw))
    return "".join(words) or "%"


def journal_name(caller: Caller, study: str) -> str:
    """``<caller> <called> <ip> scp_<Study>`` as in the original, with everything unusual percent-encoded."""
    return f"{_encoded(caller.calling_ae)} {_encoded(caller.called_ae)} {_encoded(caller.ip)} scp_{study}"


def study_of(name: str) -> str | None:
    """The StudyInstanceUID in the name of a journal; None if it is no journal."""
    match = _NAME.fullmatch(name)
    return match[1] if match and is_uid(match[1]) else None


class FlushGroups:
    """The flushes of one process: all associations that write to the same journal share one."""

    def __init__(self) -> None:
        self._groups: WeakValueDictionary[Path, GroupFlush] = WeakValueDictionary()
        self._mutex = threading.Lock()

    def of(self, path: Path) -> GroupFlush:
        """The flush of one journal."""
        with self._mutex:
            group = self._groups.get(path)
            if group is None:
                group = self._groups[path] = GroupFlush(flush_data)
            return group


class Journal:
    """A journal as one association writes it.

    Args:
        root: the data root.
        caller: who sends.
        study: StudyInstanceUID.
        flushed: whether a line is flushed before :meth:`append` returns.
        groups: shared by all who write in this process.

    From opening to closing it holds a shared flock, which says that this association has sent to this
    study and may send more (:func:`open_associations`). The kernel drops it when the process dies.
    """

    def __init__(
        self,
        root: DataRoot,
        caller: Caller,
        study: str,
        *,
        flushed: bool = True,
        groups: FlushGroups | None = None,
    ) -> None:
        self.path = root.arrived / journal_name(caller, study)
        self._fd = -1
        self._end = -1
        self._flushed = flushed
        self._flush = (groups or FlushGroups()).of(self.path)
        with room_errors(root.arrived):
            while not self._open():
                self.close()
            if flushed:
                self._flush_name(root.arrived)

    def _flush_name(self, folder: Path) -> None:
        try:
            sync_directory(folder)
        except OSError:
            # A name whose flush failed is never believed again, whatever a later flush says: it is made anew.
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self._fd).st_size == 0:
                    self.path.unlink()
            self.close()
            raise

    def _open(self) -> bool:
        """Opens and locks; False if retention removed the file in between (it holds the lock to do so)."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock()
        return os.fstat(self._fd).st_nlink > 0

    def _lock(self) -> None:
        # A checker holds its exclusive lock for a moment only. Should one hang, evidence is worth less
        # than the object: go on without the lock.
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            else:
                return
        log.warning("journal lock of a study is held by somebody else; going on without it")

    def _ends_torn(self, size: int) -> bool:
        """Whether a line without its end stands there: a crash, or a full disk, maybe not ours."""
        return size not in (0, self._end) and os.pread(self._fd, 1, size - 1) != b"\n"

    def append(self, receipt: Receipt, written: Callable[[], None] | None = None) -> None:
        """Appends one line by a single write and flushes it; one flush serves all who wait for it.

        Args:
            receipt: what the line says.
            written: called when the line is written and not yet flushed, if it is going to be.

        Raises:
            StorageFull: no room; the line is not there, or torn and so without effect.
            OSError: it could not be written or flushed; a later flush says nothing about this line.
        """
        line = encode_line(receipt)
        try:
            size = os.lseek(self._fd, 0, os.SEEK_END)
            if self._ends_torn(size):
                line = b"\n" + line
            self._end = -1
            if os.write(self._fd, line) < len(line):
                raise StorageFull(f"{self.path.parent}: no room for a journal line; make room and send again")
            self._end = size + len(line)  # if somebody else appends as well, the next look is a closer one
            if self._flushed:
                if written is not None:
                    written()
                self._flush_line()
        except OSError as error:
            raise as_room_error(error, self.path.parent) from None

    def _flush_line(self) -> None:
        try:
            self._flush(self._fd)
        except OSError:
            # Nobody knows what of this line will be on the disk; the next one must not be glued to it.
            with suppress(OSError):
                os.write(self._fd, b"\n")
            raise

    def close(self) -> None:
        """Ends the association's claim on the study."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _names(root: DataRoot, ending: str = "") -> list[str]:
    try:
        names = os.listdir(root.arrived)  # noqa: PTH208 - half the cost of Path objects at 100,000 journals
    except FileNotFoundError:
        return []
    return [name for name in names if name.endswith(ending) and study_of(name)]


def journals_of(root: DataRoot, study: str) -> list[Path]:
    """All journals of a study; only names are looked at."""
    return [root.arrived / name for name in _names(root, f" scp_{study}")]


def open_associations(root: DataRoot, study: str) -> bool:
    """Whether an association that has sent to this study is still open in a living process."""
    return any(_is_held(path) for path in journals_of(root, study))


def _is_held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@dataclass(frozen=True)
class Position:
    """How far a journal was read.

    Attributes:
        offset: bytes.
        mark: checksum of the last bytes before ``offset``; "" if none was taken. It tells a journal that grew
            from one that was put back from a backup and has grown since.
    """

    offset: int = 0
    mark: str = ""


@dataclass(frozen=True)
class JournalDamage:
    """A line that can't be believed: which journal, from which byte to which."""

    journal: str
    start: int
    end: int


def _warn(damage: JournalDamage) -> None:
    log.warning("journal of %s: line at byte %d is damaged", study_of(damage.journal), damage.start)


def read_journals(
    root: DataRoot,
    known: Mapping[str, Position],
    *,
    study: str | None = None,
    on_damage: Callable[[JournalDamage], None] = _warn,
) -> Iterator[tuple[str, Position, Receipt]]:
    """Tails all journals of one ``site/`` tree.

    Args:
        root: the data root, with the tree that is meant.
        known: name of a journal -> how far it was read; absent means not at all. A journal whose bytes before
            that place are others now is read from its start.
        study: only the journals of this study.
        on_damage: told about every complete line whose checksum is wrong; the default logs it. A last
            line without its newline is not damage: it is still being written, or was torn by a crash.

    Yields:
        (name of the journal, position after this line, receipt). Storing the position together with the
        receipt makes tailing exact.
    """
    names = _names(root) if study is None else [path.name for path in journals_of(root, study)]
    for name in sorted(names):
        for start, end, line in _lines(root.arrived / name, known.get(name, _START)):
            receipt = decode_line(line)
            if receipt is not None:
                yield name, Position(end, _mark(line)), receipt
            elif line:
                on_damage(JournalDamage(name, start, end))


_START = Position()
_MARKED = 256


def _mark(line: bytes) -> str:
    end = line + b"\n"
    return f"{zlib.crc32(end[-_MARKED:]):08x}"


def _is_as_before(file: BinaryIO, known: Position) -> bool:
    if file.seek(0, os.SEEK_END) < known.offset:
        return False
    if not known.mark:
        return True
    file.seek(max(0, known.offset - _MARKED))
    before = file.read(known.offset - file.tell())
    line = before.removesuffix(b"\n").rpartition(b"\n")[2]
    return before.endswith(b"\n") and _mark(line) == known.mark


def _lines(path: Path, known: Position) -> Iterator[tuple[int, int, bytes]]:
    offset = known.offset
    try:
        if path.stat().st_size == offset:
            return
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if not _is_as_before(file, known):  # replaced by another one: all of it is new
            offset = 0
        file.seek(offset)
        rest = b""
        while chunk := file.read(_CHUNK):
            rest += chunk
            *lines, rest = rest.split(b"\n")
            for line in lines:
                start, offset = offset, offset + len(line) + 1
                yield start, offset, line
