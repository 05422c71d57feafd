"""Delivery of a package to a plain folder, mostly a mounted share, proven by reading it back.

The package goes to a temporary name, is flushed, dropped from the cache, read back and compared, and only
then gets its name; nothing that has the name is ever overwritten. What a broken attempt left is compared and
continued. Every call to the file system has a time limit, since a share whose server is gone never answers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from fiona_dagster.config import FolderTarget
from fiona_dagster.errors import (
    DeliveryRefused,
    FionaError,
    PeerUnavailable,
    PermanentError,
    StorageFull,
    Superseded,
)
from fiona_dagster.transfers.targets import Proof, utc_now
from fiona_dagster.transfers.targets.local import (
    CHUNK,
    LocalPackage,
    in_hand,
    not_the_one,
    require_safe_name,
)
from fiona_dagster.transfers.targets.patience import Patience

FLUSH_EVERY = 64 << 20
"""Bytes after which what was written is flushed: one flush of gigabytes would look like a dead server."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
"""What file systems without hard links answer (SMB, FAT)."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class _Damaged(PeerUnavailable):
    """What lies there is not what was written: it is removed, and written anew."""


def deliver_folder(
    target: FolderTarget,
    package: Path,
    expected_sha256: str,
    *,
    remote_name: str,
    begin: Callable[[], object],
    name: str = "folder",
    may_go_on: Callable[[], None] = lambda: None,
) -> Proof:
    """Brings one package to a folder and proves that it is there.

    Args:
        target: where.
        package: the ZIP.
        expected_sha256: the package's digest in the ledger; anything else is not written.
        remote_name: file name there; ``.md5`` and ``.sha256`` come beside it.
        begin: called before the first byte leaves; writes that down.
        name: the target's name in config.json, for messages and the proof.
        may_go_on: called before every MiB; what it raises ends the delivery.

    Returns:
        A proof of kind ``folder-readback``. ``counts``: ``sent`` is 0 when the same bytes were there before,
        ``resumed`` the bytes that an earlier attempt had brought.

    Raises:
        NotVerified: the bytes in hand are not those of the ledger.
        DeliveryRefused: no permission, a read-only share, or other content under our name.
        StorageFull: there is no room; what was written is removed.
        PeerUnavailable: the share is not mounted or does not answer, or what lies there is not what was
            written.
    """
    require_safe_name(remote_name, name)
    local = in_hand(package, expected_sha256, may_go_on)
    with Patience(name, target.timeout_seconds) as ask:
        delivery = _Delivery(ask, target, local, name)
        require_mounted(ask, target, name)
        device = delivery.device()
        may_go_on()
        begin()
        final = Path(target.directory) / remote_name
        delivery.bring(final)
        sides = local.side_files(remote_name)
        for ending, text in sides.items():
            delivery.put_text(Path(f"{final}{ending}"), text)
        # A share that goes away leaves the folder that it is mounted on, where all of this works as well.
        delivery.require_there(final, device)
        require_mounted(ask, target, name)
    return Proof(
        kind="folder-readback",
        target=name,
        time=utc_now(),
        counts={
            "files": 1 + len(sides),
            "bytes": local.size,
            "sent": int(delivery.sent),
            "resumed": delivery.resumed,
        },
        digests={"md5": local.md5, "sha256": local.sha256},
        private={"remote_path": str(final)},
    )


def require_mounted(ask: Patience, target: FolderTarget, name: str) -> None:
    """Makes sure that the folder is the share, and not the empty folder that it is mounted on.

    Args:
        ask: makes the calls.
        target: where.
        name: the target's name in config.json, for messages.

    Raises:
        PeerUnavailable: it is not there, or has no marker.
    """
    folder = Path(target.directory)
    with _errors(name, "looking at the folder"):
        if not ask(folder.is_dir):
            raise PeerUnavailable(
                f"target {name}: the folder is not there; mount the share, or make the folder "
                "(`directory`); it is never made here"
            )
        if target.marker and not ask((folder / target.marker).is_file):
            raise PeerUnavailable(
                f"target {name}: the folder has no file {target.marker}: the share is not mounted, or that "
                "file was never made there (`marker`)"
            )


class _Delivery:
    """One package on its way to one folder."""

    def __init__(self, ask: Patience, target: FolderTarget, local: LocalPackage, name: str) -> None:
        self._ask = ask
        self._target = target
        self._local = local
        self._name = name
        self.sent = False
        self.resumed = 0

    def bring(self, final: Path) -> None:
        """Writes what is missing; proven when it returns."""
        part = _part_of(final)
        if self._under_its_name(final):
            with _errors(self._name, "clearing up"), contextlib.suppress(FileNotFoundError):
                self._ask(part.unlink)  # killed between the two halves of giving the name
            return
        try:
            with _errors(self._name, "writing"):
                self._write(part)
            self._compare(part)
            self._local.may_go_on()
            self._give_name(part, final)
        except FionaError as error:
            if isinstance(error, PermanentError | Superseded | StorageFull | _Damaged):
                with contextlib.suppress(FionaError, OSError):
                    self._ask(part.unlink)
            raise

    def _under_its_name(self, final: Path) -> bool:
        """Whether exactly the package lies there already."""
        with _errors(self._name, "looking at the folder"):
            try:
                status = self._ask(final.lstat)
            except FileNotFoundError:
                return False
            if not stat.S_ISREG(status.st_mode):
                raise DeliveryRefused(
                    f"target {self._name}: something that is no file lies there under the package's name"
                )
            same = status.st_size == self._local.size and self._digest(final) == self._local.sha256
        if not same:
            raise DeliveryRefused(
                f"target {self._name}: other content ({status.st_size} bytes, ours has {self._local.size}) "
                "lies there under the package's name; it is never overwritten: have it moved away there, "
                "then deliver again"
            )
        return True

    def device(self) -> int:
        """The file system that the folder is on."""
        with _errors(self._name, "looking at the folder"):
            return self._ask(os.stat, self._target.directory).st_dev

    def require_there(self, final: Path, device: int) -> None:
        """Makes sure that the folder stayed the same share, and has the package.

        Raises:
            PeerUnavailable: it did not, or has not.
        """
        with _errors(self._name, "looking at the package once more"):
            status = self._ask(final.lstat)
        if self.device() != device or status.st_dev != device or status.st_size != self._local.size:
            raise PeerUnavailable(
                f"target {self._name}: the folder became another one while the package was written; nothing "
                "is proven, look at the mount"
            )

    # -- writing ------------------------------------------------------------------------------------

    def _write(self, part: Path) -> None:
        local, ask = self._local, self._ask
        sha256 = hashlib.sha256()
        descriptor = ask(os.open, part, _NEW, 0o600)
        try:
            with local.open() as source:
                self.resumed = self._same(descriptor, source.read, sha256.update)
                ask(os.ftruncate, descriptor, self.resumed)
                self._check_room(part, local.size - self.resumed)
                source.seek(self.resumed)
                self._copy(source.read, descriptor, sha256.update)
            self.sent = True
            if sha256.hexdigest() != local.sha256:
                raise not_the_one()
            self._set_mode(descriptor)
            ask(os.fsync, descriptor)
        finally:
            with contextlib.suppress(PeerUnavailable):
                ask(os.close, descriptor)

    def _same(self, descriptor: int, read: Callable[[int], bytes], seen: Callable[[bytes], object]) -> int:
        """Bytes at the beginning of what an earlier attempt left that are those of the package."""
        position = 0
        self._drop_cache(descriptor)
        while there := self._ask(os.pread, descriptor, CHUNK, position):
            self._local.may_go_on()
            ours = read(len(there))
            if ours != there:
                break
            seen(ours)
            position += len(ours)
        return position

    def _copy(self, read: Callable[[int], bytes], descriptor: int, seen: Callable[[bytes], object]) -> None:
        position, flushed = self.resumed, self.resumed
        while chunk := read(CHUNK):
            self._local.may_go_on()
            seen(chunk)
            while chunk:
                written = self._ask(os.pwrite, descriptor, chunk, position)
                position += written
                chunk = chunk[written:]
            if position - flushed >= FLUSH_EVERY:
                self._ask(os.fdatasync, descriptor)
                flushed = position

    def _check_room(self, part: Path, needed: int) -> None:
        room = self._ask(os.statvfs, part.parent)
        if room.f_bavail * room.f_frsize < needed:
            raise _full(self._name)

    def _set_mode(self, descriptor: int) -> None:
        try:
            self._ask(os.fchmod, descriptor, int(self._target.file_mode, 8))
        except OSError as error:
            # A share without Unix permissions: who may read there is its server's affair.
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES):
                raise

    # -- comparing ----------------------------------------------------------------------------------

    def _compare(self, path: Path) -> None:
        with _errors(self._name, "reading back"):
            if self._digest(path) != self._local.sha256:
                raise _Damaged(
                    f"target {self._name}: what lies there differs from what was written; removed, trying "
                    "again may help"
                )

    def _digest(self, path: Path) -> str:
        """SHA-256 of what the file system gives back, not of what this machine remembers of it."""
        sha256, position = hashlib.sha256(), 0
        descriptor = self._ask(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._drop_cache(descriptor)
            while chunk := self._ask(os.pread, descriptor, CHUNK, position):
                self._local.may_go_on()
                sha256.update(chunk)
                position += len(chunk)
        finally:
            with contextlib.suppress(PeerUnavailable):
                self._ask(os.close, descriptor)
        return sha256.hexdigest()

    def _drop_cache(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # not every file system can
            self._ask(os.posix_fadvise, descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    # -- names --------------------------------------------------------------------------------------

    def _give_name(self, part: Path, final: Path) -> None:
        """A hard link fails where the name is taken, so that no race can overwrite."""
        with _errors(self._name, "giving the package its name"):
            try:
                self._ask(os.link, part, final)
            except FileExistsError:
                self._under_its_name(final)
                self._ask(part.unlink)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if self._under_its_name(final):
                    self._ask(part.unlink)
                else:
                    self._ask(os.rename, part, final)
            else:
                self._ask(part.unlink)
            self._sync_folder(final.parent)
            if self._ask(final.lstat).st_size != self._local.size:
                raise _Damaged(f"target {self._name}: the package is not there after renaming")

    def put_text(self, path: Path, text: bytes) -> None:
        """Writes a checksum file; one that is right already stays, an outdated one is replaced."""
        with _errors(self._name, "writing a checksum file"):
            if self._reads(path, len(text)) == text:
                return
            part = _part_of(path)
            descriptor = self._ask(os.open, part, _NEW | os.O_TRUNC, 0o600)
            try:
                self._ask(os.write, descriptor, text)
                self._set_mode(descriptor)
                self._ask(os.fsync, descriptor)
                self._drop_cache(descriptor)
            finally:
                self._ask(os.close, descriptor)
            if self._reads(part, len(text)) != text:
                raise PeerUnavailable(
                    f"target {self._name}: a checksum file did not arrive; trying again may help"
                )
            self._ask(os.replace, part, path)
            self._sync_folder(path.parent)

    def _reads(self, path: Path, size: int) -> bytes | None:
        """The beginning of a file, one byte more than it should have; None if there is none."""
        try:
            descriptor = self._ask(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            return self._ask(os.read, descriptor, size + 1)
        finally:
            self._ask(os.close, descriptor)

    def _sync_folder(self, folder: Path) -> None:
        descriptor = self._ask(os.open, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # SMB can't; the file itself is flushed
                self._ask(os.fsync, descriptor)
        finally:
            self._ask(os.close, descriptor)


@contextlib.contextmanager
def _errors(name: str, doing: str) -> Iterator[None]:
    """Turns the file system's errors into ours; their texts stay behind, they quote names."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(name) from None
        code = errno.errorcode.get(error.errno or 0, type(error).__name__)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.EISDIR):
            raise DeliveryRefused(
                f"target {name}: not permitted while {doing} ({code}); ask who runs the share"
            ) from None
        raise PeerUnavailable(f"target {name}: failed while {doing} ({code})") from None


def _full(name: str) -> StorageFull:
    return StorageFull(f"target {name}: there is no room in the folder; free space there")


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.fiona-part")
