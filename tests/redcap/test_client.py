"""The client against the sandbox and its faults."""

from __future__ import annotations

import logging
import pickle
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fiona_dagster.errors import ConfigurationError, FionaError, RedcapRejected, RedcapUnavailable
from fiona_dagster.redcap import RedcapClient
from fiona_dagster.redcap.sandbox import Sandbox
from fiona_dagster.redcap.transport import Secret
from tests.redcap.stub import Stub, stub_server

TOKEN = "0123456789ABCDEF0123456789ABCDEF"
ROW = {"study_instance_uid": "1.2.3", "study_description": "x"}


def other(redcap: Sandbox, project: str) -> RedcapClient:
    return RedcapClient(redcap.url, redcap.tokens[project], timeout=5, sleep=lambda _seconds: None)


def test_what_a_project_is_made_of(client: RedcapClient, redcap: Sandbox) -> None:
    assert client.version() == "14.5.5"
    assert client.record_id_field() == "study_instance_uid"
    assert client.repeating() == {"series", "transfers"}
    assert other(redcap, "AutoID").repeating() == frozenset()
    assert [row["instrument_name"] for row in client.instruments()] == [
        "incoming_studies",
        "series",
        "transfers",
    ]
    assert {
        "choice_value": "3",
        "original_field_name": "transfer_error",
        "export_field_name": "transfer_error___3",
    } in (client.field_names())
    assert client.project()["project_title"] == "Incoming studies"
    assert len(client.metadata(fields=["study_date"])) == 1
    assert other(redcap, "AutoID").next_record_name() == "1"


def test_records_there_and_back(client: RedcapClient) -> None:
    assert client.import_records([ROW]) == 1
    (row,) = client.export_records(fields=["study_instance_uid", "study_description"])
    assert row == {**ROW, "redcap_repeat_instrument": "", "redcap_repeat_instance": ""}
    assert client.delete_records(["1.2.3"]) == 1
    assert client.export_records() == []
    assert len(client.log(record="1.2.3")) == 2


def test_large_imports_and_exports_go_in_batches(redcap: Sandbox) -> None:
    client = other(redcap, "CouplingList")
    rows = [{"record_id": str(number), "cl_projectname": "P"} for number in range(250)]
    assert client.import_records(rows) == 250
    found = client.export_records(records=[row["record_id"] for row in rows], fields=["record_id"])
    assert [row["record_id"] for row in found] == [row["record_id"] for row in rows]
    told = [call.action for call in redcap.calls if call.content == "record"]
    assert told == ["import", "export"] * 3 + ["export"] * 3


def test_filters(client: RedcapClient) -> None:
    client.import_records([ROW, {**ROW, "study_instance_uid": "1.2.4", "study_description": "y"}])
    found = client.export_records(fields=["study_description"], filter_logic="[study_description] = 'y'")
    assert [row["study_description"] for row in found] == ["y"]
    assert client.export_records(date_range=("2100-01-01 00:00:00", "")) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_faults_that_pass_are_tried_again(
    client: RedcapClient, redcap: Sandbox, waits: list[float], status: int
) -> None:
    redcap.faults.fail(2, status)
    assert client.import_records([ROW]) == 1
    assert [call.status for call in redcap.calls][:3] == [status, status, 200]
    assert len(waits) == 2
    assert waits[0] < waits[1] < 3


@pytest.mark.parametrize(
    "arrange", [lambda faults: faults.fail(9), lambda faults: faults.html(9), lambda faults: faults.cut(9)]
)
def test_the_tries_are_bounded(
    client: RedcapClient, redcap: Sandbox, arrange: Callable[[object], None]
) -> None:
    arrange(redcap.faults)
    with pytest.raises(RedcapUnavailable):
        client.export_records()
    assert len(redcap.calls) == 3


def test_a_page_with_200_is_no_answer(client: RedcapClient, redcap: Sandbox) -> None:
    redcap.faults.html(3)
    with pytest.raises(RedcapUnavailable, match="web page"):
        client.version()
    redcap.faults.html(1)
    assert client.export_records() == []


def test_a_cut_after_the_import_leads_to_one_write(client: RedcapClient, redcap: Sandbox) -> None:
    redcap.faults.cut_after_import()
    assert client.import_records([ROW]) == 1
    assert [call.status for call in redcap.calls if call.action == "import"] == [0, 200]
    assert len(redcap.log("Incoming")) == 1


def test_what_can_not_be_repeated_is_called_once(client: RedcapClient, redcap: Sandbox) -> None:
    client.import_records([ROW])
    redcap.faults.cut_after_import()
    new = {
        "study_instance_uid": "1.2.3",
        "redcap_repeat_instrument": "transfers",
        "redcap_repeat_instance": "new",
    }
    with pytest.raises(RedcapUnavailable):
        client.import_records([{**new, "transfer_name": "a"}])
    redcap.faults.fail(1)
    with pytest.raises(RedcapUnavailable):
        client.delete_records(["1.2.3"])
    assert [call.action for call in redcap.calls].count("import") == 2
    assert [call.action for call in redcap.calls].count("delete") == 1


def test_slow_is_unavailable(redcap: Sandbox) -> None:
    client = RedcapClient(redcap.url, redcap.tokens["Incoming"], timeout=0.2, tries=1)
    redcap.faults.delay(1.0)
    with pytest.raises(RedcapUnavailable, match=r"within 0\.2 s"):
        client.version()


def test_a_server_that_drips_is_cut_off() -> None:
    with stub_server(Stub(body=b" " * 500, drip=0.02)) as stub:
        client = RedcapClient(stub.url, TOKEN, timeout=0.1, tries=1)
        with pytest.raises(RedcapUnavailable, match="did not answer"):
            client.export_records()


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = RedcapClient(
            f"http://127.0.0.1:{free.getsockname()[1]}/api/", TOKEN, sleep=lambda _seconds: None
        )
        with pytest.raises(RedcapUnavailable, match="can't be reached") as caught:
            client.version()
    assert TOKEN not in repr(caught.value)


def test_an_answer_that_is_cut_short() -> None:
    with stub_server(Stub(body=b'[{"a": "b"}', cut=True)) as stub, pytest.raises(RedcapUnavailable):
        RedcapClient(stub.url, TOKEN, tries=1).export_records()


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b'{"a": 1}', b'["a"]', b"[", b"3", b'[{"a": "\xe9"}]', b"[" * 100_000]
)
def test_answers_that_are_no_rows(body: bytes) -> None:
    with stub_server(Stub(body=body)) as stub, pytest.raises(RedcapUnavailable):
        RedcapClient(stub.url, TOKEN, tries=1).export_records()


def test_a_count_of_zero_is_found_by_reading_back(client: RedcapClient, redcap: Sandbox) -> None:
    redcap.faults.count_zero(2)
    with pytest.raises(RedcapRejected, match=r"count 0 and did not store .*study_description"):
        client.import_records([ROW])
    client.import_records([ROW])
    redcap.faults.count_zero()
    assert client.import_records([ROW]) == 1  # it was there already: the count is wrong, the record isn't


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error":"no such thing"}', 400),
        (b"ERROR: no such thing", 400),
        (b'<?xml version="1.0" encoding="UTF-8" ?><hash><error>no such thing</error></hash>', 400),
        (b"<hash><error><![CDATA[no such thing]]></error></hash>", 406),
        (b'{"error":"no such thing"}', 200),
        (b"ERROR: no such thing", 200),
        (b"<?xml version='1.0'?><hash><error>no such thing</error></hash>", 200),
        (b"no such thing", 403),
    ],
)
def test_refusals_in_any_format(body: bytes, status: int) -> None:
    with (
        stub_server(Stub(status=status, body=body)) as stub,
        pytest.raises(RedcapRejected, match="no such thing") as caught,
    ):
        RedcapClient(stub.url, TOKEN).export_records()
    assert caught.value.status == (400 if status == 200 else status)
    assert len(stub.paths) == 1


def test_a_wrong_token_and_a_wrong_address(redcap: Sandbox) -> None:
    with pytest.raises(RedcapRejected, match="You do not have permissions to use the API") as caught:
        RedcapClient(redcap.url, TOKEN).version()
    assert caught.value.status == 403
    with pytest.raises(RedcapUnavailable, match=r"check redcap\.url"):
        RedcapClient(redcap.url + "elsewhere/", TOKEN).version()


@pytest.mark.parametrize("status", [302, 307, 401, 403, 404, 405])
@pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><html>403 Forbidden</html>"])
def test_what_somebody_else_says_may_pass_and_is_not_asked_again_at_once(status: int, body: bytes) -> None:
    """While REDCap is upgraded the web server knows no such address: work must not be given up for that."""
    with stub_server(Stub(status=status, body=body)) as stub, pytest.raises(RedcapUnavailable):
        RedcapClient(stub.url, TOKEN, sleep=lambda _seconds: pytest.fail("it waited")).version()
    assert len(stub.paths) == 1


@pytest.mark.parametrize("said", ["{token}", "token {token} is unknown", '{{"error": "no {token} here"}}'])
def test_a_token_that_the_server_repeats_is_taken_out(said: str) -> None:
    token = "abcdef" * 5 + "ab"  # a word, as redaction sees it
    for spelling in (token, token.upper()):
        body = said.format(token=spelling).encode()
        with stub_server(Stub(status=403, body=body)) as stub, pytest.raises(RedcapRejected) as caught:
            RedcapClient(stub.url, token).version()
        assert token not in str(caught.value).lower()


def test_unknown_fields_are_named(client: RedcapClient) -> None:
    with pytest.raises(RedcapRejected, match=r"parameter 'fields' are not valid: 'foo'"):
        client.export_records(fields=["foo"])
    with pytest.raises(RedcapRejected, match=r"real data fields: foo"):
        client.import_records([{"study_instance_uid": "1.2", "foo": "x"}])


def test_values_are_not_named(redcap: Sandbox) -> None:
    client = other(redcap, "DataTransferProjects")
    with pytest.raises(RedcapRejected, match=r"project_type: The value is not a valid category") as caught:
        client.import_records([{"record_id": "SECRET1", "project_type": "SECRET2", "project_name": "Doe"}])
    assert "SECRET" not in str(caught.value)
    with pytest.raises(RedcapRejected, match="cannot be deleted") as caught:
        client.delete_records(["doe"])
    assert "doe" not in str(caught.value).split()


def test_the_token_is_nowhere(redcap: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    token = redcap.tokens["Incoming"]
    caplog.set_level(logging.DEBUG)
    client = RedcapClient(redcap.url, token, timeout=5, sleep=lambda _seconds: None)
    redcap.faults.fail(1)
    client.import_records([{**ROW, "study_patient_name": "DOE^JANE"}])
    errors: list[FionaError] = []
    for call in (lambda: client.export_records(fields=["foo"]), lambda: _fail(redcap, client)):
        with pytest.raises(FionaError) as caught:
            call()
        errors.append(caught.value)
    told = caplog.text + repr(client) + repr(vars(client)) + repr([(str(e), e.__context__) for e in errors])
    assert "502" in caplog.text
    assert token not in told
    assert "DOE" not in told
    assert repr(Secret(token)) == "Secret(***)"
    with pytest.raises(TypeError):
        pickle.dumps(Secret(token))


def _fail(redcap: Sandbox, client: RedcapClient) -> None:
    redcap.faults.cut(3)
    client.version()


@pytest.mark.parametrize(
    "url", ["", "redcap.example.org/api/", "ftp://h/api/", "https:///api/", "https://h/api/?x=1"]
)
def test_addresses_that_can_not_be(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redcap\.url"):
        RedcapClient(url, TOKEN)


def test_the_token_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="must be https"):
        RedcapClient("http://redcap.example.org/api/", TOKEN)


@pytest.mark.parametrize("token", ["", "xyz", TOKEN + "0", TOKEN[:-1] + "g"])
def test_tokens_that_can_not_be(token: str) -> None:
    with pytest.raises(ConfigurationError, match="32 hexadecimal") as caught:
        RedcapClient("https://redcap.example.org/api/", token)
    assert not token or token not in str(caught.value)


def test_the_slash_is_added(redcap: Sandbox) -> None:
    assert RedcapClient(redcap.url.rstrip("/"), redcap.tokens["Incoming"]).version()


def test_a_redirect_to_the_same_host_is_posted_again() -> None:
    with stub_server(Stub(status=301, headers={"Location": "/redcap/api/"})) as stub:
        assert RedcapClient(stub.url, TOKEN).export_records() == []
    assert stub.paths == ["/api/", "/redcap/api/"]
    assert stub.bodies[0] == stub.bodies[1]
    assert TOKEN.encode() in stub.bodies[1]


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2/api/", "https://127.0.0.1/api/", "", "http://[/", "/api/", "//somebody@HOST/redcap/"],
)
@pytest.mark.parametrize("status", [301, 302])
def test_the_token_goes_nowhere_else(location: str, status: int) -> None:
    moved = Stub(status=status, headers={"Location": location})
    with stub_server(moved) as stub:
        stub.headers["Location"] = location.replace("HOST", urlsplit(stub.url).netloc)
        with pytest.raises((RedcapRejected, RedcapUnavailable), match="redirected"):
            RedcapClient(stub.url, TOKEN).export_records()
    assert len(stub.paths) == 1


def test_retry_after_is_followed_within_bounds(waits: list[float]) -> None:
    with stub_server(Stub(status=429, headers={"Retry-After": "7"})) as stub:
        with pytest.raises(RedcapUnavailable):
            RedcapClient(stub.url, TOKEN, sleep=waits.append).version()
        stub.headers["Retry-After"] = "3600"
        with pytest.raises(RedcapUnavailable):
            RedcapClient(stub.url, TOKEN, sleep=waits.append).version()
    assert waits == [7.0, 7.0]  # a longer pause is kept by everybody, not slept through in a call


def test_tls_is_verified(tmp_path: Path) -> None:
    pem = _certificate(tmp_path)
    with stub_server(Stub(), pem) as stub:
        with pytest.raises(RedcapUnavailable, match="certificate"):
            RedcapClient(stub.url, TOKEN, tries=1).export_records()
        assert stub.paths == []
        assert RedcapClient(stub.url, TOKEN, ca_file=pem).export_records() == []
    with pytest.raises(ConfigurationError, match="ca_file"):
        RedcapClient(stub.url, TOKEN, ca_file=tmp_path / "missing.pem")


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(private + certificate.public_bytes(pem))
    return file
