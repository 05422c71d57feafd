"""Who may send, and with which code everybody else is sent away."""

from __future__ import annotations

import ipaddress
import logging
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fiona_dagster.config import DataRoot, Settings
from fiona_dagster.config.settings import ReceiverSettings
from fiona_dagster.dicom import pdu
from receiver import Receiver, admission
from receiver.admission import Admission
from receiver.listener import Listener
from receiver.places import Places
from receiver.throttle import ThrottledLog
from tests.receiver.conftest import Start
from tests.receiver.raw import Asked, Raw


def who(settings: dict[str, Any], calling: str, called: str, ip: str) -> admission.Rejection | None:
    return Admission(ReceiverSettings.model_validate(settings), "FIONA").who(calling, called, ip)


RULES: dict[str, Any] = {
    "allowed_callers": [
        "CT1",
        {"ae_title": "MR1", "networks": ["10.1.2.0/24", "2001:db8:1::/48"]},
        {"ae_title": "MR1", "networks": ["10.9.9.9"], "called": ["NIGHT"]},
        {"networks": ["192.168.7.0/24"], "called": ["STUDY1", "FIONA"]},
    ]
}


@pytest.mark.parametrize(
    ("calling", "called", "ip", "expected"),
    [
        ("CT1", "FIONA", "203.0.113.9", None),
        ("CT1", "ANYTHING", "2001:db8:ffff::1", None),
        ("ct1", "FIONA", "203.0.113.9", admission.UNKNOWN),
        ("US7", "FIONA", "203.0.113.9", admission.UNKNOWN),
        ("MR1", "FIONA", "10.1.2.77", None),
        ("MR1", "FIONA", "::ffff:10.1.2.77", None),
        ("MR1", "FIONA", "2001:db8:1:2::3", None),
        ("MR1", "FIONA", "2001:db8:1:2::3%eth0", None),
        ("MR1", "FIONA", "10.1.3.77", admission.ELSEWHERE),
        ("MR1", "FIONA", "2001:db8:2::3", admission.ELSEWHERE),
        ("MR1", "NIGHT", "10.9.9.9", None),
        ("MR1", "FIONA", "10.9.9.9", admission.NOT_THIS_CALLED),
        ("US7", "STUDY1", "192.168.7.5", None),
        ("US7", "OTHER", "192.168.7.5", admission.NOT_THIS_CALLED),
        ("CT1", "OTHER", "192.168.7.5", None),
    ],
)
def test_rules_combine_title_network_and_called_title(
    calling: str, called: str, ip: str, expected: admission.Rejection | None
) -> None:
    assert who(RULES, calling, called, ip) == expected


def test_an_open_receiver_still_holds_a_listed_title_to_its_networks() -> None:
    settings = {**RULES, "accept_unknown": True}
    assert who(settings, "US7", "FIONA", "203.0.113.9") is None
    assert who(settings, "MR1", "FIONA", "203.0.113.9") == admission.ELSEWHERE


def test_allowed_networks_hold_for_everybody() -> None:
    settings = {"accept_unknown": True, "allowed_callers": ["CT1"], "allowed_networks": ["10.0.0.0/8"]}
    assert who(settings, "CT1", "FIONA", "10.200.3.4") is None
    assert who(settings, "CT1", "FIONA", "11.0.0.1") == admission.OUTSIDE
    assert who(settings, "CT1", "FIONA", "2001:db8::1") == admission.OUTSIDE


def test_called_titles_are_free_until_some_are_listed() -> None:
    assert who({"accept_unknown": True}, "CT1", "WHATEVER", "10.0.0.1") is None
    listed = {"accept_unknown": True, "allowed_called": ["RESEARCH"]}
    assert who(listed, "CT1", "RESEARCH", "10.0.0.1") is None
    assert who(listed, "CT1", "FIONA", "10.0.0.1") is None
    assert who(listed, "CT1", "WHATEVER", "10.0.0.1") == admission.NOT_CALLED


def test_strangers_learn_neither_titles_nor_networks_from_the_answer() -> None:
    causes = {r.cause for r in (admission.UNKNOWN, admission.ELSEWHERE, admission.OUTSIDE)}
    assert causes == {(1, 1, 3)}
    settings = {"allowed_callers": ["CT1"], "allowed_called": ["RESEARCH"]}
    assert who(settings, "US7", "WRONG", "10.0.0.1") == admission.UNKNOWN


@given(
    ip=st.ip_addresses(),
    networks=st.lists(
        st.builds(
            lambda ip, bits: (
                str(ipaddress.ip_network((int(ip), min(bits, ip.max_prefixlen)), strict=False))
                if ip.version == 6
                else str(ipaddress.ip_network(f"{ip}/{min(bits, 32)}", strict=False))
            ),
            st.ip_addresses(),
            st.integers(0, 128),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_a_network_rule_admits_exactly_its_networks(ip: Any, networks: list[str]) -> None:
    rejected = who({"allowed_callers": [{"ae_title": "CT1", "networks": networks}]}, "CT1", "FIONA", str(ip))
    effective = getattr(ip, "ipv4_mapped", None) or ip
    inside = any(effective in ipaddress.ip_network(network) for network in networks)
    assert (rejected is None) == inside


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"allowed_callers": [{}]}, "ae_title, networks or certificates"),
        ({"allowed_callers": [{"called": ["X"]}]}, "ae_title, networks or certificates"),
        ({"allowed_callers": ["SEVENTEEN_LETTERS"]}, "1 to 16"),
        ({"allowed_callers": ["A\\B"]}, "without backslash"),
        ({"allowed_callers": [" "]}, "1 to 16"),
        ({"allowed_networks": ["10.1.2.3/24"]}, "host bits set"),
        ({"allowed_networks": ["ten"]}, "not an IP network"),
        ({"allowed_callers": [{"ae_title": "A", "network": ["10.0.0.0/8"]}]}, "network"),
    ],
)
def test_rules_that_make_no_sense_are_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ReceiverSettings.model_validate(section)


@pytest.mark.parametrize(
    ("source", "keywords", "cause"),
    [
        ("127.0.0.1", {"calling": "MR1"}, None),
        ("127.0.0.1", {"calling": "CT1"}, (1, 1, 3)),
        ("127.0.0.3", {"calling": "MR1"}, (1, 1, 3)),
        ("127.0.0.2", {"calling": "CT1"}, None),
        ("127.0.0.1", {"calling": "MR1", "called": "ELSEWHERE"}, (1, 1, 7)),
    ],
)
def test_on_the_wire(
    start: Start,
    caplog: pytest.LogCaptureFixture,
    source: str,
    keywords: Asked,
    cause: tuple[int, int, int] | None,
) -> None:
    rules = [{"ae_title": "MR1", "networks": ["127.0.0.1"]}, {"ae_title": "CT1", "networks": ["127.0.0.2"]}]
    receiver = start(accept_unknown=False, allowed_callers=rules, allowed_called=["RESEARCH"])
    with Raw(receiver.address, source=source) as raw:
        answer = raw.associate(**keywords)
        if cause is None:
            assert raw.store("1.2.3").status == 0
            return
        assert answer.kind == pdu.ASSOCIATE_RJ
        assert tuple(answer.body[1:]) == cause
        assert raw.closed()
    lines = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
    assert len(lines) == 1
    assert f"{keywords['calling']}@{source}" in lines[0]


def test_one_peer_cannot_take_all_places(start: Start) -> None:
    receiver = start(max_associations=3, max_associations_per_peer=2)
    with Raw(receiver.address) as one, Raw(receiver.address) as two, Raw(receiver.address) as three:
        assert one.associate().kind == pdu.ASSOCIATE_AC
        assert two.associate().kind == pdu.ASSOCIATE_AC
        answer = three.associate()
        assert (answer.kind, tuple(answer.body[1:])) == (pdu.ASSOCIATE_RJ, (2, 3, 2))
        with Raw(receiver.address, source="127.0.0.2") as other:
            assert other.associate().kind == pdu.ASSOCIATE_AC
            assert other.store("1.2.3").status == 0


def test_a_flood_of_rejections_is_a_few_lines(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    receiver = start(accept_unknown=False)
    for _ in range(60):
        with Raw(receiver.address) as raw:
            assert raw.associate(calling="STRANGER").kind == pdu.ASSOCIATE_RJ
    assert len(caplog.records) < 30


def test_what_was_left_out_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    chatter = ThrottledLog(logging.getLogger("fiona.receiver"), lines=2, seconds=10, clock=lambda: now)
    for number in range(5):
        chatter.say(logging.WARNING, "line %d", number)
    assert [record.getMessage() for record in caplog.records] == ["line 0", "line 1"]
    now = 5.0
    chatter.say(logging.WARNING, "line %d", 5)
    assert caplog.records[-1].getMessage() == "line 5 (before it 3 lines like this were left out)"
    chatter.say(logging.WARNING, "line %d", 6)
    chatter.close()
    chatter.close()
    assert caplog.records[-1].getMessage() == "1 lines about connections and rejections were left out"
    assert len(caplog.records) == 4


def test_a_site_of_its_own_has_rules_of_its_own(root: DataRoot) -> None:
    settings = Settings.model_validate(
        {
            "DICOMIP": "127.0.0.1",
            "DICOMPORT": 0,
            "receiver": {"allowed_callers": ["CT1"], "reserve_mb": 0},
            "SITES": {
                "HEART": {
                    "DICOMPORT": 0,
                    "receiver": {"allowed_callers": ["MR1"], "allowed_networks": ["127.0.0.2"]},
                }
            },
        }
    )
    heart = root.of_site("HEART")
    heart.make()
    listeners = [Listener(root, settings), Listener(heart, settings.SITES["HEART"])]
    receiver = Receiver(listeners, Places(8))
    thread = threading.Thread(target=receiver.serve)
    thread.start()
    try:
        answers = {
            (port, calling, source): _kind(receiver.addresses[port], calling, source)
            for port in (0, 1)
            for calling in ("CT1", "MR1")
            for source in ("127.0.0.1", "127.0.0.2")
        }
    finally:
        receiver.stop()
        thread.join(20)
    assert {key for key, kind in answers.items() if kind == pdu.ASSOCIATE_AC} == {
        (0, "CT1", "127.0.0.1"),
        (0, "CT1", "127.0.0.2"),
        (1, "MR1", "127.0.0.2"),
    }


def _kind(address: tuple[str, int], calling: str, source: str) -> int:
    with Raw(address, source=source) as raw:
        return raw.associate(calling=calling).kind
