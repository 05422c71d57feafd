"""What a source has of a study, and asking it to send: C-FIND and C-MOVE (PS3.4 annex C), on pynetdicom."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fiona_dagster.dicom.clients import (
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    association_with,
    find,
    find_instance_uids,
)
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable

STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
MOVE_SECONDS = 600.0
"""How long a source may be silent while it sends: not all of them report how far they are."""
MAX_SERIES_COUNTED = 200
"""Series that are counted instance by instance when a source gives no numbers."""


@dataclass(frozen=True)
class StudyCount:
    """How many instances a source has.

    Attributes:
        instances: of the study; 0 when it did not say.
        series: of each series, as far as it is known: Series Instance UID -> number.
    """

    instances: int = 0
    series: Mapping[str, int] = field(default_factory=dict)


def count_study(peer: Peer, study: str) -> StudyCount | None:
    """Asks a source how many instances it has of a study and of each of its series.

    The numbers are Number of Study Related Instances and Number of Series Related Instances, optional keys
    that many sources leave out: then the instances of a series are counted one by one. Where every series
    has a number their sum is the number of the study, since it is the finer statement. What is no positive
    number says nothing.

    Args:
        peer: whom to ask.
        study: Study Instance UID.

    Returns:
        The count, or None if the source does not know the study.

    Raises:
        PeerUnavailable: no association, or no answer.
        DeliveryRefused: the peer does not answer such queries.
    """
    keys = {"StudyInstanceUID": study, "NumberOfStudyRelatedInstances": ""}
    # Some sources ignore keys that they should match: only answers about this study count.
    answers = [each for each in find(peer, "STUDY", keys) if each["StudyInstanceUID"] == study]
    if not answers:
        return None
    stated = max(_number(each["NumberOfStudyRelatedInstances"]) for each in answers)
    series = _series(peer, study)
    counted = {uid: number for uid, number in series.items() if number}
    whole = bool(series) and len(counted) == len(series)
    return StudyCount(sum(counted.values()) if whole else stated, counted)


def _series(peer: Peer, study: str) -> dict[str, int]:
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": ""}
    found: dict[str, int] = {}
    for each in find(peer, "SERIES", keys):
        uid = each["SeriesInstanceUID"]
        if each["StudyInstanceUID"] in (study, "") and is_uid(uid):
            found[uid] = found.get(uid, 0) + _number(each["NumberOfSeriesRelatedInstances"])
    unknown = [uid for uid, number in found.items() if not number]
    if len(unknown) <= MAX_SERIES_COUNTED:
        for uid in unknown:
            found[uid] = len(find_instance_uids(peer, study, [uid]))
    return found


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0


@dataclass(frozen=True)
class Moved:
    """How a C-MOVE ended: final status, instances sent and instances that failed, as the source says."""

    status: int
    completed: int
    failed: int

    def __str__(self) -> str:
        return f"status {self.status:04X}, {self.completed} sent, {self.failed} failed"


def move(
    peer: Peer,
    study: str,
    series: str,
    destination: str,
    *,
    instance: str = "",
    longest: float | None = None,
) -> Moved:
    """Asks a source to send something of a study to an AE title that it knows (PS3.4 C.4.2).

    Args:
        peer: whom to ask.
        study: Study Instance UID.
        series: Series Instance UID; empty: all of the study.
        destination: AE title to send to.
        instance: SOP Instance UID; empty: all of the series.
        longest: seconds after which it is given up though the source says that it goes on; None: never.

    Returns:
        How it ended. Sub-operations that failed are no error here: what arrived counts, not what was said.

    Raises:
        PeerUnavailable: no association, or it broke in between.
        DeliveryRefused: the peer does not do this for us, or does not know the destination (A801).
    """
    from pydicom.dataset import Dataset

    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE" if instance else "SERIES" if series else "STUDY"
    query.StudyInstanceUID = study
    if series:
        query.SeriesInstanceUID = series
    if instance:
        query.SOPInstanceUID = instance
    contexts = [(STUDY_ROOT_MOVE, EXPLICIT_LITTLE_ENDIAN), (STUDY_ROOT_MOVE, IMPLICIT_LITTLE_ENDIAN)]
    last, begin = None, time.monotonic()
    with association_with(peer, contexts, max(peer.timeout, MOVE_SECONDS)) as association:
        try:
            for answer, _ in association.send_c_move(query, destination, STUDY_ROOT_MOVE):
                last = answer if answer is not None and "Status" in answer else None
                if longest is not None and time.monotonic() - begin > longest:
                    raise PeerUnavailable(f"{peer.name}: C-MOVE does not come to an end")
        except (RuntimeError, OSError, ValueError):
            last = None
    if last is None:
        raise PeerUnavailable(f"{peer.name}: no end of C-MOVE")
    status = int(last.Status)
    if status == 0xA801:
        raise DeliveryRefused(f"{peer.name}: does not know the move destination {destination}")
    return Moved(
        status,
        int(last.get("NumberOfCompletedSuboperations") or 0),
        int(last.get("NumberOfFailedSuboperations") or 0),
    )
