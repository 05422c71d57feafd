"""Retrieving from a research PACS what it has under our UIDs, and comparing it with what was to be there."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from ipaddress import ip_network

from fiona_dagster.config import DicomTarget
from fiona_dagster.dicom.instances import Instance
from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.retrieving import Getter, Mover, NotNow, Retriever
from fiona_dagster.dicom.sameness import same_data_set
from fiona_dagster.dicom.taking import Listener, networks_of
from fiona_dagster.errors import DeliveryRefused, PeerNotTrusted, RefusedDicom, StorageFull, UnreadableDicom
from fiona_dagster.transfers.targets import InstancesMissing

_SPARE = 1 << 20
"""Bytes, beside an eighth of it, by which a data set may be longer and say the same: lengths, delimiters."""

AsSent = Callable[[Instance], contextlib.AbstractContextManager[Instance]]
"""An instance in the transfer syntax that a PACS got it in."""


@contextlib.contextmanager
def room_to_compare() -> Iterator[None]:
    """What does not fit on the disk says nothing about a target.

    Raises:
        StorageFull: no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("no room to compare what a target has with what was to be there") from None
        raise


class Comparison:
    """What a PACS gives back, held against our files.

    Args:
        target: how it is asked.
        peer: the PACS.
        name: the target's name in config.json, for messages.
        may_go_on: called before each instance; what it raises ends the comparing.
        as_sent: gives an instance in the transfer syntax that the PACS got it in.

    Attributes:
        differing: what was given and is something else, when it was looked at last.
        withheld: what the PACS did not give.
        offered: False once the PACS has refused to give anything in this way.
    """

    def __init__(
        self,
        target: DicomTarget,
        peer: Peer,
        name: str,
        may_go_on: Callable[[], None],
        as_sent: AsSent = contextlib.nullcontext,
    ) -> None:
        self._target = target
        self._name = name
        self._peer = peer
        self._may_go_on = may_go_on
        self._as_sent = as_sent
        self.differing: set[str] = set()
        self.withheld: set[str] = set()
        self.offered = True

    def same(self, instances: Sequence[Instance], uids: Collection[str]) -> frozenset[str]:
        """Those of these instances that the PACS gives back with the same content, in the same encoding.

        Args:
            instances: our files.
            uids: SOP Instance UIDs to look at.

        Raises:
            PeerUnavailable: no answer, or it broke off.
            PeerNotTrusted: it is not who its certificate should say.
            InstancesMissing: the PACS has no means to give one at present.
            Busy: another delivery has the port for C-MOVE.
            StorageFull: no room for one instance at a time.
            NotVerified: a file of ours is gone.
            CopyUnavailable: the disk does not give it.
            ConfigurationError: the port for C-MOVE, or the files for TLS, can't be used.
        """
        wanted = sorted(
            (each for each in instances if each.sop_instance in uids), key=lambda one: one.context
        )
        if not wanted or not self.offered:
            return frozenset()
        same = set()
        try:
            with self._retriever() as retriever:
                for instance in wanted:
                    self._may_go_on()
                    try:
                        with self._as_sent(instance) as sent:
                            if self._is_same(retriever, sent):
                                same.add(instance.sop_instance)
                    except (RefusedDicom, UnreadableDicom):  # then it can't have got there from us
                        self.differing.add(instance.sop_instance)
        except PeerNotTrusted:
            raise
        except DeliveryRefused:
            self.offered = False
        return frozenset(same)

    def _is_same(self, retriever: Retriever, instance: Instance) -> bool:
        uid = instance.sop_instance
        with from_copy():
            size = instance.path.stat().st_size
            ours = instance.path.open("rb")
        try:
            # Without a name, so that nothing stays after a kill; beside ours, where there is room for it.
            with ours, room_to_compare(), tempfile.TemporaryFile(dir=instance.path.parent) as theirs:
                self.differing.discard(uid)
                self.withheld.discard(uid)
                if not retriever.fetch(instance, theirs, size + size // 8 + _SPARE):
                    (self.differing if theirs.tell() else self.withheld).add(uid)
                    return False
                if same_data_set(ours, instance.data_set_offset, theirs, 0, instance.transfer_syntax):
                    return True
                self.differing.add(uid)
        except NotNow as error:
            raise InstancesMissing(
                f"target {self._name}: an instance is listed and can't be compared now ({error})",
                {uid: str(error)},
            ) from None
        return False

    def _retriever(self) -> contextlib.AbstractContextManager[Retriever]:
        if self._target.retrieve == "get":
            return Getter(self._peer)
        tls = self._peer.tls.server_context() if self._peer.tls is not None else None
        port = self._target.move_port or 0
        listener = Listener(
            self._target.move_host,
            port,
            self._target.move_ae_title,
            self._peer.timeout,
            admitted=[*networks_of(self._peer.host), *map(ip_network, self._target.move_from)],
            originator=self._peer.calling,
            tls=tls,
        )
        return Mover(self._peer, listener)

    def describe(self) -> str:
        """What the comparing brought, for a message."""
        how = "C-GET" if self._target.retrieve == "get" else "C-MOVE"
        if self._target.compare == "none":
            return "what it has was not compared (`compare` of the target)"
        if not self.offered:
            return f"it gives nothing back to compare (`retrieve` of the target: {how})"
        said = []
        if self.differing:
            said.append(f"{len(self.differing)} were retrieved and are something else")
        if self.withheld:
            said.append(f"{len(self.withheld)} are not given back by {how}")
        return " and ".join(said)
