"""Delivery of a package to an SFTP server, with the proof that the target's configuration asks for.

The package goes to a temporary name, is flushed where the server can, is compared, and only then gets its
name; nothing that has the name is ever overwritten. What a broken upload left is compared and continued.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Callable
from pathlib import Path

from fiona_dagster.config import DataRoot, SftpTarget
from fiona_dagster.errors import (
    DeliveryRefused,
    FionaError,
    PeerUnavailable,
    PermanentError,
    ProofAwaited,
    StorageFull,
    Superseded,
)
from fiona_dagster.transfers.targets import ArrivedDamaged, Proof, ProofKind, has_side_files, utc_now
from fiona_dagster.transfers.targets.local import LocalPackage, in_hand, require_safe_name
from fiona_dagster.transfers.targets.pipeline import Writing
from fiona_dagster.transfers.targets.remote import (
    NotWritten,
    digest_of,
    finished,
    name_it,
    part_name,
    remove,
    size_of,
)
from fiona_dagster.transfers.targets.sftp_proof import Proofs, ask, by_server_file
from fiona_dagster.transfers.targets.ssh import Link, connection, errors
from fiona_dagster.transfers.targets.upload import Upload

SERVER_FILE_SECONDS = 20.0
"""How long one attempt waits for the server's own checksum file; later attempts wait again."""


def deliver_sftp(
    target: SftpTarget,
    root: DataRoot,
    package: Path,
    expected_sha256: str,
    *,
    remote_name: str,
    begin: Callable[[], object],
    name: str = "sftp",
    may_go_on: Callable[[], None] = lambda: None,
) -> Proof:
    """Brings one package to an SFTP server and proves that it is there.

    Args:
        target: where, and what counts as proof (``proofs``).
        root: relative key files lie below its ``config/``.
        package: the ZIP.
        expected_sha256: the package's digest in the ledger; anything else is not sent.
        remote_name: file name at the other side; ``.md5`` and ``.sha256`` come beside it.
        begin: called before the first byte leaves; writes that down.
        name: the target's name in config.json, for messages and the proof.
        may_go_on: called before every MiB; what it raises ends the delivery.

    Returns:
        A proof of kind ``sftp-readback``, ``sftp-digest``, ``sftp-md5sum-server``, or ``agreement`` when
        nothing could be proven and nothing was to be. ``counts``: ``sent`` is 0 when the same bytes were
        there before, ``resumed`` the bytes that an earlier attempt had brought, ``flushed`` whether the
        server put them on its disk before it said so.

    Raises:
        NotVerified: the bytes in hand are not those of the ledger.
        DeliveryRefused: host key changed, no permission, other content under our name, or none of the
            proofs that are asked for can be had.
        StorageFull: the remote disk is full; what was sent is removed.
        ProofAwaited: it is there, and the server's own checksum is not.
        PeerUnavailable: no connection, it broke, or what arrived is not what was sent.
    """
    require_safe_name(remote_name, name)
    local = in_hand(package, expected_sha256, may_go_on)
    with connection(target, root, name) as link:
        final = posixpath.join(target.directory, remote_name)
        may_go_on()
        begin()
        delivery = _Delivery(link, target, local, final)
        kind = delivery.bring()
        sides = local.side_files(remote_name)
        for ending, content in sides.items():
            delivery.put_text(f"{final}{ending}", content)
    return Proof(
        kind=kind,
        target=name,
        time=utc_now(),
        counts={"files": 1 + len(sides), "bytes": local.size, **delivery.counts},
        digests={"md5": local.md5, "sha256": local.sha256},
        private={"remote_path": final},
    )


class _Delivery:
    """One package on its way to one server."""

    def __init__(self, link: Link, target: SftpTarget, local: LocalPackage, final: str) -> None:
        self._link = link
        self._target = target
        self._local = local
        self._final = final
        self._blind = "agreement" in target.proofs
        self._proofs = Proofs.of(target.proofs, archive=has_side_files(final))
        self._upload: Upload | None = None
        self._named = False

    @property
    def counts(self) -> dict[str, int]:
        """What the proof says of the sending."""
        sent = self._upload
        return {
            "sent": int(sent is not None),
            "resumed": sent.resumed if sent else 0,
            "flushed": int(sent.flushed) if sent else 0,
        }

    def bring(self) -> ProofKind:
        """Sends what is missing; returns what proves it."""
        kind = self._under_its_name()
        if kind is not None:
            return kind
        part = part_name(self._final)
        try:
            self._upload = Upload(self._link, self._target, self._local, part)
            self._upload.send()
            kind = self._compare(part)
            self._local.may_go_on()
            self._give_name(part)
        except FionaError as error:
            if _leaves_nothing(error):
                with contextlib.suppress(FionaError):
                    remove(self._link, part)
            raise
        return kind or self._after_the_name()

    # -- what is there already ----------------------------------------------------------------------

    def _under_its_name(self) -> ProofKind | None:
        """What proves the file that has the package's name; None if there is none."""
        size = size_of(self._link, self._final, blind=self._blind)
        if size is None:
            return None
        if size != self._local.size:
            raise self._other_content(size)
        answer = ask(self._link, self._final, self._local, self._proofs.at_once)
        if answer is None:
            return self._after_the_name()
        if not answer.same:
            raise self._other_content(size)
        return answer.kind

    def _after_the_name(self) -> ProofKind:
        """What only proves a file that has its name, and what is only asked for after that."""
        if self._blind:
            return "agreement"
        if not self._proofs.server_file:
            raise self._no_proof()
        try:
            answer = by_server_file(self._link, self._final, self._local, SERVER_FILE_SECONDS)
        except ProofAwaited:
            later = ask(self._link, self._final, self._local, self._proofs.later)
            if later is None:
                raise
            answer = later
        if answer.same:
            return answer.kind
        if self._named and answer.kind != "sftp-md5sum-server":
            remove(self._link, self._final)  # ours, since a moment ago, and proven to nobody
            raise self._damaged()
        raise DeliveryRefused(
            f"target {self._link.name}: by {' or '.join(self._target.proofs)}, what has the package's name "
            "there is not the package; have it and its checksum removed there, then deliver again"
        )

    def _damaged(self) -> ArrivedDamaged:
        return ArrivedDamaged(
            f"target {self._link.name}: what lies there differs from what was sent; removed, trying "
            "again may help"
        )

    def _no_proof(self) -> DeliveryRefused:
        return DeliveryRefused(
            f"target {self._link.name}: the server can give none of the proofs that are configured "
            f"({', '.join(self._target.proofs)}); allow another kind (proofs), or ask its operator"
        )

    def _other_content(self, size: int) -> DeliveryRefused:
        return DeliveryRefused(
            f"target {self._link.name}: other content ({size} bytes, ours has {self._local.size}) lies there "
            "under the package's name; it is never overwritten: have it moved away there, then deliver again"
        )

    # -- naming -------------------------------------------------------------------------------------

    def _compare(self, part: str) -> ProofKind | None:
        answer = ask(self._link, part, self._local, self._proofs.at_once)
        if answer is None:
            if not (self._blind or self._proofs.server_file):
                raise self._no_proof()
            return None
        if not answer.same:
            raise self._damaged()
        return answer.kind

    def _give_name(self, part: str) -> None:
        # SFTP's own rename fails where the new name exists (draft 02, section 6.5; OpenSSH makes a hard
        # link): no race can overwrite. posix-rename@openssh.com would, so it is never used for a package.
        link = self._link
        with errors(link.name, "renaming"):
            try:
                size = name_it(link, part, self._final)
            except TimeoutError:
                raise PeerUnavailable(
                    f"target {link.name}: no answer in time to renaming the package: it may have its name by "
                    "now; trying again finds out"
                ) from None
            except PermissionError:
                raise
            except OSError:
                if self._blind or self._under_its_name() is None:
                    raise
                remove(link, part)
                return
        self._named = True
        if not self._blind and size != self._local.size:
            if size is not None:
                remove(link, self._final)  # ours, since a moment ago, and proven to nobody
            raise ArrivedDamaged(
                f"target {link.name}: the package is not there after renaming; trying again may help"
            )

    def put_text(self, path: str, text: bytes) -> None:
        """Writes a checksum file; one that is right already stays, an outdated one is replaced."""
        link = self._link
        if self._blind:
            if size_of(link, path, blind=True) is None:
                self._write_text(path, text)
            return
        digest = hashlib.sha256(text).hexdigest()
        if size_of(link, path) == len(text) and _reads(link, path, len(text), digest):
            return
        part = part_name(path)
        self._write_text(part, text)
        if not _reads(link, part, len(text), digest):
            raise PeerUnavailable(
                f"target {link.name}: a checksum file did not arrive; trying again may help"
            )
        with errors(link.name, "writing a checksum file"):
            try:
                link.client.posix_rename(part, path)
            except (PermissionError, TimeoutError):  # after a time-out it may have happened
                raise
            except OSError:
                # A server without the extension: the file is derived from the package, so it may go first.
                remove(link, path)
                link.client.rename(part, path)

    def _write_text(self, path: str, text: bytes) -> None:
        with errors(self._link.name, "writing a checksum file"), Writing(self._link, path) as remote:
            remote.write(text)
            finished(self._link, remote)


def _reads(link: Link, path: str, size: int, digest: str) -> bool:
    """Whether a small file is right; where nothing may be read its size has to do."""
    try:
        return digest_of(link, path, size) == digest
    except DeliveryRefused:
        return size_of(link, path) == size


def _leaves_nothing(error: FionaError) -> bool:
    """Whether what was sent so far is removed: all but what another attempt can continue."""
    return isinstance(error, PermanentError | Superseded | StorageFull | ArrivedDamaged | NotWritten)
