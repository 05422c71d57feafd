"""The embedded peers take and prove deliveries as real ones do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from fiona_dagster.config import DataRoot, DicomTarget, SftpTarget
from fiona_dagster.demo import sftp as demo_sftp
from fiona_dagster.demo.peers import ResearchPacs, SftpServer
from fiona_dagster.demo.phantoms import make_studies
from fiona_dagster.demo.send import send_study
from fiona_dagster.dicom.clients import count_instances, echo
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, StorageFull
from fiona_dagster.transfers.targets.dicom import deliver_dicom
from fiona_dagster.transfers.targets.sftp import deliver_sftp
from tests.peers.test_pacs_delivery import digests, make_file
from tests.peers_fixtures import free_port
from tests.sending import Recorder, unrecorded

CONTENT = b"package" * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SftpServer]:
    with SftpServer(tmp_path / "sftp") as running:
        yield running


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[ResearchPacs]:
    with ResearchPacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "package.zip"
    path.write_bytes(CONTENT)
    return path


def sftp_target(described: dict[str, Any], **more: Any) -> SftpTarget:
    keys = ("host", "port", "username", "private_key_file", "host_key", "directory")
    values = {key: described[key] for key in keys}
    return SftpTarget(**{"kind": "sftp", "timeout_seconds": 10, **values, **more})


def pacs_target(described: dict[str, Any]) -> DicomTarget:
    return DicomTarget(
        kind="dicom",
        host=described["host"],
        port=described["port"],
        called_ae_title=described["ae_title"],
        timeout_seconds=10,
    )


def test_sftp_server_takes_a_package(server: SftpServer, root: DataRoot, package: Path) -> None:
    target = sftp_target(server.describe())
    first = deliver_sftp(target, root, package, DIGEST, remote_name="p.zip", begin=unrecorded)
    second = deliver_sftp(target, root, package, DIGEST, remote_name="p.zip", begin=unrecorded)

    assert (first.counts["sent"], second.counts["sent"]) == (1, 0)
    assert sorted(p.name for p in server.files.iterdir()) == ["p.zip", "p.zip.md5", "p.zip.sha256"]
    assert (server.files / "p.zip").read_bytes() == CONTENT


def test_sftp_server_keeps_its_keys(tmp_path: Path) -> None:
    with SftpServer(tmp_path) as first:
        key, private = first.host_key, first.private_key.read_bytes()
    with SftpServer(tmp_path) as second:
        assert (second.host_key, second.private_key.read_bytes()) == (key, private)
    assert first.private_key.stat().st_mode & 0o777 == 0o600


def test_sftp_server_lets_nobody_else_in(
    server: SftpServer, root: DataRoot, package: Path, tmp_path: Path
) -> None:
    with SftpServer(tmp_path / "other") as other:
        key = str(other.private_key)
    for wrong in ({"private_key_file": key}, {"username": "root"}):
        target = sftp_target(server.describe(), **wrong)
        with pytest.raises(DeliveryRefused):
            deliver_sftp(target, root, package, DIGEST, remote_name="p.zip", begin=unrecorded)


def test_sftp_server_serves_its_folder_only(
    server: SftpServer, root: DataRoot, package: Path, tmp_path: Path
) -> None:
    target = sftp_target(server.describe(), directory="../../..")
    deliver_sftp(target, root, package, DIGEST, remote_name="p.zip", begin=unrecorded)

    assert (server.files / "p.zip").is_file()
    assert not list(tmp_path.glob("p.zip"))


def test_a_server_that_can_not_write(
    server: SftpServer, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SFTP version 3 says "failure" for a full disk; this server can't be asked for its free space.
    monkeypatch.setattr(paramiko.SFTPHandle, "write", lambda *_: paramiko.sftp.SFTP_FAILURE)
    with pytest.raises(PeerUnavailable):
        deliver_sftp(
            sftp_target(server.describe()), root, package, DIGEST, remote_name="p.zip", begin=unrecorded
        )
    assert list(server.files.iterdir()) == []


def test_a_server_that_does_not_let_us_write(
    server: SftpServer, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_sftp._Files, "open", lambda *_: paramiko.sftp.SFTP_PERMISSION_DENIED)
    with pytest.raises(DeliveryRefused, match="permission denied"):
        deliver_sftp(
            sftp_target(server.describe()), root, package, DIGEST, remote_name="p.zip", begin=unrecorded
        )


def test_a_full_remote_disk_is_recognised_where_the_server_tells_its_space(
    server: SftpServer, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fiona_dagster.transfers.targets import remote, upload

    monkeypatch.setattr(upload, "WORTH_RESUMING", 1)  # small packages are sent without asking first

    def nearly_full(_: object, request: str, argument: object) -> paramiko.Message:
        reply = paramiko.Message()
        for value in (4096, 4096, 1000, 10, 10, 0, 0, 0, 0, 0, 255):
            reply.add_int64(value)
        return paramiko.Message(reply.asbytes())

    monkeypatch.setattr(remote, "extended", nearly_full)
    with pytest.raises(StorageFull, match="40960 bytes free"):
        deliver_sftp(
            sftp_target(server.describe()), root, package, DIGEST, remote_name="p.zip", begin=unrecorded
        )
    assert list(server.files.iterdir()) == []


def test_pacs_takes_proves_and_remembers(pacs: ResearchPacs, tmp_path: Path) -> None:
    files = [make_file(tmp_path / f"{n}.dcm", n) for n in range(1, 5)]
    proof = deliver_dicom(
        pacs_target(pacs.describe()),
        DataRoot(tmp_path),
        files,
        digests(files),
        begin=Recorder(tmp_path / "ledger"),
    )

    assert proof.kind == "dicom-find"
    assert proof.counts["found"] == proof.counts["sent"] == 4
    assert pacs.sop_instance_uids() == {f"2.25.77.{n}" for n in range(1, 5)}
    with ResearchPacs(pacs.folder) as again:
        assert again.sop_instance_uids() == pacs.sop_instance_uids()
        peer = Peer("127.0.0.1", again.port, "RESEARCH", timeout=10)
        assert count_instances(peer, "2.25.5") == 4


def test_a_pacs_that_can_only_count_gives_a_proof_of_that_name(
    pacs: ResearchPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fiona_dagster.transfers.targets import dicom

    def refuse(*_: object) -> set[str]:
        raise DeliveryRefused("C-FIND at IMAGE level: status A900")

    monkeypatch.setattr(dicom, "find_instance_uids", refuse)
    files = [make_file(tmp_path / f"{n}.dcm", n) for n in range(1, 4)]
    proof = deliver_dicom(
        pacs_target(pacs.describe()),
        DataRoot(tmp_path),
        files,
        digests(files),
        begin=Recorder(tmp_path / "ledger"),
    )

    assert (proof.kind, proof.counts["found"], proof.counts["sent"]) == ("dicom-find-count", 3, 3)


def test_studies_are_sent_as_by_a_scanner(pacs: ResearchPacs, tmp_path: Path) -> None:
    study = make_studies(tmp_path / "phantoms")[2]

    assert send_study(study, "127.0.0.1", pacs.port, called_ae_title="RESEARCH") == len(study.files)
    assert len(pacs.sop_instance_uids()) == len(study.files)
    with pytest.raises(PeerUnavailable):
        send_study(study, "127.0.0.1", free_port(), timeout=2)


def test_both_run_as_one_program(root: DataRoot, package: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fiona_dagster.demo.peers", "--dir", str(tmp_path / "peers")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = json.loads(process.stdout.readline())
            echo(Peer("127.0.0.1", line["pacs"]["port"], line["pacs"]["ae_title"], timeout=10))
            proof = deliver_sftp(
                sftp_target(line["sftp"]), root, package, DIGEST, remote_name="p.zip", begin=unrecorded
            )
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=170)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    assert proof.counts["sent"] == 1
    assert (process.returncode, output, errors) == (0, "", "")
