"""TLS with client certificates: who gets in, what is refused, and certificates that change meanwhile."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE

from fiona_dagster.config import DataRoot, check, load_settings
from fiona_dagster.dicom import pdu
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.landing import read_journals
from receiver import Receiver, tls
from tests.making import data_set
from tests.receiver.certificates import Authority, Pair
from tests.receiver.conftest import Start
from tests.receiver.raw import VERIFICATION, Raw, associate_request
from tests.receiver.test_misbehaviour import wait_until, works

Section = dict[str, Any]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("fiona")


@pytest.fixture(scope="session")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("ct1.example")


@pytest.fixture
def section(root: DataRoot, authority: Authority, server_pair: Pair) -> Section:
    """`receiver.tls` with copies of the files below config/, beside the plain port."""
    files = {"certificate": server_pair.certificate, "key": server_pair.key, "ca_file": authority.file}
    for name, source in files.items():
        (root.secrets / name).write_bytes(source.read_bytes())
    return {"port": 0, **{name: f"secrets/{name}" for name in files}}


def client_context(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


class Secure(Raw):
    """A scripted peer over TLS."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        super().__init__(address)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")


def refused(address: tuple[str, int], context: ssl.SSLContext) -> bool:
    """Whether no association comes about; with TLS 1.3 the client learns it at its first read."""
    try:
        with Secure(address, context) as raw:
            raw.associate()
    except (ssl.SSLError, ConnectionError):
        return True
    return False


def plain_refused(address: tuple[str, int]) -> bool:
    """Whether a peer that speaks no TLS gets no association."""
    with Raw(address) as raw:
        raw.send(associate_request())
        try:
            answer = raw.exactly(1)  # an alert of TLS may come first
        except ConnectionError:
            return True
        return answer[0] != pdu.ASSOCIATE_AC


def test_a_known_certificate_sends_and_the_plain_port_stays(
    root: DataRoot, start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    receiver = start(tls=section)
    plain, secure = receiver.addresses
    large = data_set("1.2.3", pixels=bytes(range(256)) * 8000)
    with Secure(secure, client_context(authority, client_pair)) as raw:
        assert isinstance(raw.sock, ssl.SSLSocket)
        assert raw.sock.version() == "TLSv1.3"
        assert raw.associate().kind == pdu.ASSOCIATE_AC
        assert raw.store("1.2.3", large).status == 0
        assert raw.release().kind == pdu.RELEASE_RP
    works(plain, "1.2.4")
    by_uid = {receipt.SOPInstanceUID: receipt for _, _, receipt in read_journals(root, {})}
    assert set(by_uid) == {"1.2.3", "1.2.4"}
    assert (root.path / by_uid["1.2.3"].path).read_bytes().endswith(large)


@pytest.mark.parametrize("kind", ["none", "stranger", "expired"])
def test_without_a_certificate_that_somebody_vouches_for_nobody_sends(
    start: Start,
    section: Section,
    authority: Authority,
    client_pair: Pair,
    kind: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    address = start(tls=section).addresses[1]
    pairs: dict[str, Callable[[], Pair | None]] = {
        "none": lambda: None,
        "stranger": lambda: Authority(tmp_path, "Other CA").issue("ct1.example"),
        "expired": lambda: authority.issue("ct1.example", days=-1, file="expired"),
    }
    assert refused(address, client_context(authority, pairs[kind]()))
    words = {"none": "did not return a certificate", "stranger": "issuer", "expired": "expired"}
    wait_until(lambda: f"{words[kind]}" in caplog.text.lower())
    assert "no TLS:" in caplog.text
    assert not refused(address, client_context(authority, client_pair))


def test_a_revoked_certificate_is_refused(
    root: DataRoot, start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    gone = authority.issue("gone.example")
    with (root.secrets / "ca_file").open("ab") as file:
        file.write(authority.revoke(gone))
    address = start(tls=section).addresses[1]
    assert refused(address, client_context(authority, gone))
    assert not refused(address, client_context(authority, client_pair))


@pytest.mark.parametrize("oldest", ["1.2", "1.3"])
def test_old_versions_and_weak_ciphers_are_not_spoken(
    start: Start, section: Section, authority: Authority, client_pair: Pair, oldest: str
) -> None:
    address = start(tls={**section, "minimum_version": oldest}).addresses[1]
    modern = client_context(authority, client_pair)
    modern.maximum_version = ssl.TLSVersion.TLSv1_2
    assert refused(address, modern) == (oldest == "1.3")
    weak = client_context(authority, client_pair)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES256-SHA256:ECDHE-RSA-AES128-SHA256:@SECLEVEL=0")
    assert refused(address, weak)
    old = client_context(authority, client_pair)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert refused(address, old)


def test_plain_bytes_on_the_tls_port_and_tls_on_the_plain_one(
    start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    receiver = start(tls=section)
    plain, secure = receiver.addresses
    assert plain_refused(secure)
    assert refused(plain, client_context(authority, client_pair))
    works(plain)
    assert not refused(secure, client_context(authority, client_pair))


def test_a_handshake_has_the_time_of_a_request_and_holds_nobody_up(
    start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    address = start(tls=section, artim_seconds=1).addresses[1]
    silent = socket.create_connection(address, timeout=15)
    half = socket.create_connection(address, timeout=15)
    half.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert not refused(address, client_context(authority, client_pair))
    for sock in (silent, half):
        while sock.recv(4096):
            pass
        sock.close()


def test_dicomport_itself_speaks_tls_when_tls_has_no_port(
    start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    receiver = start(tls={**section, "port": None})
    (address,) = receiver.addresses
    assert not refused(address, client_context(authority, client_pair))
    assert plain_refused(address)


def test_without_a_required_certificate_titles_and_networks_decide(
    start: Start, section: Section, authority: Authority
) -> None:
    address = start(tls={**section, "require_client_certificate": False, "ca_file": ""}).addresses[1]
    assert not refused(address, client_context(authority))


def test_rules_can_ask_for_a_certificate(
    start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    other = authority.issue("mr1.example")
    rules = [
        {"ae_title": "CT1", "certificates": ["CN=ct1.example"]},
        {"ae_title": "MR1", "certificates": [other.fingerprint.upper()]},
    ]
    receiver = start(tls=section, accept_unknown=False, allowed_callers=rules)
    plain, secure = receiver.addresses

    def answer(pair: Pair, calling: str) -> int:
        with Secure(secure, client_context(authority, pair)) as raw:
            return raw.associate(calling=calling).kind

    assert answer(client_pair, "CT1") == pdu.ASSOCIATE_AC
    assert answer(client_pair, "MR1") == pdu.ASSOCIATE_RJ
    assert answer(other, "MR1") == pdu.ASSOCIATE_AC
    assert answer(other, "CT1") == pdu.ASSOCIATE_RJ
    with Raw(plain) as raw:
        answered = raw.associate(calling="CT1")
        assert (answered.kind, tuple(answered.body[1:])) == (pdu.ASSOCIATE_RJ, (1, 1, 3))


def shown(address: tuple[str, int], authority: Authority, pair: Pair) -> str:
    """The common name that the server's certificate has."""
    with Secure(address, client_context(authority, pair)) as raw:
        assert isinstance(raw.sock, ssl.SSLSocket)
        subject = (raw.sock.getpeercert() or {})["subject"]
        raw.associate()
        raw.release()
    return str(subject[0][0][1])


def test_new_files_are_taken_by_new_connections_and_open_ones_go_on(
    root: DataRoot,
    start: Start,
    section: Section,
    authority: Authority,
    client_pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tls, "_LOOK", 0.0)
    address = start(tls=section).addresses[1]
    with Secure(address, client_context(authority, client_pair)) as raw:
        raw.associate()
        assert raw.store("1.2.3").status == 0

        renewed = authority.issue("fiona-renewed")
        (root.secrets / "key").write_bytes(renewed.key.read_bytes())
        (root.secrets / "certificate").write_bytes(renewed.certificate.read_bytes())
        assert shown(address, authority, client_pair) == "fiona-renewed"
        assert raw.store("1.2.4").status == 0

        (root.secrets / "certificate").write_bytes(b"not a certificate")
        assert shown(address, authority, client_pair) == "fiona-renewed"
        assert shown(address, authority, client_pair) == "fiona-renewed"
        assert caplog.text.count("the last good certificate stays in force") == 1
        (root.secrets / "certificate").unlink()
        assert shown(address, authority, client_pair) == "fiona-renewed"

        again = authority.issue("fiona-again")
        (root.secrets / "key").write_bytes(again.key.read_bytes())
        (root.secrets / "certificate").write_bytes(again.certificate.read_bytes())
        assert shown(address, authority, client_pair) == "fiona-again"
        assert raw.store("1.2.5").status == 0
        raw.release()
    assert len(list(read_journals(root, {}))) == 3


def test_files_that_never_worked_stop_the_start(root: DataRoot, start: Start, section: Section) -> None:
    (root.secrets / "key").write_bytes(b"no key")
    with pytest.raises(ConfigurationError, match=r"receiver\.tls: certificate .*certificate and key .*key"):
        start(tls=section)


def test_an_encrypted_key_is_refused_without_asking(
    root: DataRoot, start: Start, section: Section, server_pair: Pair
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(server_pair.key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (root.secrets / "key").write_bytes(encrypted)
    with pytest.raises(ConfigurationError, match="without a passphrase"):
        start(tls=section)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ca_file": ""}, "needs ca_file"),
        ({"minimum_version": "1.1"}, "minimum_version"),
        ({"port": 11112}, "11112 is given more than once"),
        ({"cert": "x"}, "tls.cert: unknown key"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    root: DataRoot, section: Section, change: Section, words: str
) -> None:
    document = {"DICOMPORT": 11112, "receiver": {"tls": {**section, **change}}}
    root.config_file.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match=words):
        load_settings(root)


def test_a_file_that_is_not_there_is_a_problem_of_the_configuration(root: DataRoot, section: Section) -> None:
    root.config_file.write_text(json.dumps({"receiver": {"tls": section}}))
    assert check(root) == []
    (root.secrets / "ca_file").unlink()
    assert any("receiver.tls.ca_file: no file" in problem for problem in check(root))


def test_pynetdicom_sends_over_tls(
    start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    address = start(tls=section).addresses[1]
    entity = AE(ae_title="CT1")
    entity.add_requested_context(VERIFICATION)
    association = entity.associate(*address, tls_args=(client_context(authority, client_pair), "localhost"))
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_drain_ends_associations_over_tls(
    start: Start, section: Section, authority: Authority, client_pair: Pair
) -> None:
    receiver: Receiver = start(tls=section)
    with Secure(receiver.addresses[1], client_context(authority, client_pair)) as raw:
        raw.associate()
        assert raw.store("1.2.3").status == 0
        receiver.stop()
        assert ended(raw.sock.recv)


def ended(receive: Callable[[int], bytes]) -> bool:
    """Whether the connection ends, in whatever way."""
    try:
        while receive(4096):
            pass
    except (ssl.SSLError, ConnectionError):
        return True
    return True
