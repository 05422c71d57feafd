"""C-FIND against peers that answer with more, fewer or other things than they were asked for."""

from __future__ import annotations

import struct

import pytest

from fiona_dagster.dicom import dimse, pdu
from fiona_dagster.dicom.clients import count_instances, find_instance_uids
from fiona_dagster.dicom.datasets import encode, tag_of
from fiona_dagster.dicom.peers import Peer
from tests.dicom.scripted import Acceptor, Connection


def answering(*answers: dict[str, str]) -> Acceptor:
    """A peer that gives these matches, whatever it is asked for."""

    def script(connection: Connection, _: int) -> None:
        connection.accept()
        while True:
            command, _data = connection.message()
            for answer in answers:
                body = dimse.encode_response(command, 0xFF00)
                body = body.replace(
                    struct.pack("<HHIH", 0, 0x0800, 2, 0x0101), struct.pack("<HHIH", 0, 0x0800, 2, 1)
                )
                values = encode({tag_of(keyword): value for keyword, value in answer.items()}, explicit=True)
                connection.sock.sendall(
                    pdu.encode_command(1, body, 0)
                    + struct.pack(">BxIIBB", pdu.P_DATA, len(values) + 6, len(values) + 2, 1, 2)
                    + values
                )
            connection.respond(command, 0)

    return Acceptor(script)


def _type(value: int) -> bytes:
    """Command Data Set Type."""
    return struct.pack("<HHIH", 0, 0x0800, 2, value)


def peer_of(acceptor: Acceptor) -> Peer:
    return Peer("127.0.0.1", acceptor.port, "PACS", timeout=5)


def counted(uid: str, number: str) -> dict[str, str]:
    return {"StudyInstanceUID": uid, "NumberOfStudyRelatedInstances": number}


@pytest.mark.parametrize(
    ("answers", "count"),
    [
        ([counted("1.2", "4")], 4),
        ([counted("1.2", "4"), counted("1.3", "900")], 4),  # it ignores what it should match
        ([counted("1.3", "900")], 0),
        ([counted("1.2", "many"), counted("1.2", "-3"), counted("1.2", "9" * 12)], 0),
        ([], 0),
    ],
)
def test_only_what_is_said_of_the_study_counts(answers: list[dict[str, str]], count: int) -> None:
    with answering(*answers) as acceptor:
        assert count_instances(peer_of(acceptor), "1.2") == count


def test_what_was_not_asked_for_is_no_instance_of_ours() -> None:
    said = [{"SOPInstanceUID": uid} for uid in ("1.2.1", "1.2.1", "", "1.9.9")]
    with answering(*said) as acceptor:
        assert find_instance_uids(peer_of(acceptor), "1.2", ["1.2.0"]) == {"1.2.1", "1.9.9"}
