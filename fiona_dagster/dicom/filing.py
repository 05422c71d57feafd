"""Whether an object can be filed, and under which UIDs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from fiona_dagster.dicom.head import (
    MODALITY,
    NAMES,
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    HeadReader,
)
from fiona_dagster.dicom.uids import clean_uid, is_storage_class, is_uid
from fiona_dagster.errors import UnreadableDicom


class StorageUids(NamedTuple):
    """What an object is filed under.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        sop_instance: SOPInstanceUID.
        sop_class: SOPClassUID.
        modality: Modality as it stands in the object, empty if it has none; not yet safe for a path.
    """

    study: str
    series: str
    sop_instance: str
    sop_class: str
    modality: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why an object can't be filed.

    Attributes:
        code: ``unreadable``, ``missing_uid``, ``malformed_uid``, ``contradicting_uid`` or ``not_storage``.
        status: DIMSE status for C-STORE (PS3.4 table B.2-1): 0xA900 or 0xC000.
        message: one sentence, at most 64 characters (it becomes the Error Comment), without values.
        element: the tag that offends, 0 if there is none.
    """

    code: str
    status: int
    message: str
    element: int = 0


def judge(head: HeadReader, sop_class: str = "", sop_instance: str = "") -> StorageUids | Refusal:
    """Decides whether an object can be filed.

    Args:
        head: a reader that is done.
        sop_class: what the C-STORE command or the file meta information says; empty if it says nothing.
        sop_instance: the same for the instance.

    Returns:
        The UIDs, or the reason for a refusal (design section 6; PS3.4 table B.2-1).
    """
    if head.problem:
        return Refusal("unreadable", 0xC000, _short(head.problem))
    get = head.values.get
    same = _same_for_series(
        get(SOP_CLASS_UID), get(STUDY_INSTANCE_UID), get(SERIES_INSTANCE_UID), get(MODALITY)
    )
    announced = same is not None and same.sop_class == sop_class and is_uid(sop_instance)
    if announced and same is not None and clean_uid(get(SOP_INSTANCE_UID, b"")) == sop_instance:
        return StorageUids(same.study, same.series, sop_instance, sop_class, same.modality)
    return _judge(head, sop_class, sop_instance)


@lru_cache(maxsize=256)
def _same_for_series(
    sop_class: bytes | None, study: bytes | None, series: bytes | None, modality: bytes | None
) -> StorageUids | None:
    """What many objects have in common, if nothing of it can be a reason for a refusal."""
    texts = [clean_uid(raw or b"") for raw in (study, series, sop_class)]
    if not all(map(is_uid, texts)) or not is_storage_class(texts[2]):
        return None
    return StorageUids(texts[0], texts[1], "", texts[2], clean_uid(modality or b""))


def _judge(head: HeadReader, sop_class: str, sop_instance: str) -> StorageUids | Refusal:
    texts: dict[int, str] = {}
    for tag, name in NAMES.items():
        text, sound = _uid_of(head.values.get(tag, b""))
        texts[tag] = text
        if not text:
            return Refusal("missing_uid", 0xA900, f"{name} is missing", tag)
        if not sound:
            return Refusal("malformed_uid", 0xC000, f"{name} is malformed", tag)
    announced = {SOP_CLASS_UID: sop_class, SOP_INSTANCE_UID: sop_instance}
    for tag, text in announced.items():
        if text and text != texts[tag]:
            return Refusal("contradicting_uid", 0xA900, f"{NAMES[tag]} differs from what was announced", tag)
    if not is_storage_class(texts[SOP_CLASS_UID]):
        return Refusal("not_storage", 0xA900, "SOPClassUID is no storage SOP class", SOP_CLASS_UID)
    return StorageUids(
        study=texts[STUDY_INSTANCE_UID],
        series=texts[SERIES_INSTANCE_UID],
        sop_instance=texts[SOP_INSTANCE_UID],
        sop_class=texts[SOP_CLASS_UID],
        modality=_uid_of(head.values.get(MODALITY, b""))[0],
    )


@lru_cache(maxsize=256)
def _uid_of(raw: bytes) -> tuple[str, bool]:
    """A UID without its padding, and whether it is well formed; most of them come again and again."""
    text = clean_uid(raw)
    return text, is_uid(text)


def _short(message: str) -> str:
    return message[:64]


def read_head(data: bytes | memoryview, transfer_syntax: str) -> StorageUids:
    """The UIDs in the first bytes of a data set.

    Args:
        data: the data set from its first byte, or enough of it.
        transfer_syntax: UID of its transfer syntax.

    Raises:
        UnreadableDicom: they are missing or malformed, or the data set is broken before them.
    """
    head = HeadReader(transfer_syntax)
    head.feed(data)
    head.end()
    result = judge(head)
    if isinstance(result, Refusal):
        raise UnreadableDicom(f"data set: {result.message}")
    return result
