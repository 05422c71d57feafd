"""SFTP deliveries to a real OpenSSH server."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import paramiko
import pytest

from fiona_dagster.config import DataRoot, SftpTarget
from fiona_dagster.demo.peers import SftpServer
from fiona_dagster.errors import (
    ConfigurationError,
    DeliveryRefused,
    NotVerified,
    PeerUnavailable,
    ProofAwaited,
    UsageError,
)
from fiona_dagster.transfers.targets import (
    ArrivedDamaged,
    Proof,
    kept,
    packets,
    pipeline,
    remote,
    sftp,
    ssh,
    upload,
)
from fiona_dagster.transfers.targets.kept import connections_kept
from fiona_dagster.transfers.targets.sftp import deliver_sftp
from tests.peers_fixtures import CuttingProxy, Sshd, free_port, program, running_sshd
from tests.sending import unrecorded

pytestmark = pytest.mark.peers
PACKAGES = [20, 2000] if os.environ.get("FIONA_TEST_FULL") else [20]

NAME = "DEMO_P001_baseline_1.zip"
CONTENT = bytes(range(256)) * 12_000  # 3 MB: more than one window of requests


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "package.zip"
    path.write_bytes(CONTENT)
    return path


def _deliver(sshd: Sshd, root: DataRoot, package: Path, *, digest: str = "", **target: object) -> Proof:
    return deliver_sftp(
        sshd.target(**target),
        root,
        package,
        digest or hashlib.sha256(CONTENT).hexdigest(),
        remote_name=NAME,
        begin=unrecorded,
        name="archive",
    )


def _there(sshd: Sshd) -> list[str]:
    return sorted(path.name for path in sshd.upload.iterdir())


TRIPLE = [NAME, f"{NAME}.md5", f"{NAME}.sha256"]


def test_package_and_checksums_arrive_with_proof(sshd: Sshd, root: DataRoot, package: Path) -> None:
    proof = _deliver(sshd, root, package)

    assert _there(sshd) == TRIPLE
    assert (sshd.upload / NAME).read_bytes() == CONTENT
    for kind in ("md5", "sha256"):
        subprocess.run([f"{kind}sum", "--quiet", "-c", f"{NAME}.{kind}"], cwd=sshd.upload, check=True)
    assert proof.kind == "sftp-readback"
    assert proof.counts == {"files": 3, "bytes": len(CONTENT), "sent": 1, "resumed": 0, "flushed": 1}
    assert proof.digests["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert "P001" not in repr(proof)
    assert "P001" not in str(proof.to_json())
    assert proof.private["remote_path"].endswith(NAME)


def test_the_modern_cipher_is_chosen(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []
    activate = paramiko.Transport._activate_outbound  # type: ignore[attr-defined]

    def record(self: paramiko.Transport) -> None:
        activate(self)
        chosen.append(self.local_cipher)

    monkeypatch.setattr(paramiko.Transport, "_activate_outbound", record)
    _deliver(sshd, root, package)

    assert set(chosen) == {"aes128-gcm@openssh.com"}


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-ctr"])
def test_keys_are_exchanged_again_in_the_middle_of_an_upload(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch, cipher: str
) -> None:
    exchanged: list[str] = []
    activate = paramiko.Transport._activate_outbound  # type: ignore[attr-defined]

    def record(self: paramiko.Transport) -> None:
        activate(self)
        exchanged.append(self.local_cipher)

    monkeypatch.setattr(paramiko.Transport, "_activate_outbound", record)
    monkeypatch.setattr(packets.Packets, "REKEY_BYTES", 700_000)
    monkeypatch.setattr(ssh, "CIPHERS", (cipher,))
    assert _deliver(sshd, root, package).counts["sent"] == 1

    assert (sshd.upload / NAME).read_bytes() == CONTENT
    assert len(exchanged) > 2
    assert set(exchanged) == {cipher}


def test_a_second_delivery_sends_nothing(sshd: Sshd, root: DataRoot, package: Path) -> None:
    _deliver(sshd, root, package)
    before = {path.name: path.stat() for path in sshd.upload.iterdir()}

    proof = _deliver(sshd, root, package)

    assert proof.counts["sent"] == 0
    after = {path.name: path.stat() for path in sshd.upload.iterdir()}
    assert {k: (v.st_ino, v.st_mtime_ns) for k, v in after.items()} == {
        k: (v.st_ino, v.st_mtime_ns) for k, v in before.items()
    }


@pytest.mark.parametrize("there", [b"other", CONTENT[:-1] + b"x", CONTENT[:-1], CONTENT + b"x", b""])
def test_other_content_under_our_name_is_never_overwritten(
    sshd: Sshd, root: DataRoot, package: Path, there: bytes
) -> None:
    (sshd.upload / NAME).write_bytes(there)

    with pytest.raises(DeliveryRefused) as caught:
        _deliver(sshd, root, package)
    assert (sshd.upload / NAME).read_bytes() == there
    assert _there(sshd) == [NAME]
    assert "P001" not in str(caught.value)


def test_outdated_checksum_files_are_replaced(sshd: Sshd, root: DataRoot, package: Path) -> None:
    (sshd.upload / f"{NAME}.md5").write_text("0 old\n")
    _deliver(sshd, root, package)

    assert _there(sshd) == TRIPLE
    assert (sshd.upload / f"{NAME}.md5").read_text().split()[1] == NAME


def test_a_left_over_part_is_replaced(sshd: Sshd, root: DataRoot, package: Path) -> None:
    (sshd.upload / f".{NAME}.fiona-part").write_bytes(b"z" * (len(CONTENT) + 5))
    _deliver(sshd, root, package)

    assert _there(sshd) == TRIPLE
    assert (sshd.upload / NAME).read_bytes() == CONTENT


def test_a_changed_host_key_is_refused_before_anything_is_sent(
    sshd: Sshd, root: DataRoot, package: Path
) -> None:
    with pytest.raises(DeliveryRefused, match="host key has changed"):
        _deliver(sshd, root, package, host_key=sshd.other_host_key)
    assert _there(sshd) == []


def test_a_host_key_of_another_type_is_refused(sshd: Sshd, root: DataRoot, package: Path) -> None:
    rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ=="
    with pytest.raises(DeliveryRefused, match="pinned type"):
        _deliver(sshd, root, package, host_key=rsa)


@pytest.mark.parametrize("key", ["", "ssh-ed25519", "nonsense AAAA"])
def test_a_host_key_that_is_none_is_a_configuration_error(
    sshd: Sshd, root: DataRoot, package: Path, key: str
) -> None:
    with pytest.raises(ConfigurationError, match="host_key"):
        _deliver(sshd, root, package, host_key=key)


def test_a_key_that_the_server_does_not_know(sshd: Sshd, root: DataRoot, package: Path) -> None:
    with pytest.raises(DeliveryRefused, match="does not accept our key"):
        _deliver(sshd, root, package, private_key_file=str(sshd.folder / "other_key"))


@pytest.mark.parametrize("name", ["none", "host_key.pub"])
def test_an_unusable_private_key(sshd: Sshd, root: DataRoot, package: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="private_key_file"):
        _deliver(sshd, root, package, private_key_file=str(sshd.folder / name))


def test_bytes_that_are_not_those_of_the_ledger_are_not_sent(
    sshd: Sshd, root: DataRoot, package: Path
) -> None:
    with pytest.raises(NotVerified):
        _deliver(sshd, root, package, digest="0" * 64)
    assert _there(sshd) == []


def test_a_package_that_changes_while_it_is_sent_gets_no_name(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = remote.check_room

    def swap(*arguments: Any) -> None:
        package.write_bytes(CONTENT[:-1] + b"!")
        check(*arguments)

    monkeypatch.setattr(upload, "check_room", swap)
    with pytest.raises(NotVerified):
        _deliver(sshd, root, package)
    assert _there(sshd) == []


@pytest.mark.parametrize("damage", ["truncate", "alter"])
def test_what_arrived_damaged_is_not_proven(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    send = upload.Upload.send

    def spoil(sending: upload.Upload) -> None:
        send(sending)
        part = sshd.upload / f".{NAME}.fiona-part"
        if damage == "truncate":
            os.truncate(part, 1000)
        else:
            part.write_bytes(CONTENT[:500_000] + b"!" + CONTENT[500_001:])

    monkeypatch.setattr(upload.Upload, "send", spoil)
    with pytest.raises(PeerUnavailable):
        _deliver(sshd, root, package)
    assert _there(sshd) == []

    monkeypatch.undo()
    assert _deliver(sshd, root, package).counts["sent"] == 1


@pytest.mark.parametrize("after", [10, 1500, 100_000, len(CONTENT) - 1000])
def test_a_cut_connection_is_unavailable_and_the_next_attempt_succeeds(
    sshd: Sshd, root: DataRoot, package: Path, after: int
) -> None:
    with CuttingProxy(sshd.port, after) as proxy:
        with pytest.raises(PeerUnavailable):
            _deliver(sshd, root, package, port=proxy.port)
        assert NAME not in _there(sshd)
        proof = _deliver(sshd, root, package, port=proxy.port)

    assert proof.counts["sent"] == 1
    assert _there(sshd) == TRIPLE


def test_a_cut_while_reading_back(sshd: Sshd, root: DataRoot, package: Path) -> None:
    with CuttingProxy(sshd.port, answers_after=1_000_000) as proxy, pytest.raises(PeerUnavailable):
        _deliver(sshd, root, package, port=proxy.port)
    assert NAME not in _there(sshd)


@pytest.mark.parametrize("after", [0, 1500, 1_000_000])
def test_a_server_that_stalls_is_given_up(sshd: Sshd, root: DataRoot, package: Path, after: int) -> None:
    begin = time.monotonic()
    with CuttingProxy(sshd.port, after, stall=True) as proxy, pytest.raises(PeerUnavailable):
        _deliver(sshd, root, package, port=proxy.port, timeout_seconds=0.7)
    assert time.monotonic() - begin < 10
    assert NAME not in _there(sshd)


def test_nobody_listens(sshd: Sshd, root: DataRoot, package: Path) -> None:
    with pytest.raises(PeerUnavailable):
        _deliver(sshd, root, package, port=free_port())


def test_an_ssh_packet_that_makes_no_sense_is_an_unavailable_peer(
    sshd: Sshd, root: DataRoot, package: Path
) -> None:
    """As of a line that changes bits: paramiko raises whatever its decoders raise."""
    payload = bytes([20]) + bytes(16) + struct.pack(">I", 2) + b"\xd5\xd5" + bytes(80)
    padding = 16 - (len(payload) + 5) % 8
    packet = struct.pack(">IB", len(payload) + 1 + padding, padding) + payload + bytes(padding)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + packet)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(PeerUnavailable, match="no SSH while connecting"):
            _deliver(sshd, root, package, port=server.getsockname()[1])
        thread.join()


def test_a_connection_that_can_not_be_closed_hides_nothing(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It broke a moment before: neither is what was delivered lost, nor the reason why it was not."""
    close = paramiko.SFTPClient.close

    def broken(self: paramiko.SFTPClient) -> None:
        close(self)
        raise EOFError

    monkeypatch.setattr(paramiko.SFTPClient, "close", broken)
    assert _deliver(sshd, root, package).proven
    with pytest.raises(DeliveryRefused, match="no such folder"):
        _deliver(sshd, root, package, directory="/nowhere")


def test_a_missing_folder_needs_a_person(sshd: Sshd, root: DataRoot, package: Path) -> None:
    with pytest.raises(DeliveryRefused, match="folder"):
        _deliver(sshd, root, package, directory=str(sshd.upload / "none"))


@pytest.mark.parametrize("name", ["../x.zip", "a/b.zip", "", ".hidden", "x\n.zip"])
def test_unsafe_remote_names(sshd: Sshd, root: DataRoot, package: Path, name: str) -> None:
    with pytest.raises(UsageError):
        deliver_sftp(sshd.target(), root, package, "0" * 64, remote_name=name, begin=unrecorded)


# -- resuming ----------------------------------------------------------------------------------------

PART = f".{NAME}.fiona-part"


def _settled(path: Path) -> int:
    """Size of a file once the server has written what it had received before the cut."""
    deadline, size = time.monotonic() + 20, -1
    while time.monotonic() < deadline:
        time.sleep(0.3)
        if size == (size := path.stat().st_size) and size > upload.WORTH_RESUMING:
            break
    return size


@pytest.mark.parametrize("proofs", [["readback"], ["digest"], ["digest", "readback"]])
def test_a_cut_upload_goes_on_where_it_stopped(
    sshd: Sshd, root: DataRoot, package: Path, proofs: list[str]
) -> None:
    with CuttingProxy(sshd.port, 2_000_000, stall=True) as proxy:
        with pytest.raises(PeerUnavailable):
            _deliver(sshd, root, package, port=proxy.port, proofs=proofs, timeout_seconds=2)
        there = (sshd.upload / PART).stat().st_size
        assert there > upload.WORTH_RESUMING
        proof = _deliver(sshd, root, package, port=proxy.port, proofs=proofs)

    assert proof.counts["resumed"] == there
    assert (sshd.upload / NAME).read_bytes() == CONTENT
    assert _there(sshd) == TRIPLE


@pytest.mark.parametrize("proofs", [["readback"], ["digest"]])
def test_a_remote_part_that_is_not_ours_is_not_continued(
    sshd: Sshd, root: DataRoot, package: Path, proofs: list[str]
) -> None:
    (sshd.upload / PART).write_bytes(CONTENT[:1_999_999] + b"?")
    proof = _deliver(sshd, root, package, proofs=proofs)

    assert proof.counts["resumed"] == 0
    assert (sshd.upload / NAME).read_bytes() == CONTENT


def test_an_upload_keeps_to_its_bandwidth(sshd: Sshd, root: DataRoot, package: Path) -> None:
    begin = time.monotonic()
    _deliver(sshd, root, package, megabytes_per_second=2)
    assert time.monotonic() - begin >= len(CONTENT) / 2e6


# -- other proofs ------------------------------------------------------------------------------------


def test_the_servers_own_digest_proves_without_reading_back(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fiona_dagster.transfers.targets import sftp_proof

    monkeypatch.setattr(sftp_proof, "digest_of", None)  # nothing big is read back
    proof = _deliver(sshd, root, package, proofs=["digest"])
    assert proof.kind == "sftp-digest"
    assert _deliver(sshd, root, package, proofs=["digest"]).counts["sent"] == 0


def test_a_server_for_sftp_alone_gives_no_digest(tmp_path: Path, root: DataRoot, package: Path) -> None:
    with running_sshd(tmp_path / "sshd", "ForceCommand internal-sftp") as sshd:
        with pytest.raises(DeliveryRefused, match="none of the proofs"):
            _deliver(sshd, root, package, proofs=["digest"])
        assert _there(sshd) == []
        assert _deliver(sshd, root, package, proofs=["digest", "readback"]).kind == "sftp-readback"


def test_a_digest_by_the_check_file_extension(tmp_path: Path, root: DataRoot, package: Path) -> None:
    package.write_bytes(CONTENT[:60_000])  # paramiko's own server never ends with more
    with SftpServer(tmp_path / "server") as server:
        described = server.describe()
        keys = ("host", "port", "username", "private_key_file", "host_key")
        target = SftpTarget(kind="sftp", proofs=("digest",), **{key: described[key] for key in keys})
        proof = deliver_sftp(
            target,
            root,
            package,
            hashlib.sha256(CONTENT[:60_000]).hexdigest(),
            remote_name=NAME,
            begin=unrecorded,
        )
    assert proof.kind == "sftp-digest"


def test_the_originals_checksum_of_the_server_is_waited_for(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp, "SERVER_FILE_SECONDS", 0.1)
    with pytest.raises(ProofAwaited):
        _deliver(sshd, root, package, proofs=["md5sum_server"])
    before = (sshd.upload / NAME).stat()
    checksum = sshd.upload / NAME.replace(".zip", ".md5sum_server")
    checksum.write_text(f"{hashlib.md5(CONTENT).hexdigest()}  {NAME}\n")  # noqa: S324 - the original's
    os.utime(checksum, (before.st_mtime - 60, before.st_mtime - 60))  # left from a file that lay there before
    with pytest.raises(ProofAwaited):
        _deliver(sshd, root, package, proofs=["md5sum_server"])
    checksum.touch()

    proof = _deliver(sshd, root, package, proofs=["md5sum_server"])
    assert (proof.kind, proof.counts["sent"]) == ("sftp-md5sum-server", 0)
    assert (sshd.upload / NAME).stat().st_ino == before.st_ino

    checksum.write_text("0" * 32)
    with pytest.raises(DeliveryRefused, match="md5sum_server"):
        _deliver(sshd, root, package, proofs=["md5sum_server"])


def test_what_lies_beside_archives_is_read_back_where_the_other_side_checks_archives_alone(
    sshd: Sshd, root: DataRoot, tmp_path: Path
) -> None:
    """The checksum that stands there is the archive's own, under the name without the ending."""
    record = tmp_path / "study.json"
    record.write_bytes(b"{}")
    (sshd.upload / "study.md5sum_server").write_text("0" * 32)
    proof = deliver_sftp(
        sshd.target(proofs=["md5sum_server"]),
        root,
        record,
        hashlib.sha256(b"{}").hexdigest(),
        remote_name="study.json",
        begin=unrecorded,
        name="archive",
    )
    assert proof.kind == "sftp-readback"
    assert (sshd.upload / "study.json").read_bytes() == b"{}"


def test_the_servers_checksum_comes_in_the_order_of_the_setting(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First in the list it is waited for, and only when it does not come the next kind decides."""
    monkeypatch.setattr(sftp, "SERVER_FILE_SECONDS", 0.1)
    checksum = sshd.upload / f"{NAME}.md5sum_server"
    both = ["md5sum_server", "readback"]
    assert _deliver(sshd, root, package, proofs=both).kind == "sftp-readback"
    checksum.write_text(hashlib.md5(CONTENT).hexdigest())  # noqa: S324 - the original's
    assert _deliver(sshd, root, package, proofs=both).kind == "sftp-md5sum-server"
    assert _deliver(sshd, root, package, proofs=both[::-1]).kind == "sftp-readback"

    for path in sshd.upload.iterdir():
        path.unlink()
    rename = sftp._Delivery._give_name

    def spoil(delivery: sftp._Delivery, part: str) -> None:
        rename(delivery, part)
        (sshd.upload / NAME).write_bytes(CONTENT[:-1] + b"!")

    monkeypatch.setattr(sftp._Delivery, "_give_name", spoil)
    with pytest.raises(ArrivedDamaged):
        _deliver(sshd, root, package, proofs=both)
    assert _there(sshd) == [], "what we put there and nothing proves is ours to remove"
    (sshd.upload / NAME).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DeliveryRefused, match="is not the package"):
        _deliver(sshd, root, package, proofs=both)
    assert _there(sshd) == [NAME]


@pytest.mark.parametrize("theirs", [b"other", CONTENT[:-1] + b"x"])
def test_another_who_takes_the_name_first_is_not_overwritten(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch, theirs: bytes
) -> None:
    """The race between looking and renaming."""
    compare = sftp._Delivery._compare

    def overtaken(delivery: sftp._Delivery, part: str) -> object:
        kind = compare(delivery, part)
        (sshd.upload / NAME).write_bytes(theirs)
        return kind

    monkeypatch.setattr(sftp._Delivery, "_compare", overtaken)
    with pytest.raises(DeliveryRefused, match="never overwritten"):
        _deliver(sshd, root, package)
    assert (sshd.upload / NAME).read_bytes() == theirs
    assert _there(sshd) == [NAME]


def test_a_drop_box_is_never_called_proven(sshd: Sshd, root: DataRoot, package: Path) -> None:
    proof = _deliver(sshd, root, package, proofs=["agreement"])
    assert (proof.kind, proof.proven) == ("agreement", False)
    assert (sshd.upload / NAME).read_bytes() == CONTENT
    assert _deliver(sshd, root, package, proofs=["agreement"]).counts["sent"] == 0
    (sshd.upload / NAME).write_bytes(b"other")
    with pytest.raises(DeliveryRefused, match="never overwritten"):
        _deliver(sshd, root, package, proofs=["agreement"])


def test_a_server_that_lies_about_success_is_found_out(
    sshd: Sshd, root: DataRoot, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers every write with success and keeps the last part to itself."""
    write = pipeline.Pipeline.write

    def lie(self: pipeline.Pipeline, handle: bytes, offset: int, data: memoryview) -> int:
        return write(self, handle, offset, memoryview(bytes(len(data))) if len(data) > 1000 else data)

    monkeypatch.setattr(pipeline.Pipeline, "write", lie)
    for proofs in (["readback"], ["digest"]):
        with pytest.raises(PeerUnavailable, match="differs from what was sent"):
            _deliver(sshd, root, package, proofs=proofs)
        assert _there(sshd) == []


# -- signing in --------------------------------------------------------------------------------------


def test_keys_of_an_agent(
    sshd: Sshd, root: DataRoot, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = program("ssh-agent", "openssh-client")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    with pytest.raises(ConfigurationError, match="SSH agent"):
        _deliver(sshd, root, package, private_key_file="", agent=True)
    process = subprocess.Popen([agent, "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "agent").is_socket():
            time.sleep(0.05)
        for key in ("other_key", "user_key"):
            subprocess.run(["ssh-add", "-q", str(sshd.folder / key)], check=True, stderr=subprocess.DEVNULL)
        assert _deliver(sshd, root, package, private_key_file="", agent=True).counts["sent"] == 1
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(2000)
@pytest.mark.parametrize("count", PACKAGES)
def test_many_packages_leak_no_connection(sshd: Sshd, root: DataRoot, package: Path, count: int) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    package.write_bytes(b"small")
    digest = hashlib.sha256(b"small").hexdigest()
    before = (descriptors(), threading.active_count())
    for number in range(count):
        deliver_sftp(sshd.target(), root, package, digest, remote_name=f"p{number}.zip", begin=unrecorded)
    assert len(_there(sshd)) == 3 * count
    deadline = time.monotonic() + 170
    while (descriptors(), threading.active_count()) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert descriptors() <= before[0]
    assert threading.active_count() <= before[1]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[paramiko.Transport]:
    """Every connection that was made."""
    made: list[paramiko.Transport] = []
    handshake = ssh._handshake

    def note(transport: paramiko.Transport, *arguments: Any) -> None:
        made.append(transport)
        handshake(transport, *arguments)

    monkeypatch.setattr(ssh, "_handshake", note)
    return made


def test_deliveries_of_a_run_share_a_session(
    sshd: Sshd,
    root: DataRoot,
    package: Path,
    sessions: list[paramiko.Transport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deliver(number: int, **target: object) -> None:
        digest = hashlib.sha256(CONTENT).hexdigest()
        chosen = sshd.target(**target)
        deliver_sftp(
            chosen, root, package, digest, remote_name=f"p{number}.zip", begin=unrecorded, name="archive"
        )

    before = threading.active_count()
    with connections_kept():
        for number in range(3):
            deliver(number)
        assert len(sessions) == 1
        deliver(3, timeout_seconds=9)  # other settings
        assert len(sessions) == 2
        deliver(4)
        assert len(sessions) == 2
        sessions[0].close()  # it broke meanwhile
        deliver(5)
        assert len(sessions) == 3
        with pytest.raises(NotVerified):
            deliver_sftp(sshd.target(), root, package, "0" * 64, remote_name="x.zip", begin=unrecorded)
        (sshd.upload / "p6.zip").write_bytes(b"other")
        with pytest.raises(DeliveryRefused):  # nobody takes up what an error was met on
            deliver(6)
        assert not sessions[2].is_active()
        deliver(7)
        assert len(sessions) == 4
        monkeypatch.setattr(kept, "IDLE_SECONDS", 0.0)
        deliver(8)
        assert len(sessions) == 5
    assert not any(each.is_active() for each in sessions)
    deliver(9)
    deliver(10)
    assert len(sessions) == 7
    for number in (0, 1, 2, 3, 4, 5, 7, 8, 9, 10):
        assert (sshd.upload / f"p{number}.zip").read_bytes() == CONTENT
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_several_runs_of_a_process_do_not_take_each_others_session(
    sshd: Sshd, root: DataRoot, package: Path, sessions: list[paramiko.Transport]
) -> None:
    package.write_bytes(b"small")
    digest = hashlib.sha256(b"small").hexdigest()

    def run(first: int) -> None:
        with connections_kept():
            for number in range(first, first + 5):
                deliver_sftp(
                    sshd.target(), root, package, digest, remote_name=f"p{number}.zip", begin=unrecorded
                )

    threads = [threading.Thread(target=run, args=(100 * number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_there(sshd)) == 3 * 15
    assert 1 <= len(sessions) <= 15
    assert not any(each.is_active() for each in sessions)
