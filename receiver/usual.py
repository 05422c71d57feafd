"""A request that differs from one before in two places only needs no walk."""

from __future__ import annotations

import struct

from fiona_dagster.dicom import dimse
from fiona_dagster.dicom.uids import clean_uid

_ELEMENT = struct.Struct("<HHI")
_BEFORE = 12
"""Bytes of the heads of a P-DATA-TF and of its only presentation data value."""
_MESSAGE_ID, _INSTANCE = 0x0110, 0x1000
_LONGEST = 1024


class UsualRequest:
    """A C-STORE-RQ, as the P-DATA-TF that it came in.

    Another one of the same length, with the same bytes but for Message ID and Affected SOP Instance UID, says
    the same but for these two. Whatever differs elsewhere must be walked.

    Args:
        whole: the P-DATA-TF, which holds one presentation data value.
        request: the same, decoded.
        number: where the value of Message ID stands.
        instance: where that of Affected SOP Instance UID stands, behind it, and where it ends.
    """

    def __init__(self, whole: bytes, request: dimse.Command, number: int, instance: slice) -> None:
        self._number, self._instance = number, instance
        self._front, self._middle = whole[:number], whole[number + 2 : instance.start]
        self._rest = whole[instance.stop :]
        self._sop_class, self._action = request.sop_class, request.action

    @classmethod
    def of(cls, whole: bytes, request: dimse.Command) -> UsualRequest | None:
        """What can be known by a request; None if it is none that comes again and again."""
        if request.field != dimse.C_STORE_RQ or not request.has_data_set or len(whole) > _LONGEST:
            return None
        number, instance = _value(whole, _MESSAGE_ID), _value(whole, _INSTANCE)
        if number is None or instance is None or number.stop - number.start != 2:
            return None
        if number.start > instance.start or instance.start == instance.stop:
            return None  # where nothing stands, a slice of another request would find nothing, too
        return cls(whole, request, number.start, instance)

    def read(self, whole: bytes) -> dimse.Command | None:
        """The request in a P-DATA-TF of the same length; None if it must be walked."""
        number, instance = self._number, self._instance
        if (
            whole[:number] != self._front
            or whole[number + 2 : instance.start] != self._middle
            or whole[instance.stop :] != self._rest
        ):
            return None
        message_id = whole[number] | whole[number + 1] << 8
        return dimse.Command(
            dimse.C_STORE_RQ, message_id, self._sop_class, clean_uid(whole[instance]), True, self._action
        )


def _value(whole: bytes, wanted: int) -> slice | None:
    """Where the value of an element stands; None if the element is not there, or more than once."""
    found, at = [], _BEFORE
    while at < len(whole):
        group, element, length = _ELEMENT.unpack_from(whole, at)
        at += _ELEMENT.size + length
        if group == 0 and element == wanted:
            found.append(slice(at - length, at))
    return found[0] if len(found) == 1 else None
