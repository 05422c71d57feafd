"""What a research PACS or DICOMweb server does not take as it is stored, in a transfer syntax that it takes.

Which instances these are is asked of the PACS each time, or said by the server; a copy is made anew whenever
it is needed, always the same, sent, and removed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fiona_dagster.dicom.instances import NOT_ACCEPTED, Instance, StoreResult, read_instance
from fiona_dagster.dicom.opened import DIFFERS, from_copy
from fiona_dagster.dicom.pdu import MAX_CONTEXTS
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.requestor import Context, Requestor
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from fiona_dagster.dicom.wire import Broken
from fiona_dagster.errors import NotVerified, PeerUnavailable, RefusedDicom, UnreadableDicom
from fiona_dagster.transfers.scratch import scratch_in

BATCH_BYTES = 256 << 20
"""Copies that are made before they are sent: so many bytes, or one that is larger."""
_PIECE = 1 << 20
OFFERED = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)

Send = Callable[[Sequence[Instance], Mapping[str, str]], list[StoreResult]]


class Copies:
    """The instances of one delivery that go in another transfer syntax.

    Args:
        expected: SHA-256 of every verified file by ``str(path)``; copies are made of these bytes alone.

    Attributes:
        to: SOP Instance UID -> transfer syntax that it is sent in.
    """

    def __init__(self, expected: Mapping[str, str]) -> None:
        self._expected = expected
        self.to: dict[str, str] = {}

    def send(
        self, instances: Sequence[Instance], send: Send, before: Callable[[], None]
    ) -> list[StoreResult]:
        """Sends those of these instances that go in another transfer syntax, some at a time.

        Args:
            instances: what is to be sent.
            send: gets the copies, and their SHA-256 by ``str(path)``.
            before: called before each is made; what it raises ends the sending.

        Returns:
            What became of each; what can't be transcoded has the reason.

        Raises:
            NotVerified: a file is not what was verified; nothing of it was sent.
        """
        results: list[StoreResult] = []
        waiting = [each for each in instances if each.sop_instance in self.to]
        while waiting:
            with scratch_in(waiting[0].path.parent.parent) as folder:
                made: list[Instance] = []
                size = 0
                while waiting and size < BATCH_BYTES:
                    before()
                    instance = waiting.pop(0)
                    try:
                        made.append(self._made(instance, folder / f"{len(made)}.dcm"))
                    except (RefusedDicom, UnreadableDicom) as error:
                        results.append(StoreResult(instance, None, f"{NOT_ACCEPTED}; {error}"))
                        continue
                    size += made[-1].path.stat().st_size
                results += send(made, {str(each.path): _digest(each.path) for each in made})
        return results

    @contextlib.contextmanager
    def as_sent(self, instance: Instance) -> Iterator[Instance]:
        """An instance as it was sent; a copy that is made for this is there inside the ``with`` block.

        Raises:
            RefusedDicom: it can't be transcoded.
            NotVerified: it is not what was verified.
        """
        if instance.sop_instance not in self.to:
            yield instance
            return
        with scratch_in(instance.path.parent.parent) as folder:
            yield self._made(instance, folder / "0.dcm")

    def _made(self, instance: Instance, path: Path) -> Instance:
        from fiona_dagster.transfers.transcoding import transcode

        source = path.with_suffix(".verified")
        try:
            copy_verified(instance.path, source, self._expected.get(str(instance.path), ""))
            transcode(source, path, self.to[instance.sop_instance])
        finally:
            source.unlink(missing_ok=True)
        made = read_instance(path)
        if replace(made, path=instance.path, transfer_syntax="", data_set_offset=0) != replace(
            instance, transfer_syntax="", data_set_offset=0
        ):
            raise RefusedDicom("a copy in another transfer syntax has other UIDs; it is not sent")
        return made


class Transcoded(Copies):
    """What a research PACS does not take as it is stored.

    Args:
        peer: the PACS.
        instances: all of the delivery.
        expected: SHA-256 of every verified file by ``str(path)``.
        allowed: whether the project allows it; otherwise nothing goes so.

    Raises:
        PeerUnavailable: the PACS can't be asked now.
        DeliveryRefused: it does not take associations from us.
    """

    def __init__(
        self, peer: Peer, instances: Sequence[Instance], expected: Mapping[str, str], *, allowed: bool
    ) -> None:
        super().__init__(expected)
        self._peer = peer
        if not allowed:
            return
        accepted = _accepted(peer, {each.context for each in instances})
        refused = [each for each in instances if each.context not in accepted]
        if not refused:
            return
        others = _accepted(peer, {(each.sop_class, syntax) for each in refused for syntax in OFFERED})
        for each in refused:
            syntax = next((syntax for syntax in OFFERED if (each.sop_class, syntax) in others), "")
            if syntax:
                self.to[each.sop_instance] = syntax

    def store(
        self, instances: Sequence[Instance], associations: int, before: Callable[[], None]
    ) -> list[StoreResult]:
        """Sends those of these instances that go in another transfer syntax, see :meth:`Copies.send`.

        Args:
            instances: what is to be sent.
            associations: how many at once.
            before: called before each is made and sent; what it raises ends the sending.
        """

        def send(made: Sequence[Instance], digests: Mapping[str, str]) -> list[StoreResult]:
            return store_files(
                self._peer, made, digests=digests, associations=associations, before=lambda _: before()
            )

        return self.send(instances, send, before)


def copy_verified(path: Path, to: Path, digest: str) -> None:
    """Copies a file for work that reads it more than once, whatever happens to it meanwhile.

    Args:
        path: the file.
        to: a new file.
        digest: SHA-256 that the copied bytes must have.

    Raises:
        NotVerified: they have another, or the file is gone.
        CopyUnavailable: the disk does not give it.
    """
    sha256 = hashlib.sha256()
    with from_copy():
        stream = path.open("rb")
    with stream, to.open("xb") as copy:
        while True:
            with from_copy():
                piece = stream.read(_PIECE)
            if not piece:
                break
            sha256.update(piece)
            copy.write(piece)
    if sha256.hexdigest() != digest:
        raise NotVerified(DIFFERS)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _accepted(peer: Peer, contexts: set[Context]) -> set[Context]:
    """Which of these the PACS takes, by negotiating them and nothing else."""
    found: set[Context] = set()
    ordered = sorted(contexts)
    for at in range(0, len(ordered), MAX_CONTEXTS):
        try:
            with Requestor(peer, ordered[at : at + MAX_CONTEXTS]) as association:
                found.update(association.accepted)
        except Broken as broken:
            raise PeerUnavailable(f"{peer.name}: no association: {broken}") from None
    return found
