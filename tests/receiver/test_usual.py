"""A request that is like one before is read as the walk reads it, or left to the walk."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.dicom import dimse
from fiona_dagster.dicom.filing import _judge, judge
from fiona_dagster.dicom.head import HeadReader
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE
from receiver.usual import UsualRequest
from tests.making import CT, data_set
from tests.receiver.raw import command_set, p_data

FIRST = p_data(3, command_set(1, 7, CT, "1.2.3.456", data=True), command=True)
UIDS = st.from_regex(r"[1-9](\.[1-9]){3}[0-9]{0,3}", fullmatch=True)


def decoded(whole: bytes) -> dimse.Command:
    return dimse.decode_command(whole[12:])


def usual() -> UsualRequest:
    found = UsualRequest.of(FIRST, decoded(FIRST))
    assert found is not None
    return found


@settings(max_examples=40)
@given(message=st.integers(0, 0xFFFF), instance=UIDS)
def test_another_message_about_another_instance_is_read(message: int, instance: str) -> None:
    whole = p_data(3, command_set(1, message, CT, instance, data=True), command=True)
    found = usual().read(whole)
    assert found == (decoded(whole) if len(whole) == len(FIRST) else None)


@settings(max_examples=40)
@given(at=st.integers(0, len(FIRST) - 1), byte=st.integers(0, 255))
def test_what_differs_elsewhere_is_left_to_the_walk(at: int, byte: int) -> None:
    whole = FIRST[:at] + bytes([byte]) + FIRST[at + 1 :]
    found = usual().read(whole)
    assert found is None or found == decoded(whole)
    own = {*range(FIRST.index(b"\0\0\x10\x01") + 8, FIRST.index(b"\0\0\x10\x01") + 10)}
    own |= {*range(len(FIRST) - 10, len(FIRST))}
    assert (found is None) == (whole != FIRST and at not in own)


def test_only_a_c_store_of_one_shape_is_learned() -> None:
    for command in (
        command_set(0x30, 1, CT, data=False),
        command_set(1, 1, CT, "1.2.3", data=False),
        command_set(1, 1, CT, data=True),
        command_set(1, 1, CT, data=True) + struct.pack("<HHI", 0, 0x1000, 0),
        command_set(1, 1, CT, "1.2.3", data=True) + struct.pack("<HHIH", 0, 0x0110, 2, 9),
    ):
        whole = p_data(3, command, command=True)
        assert UsualRequest.of(whole, decoded(whole)) is None


@settings(max_examples=40)
@given(
    instance=UIDS,
    announced=UIDS,
    sop_class=st.sampled_from([CT, "1.2.840.10008.1.1", "1..2", ""]),
    study=st.sampled_from(["1.2.3", "1.2.", "", "a"]),
)
def test_a_series_that_was_judged_before_is_judged_alike(
    instance: str, announced: str, sop_class: str, study: str
) -> None:
    for said in (announced, instance):
        head = HeadReader(EXPLICIT_LITTLE)
        head.feed(data_set(instance, sop_class=sop_class, study=study))
        head.end()
        assert judge(head, CT, said) == _judge(head, CT, said)
