from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from fiona_dagster.dicom import dimse, pdu
from fiona_dagster.errors import UnreadableDicom
from tests.making import CT, EXPLICIT
from tests.receiver.raw import associate_request, command_set


def test_a_request_is_decoded() -> None:
    raw = associate_request(
        contexts=[(1, CT, [EXPLICIT, "1.2.840.10008.1.2"])], calling="SCANNER 1", called="FIONA"
    )
    request = pdu.decode_associate_request(raw[6:])
    assert (request.calling_ae, request.called_ae, request.max_pdu) == ("SCANNER 1", "FIONA", 16384)
    assert request.contexts == (pdu.ProposedContext(1, CT, (EXPLICIT, "1.2.840.10008.1.2")),)


def test_pynetdicom_reads_our_accept_and_reject() -> None:
    request = pdu.decode_associate_request(associate_request(contexts=[(1, CT, [EXPLICIT])])[6:])
    accept = A_ASSOCIATE_AC()
    accept.decode(pdu.encode_associate_accept(request, [pdu.AnsweredContext(1, 0, EXPLICIT)], 131072))
    (context,) = accept.presentation_context
    assert (context.context_id, context.result, context.transfer_syntax) == (1, 0, EXPLICIT)
    assert accept.user_information is not None
    assert accept.user_information.maximum_length == 131072
    reject = A_ASSOCIATE_RJ()
    reject.decode(pdu.encode_reject(pdu.REJECT_CALLING_AE))
    assert (reject.result, reject.source, reject.reason_diagnostic) == (1, 1, 3)


@given(st.binary(max_size=300))
def test_a_garbled_request_is_unreadable_or_decoded(body: bytes) -> None:
    try:
        request = pdu.decode_associate_request(bytes(68) + body)
    except UnreadableDicom:
        return
    assert len(request.contexts) <= len(body) // 8


def test_a_response_is_what_pynetdicom_expects() -> None:
    request = dimse.decode_command(command_set(0x0001, 7, CT, "1.2.3", data=True))
    raw = dimse.encode_response(request, 0xA900, "StudyInstanceUID is missing", 0x0020000D)
    ds = decode(io.BytesIO(raw), True, True)
    assert (ds.CommandField, ds.MessageIDBeingRespondedTo, ds.Status) == (0x8001, 7, 0xA900)
    assert ds.AffectedSOPInstanceUID == "1.2.3"
    assert ds.OffendingElement == 0x0020000D
    assert ds.ErrorComment == "StudyInstanceUID is missing"
    assert ds.CommandGroupLength == len(raw) - 12


def test_pynetdicoms_command_is_decoded() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = 3, CT, "1.2.3.4"
    primitive.Priority = 2
    primitive.DataSet = io.BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    fragments = [bytes(pdv.presentation_data_value_list[0][1]) for pdv in message.encode_msg(1, 0)]
    raw = b"".join(part[1:] for part in fragments if part[0] & 1)
    command = dimse.decode_command(raw)
    assert command == dimse.Command(1, 3, CT, "1.2.3.4", has_data_set=True)


@given(st.binary(max_size=200))
def test_a_garbled_command_is_unreadable_or_decoded(raw: bytes) -> None:
    try:
        command = dimse.decode_command(raw)
    except UnreadableDicom:
        return
    assert 0 <= command.field <= 0xFFFF


@given(st.binary(min_size=1, max_size=500), st.sampled_from([0, 64, 70, 128, 16384]))
def test_commands_are_split_where_the_peer_asks(command: bytes, limit: int) -> None:
    raw, seen, ends = pdu.encode_command(5, command, limit), b"", []
    while raw:
        kind, length = struct.unpack_from(">BxI", raw)
        pdv_length, context, control = struct.unpack_from(">IBB", raw, 6)
        assert (kind, context, pdv_length + 4) == (4, 5, length)
        assert limit == 0 or length <= max(limit, 70)
        seen += raw[12 : 6 + length]
        ends.append(control)
        raw = raw[6 + length :]
    assert seen == command
    assert ends == [1] * (len(ends) - 1) + [3]


@pytest.mark.parametrize(
    ("title", "sound"),
    [("A", True), ("A B", True), ("", False), ("A\\B", False), ("A\nB", False), ("Ä", False)],
)
def test_ae_titles(title: str, sound: bool) -> None:
    assert pdu.is_ae_title(title) is sound


uids = st.lists(st.integers(0, 10**9), min_size=1, max_size=5).map(lambda parts: ".".join(map(str, parts)))
contexts = st.lists(st.tuples(uids, st.lists(uids, min_size=1, max_size=3)), max_size=128).map(
    lambda found: tuple(
        pdu.ProposedContext(2 * number + 1, abstract, tuple(syntaxes))
        for number, (abstract, syntaxes) in enumerate(found)
    )
)


@settings(max_examples=20)
@given(contexts, st.integers(0, 2**32 - 1), st.lists(uids, max_size=3))
def test_requests_and_accepts_come_back_as_they_went(
    proposed: tuple[pdu.ProposedContext, ...], limit: int, roles: list[str]
) -> None:
    raw = pdu.encode_associate_request("PACS", "FIONA 1", proposed, limit, roles)
    assert struct.unpack_from(">BxI", raw) == (pdu.ASSOCIATE_RQ, len(raw) - 6)
    request = pdu.decode_associate_request(raw[6:])
    assert (request.called_ae, request.calling_ae, request.max_pdu) == ("PACS", "FIONA 1", limit)
    assert request.contexts == proposed

    answers = tuple(
        pdu.AnsweredContext(each.identifier, n % 2 * 4, "" if n % 2 else each.transfer_syntaxes[0])
        for n, each in enumerate(proposed)
    )
    accept = pdu.decode_associate_accept(pdu.encode_associate_accept(request, answers, limit)[6:])
    assert (accept.contexts, accept.max_pdu) == (answers, limit)


def test_pynetdicom_reads_our_request() -> None:
    raw = pdu.encode_associate_request(
        "PACS", "FIONA", [pdu.ProposedContext(1, CT, (EXPLICIT,))], 16384, [CT]
    )
    request = A_ASSOCIATE_RQ()
    request.decode(raw)
    (context,) = request.presentation_context
    assert (context.context_id, context.abstract_syntax, context.transfer_syntax) == (1, CT, [EXPLICIT])
    assert request.user_information is not None
    assert request.user_information.maximum_length == 16384
    role = request.user_information.role_selection[UID(CT)]
    assert (role.scu_role, role.scp_role) == (False, True)


@given(st.binary(max_size=300))
def test_a_garbled_accept_is_unreadable_or_decoded(body: bytes) -> None:
    try:
        accept = pdu.decode_associate_accept(bytes(68) + body)
    except UnreadableDicom:
        return
    assert len(accept.contexts) <= len(body) // 8


@settings(max_examples=20)
@given(st.integers(1, 65535), uids, uids)
def test_a_store_request_is_decoded(message: int, sop_class: str, instance: str) -> None:
    raw = dimse.encode_store_request(message, sop_class, instance)
    assert dimse.decode_command(raw) == dimse.Command(1, message, sop_class, instance, has_data_set=True)
    assert decode(io.BytesIO(raw), True, True).CommandGroupLength == len(raw) - 12


@settings(max_examples=20)
@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_response_is_decoded(message: int, status: int) -> None:
    request = dimse.Command(dimse.C_STORE_RQ, message, CT, "1.2.3", has_data_set=True)
    raw = dimse.encode_response(request, status, "the comment is not kept")
    assert dimse.decode_response(raw) == dimse.Response(0x8001, message, status)


@given(st.binary(max_size=200))
def test_a_garbled_response_is_unreadable_or_decoded(raw: bytes) -> None:
    try:
        response = dimse.decode_response(raw)
    except UnreadableDicom:
        return
    assert 0 <= response.status <= 0xFFFF


@given(st.binary(max_size=200))
def test_data_values_are_what_is_there(body: bytes) -> None:
    try:
        found = list(pdu.data_values(body))
    except UnreadableDicom:
        return
    assert sum(6 + len(part) for _, part in found) == len(body)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 0, 8]),
            st.sampled_from([0x0000, 0x0002, 0x0100, 0x0110, 0x0800, 0x1000]),
            st.sampled_from([b"", b"\1\0", b"1.2.3\0", b"1.2.34"]),
        ),
        max_size=7,
    ),
    st.integers(0, 6),
)
def test_a_command_is_decoded_alike_whatever_came_before(
    elements: list[tuple[int, int, bytes]], cut: int
) -> None:
    """The shapes of earlier command sets (of the same length) change nothing."""
    raw = b"".join(struct.pack("<HHI", group, element, len(v)) + v for group, element, v in elements)
    raw = raw[: len(raw) - cut]

    def outcome() -> object:
        try:
            return dimse.decode_command(raw)
        except UnreadableDicom as error:
            return str(error)

    with_what_came_before = outcome()
    again = outcome()
    dimse._SHAPES.clear()
    assert with_what_came_before == again == outcome()
