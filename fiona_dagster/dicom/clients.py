"""Clients of a peer over DIMSE: C-ECHO, C-STORE, C-FIND (PS3.7 section 9.1), on pynetdicom.

pynetdicom is imported when one of these functions is called. What it and pydicom log or raise quotes
values of attributes; nothing of it gets out of here.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, UnreadableDicom

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

MAX_CONTEXTS = 128
"""Presentation contexts of one association: odd IDs from 1 to 255 (PS3.8 9.3.2.2)."""
ATTEMPTS = 3
"""How often an instance without an answer is sent again."""
FIRST_ANSWER_SECONDS = 8.0
"""How long the first attempt waits for an answer.

pynetdicom's client loses some responses (measured: 7 of 14,500); a short wait makes these cheap, and an
instance that is sent twice does no harm. Later attempts wait for the peer's whole time-out.
"""
SLOWEST_BYTES_PER_SECOND = 500_000
"""The wait for an answer begins before the object is out: so much time is added for its size."""

Context = tuple[str, str]
"""SOP class and transfer syntax."""


@dataclass(frozen=True)
class Peer:
    """A DICOM application entity elsewhere.

    Attributes:
        host: name or address.
        port: TCP port.
        called: its AE title.
        calling: ours.
        timeout: seconds that any single wait may take.
    """

    host: str
    port: int
    called: str
    calling: str = "FIONA"
    timeout: float = 30.0

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.called} at {self.host}:{self.port}"


@dataclass(frozen=True)
class Instance:
    """A DICOM file that can be sent; UIDs as they stand in it."""

    path: Path
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    study: str
    series: str

    @property
    def context(self) -> Context:
        """What must be negotiated for it."""
        return (self.sop_class, self.transfer_syntax)


@dataclass(frozen=True)
class StoreResult:
    """What became of one instance.

    Attributes:
        instance: which.
        status: DIMSE status (PS3.4 B.2.3), or None when there was no answer or it could not be offered.
        reason: why there is no status; empty otherwise.
    """

    instance: Instance
    status: int | None
    reason: str = ""

    @property
    def stored(self) -> bool:
        """Success or one of the warnings B000, B006, B007 with which the object is kept."""
        return self.status is not None and (self.status == 0 or self.status >> 12 == 0xB)

    @property
    def may_pass(self) -> bool:
        """Not stored, but for a reason that may pass: no answer, or out of resources (A7xx)."""
        return not self.stored and (
            self.status >> 8 == 0xA7 if self.status is not None else self.reason == "no answer"
        )


def read_instance(path: Path) -> Instance:
    """Reads what must be known to send a file.

    Raises:
        UnreadableDicom: no DICOM file with file meta information, or UIDs are missing.
    """
    from pydicom import config as pydicom_config
    from pydicom import dcmread

    wanted = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    try:
        with warnings.catch_warnings(), pydicom_config.disable_value_validation():
            warnings.simplefilter("ignore")
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(wanted))
            values = [str(dataset.get(keyword) or "") for keyword in wanted]
            transfer_syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on broken bytes
        raise UnreadableDicom(f"a file to send is no readable DICOM ({type(error).__name__})") from None
    if not (all(values) and transfer_syntax):
        raise UnreadableDicom("a file to send lacks one of its UIDs or its transfer syntax")
    sop_class, sop_instance, study, series = values
    return Instance(path, sop_class, sop_instance, transfer_syntax, study, series)


def echo(peer: Peer) -> None:
    """C-ECHO (PS3.7 9.1.5).

    Raises:
        PeerUnavailable: no answer.
        DeliveryRefused: the peer does not want us.
    """
    with association_with(peer, [(VERIFICATION, IMPLICIT_LITTLE_ENDIAN)], peer.timeout) as association:
        status = _status(association.send_c_echo())
    if status != 0:
        raise PeerUnavailable(f"{peer.name}: no success to C-ECHO")


def store_files(
    peer: Peer,
    instances: Sequence[Instance],
    *,
    before: Callable[[Instance], None] | None = None,
    after: Callable[[StoreResult], None] | None = None,
) -> list[StoreResult]:
    """Sends files by C-STORE in the transfer syntax that they have.

    Args:
        peer: where to.
        instances: what, see :func:`read_instance`.
        before: called before an instance is sent, each time; what it raises ends the sending.
        after: called with each result.

    Returns:
        One result an instance, in no particular order; an instance without an answer was tried
        :data:`ATTEMPTS` times.

    Raises:
        PeerUnavailable: no association could be had.
        DeliveryRefused: the peer refuses associations from us for good.
    """
    sending = _Sending(peer, before, after)
    for contexts in _batches(sorted({instance.context for instance in instances})):
        sending.run(contexts, [instance for instance in instances if instance.context in contexts])
    return sending.results


def _batches(contexts: list[Context]) -> list[set[Context]]:
    return [set(contexts[at : at + MAX_CONTEXTS]) for at in range(0, len(contexts), MAX_CONTEXTS)]


class _Sending:
    """Sends over as many associations as it takes, since any of them may break."""

    def __init__(
        self,
        peer: Peer,
        before: Callable[[Instance], None] | None,
        after: Callable[[StoreResult], None] | None,
    ) -> None:
        self.results: list[StoreResult] = []
        self._peer = peer
        self._before = before
        self._after = after
        self._tries: dict[Path, int] = {}

    def run(self, contexts: set[Context], waiting: list[Instance]) -> None:
        """Sends instances that need these contexts."""
        while waiting:
            again = any(self._tries.get(instance.path) for instance in waiting)
            wait = self._peer.timeout if again else min(FIRST_ANSWER_SECONDS, self._peer.timeout)
            with association_with(self._peer, sorted(contexts), wait) as association:
                waiting = self._until_it_breaks(association, waiting, wait)

    def _until_it_breaks(self, association: Any, waiting: list[Instance], wait: float) -> list[Instance]:
        """Returns what is left."""
        accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in association.accepted_contexts
        }
        for position, instance in enumerate(waiting):
            if instance.context not in accepted:
                self._done(StoreResult(instance, None, "SOP class or transfer syntax not accepted"))
                continue
            if self._before is not None:
                self._before(instance)
            association.dimse_timeout = wait + _size(instance.path) / SLOWEST_BYTES_PER_SECOND
            status = _send(association, instance)
            if status is None:
                return waiting[position + 1 :] + self._again(instance)
            self._done(StoreResult(instance, status))
        return []

    def _again(self, instance: Instance) -> list[Instance]:
        self._tries[instance.path] = self._tries.get(instance.path, 0) + 1
        if self._tries[instance.path] < ATTEMPTS:
            return [instance]
        self._done(StoreResult(instance, None, "no answer"))
        return []

    def _done(self, result: StoreResult) -> None:
        self.results.append(result)
        if self._after is not None:
            self._after(result)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # sending it will say so


def _send(association: Any, instance: Instance) -> int | None:
    from pynetdicom import _config

    # Bytes go out as they are in the file, in pieces; nothing is decoded.
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        return _status(association.send_c_store(str(instance.path)))
    except (RuntimeError, OSError):
        return None  # the association is gone
    except (AttributeError, ValueError) as error:
        raise UnreadableDicom(f"a file can't be sent as it is ({type(error).__name__})") from None


def find_instance_uids(peer: Peer, study: str, series: Iterable[str]) -> set[str]:
    """SOP Instance UIDs that the peer has of some series, by C-FIND at IMAGE level (PS3.4 C.6.2).

    Args:
        peer: whom to ask.
        study: Study Instance UID.
        series: Series Instance UIDs.

    Raises:
        PeerUnavailable: no association, or no answer.
        DeliveryRefused: the peer does not answer such queries.
    """
    found: set[str] = set()
    for uid in sorted(set(series)):
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": uid, "SOPInstanceUID": ""}
        found.update(values["SOPInstanceUID"] for values in find(peer, "IMAGE", keys))
    found.discard("")
    return found


def count_instances(peer: Peer, study: str) -> int:
    """Number of instances that the peer says it has of a study (NumberOfStudyRelatedInstances).

    Raises:
        PeerUnavailable: no association, or no answer.
        DeliveryRefused: the peer does not answer such queries.
    """
    keys = {"StudyInstanceUID": study, "NumberOfStudyRelatedInstances": ""}
    numbers = [values["NumberOfStudyRelatedInstances"] for values in find(peer, "STUDY", keys)]
    return sum(int(number) for number in numbers if number.isdigit())


def find(peer: Peer, level: str, keys: dict[str, str]) -> list[dict[str, str]]:
    """C-FIND in the study root (PS3.4 C.6.2).

    Args:
        peer: whom to ask.
        level: Query/Retrieve Level: ``STUDY``, ``SERIES`` or ``IMAGE``.
        keys: keyword -> value to match; empty to have it returned.

    Returns:
        The values of these keys in each match; empty where the peer has none.

    Raises:
        PeerUnavailable: no association, or no answer.
        DeliveryRefused: the peer does not answer such queries.
    """
    for _ in range(ATTEMPTS):
        answer = _find_once(peer, level, keys)
        if answer is not None:
            return answer
    raise PeerUnavailable(f"{peer.name}: no answer to C-FIND at {level} level")


def _find_once(peer: Peer, level: str, keys: dict[str, str]) -> list[dict[str, str]] | None:
    from pydicom.dataset import Dataset

    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    found: list[dict[str, str]] = []
    contexts = [(STUDY_ROOT_FIND, EXPLICIT_LITTLE_ENDIAN), (STUDY_ROOT_FIND, IMPLICIT_LITTLE_ENDIAN)]
    with association_with(peer, contexts, peer.timeout) as association:
        try:
            for answer, identifier in association.send_c_find(query, STUDY_ROOT_FIND):
                status = _status(answer)
                if status in (0xFF00, 0xFF01):
                    if identifier is not None:
                        found.append({keyword: str(identifier.get(keyword) or "") for keyword in keys})
                    continue
                if status is None:
                    return None
                if status != 0:
                    raise DeliveryRefused(f"{peer.name}: C-FIND at {level} level: status {status:04X}")
                return found
        except (RuntimeError, OSError, ValueError):
            return None
    return None


def _status(answer: Any) -> int | None:
    status = answer.get("Status") if answer is not None else None
    return None if status is None else int(status)


@contextlib.contextmanager
def association_with(
    peer: Peer, contexts: Sequence[Context], wait: float, roles: Sequence[Any] = ()
) -> Iterator[Any]:
    """An association of pynetdicom that is established; it is released, or aborted, at the end.

    Args:
        peer: with whom.
        contexts: SOP classes and transfer syntaxes to propose.
        wait: seconds to wait for each answer.
        roles: SCP/SCU role selection items (PS3.7 D.3.3.4).

    Raises:
        PeerUnavailable: it can't be had now.
        DeliveryRefused: the peer refuses us for good.
    """
    from pydicom import config as pydicom_config
    from pynetdicom import AE, evt

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    entity = AE(ae_title=peer.calling)
    entity.connection_timeout = peer.timeout
    entity.acse_timeout = peer.timeout
    entity.network_timeout = peer.timeout
    entity.dimse_timeout = wait
    for sop_class, transfer_syntax in contexts:
        entity.add_requested_context(sop_class, transfer_syntax)
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        association = entity.associate(
            peer.host,
            peer.port,
            ae_title=peer.called,
            ext_neg=list(roles),
            evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
        )
        try:
            if not association.is_established:
                raise _not_established(peer, association)
            yield association
        finally:
            if association.is_established:
                association.release()
            if not association.is_released:
                association.abort()


def _no_delay(event: Any) -> None:
    # pynetdicom has no setting for it and leaves Nagle on: ten times slower on small objects.
    connection = event.assoc.dul.socket.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _not_established(peer: Peer, association: Any) -> PeerUnavailable | DeliveryRefused:
    if association.is_rejected:
        answer = association.acceptor.primitive
        if answer is not None and answer.result == 1:  # rejected-permanent (PS3.8 9.3.4)
            return DeliveryRefused(
                f"{peer.name}: rejects associations from {peer.calling} (diagnostic {answer.diagnostic}); "
                "check both AE titles there and in config.json"
            )
        return PeerUnavailable(f"{peer.name}: rejects associations for now")
    if association.rejected_contexts and not association.accepted_contexts:
        return DeliveryRefused(
            f"{peer.name}: accepts none of the SOP classes and transfer syntaxes that we have"
        )
    return PeerUnavailable(f"{peer.name}: no association; check host, port and that it runs")
