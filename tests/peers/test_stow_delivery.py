"""Deliveries over DICOMweb to a real Orthanc, and to servers that say odd things."""

from __future__ import annotations

import contextlib
import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from pydicom.uid import RLELossless

from fiona_dagster.config import DataRoot, StowTarget
from fiona_dagster.dicom import multipart, web
from fiona_dagster.dicom.instances import read_instance
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE
from fiona_dagster.errors import (
    ConfigurationError,
    ContentUnproven,
    DeliveryRefused,
    NotVerified,
    PeerUnavailable,
    StorageFull,
)
from fiona_dagster.transfers.targets import InstancesMissing, InstancesRefused, Proof
from fiona_dagster.transfers.targets import stow as target_module
from fiona_dagster.transfers.targets.instances import count_at, deliver_instances
from fiona_dagster.transfers.targets.stow import deliver_stow
from tests.peers.test_pacs_delivery import as_file, digests, make_file
from tests.peers_fixtures import CuttingProxy, Orthanc, free_port, missing, running_orthanc
from tests.receiver.certificates import Authority
from tests.sending import Recorder

pytestmark = pytest.mark.peers

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if not PLUGIN.is_file():
        missing("Orthanc's DICOMweb plugin", "orthanc-dicomweb")
    with running_orthanc(
        tmp_path_factory.mktemp("web") / "orthanc",
        Plugins=[str(PLUGIN)],
        AuthenticationEnabled=True,
        RegisteredUsers={"fiona": "s3cret"},
        DicomWeb={"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full"},
    ) as running:
        yield running


@pytest.fixture
def orthanc(server: Orthanc) -> Orthanc:
    """It, empty."""
    for study in _of(server, "/studies"):
        requests.delete(f"{server.url}/studies/{study}", auth=("fiona", "s3cret"), timeout=120)
    return server


def _of(server: Orthanc, path: str) -> Any:
    return requests.get(f"{server.url}{path}", auth=("fiona", "s3cret"), timeout=120).json()


def uids(server: Orthanc) -> set[str]:
    return {instance["MainDicomTags"]["SOPInstanceUID"] for instance in _of(server, "/instances?expand")}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [make_file(tmp_path / f"{number}.dcm", number) for number in range(6)]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "ledger")


def bring(root: DataRoot, files: list[Path], begin: Any, url: str, **more: Any) -> Proof:
    go_on: Callable[[], None] = more.pop("may_go_on", lambda: None)
    transcode: bool = more.pop("transcode", False)
    (root.secrets / "stow").write_text("s3cret\n")
    login = {"username": "fiona", "password_file": "secrets/stow"}
    target = StowTarget(kind="stow", url=url, timeout_seconds=10, **{**login, **more})
    return deliver_instances(
        target,
        root,
        files,
        digests(files),
        begin=begin,
        name="web",
        transcode=transcode,
        may_go_on=go_on,
    )


def at(server: Orthanc, port: int = 0) -> str:
    return f"http://127.0.0.1:{port or server.http_port}/dicom-web"


def test_every_instance_arrives_with_proof_and_only_what_is_missing_goes_again(
    orthanc: Orthanc, root: DataRoot, files: list[Path], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "BATCH_INSTANCES", 4)
    monkeypatch.setattr(web, "PAGE", 5)
    proof = bring(root, files, recorder, at(orthanc))
    assert proof.kind == "qido-instances"
    assert proof.counts["sent"] == proof.counts["found"] == len(uids(orthanc)) == 6
    assert "2.25." not in str(proof.to_json())
    assert "2.25." not in repr(proof)
    target = StowTarget(kind="stow", url=at(orthanc), username="fiona", password_file="secrets/stow")
    assert [count_at(target, root, "web", study) for study in ("2.25.5", "2.25.55")] == [6, 0]

    assert bring(root, files, recorder, at(orthanc)).counts["sent"] == 0
    gone = _of(orthanc, "/instances")[0]
    requests.delete(f"{orthanc.url}/instances/{gone}", auth=("fiona", "s3cret"), timeout=120)
    again = bring(root, files, recorder, at(orthanc), compare="all")
    assert (again.counts["sent"], again.counts["there_before"], again.counts["compared"]) == (1, 5, 6)
    assert again.kind == "wado-compare"


def test_what_somebody_else_sent_is_retrieved_and_compared(
    orthanc: Orthanc, root: DataRoot, files: list[Path], recorder: Recorder, tmp_path: Path
) -> None:
    bring(root, files, Recorder(tmp_path / "other ledger"), at(orthanc))
    with pytest.raises(ContentUnproven) as caught:
        bring(root, files, recorder, at(orthanc), compare="none")
    assert len(caught.value.instances) == 6
    assert "2.25." not in str(caught.value)
    proof = bring(root, files, Recorder(tmp_path / "third ledger"), at(orthanc))
    assert (proof.kind, proof.counts["sent"]) == ("qido-instances", 0)

    changed = [
        make_file(tmp_path / f"{number}.dcm", number, fill=99 if number == 2 else None) for number in range(6)
    ]
    with pytest.raises(ContentUnproven) as caught:  # Orthanc keeps what it has
        bring(root, changed, recorder, at(orthanc))
    assert caught.value.instances == {read_instance(changed[2]).sop_instance}
    with pytest.raises(ContentUnproven):
        bring(root, changed, recorder, at(orthanc), compare="all")


def test_compressed_and_large_instances_come_back_as_they_were_sent(
    orthanc: Orthanc, root: DataRoot, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "IN_MEMORY", 100)
    monkeypatch.setattr(multipart, "CHUNK", 300)
    monkeypatch.setattr(web, "CHUNK", 300)
    monkeypatch.setattr(web, "BATCH_BYTES", 1000)
    files = [
        make_file(tmp_path / "1.dcm", 1, transfer_syntax="1.2.840.10008.1.2"),
        make_file(tmp_path / "2.dcm", 2, transfer_syntax="1.2.840.10008.1.2.1"),
    ]
    proof = bring(root, files, recorder, at(orthanc), compare="all")
    assert (proof.kind, proof.counts["compared"]) == ("wado-compare", 2)


def test_nothing_leaves_when_one_file_is_not_what_was_verified(
    orthanc: Orthanc, root: DataRoot, files: list[Path], recorder: Recorder
) -> None:
    target = StowTarget(kind="stow", url=at(orthanc))
    wrong = {**digests(files), str(files[5]): "0" * 64}
    with pytest.raises(NotVerified):
        deliver_stow(target, root, files, wrong, begin=recorder)
    assert uids(orthanc) == set()

    changed = iter([False] * 3 + [True] + [False] * 9)

    def swap() -> None:
        if next(changed):
            files[3].write_bytes(files[2].read_bytes())

    with pytest.raises(NotVerified):
        bring(root, files, recorder, at(orthanc), may_go_on=swap)
    assert uids(orthanc) <= {read_instance(file).sop_instance for file in files}


@pytest.mark.parametrize("after", [100, 1500])
def test_a_cut_connection_is_taken_up_again(
    orthanc: Orthanc, root: DataRoot, files: list[Path], recorder: Recorder, after: int
) -> None:
    with CuttingProxy(orthanc.http_port, after) as proxy:
        with pytest.raises(PeerUnavailable):
            bring(root, files, recorder, at(orthanc, proxy.port))
        assert bring(root, files, recorder, at(orthanc, proxy.port)).proven
    assert len(uids(orthanc)) == 6


def test_who_may_not_come_in(orthanc: Orthanc, root: DataRoot, files: list[Path], recorder: Recorder) -> None:
    (root.secrets / "wrong").write_text("wrong")
    with pytest.raises(DeliveryRefused, match="401"):
        bring(root, files, recorder, at(orthanc), password_file="secrets/wrong")
    with pytest.raises(ConfigurationError, match="can't be read"):
        bring(root, files, recorder, at(orthanc), password_file="secrets/none")
    with pytest.raises(PeerUnavailable):
        bring(root, files, recorder, at(orthanc, free_port()))
    with pytest.raises(DeliveryRefused):
        bring(root, files, recorder, f"{orthanc.url}/nothing/here/x")
    assert uids(orthanc) == set()


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://pacs.example.org/dicom-web", "token_file": "t"},
        {"url": "https://user:pass@pacs.example.org/dicom-web"},
        {"url": "ftp://pacs.example.org"},
        {"url": "https://pacs.example.org", "token_file": "t", "username": "u", "password_file": "p"},
        {"url": "https://pacs.example.org", "username": "u"},
        {"url": "https://pacs.example.org", "certificate_file": "c"},
    ],
)
def test_settings_that_can_not_be_meant(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"url|token_file|username|certificate"):
        StowTarget(kind="stow", **wrong)


# -- a server that says odd things -------------------------------------------------------------------


class Odd:
    """Answers as the test wants: ``listed`` to QIDO-RS, ``answer`` (status, JSON) to STOW-RS.

    ``picky`` gives another answer to STOW-RS: it gets the files that came.

    Paths that end with ``unknown`` are not found. ``given`` has what WADO-RS gives of an instance, once that
    was asked for as often as ``late`` says.
    """

    def __init__(self) -> None:
        self.listed: list[str] = []
        self.unknown = ""
        self.answer: tuple[int, Any] = (200, {})
        self.seen: list[tuple[str, str]] = []
        self.given: dict[str, bytes] = {}
        self.late: dict[str, int] = {}
        self.pause = 0.0
        """Seconds before each byte of an answer."""
        self.cut_head = False
        """The connection ends in the head of each answer."""
        self.picky: Callable[[list[bytes]], tuple[int, Any]] | None = None

    def keep(self, content: bytes) -> None:
        """Lists and gives an instance from now on."""
        uid = str(pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID)
        self.listed.append(uid)
        self.given[uid], self.late[uid] = content, 0


@contextlib.contextmanager
def odd_server(tls: ssl.SSLContext | None = None) -> Iterator[tuple[Odd, str]]:
    odd = Odd()

    class Handler(BaseHTTPRequestHandler):
        def _say(self, status: int, document: Any) -> None:
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            if odd.cut_head:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked may have gone
                for at in range(0, len(body), 1 if odd.pause else len(body) or 1):
                    time.sleep(odd.pause)
                    self.wfile.write(body[at:] if not odd.pause else body[at : at + 1])

        def do_GET(self) -> None:
            odd.seen.append((self.command, self.headers.get("Authorization", "")))
            if self.path.partition("?")[0].endswith(odd.unknown or "nothing"):
                self._say(404, b"default backend")
                return
            if self.path.partition("?")[0].endswith("/studies"):
                self._say(204, b"")
                return
            uid = self.path.rpartition("/instances/")[2]
            if uid in odd.late:
                odd.late[uid] -= 1
                content = odd.given.get(uid) if odd.late[uid] < 0 else None
                self._say(404 if content is None else 200, content or b"not found")
                return
            self._say(200, [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in odd.listed])

        def do_POST(self) -> None:
            odd.seen.append((self.command, self.headers.get("Authorization", "")))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = self.headers["Content-Type"].rpartition("boundary=")[2].encode()
            parts = [part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(b"--" + boundary)[1:-1]]
            self._say(*(odd.picky(parts) if odd.picky else odd.answer))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield odd, f"http{'s' if tls else ''}://127.0.0.1:{http.server_port}/web"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_the_servers_certificate_is_verified(
    root: DataRoot, files: list[Path], recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = Authority(tmp_path), Authority(tmp_path, "Other CA")
    mine, client = ours.issue("server"), ours.issue("client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine.certificate, mine.key)
    context.load_verify_locations(ours.file)
    context.verify_mode = ssl.CERT_REQUIRED
    own = {"certificate_file": str(client.certificate), "key_file": str(client.key)}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ours.file))  # the environment decides nothing
    with odd_server(context) as (odd, url):
        odd.listed = [read_instance(file).sop_instance for file in files]
        for trusted in ("", str(others.file)):
            with pytest.raises(DeliveryRefused, match="certificate can't be verified"):
                bring(root, files, recorder, url, ca_file=trusted, **own)
        with pytest.raises(PeerUnavailable):
            bring(root, files, recorder, url, ca_file=str(ours.file))
        assert odd.seen == []
        with pytest.raises(ContentUnproven):  # it lets us in, has them already, and gives none back
            bring(root, files, recorder, url, ca_file=str(ours.file), **own)
        assert odd.seen[0][0] == "GET"


def _items(*pairs: tuple[Path, int]) -> dict[str, Any]:
    return {
        "vr": "SQ",
        "Value": [
            {
                "00081155": {"vr": "UI", "Value": [read_instance(file).sop_instance]},
                "00081197": {"vr": "US", "Value": [reason]},
            }
            for file, reason in pairs
        ],
    }


def test_answers_are_read_instance_by_instance(
    root: DataRoot, files: list[Path], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "INDEXING_SECONDS", 0.1)
    (root.secrets / "token").write_text("t0ken")
    bearer = {"username": "", "password_file": "", "token_file": "secrets/token"}
    with odd_server() as (odd, url):
        odd.answer = (202, {"00081198": _items((files[1], 0xA700)), "00081199": _items((files[0], 0))})
        with pytest.raises(InstancesMissing, match="1 of") as missing:
            bring(root, files, recorder, url, **bearer)
        assert missing.value.instances == {read_instance(files[1]).sop_instance: "A700"}
        assert {said for _, said in odd.seen} == {"Bearer t0ken"}

        odd.answer = (409, {"00081198": _items((files[1], 0xA900), (files[2], 0xA700))})
        with pytest.raises(InstancesRefused, match="A700, A900") as refused:
            bring(root, files, recorder, url, **bearer)
        assert "2.25." not in str(refused.value)

        odd.answer = (200, {"00081198": _items((files[4], 0x0110))})  # "OK", and it is not
        with pytest.raises(InstancesRefused, match="0110") as refused:
            bring(root, files, recorder, url, **bearer)
        assert set(refused.value.instances) == {read_instance(files[4]).sop_instance}

        odd.answer = (200, {"00081199": _items(*((file, 0) for file in files))})  # and lists nothing
        with pytest.raises(InstancesMissing, match="lists only 0 of 6"):
            bring(root, files, recorder, url, **bearer)

        odd.answer = (200, b"<html>thank you</html>")
        with pytest.raises(InstancesMissing, match="lists only 0 of 6"):
            bring(root, files, recorder, url, **bearer)

        for status, kind in ((302, DeliveryRefused), (413, DeliveryRefused), (503, PeerUnavailable)):
            odd.answer = (status, b"no")
            with pytest.raises(kind, match=str(status)):
                bring(root, files, recorder, url, **bearer)
        odd.answer = (507, b"no")
        with pytest.raises(StorageFull):
            bring(root, files, recorder, url, **bearer)


def test_not_found_says_that_nothing_is_there_only_from_a_server_that_knows_studies(
    root: DataRoot, files: list[Path], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what lies there under our UIDs would count as ours when the server is back."""
    monkeypatch.setattr(target_module, "INDEXING_SECONDS", 0.1)
    open_door = {"username": "", "password_file": "", "token_file": "secrets/token"}
    (root.secrets / "token").write_text("t0ken")
    with odd_server() as (odd, url):
        odd.unknown = "s"  # /studies and /instances: a gateway without its server
        with pytest.raises(DeliveryRefused, match=r"QIDO-RS.*404"):
            bring(root, files, recorder, url, **open_door)
        assert {method for method, _ in odd.seen} == {"GET"}, "nothing was begun"

        odd.unknown = "/instances"
        odd.answer = (200, {"00081198": _items(*((file, 0) for file in files))})
        with pytest.raises(InstancesRefused, match="C000"):  # failed, whatever the reason reads like
            bring(root, files, recorder, url, **open_door)


def test_what_is_listed_and_not_found_may_come(
    root: DataRoot, files: list[Path], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index may be ahead of its store."""
    monkeypatch.setattr(target_module, "INDEXING_SECONDS", 0.5)
    open_door = {"username": "", "password_file": "", "token_file": ""}
    with odd_server() as (odd, url):
        odd.listed = [read_instance(file).sop_instance for file in files]
        odd.given = {read_instance(file).sop_instance: file.read_bytes() for file in files}
        odd.late = dict.fromkeys(odd.listed, 0) | {odd.listed[1]: 2}
        proof = bring(root, files, recorder, url, compare="all", **open_door)
        assert (proof.kind, proof.counts["compared"], proof.counts["sent"]) == ("wado-compare", 6, 0)

        del odd.given[odd.listed[1]]
        with pytest.raises(InstancesMissing, match="lists 1 instances that it does not find") as missing:
            bring(root, files, recorder, url, compare="all", **open_door)
        assert set(missing.value.instances) == {odd.listed[1]}

        odd.given = {}  # no WADO-RS at all
        with pytest.raises(ContentUnproven):
            bring(root, files, recorder, url, compare="all", **open_door)


def test_an_answer_without_end_is_not_read(
    root: DataRoot, files: list[Path], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_ANSWER", 2000)
    open_door = {"username": "", "password_file": "", "token_file": ""}
    with odd_server() as (odd, url):
        odd.listed = [f"2.25.{n}" for n in range(100)]
        with pytest.raises(DeliveryRefused, match="no list in JSON"):
            bring(root, files, recorder, url, **open_door)
        assert {method for method, _ in odd.seen} == {"GET"}


def test_an_answer_of_which_nothing_is_left_says_nothing(
    root: DataRoot, files: list[Path], recorder: Recorder
) -> None:
    """The head of an answer may be cut, too; without it nobody knows how long the answer is."""
    with odd_server() as (odd, url):
        client = web.WebClient(web.WebPeer("web", url, timeout=5))
        odd.cut_head = True
        for asking in (
            lambda: client.list_instances("2.25.5"),
            lambda: client.retrieve(read_instance(files[0]), io.BytesIO(), 10_000),
        ):
            with client, pytest.raises(PeerUnavailable, match="without content"):
                asking()
        with pytest.raises(PeerUnavailable):
            bring(root, files, recorder, url, compare="all")


def test_answers_without_an_end_hold_nobody(
    root: DataRoot, files: list[Path], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "INDEXING_SECONDS", 0.1)
    with odd_server() as (odd, url):
        odd.listed = [f"2.25.{n}" for n in range(4)]
        client = web.WebClient(web.WebPeer("web", url, timeout=2))
        odd.pause = 0.05
        for asking in (
            lambda: client.list_instances("2.25.5"),
            lambda: client.retrieve(read_instance(files[0]), io.BytesIO(), 10_000),
        ):
            with client, pytest.raises(PeerUnavailable, match="too slowly"):
                asking()
        odd.pause = 0.0
        monkeypatch.setattr(web, "MAX_LISTED", 3)
        with client, pytest.raises(PeerUnavailable, match="lists more than 3"):
            client.list_instances("2.25.5")
        monkeypatch.setattr(web, "MAX_LISTED", 10)

        odd.answer = (200, b"[" * 100_000)
        with pytest.raises(InstancesMissing, match="lists only 0 of 6"):
            bring(root, files, recorder, url)
        long = {"vr": "US", "Value": ["9" * 5000]}
        failed = _items((files[1], 0))
        failed["Value"][0]["00081197"] = long
        odd.answer = (200, {"00081198": failed})
        with pytest.raises(InstancesRefused, match="C000"):
            bring(root, files, recorder, url)


def native_only(odd: Odd, files: list[Path], says: str) -> Callable[[list[bytes]], tuple[int, Any]]:
    """A server that takes nothing compressed, and says so in this way."""
    names = [read_instance(path).sop_instance for path in files]

    def answer(parts: list[bytes]) -> tuple[int, Any]:
        read = [pydicom.dcmread(io.BytesIO(part)) for part in parts]
        compressed = [one.file_meta.TransferSyntaxUID.is_compressed for one in read]
        if any(compressed) and says == "415":
            return 415, b"Unsupported Media Type"
        failed: list[tuple[Path, int]] = []
        stored: list[tuple[Path, int]] = []
        for part, one, bad in zip(parts, read, compressed, strict=True):
            path = files[names.index(one.SOPInstanceUID)]
            (failed if bad else stored).append((path, 0xC122 if bad else 0))
            if not bad:
                odd.keep(part)
        return 202 if failed else 200, {"00081198": _items(*failed), "00081199": _items(*stored)}

    return answer


def one_compressed(files: list[Path], folder: Path, **header: int) -> list[Path]:
    """The first three, of which the second is RLE, in a folder that copies may be made beside."""
    folder.mkdir(parents=True)
    files = [path.rename(folder / path.name) for path in files[:3]]
    image = pydicom.dcmread(files[1])
    image.compress(RLELossless, generate_instance_uid=False)
    for keyword, value in header.items():
        setattr(image, keyword, value)
    image.save_as(files[1], enforce_file_format=True)
    return files


def altered(content: bytes) -> bytes:
    image = pydicom.dcmread(io.BytesIO(content))
    image.PixelData = bytes(len(image.PixelData))
    return as_file(image)


@pytest.mark.parametrize("says", ["C122", "415"])
def test_what_is_refused_for_its_transfer_syntax_goes_decompressed_where_the_project_allows_it(
    root: DataRoot, files: list[Path], recorder: Recorder, tmp_path: Path, says: str
) -> None:
    pixels = pydicom.dcmread(files[1]).PixelData
    folder = tmp_path / "project" / "study"
    files = one_compressed(files, folder)
    names = [read_instance(path).sop_instance for path in files]
    with odd_server() as (odd, url):
        odd.picky = native_only(odd, files, says)
        with pytest.raises(InstancesRefused, match="C122"):
            bring(root, files, recorder, url)
        assert sorted(odd.listed) == sorted([names[0], names[2]])

        proof = bring(root, files, recorder, url, transcode=True)
        assert (proof.kind, proof.counts["sent"], proof.counts["transcoded"]) == ("qido-instances", 1, 1)
        assert proof.private["transcoded"] == {names[1]: EXPLICIT_LITTLE}
        assert names[1] not in str(proof.to_json())
        there = pydicom.dcmread(io.BytesIO(odd.given[names[1]]))
        assert there.file_meta.TransferSyntaxUID == EXPLICIT_LITTLE
        assert there.PixelData == pixels
        recorder.prove()
        posts = [method for method, _ in odd.seen].count("POST")
        assert bring(root, files, recorder, url, transcode=True).counts["sent"] == 0
        assert [method for method, _ in odd.seen].count("POST") == posts

        # What nobody vouches for is compared as it would have been sent, and what differs is sent again.
        def anew(ledger: str) -> Proof:
            return bring(root, files, Recorder(tmp_path / ledger), url, transcode=True, compare="all")

        proof = anew("another")
        assert (proof.kind, proof.counts["compared"], proof.counts["sent"]) == ("wado-compare", 3, 0)
        odd.given[names[1]] = altered(odd.given[names[1]])
        odd.picky = lambda _: (200, {"00081199": _items((files[1], 0))})  # says so, and keeps what it had
        with pytest.raises(ContentUnproven) as caught:
            anew("third")
        assert caught.value.instances == {names[1]}
        odd.picky = native_only(odd, files, says)
        proof = anew("fourth")
        assert (proof.kind, proof.counts["transcoded"], proof.counts["sent"]) == ("wado-compare", 1, 1)
    assert [path.name for path in folder.parent.iterdir()] == ["study"], "nothing of the copies stays"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in files)


def test_what_can_not_be_transcoded_for_a_server_is_named(
    root: DataRoot, files: list[Path], recorder: Recorder, tmp_path: Path
) -> None:
    files = one_compressed(files, tmp_path / "project" / "study", NumberOfFrames=3)
    with odd_server() as (odd, url):
        odd.picky = native_only(odd, files, "415")
        with pytest.raises(InstancesRefused, match="another number of frames") as caught:
            bring(root, files, recorder, url, transcode=True)
        assert set(caught.value.instances) == {read_instance(files[1]).sop_instance}
    assert [each.name for each in (tmp_path / "project").iterdir()] == ["study"]
