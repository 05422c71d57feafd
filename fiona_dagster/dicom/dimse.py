"""DIMSE command sets (PS3.7 sections 6.3 and 9.3, annex E) as bytes, always implicit VR little endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from fiona_dagster.dicom.uids import clean_uid
from fiona_dagster.errors import UnreadableDicom

C_STORE_RQ, C_FIND_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0020, 0x0030, 0x0FFF
C_GET_RQ = 0x0010
N_EVENT_REPORT_RQ, N_ACTION_RQ = 0x0100, 0x0130
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

SUCCESS = 0x0000
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
SOP_CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
UNRECOGNIZED_OPERATION = 0x0211
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

_LAYOUT, _NUMBER = struct.Struct("<HHI"), struct.Struct("<H")

MAX_COMMAND = 64 * 1024
"""Bytes of a command set that are collected."""

_SOP_CLASS, _REQUESTED_CLASS, _FIELD, _MESSAGE_ID, _ANSWERED_ID = 0x0002, 0x0003, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _OFFENDING, _COMMENT, _INSTANCE = 0x0800, 0x0900, 0x0901, 0x0902, 0x1000
_REQUESTED_INSTANCE, _EVENT, _ACTION, _MOVE_ORIGINATOR = 0x1001, 0x1002, 0x1008, 0x1030


class Command(NamedTuple):
    """A request as it came.

    Attributes:
        field: Command Field.
        message_id: Message ID.
        sop_class: Affected (or Requested) SOP Class UID.
        sop_instance: Affected (or Requested) SOP Instance UID.
        has_data_set: whether a data set follows.
        action: Action Type ID or Event Type ID, 0 for none.
        originator: Move Originator Application Entity Title as it came; empty for none.
    """

    field: int
    message_id: int
    sop_class: str
    sop_instance: str
    has_data_set: bool
    action: int = 0
    originator: bytes = b""


def decode_command(data: bytes) -> Command:
    """Decodes one command set.

    Raises:
        UnreadableDicom: lengths that don't fit, or no Command Field.
    """
    shape = _SHAPES.get(len(data))
    if shape is not None and shape.heads.unpack(data) == shape.expected:
        found = dict(zip(shape.elements, shape.values.unpack(data), strict=True))
    else:
        found = _elements(data)
        _learn(data)
    if len(found.get(_FIELD, b"")) != 2:
        raise UnreadableDicom("command set has no Command Field")
    return Command(
        field=_number(found, _FIELD),
        message_id=_number(found, _MESSAGE_ID),
        sop_class=clean_uid(found.get(_SOP_CLASS) or found.get(_REQUESTED_CLASS) or b""),
        sop_instance=clean_uid(found.get(_INSTANCE) or found.get(_REQUESTED_INSTANCE) or b""),
        has_data_set=_number(found, _DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET,
        action=_number(found, _ACTION) or _number(found, _EVENT),
        originator=found.get(_MOVE_ORIGINATOR, b""),
    )


def _elements(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        if at + 8 > end:
            raise UnreadableDicom("command set is cut")
        group, element, length = _LAYOUT.unpack_from(data, at)
        start = at + 8
        at = start + length
        if at > end:
            raise UnreadableDicom("command set: an element is longer than the command")
        if group == 0:
            found[element] = data[start:at]
    return found


class _Shape(NamedTuple):
    """Where the elements of a command set stand. One with the same heads of all elements is walked alike."""

    heads: struct.Struct
    expected: tuple[bytes, ...]
    values: struct.Struct
    elements: tuple[int, ...]


_SHAPES: dict[int, _Shape] = {}
"""By length: the shape that was walked last. Senders ask the same thing again and again."""
_MAX_SHAPES = 256
_MAX_SHAPED = 1024
"""Bytes of a command set whose shape is kept."""


def _learn(data: bytes) -> None:
    """Keeps the shape of a command set that :func:`_elements` has walked."""
    if len(data) > _MAX_SHAPED or (len(_SHAPES) >= _MAX_SHAPES and len(data) not in _SHAPES):
        return
    heads, values, expected, elements, at = "<", "<", [], [], 0
    while at < len(data):
        group, element, length = _LAYOUT.unpack_from(data, at)
        if group or element in elements:
            return
        heads += f"8s{length}x"
        values += f"8x{length}s"
        expected.append(data[at : at + 8])
        elements.append(element)
        at += 8 + length
    _SHAPES[len(data)] = _Shape(struct.Struct(heads), tuple(expected), struct.Struct(values), tuple(elements))


@dataclass(frozen=True)
class Response:
    """An answer as it came; its Error Comment may quote values and is left where it is.

    Attributes:
        field: Command Field, with :data:`RESPONSE` set.
        message_id: Message ID Being Responded To.
        status: Status.
        has_data_set: whether a data set follows.
    """

    field: int
    message_id: int
    status: int
    has_data_set: bool = False


def decode_response(data: bytes) -> Response:
    """Decodes the command set of an answer.

    Raises:
        UnreadableDicom: lengths that don't fit, or no Command Field, Status or Message ID.
    """
    found = _elements(data)
    if not all(len(found.get(element, b"")) == 2 for element in (_FIELD, _ANSWERED_ID, _STATUS)):
        raise UnreadableDicom("response has no Command Field, Message ID Being Responded To or Status")
    return Response(
        field=_number(found, _FIELD),
        message_id=_number(found, _ANSWERED_ID),
        status=_number(found, _STATUS),
        has_data_set=_number(found, _DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET,
    )


def decode_either(data: bytes) -> Command | Response:
    """Decodes a command set that may be a request or an answer.

    Raises:
        UnreadableDicom: it is neither.
    """
    command = decode_command(data)
    return decode_response(data) if command.field & RESPONSE else command


def _number(found: dict[int, bytes], element: int, default: int = 0) -> int:
    raw = found.get(element, b"")
    return int.from_bytes(raw, "little") if len(raw) == 2 else default


def _element(element: int, value: bytes) -> bytes:
    return _LAYOUT.pack(0, element, len(value)) + value


def _uid(element: int, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    return _element(element, raw + b"\0" * (len(raw) % 2)) if raw else b""


@lru_cache(maxsize=256)
def _store_class(sop_class: str) -> bytes:
    return _uid(_SOP_CLASS, sop_class) + _element(_FIELD, struct.pack("<H", C_STORE_RQ))


_STORE_MIDDLE = _element(0x0700, b"\0\0") + _element(_DATA_SET_TYPE, b"\1\0")
"""Priority medium; a data set follows."""


def encode_store_request(message_id: int, sop_class: str, sop_instance: str) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 table 9.3-1), priority medium.

    Args:
        message_id: 1 to 65535, not that of an operation that is still open.
        sop_class: Affected SOP Class UID.
        sop_instance: Affected SOP Instance UID.
    """
    body = _store_class(sop_class) + _element(_MESSAGE_ID, struct.pack("<H", message_id))
    body += _STORE_MIDDLE + _uid(_INSTANCE, sop_instance)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def encode_request(field: int, message_id: int, sop_class: str, *, data_set: bool) -> bytes:
    """The command set of a C-ECHO-RQ, C-FIND-RQ or C-GET-RQ (PS3.7 section 9.3).

    Args:
        field: Command Field.
        message_id: 1 to 65535, not that of an operation that is still open.
        sop_class: Affected SOP Class UID.
        data_set: whether an identifier follows; the priority is medium then.
    """
    body = _uid(_SOP_CLASS, sop_class) + _element(_FIELD, struct.pack("<H", field))
    body += _element(_MESSAGE_ID, struct.pack("<H", message_id))
    body += _STORE_MIDDLE if data_set else _element(_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET))
    return _element(0x0000, struct.pack("<I", len(body))) + body


def encode_action_request(message_id: int, sop_class: str, sop_instance: str, action: int) -> bytes:
    """The command set of an N-ACTION-RQ with Action Information (PS3.7 table 10.3-5).

    Args:
        message_id: 1 to 65535, not that of an operation that is still open.
        sop_class: Requested SOP Class UID.
        sop_instance: Requested SOP Instance UID.
        action: Action Type ID.
    """
    body = _uid(_REQUESTED_CLASS, sop_class) + _element(_FIELD, struct.pack("<H", N_ACTION_RQ))
    body += _element(_MESSAGE_ID, struct.pack("<H", message_id)) + _element(_DATA_SET_TYPE, b"\1\0")
    body += _uid(_REQUESTED_INSTANCE, sop_instance) + _element(_ACTION, struct.pack("<H", action))
    return _element(0x0000, struct.pack("<I", len(body))) + body


@lru_cache(maxsize=256)
def _around_message_id(sop_class: str, field: int, status: int) -> tuple[bytes, bytes]:
    """What stands in an answer before and behind the number of the message; it is the same for a series."""
    front = _uid(_SOP_CLASS, sop_class) + _element(_FIELD, _NUMBER.pack(field | RESPONSE))
    behind = _element(_DATA_SET_TYPE, _NUMBER.pack(NO_DATA_SET)) + _element(_STATUS, _NUMBER.pack(status))
    return front + _LAYOUT.pack(0, _ANSWERED_ID, 2), behind


def encode_response(request: Command, status: int, comment: str = "", offending: int = 0) -> bytes:
    """The command set that answers ``request``, without a data set.

    Args:
        request: what is answered; class and instance are repeated.
        status: DIMSE status.
        comment: Error Comment, at most 64 characters, without any value of an attribute.
        offending: the tag that was wrong; 0 for none.
    """
    front, behind = _around_message_id(request.sop_class, request.field, status)
    body = front + _NUMBER.pack(request.message_id) + behind
    if offending:
        body += _element(_OFFENDING, struct.pack("<HH", offending >> 16, offending & 0xFFFF))
    if comment:
        raw = comment[:64].encode("ascii", "replace")
        body += _element(_COMMENT, raw + b" " * (len(raw) % 2))
    body += _uid(_INSTANCE, request.sop_instance)
    return _element(0x0000, struct.pack("<I", len(body))) + body
