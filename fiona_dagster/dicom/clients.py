"""Clients of a peer over DIMSE: C-ECHO, C-FIND (PS3.7 section 9.1); associations of pynetdicom for the rest.

pynetdicom is imported when :func:`association_with` is called. What it and pydicom log or raise quotes values
of attributes; nothing of it gets out of here.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fiona_dagster.dicom import dimse
from fiona_dagster.dicom.datasets import decode, encode, tag_of
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.requestor import Context, Requestor
from fiona_dagster.dicom.wire import Broken
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, UnreadableDicom

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

_FIND_CONTEXTS = [(STUDY_ROOT_FIND, EXPLICIT_LITTLE_ENDIAN), (STUDY_ROOT_FIND, IMPLICIT_LITTLE_ENDIAN)]
_QUERY_LEVEL = 0x00080052
MAX_MATCHES = 1_000_000
"""Answers to one query that are taken."""
ATTEMPTS = 3
"""How often a query without an answer is asked."""


def echo(peer: Peer) -> None:
    """C-ECHO (PS3.7 9.1.5).

    Raises:
        PeerUnavailable: no answer.
        DeliveryRefused: the peer does not want us.
    """
    context = (VERIFICATION, IMPLICIT_LITTLE_ENDIAN)
    try:
        with Requestor(peer, [context]) as association:
            if context not in association.accepted:
                raise DeliveryRefused(f"{peer.name}: does not accept verification")
            number = association.next_message_id()
            command = dimse.encode_request(dimse.C_ECHO_RQ, number, VERIFICATION, data_set=False)
            answer, _ = association.ask(dimse.C_ECHO_RQ, context, command)
    except Broken as broken:
        raise PeerUnavailable(f"{peer.name}: no answer to C-ECHO: {broken}") from None
    if answer.status != dimse.SUCCESS:
        raise PeerUnavailable(f"{peer.name}: no success to C-ECHO")


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
    # Some peers ignore keys that they should match: only answers about this study count.
    found = [values for values in find(peer, "STUDY", keys) if values["StudyInstanceUID"] == study]
    numbers = [values["NumberOfStudyRelatedInstances"].strip() for values in found]
    return sum(int(number) for number in numbers if re.fullmatch(r"[0-9]{1,9}", number))


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
    why = ""
    for _ in range(ATTEMPTS):
        try:
            with Requestor(peer, _FIND_CONTEXTS) as association:
                return _find(peer, association, level, keys)
        except Broken as broken:
            why = str(broken)
            if broken.timed_out:
                break
    raise PeerUnavailable(f"{peer.name}: no answer to C-FIND at {level} level: {why}")


def _find(peer: Peer, association: Requestor, level: str, keys: dict[str, str]) -> list[dict[str, str]]:
    context = next((each for each in _FIND_CONTEXTS if each in association.accepted), None)
    if context is None:
        raise DeliveryRefused(f"{peer.name}: does not answer queries (study root, C-FIND)")
    tags = {tag_of(keyword): keyword for keyword in keys}
    query = encode(
        {_QUERY_LEVEL: level, **{tag: keys[keyword] for tag, keyword in tags.items()}},
        explicit=context[1] == EXPLICIT_LITTLE_ENDIAN,
    )
    number = association.next_message_id()
    command = dimse.encode_request(dimse.C_FIND_RQ, number, STUDY_ROOT_FIND, data_set=True)
    found: list[dict[str, str]] = []
    answer, data = association.ask(dimse.C_FIND_RQ, context, command, query)
    while answer.status in (0xFF00, 0xFF01):
        try:
            values = decode(data, context[1], list(tags))
        except UnreadableDicom as error:
            raise Broken(str(error)) from None
        found.append({keyword: values.get(tag, "") for tag, keyword in tags.items()})
        if len(found) > MAX_MATCHES:
            raise PeerUnavailable(f"{peer.name}: more than {MAX_MATCHES} answers to C-FIND at {level} level")
        answer, data = association.more(dimse.C_FIND_RQ)
    said = f"{peer.name}: C-FIND at {level} level: status {answer.status:04X}"
    if answer.status >> 8 == 0xA7:
        raise PeerUnavailable(f"{said} (out of resources)")
    if answer.status != dimse.SUCCESS:
        raise DeliveryRefused(said)
    return found


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
    tls = (peer.tls.context(), peer.tls.server_name or peer.host) if peer.tls is not None else None
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
            tls_args=tls,
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
