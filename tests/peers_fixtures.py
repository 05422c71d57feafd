"""Real peers on loopback: DCMTK, Orthanc, OpenSSH. Missing ones skip, or fail with FIONA_REQUIRE_PEERS=1."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fiona_dagster.config import DicomTarget, SftpTarget


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def program(name: str, package: str) -> str:
    """Path of a program of a peer; skips or fails when it is not installed."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        missing(name, package)
    return path


def missing(name: str, package: str) -> NoReturn:
    """Skips the test, or fails it where peers are required."""
    unavailable(f"{name} is not installed: apt-get install {package}")


def unavailable(reason: str) -> NoReturn:
    """Skips the test for what this machine does not have, or fails it where peers are required."""
    if os.environ.get("FIONA_REQUIRE_PEERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 170) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError(f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Orthanc takes seconds to end in order; what it keeps is thrown away with the test's folder.
    process.kill()
    process.wait()


@pytest.fixture
def dcmtk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Gives the path of a DCMTK program; Nagle, which Debian leaves on, is off."""
    monkeypatch.setenv("TCP_NODELAY", "1")
    monkeypatch.setenv("TCP_BUFFER_LENGTH", "131072")
    return lambda name: program(name, "dcmtk")


@dataclass
class Orthanc:
    """A running Orthanc."""

    dicom_port: int
    http_port: int
    ae_title: str
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def get(self, path: str) -> Any:
        """Answer of its REST API."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())

    def sop_instance_uids(self) -> set[str]:
        """What it really has."""
        found = self.get("/instances?expand")
        return {instance["MainDicomTags"]["SOPInstanceUID"] for instance in found}

    def delete(self, sop_instance_uid: str) -> None:
        """Removes one instance behind everybody's back."""
        for instance in self.get("/instances?expand"):
            if instance["MainDicomTags"]["SOPInstanceUID"] == sop_instance_uid:
                request = urllib.request.Request(  # noqa: S310 - loopback
                    f"{self.url}/instances/{instance['ID']}", method="DELETE"
                )
                urllib.request.urlopen(request, timeout=120).close()  # noqa: S310 - loopback

    def target(self, **more: Any) -> DicomTarget:
        """It as a research PACS."""
        values: dict[str, Any] = {
            "kind": "dicom",
            "host": "127.0.0.1",
            "port": self.dicom_port,
            "called_ae_title": self.ae_title,
            "timeout_seconds": 10,
            **more,
        }
        return DicomTarget(**values)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A real Orthanc on free ports, empty."""
    with running_orthanc(tmp_path / "orthanc") as running:
        yield running


@contextlib.contextmanager
def running_orthanc(folder: Path, **more: Any) -> Iterator[Orthanc]:
    """An Orthanc that keeps everything in ``folder``; ``more`` is added to its configuration."""
    path = program("Orthanc", "orthanc")
    folder.mkdir()
    running = Orthanc(free_port(), free_port(), "RESEARCH", folder)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomPort": running.dicom_port,
        "DicomAet": running.ae_title,
        "DicomCheckCalledAet": True,
        "HttpPort": running.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowFind": True,
        "Plugins": [],
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([path, str(folder / "orthanc.json")], stdout=output, stderr=output)
    try:
        _wait_for(running.http_port, process, log)
        _wait_for(running.dicom_port, process, log)
        yield running
    finally:
        _stop(process)


@contextlib.contextmanager
def running_dcmqrscp(folder: Path, hosts: dict[str, int] | None = None) -> Iterator[int]:
    """DCMTK's query/retrieve SCP, AE title QRSCP; ``hosts`` are AE titles on loopback that it may send to.

    Gives its port.
    """
    path = program("dcmqrscp", "dcmtk")
    (folder / "db").mkdir(parents=True)
    port = free_port()
    known = "".join(f"h{n} = ({ae}, 127.0.0.1, {p})\n" for n, (ae, p) in enumerate((hosts or {}).items()))
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{known}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQRSCP {folder}/db RW (200, 1024mb) ANY\nAETable END\n"
    )
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([path, "-c", str(folder / "dcmqrscp.cfg")], stdout=output, stderr=output)
    try:
        _wait_for(port, process, log)
        yield port
    finally:
        _stop(process)


@dataclass
class Sshd:
    """A running OpenSSH server that serves SFTP."""

    port: int
    folder: Path
    upload: Path
    private_key: Path
    host_key: str
    username: str
    other_host_key: str = field(default="", repr=False)

    def target(self, **more: Any) -> SftpTarget:
        """It as a target of deliveries."""
        values: dict[str, Any] = {
            "kind": "sftp",
            "host": "127.0.0.1",
            "port": self.port,
            "username": self.username,
            "private_key_file": str(self.private_key),
            "host_key": self.host_key,
            "directory": str(self.upload),
            "timeout_seconds": 10,
            **more,
        }
        return SftpTarget(**values)


def _key(folder: Path, name: str) -> str:
    keygen = program("ssh-keygen", "openssh-client")
    subprocess.run(
        [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)], check=True
    )
    return " ".join((folder / f"{name}.pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def one_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real OpenSSH sshd on a free port with host and user keys of its own, for all tests of a module."""
    with running_sshd(tmp_path_factory.mktemp("sshd") / "sshd") as running:
        yield running


@pytest.fixture
def sshd(one_sshd: Sshd, tmp_path: Path) -> Sshd:
    """The module's sshd, with an empty folder of this test's own to upload to."""
    upload = tmp_path / "upload"
    upload.mkdir()
    return replace(one_sshd, upload=upload)


@contextlib.contextmanager
def running_sshd(folder: Path, more: str = "") -> Iterator[Sshd]:
    """An sshd that keeps everything in ``folder``; ``more`` is added to its configuration."""
    path = program("sshd", "openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    upload = folder / "upload"
    upload.mkdir(parents=True)
    host_key, other = _key(folder, "host_key"), _key(folder, "other_key")
    (folder / "authorized_keys").write_text(_key(folder, "user_key") + "\n")
    running = Sshd(
        free_port(),
        folder,
        upload,
        folder / "user_key",
        host_key,
        pwd.getpwuid(os.geteuid()).pw_name,
        other,
    )
    (folder / "sshd_config").write_text(
        f"""Port {running.port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/pid
AuthorizedKeysFile {folder}/authorized_keys
{"" if "Subsystem" in more else "Subsystem sftp internal-sftp"}
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
LogLevel ERROR
MaxStartups 100
{more}
"""
    )
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=output, stderr=output
        )
    try:
        _wait_for(running.port, process, log)
        yield running
    finally:
        _stop(process)


class CuttingProxy:
    """A TCP proxy on loopback that breaks each connection after so many bytes towards the peer.

    Args:
        port: the peer.
        cut_after: bytes to the peer before the cut; None: never.
        cuts: how many connections are cut; later ones pass.
        answers_after: bytes from the peer before the cut, in place of ``cut_after``.
        stall: keep the connection open and pass nothing more, in place of the cut.
    """

    def __init__(
        self,
        port: int,
        cut_after: int | None = None,
        *,
        cuts: int = 1,
        answers_after: int | None = None,
        stall: bool = False,
    ) -> None:
        self._peer = port
        self._stalled = threading.Event() if stall else None
        self._limits = {"to": cut_after, "from": answers_after}
        self._left = cuts
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stalled is not None:
            self._stalled.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                peer = socket.create_connection(("127.0.0.1", self._peer))
            except OSError:
                return
            self.connections += 1
            limits: dict[str, int | None] = dict(self._limits) if self._left > 0 else {}
            self._left -= 1
            for sock in (client, peer):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            both = (client, peer)
            pumps = [
                threading.Thread(target=_pump, args=(*ends, limit, self._stalled), daemon=True)
                for *ends, limit in ((client, peer, limits.get("to")), (peer, client, limits.get("from")))
            ]
            for pump in pumps:
                pump.start()
            closer = threading.Thread(target=_close_after, args=(pumps, both), daemon=True)
            closer.start()
            self._threads.append(closer)


def _pump(
    source: socket.socket, sink: socket.socket, limit: int | None, stalled: threading.Event | None
) -> None:
    passed = 0
    try:
        while data := source.recv(65536):
            if limit is not None and passed + len(data) > limit:
                sink.sendall(data[: limit - passed])
                if stalled is not None:
                    stalled.wait(60)
                break
            sink.sendall(data)
            passed += len(data)
    except OSError:
        pass  # the other half was cut
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _close_after(pumps: list[threading.Thread], both: tuple[socket.socket, ...]) -> None:
    for pump in pumps:
        pump.join()
    for sock in both:
        sock.close()
