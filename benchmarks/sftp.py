"""SFTP: a delivery's transfer itself against OpenSSH's ``sftp`` with the same cipher, to the same real sshd.

The transfer is what a delivery does with the bytes: sign in, temporary name, free space, writes (SHA-256 of
what is sent beside them), fsync, size, rename. ``sftp`` signs in and writes. All files of a run go over one
session. The whole delivery (digests before, read back, checksum files) is told beside it.
Systems take turns, the order turns round; ratios are medians of the ratios of a round, so that what else the
machine does at a time strikes both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot, SftpTarget

RESULTS = Path(__file__).parent / "results" / "sftp.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "developers" / "performance.md"
_BEGIN, _END = "<!-- sftp -->", "<!-- /sftp -->"
CIPHER = "aes128-gcm@openssh.com"


@dataclass(frozen=True)
class Case:
    """So many files of so many bytes, what of OpenSSH's rate our transfer has to reach, who is measured."""

    count: int
    size: int
    ratio: float
    systems: tuple[str, ...]


CASES = {
    "big": Case(1, 1 << 30, 0.7, ("openssh", "transfer", "delivery", "paramiko")),
    "small": Case(500, 41_000, 0.8, ("openssh", "transfer", "paramiko")),
}


@dataclass(frozen=True)
class Server:
    """A running sshd and how to sign in."""

    target: dict[str, Any]
    known_hosts: Path
    upload: Path


@dataclass
class Job:
    """What is sent, where from, where to."""

    server: Server
    files: list[Path]
    digests: list[str]


@contextmanager
def running_sshd(folder: Path, upload: Path) -> Iterator[Server]:
    """Debian's sshd on loopback, with keys of its own."""
    path = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
    if path is None:
        raise SystemExit("sshd is not installed: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized_keys").write_bytes((folder / "user.pub").read_bytes())
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nSubsystem sftp internal-sftp\nUsePAM no\n"
        "StrictModes no\nPermitRootLogin yes\nLogLevel ERROR\nMaxStartups 100\n"
    )
    host_key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    process = subprocess.Popen([path, "-D", "-f", str(folder / "sshd_config")])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        target = {
            "kind": "sftp",
            "host": "127.0.0.1",
            "port": port,
            "username": subprocess.check_output(["id", "-un"], text=True).strip(),
            "private_key_file": str(folder / "user"),
            "host_key": host_key,
            "directory": str(upload),
        }
        yield Server(target, folder / "known_hosts", upload)
    finally:
        process.kill()
        process.wait()


def openssh(job: Job) -> float:
    """OpenSSH's sftp with a batch of puts; seconds."""
    target = job.server.target
    command = ["sftp", "-q", "-b", "-", "-F", "none", "-c", CIPHER, "-P", str(target["port"])]
    command += ["-i", target["private_key_file"], "-o", f"UserKnownHostsFile={job.server.known_hosts}"]
    batch = "".join(f"put {path} {job.server.upload}/{path.name}\n" for path in job.files)
    begin = time.monotonic()
    subprocess.run(
        [*command, f"{target['username']}@127.0.0.1"],
        input=batch.encode(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - begin


def transfer(job: Job) -> float:
    """Our transfer, without proof, all files over one session; seconds."""
    from fiona_dagster.transfers.targets.local import LocalPackage
    from fiona_dagster.transfers.targets.remote import name_it, part_name
    from fiona_dagster.transfers.targets.ssh import connection
    from fiona_dagster.transfers.targets.upload import Upload

    target = SftpTarget(**job.server.target)
    begin = time.monotonic()
    with connection(target, DataRoot(job.server.known_hosts.parent), "bench") as link:
        for path, digest in zip(job.files, job.digests, strict=True):
            final = f"{job.server.upload}/{path.name}"
            local = LocalPackage(path.stat().st_size, "", digest, path, lambda: None)
            Upload(link, target, local, part_name(final)).send()
            assert name_it(link, part_name(final), final) == local.size  # noqa: S101 - an honest benchmark
    return time.monotonic() - begin


def delivery(job: Job) -> float:
    """Whole deliveries with the default proof, each with a session of its own; seconds."""
    from fiona_dagster.transfers.targets.sftp import deliver_sftp

    target, root = SftpTarget(**job.server.target), DataRoot(job.server.known_hosts.parent)
    begin = time.monotonic()
    for path, digest in zip(job.files, job.digests, strict=True):
        deliver_sftp(target, root, path, digest, remote_name=path.name, begin=lambda: None)
    return time.monotonic() - begin


def stock(job: Job) -> float:
    """Stock paramiko: its own ``put`` with its defaults; seconds."""
    import paramiko

    target = job.server.target
    key = paramiko.Ed25519Key.from_private_key_file(target["private_key_file"])
    begin = time.monotonic()
    with paramiko.Transport((target["host"], target["port"])) as transport:
        transport.connect(username=target["username"], pkey=key)
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None  # noqa: S101 - the type
        for path in job.files:
            client.put(str(path), f"{job.server.upload}/{path.name}")
    return time.monotonic() - begin


SYSTEMS: dict[str, Callable[[Job], float]] = {
    "openssh": openssh,
    "transfer": transfer,
    "delivery": delivery,
    "paramiko": stock,
}


def _child(name: str, job: Job) -> tuple[float, float]:
    """Seconds by the clock, and of processor time of the sender (the server's is the same for all)."""
    import paramiko  # noqa: F401 - imported before the time begins

    before = os.times()
    seconds = SYSTEMS[name](job)
    after = os.times()
    return seconds, sum(after[:4]) - sum(before[:4])


def _files(folder: Path, case: Case) -> tuple[list[Path], list[str]]:
    files, digests = [], []
    for number in range(case.count):
        path, sha256, left = folder / f"p{number}.zip", hashlib.sha256(), case.size
        with path.open("wb") as stream:
            while left:
                piece = os.urandom(min(left, 1 << 20))
                stream.write(piece)
                sha256.update(piece)
                left -= len(piece)
        files.append(path)
        digests.append(sha256.hexdigest())
    return files, digests


def measure(key: str, rounds: int, scratch: Path, systems: Sequence[str]) -> dict[str, Any]:
    """All rounds of one case; what each system took, and the median of its ratios to OpenSSH."""
    case = CASES[key]
    source, upload, keys = (scratch / f"{key}-{name}" for name in ("source", "upload", "keys"))
    for folder in (source, upload, keys):
        folder.mkdir()
    files, digests = _files(source, case)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    with running_sshd(keys, upload) as server, multiprocessing.get_context("spawn").Pool(1) as pool:
        job = Job(server, files, digests)
        pool.apply(_child, ("openssh", job))
        for number in range(rounds):
            for name in systems if number % 2 == 0 else list(reversed(systems)):
                taken[name].append(pool.apply(_child, (name, job)))
                if any((upload / path.name).stat().st_size != case.size for path in files):
                    raise SystemExit(f"{name}: not everything arrived")
                for path in upload.iterdir():
                    path.unlink()
    shutil.rmtree(source)
    theirs = [seconds for seconds, _ in taken["openssh"]]
    total = case.count * case.size / 1e6
    return {
        name: {
            "megabytes_per_second": round(total / statistics.median(s for s, _ in runs), 1),
            "files_per_second": round(case.count / statistics.median(s for s, _ in runs), 1),
            "sender_cpu_seconds": round(statistics.median(cpu for _, cpu in runs), 2),
            "ratio": round(statistics.median(t / s for t, (s, _) in zip(theirs, runs, strict=True)), 2),
            "ratios": sorted(round(t / s, 2) for t, (s, _) in zip(theirs, runs, strict=True)),
            "best_ratio": round(min(theirs) / min(s for s, _ in runs), 2),
        }
        for name, runs in taken.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases and prints a table; with all cases it goes into docs/developers/performance.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sftp", description=main.__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--systems", nargs="+", choices=sorted(SYSTEMS), help="besides openssh; default: all")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="default: in memory")  # noqa: S108
    given = parser.parse_args(arguments)
    header = (
        f"Recorded on {os.cpu_count()} processors, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}, {given.rounds} rounds, "
        f"{CIPHER} (paramiko: its own choice)."
    )
    lines = [
        header,
        "",
        "| case | system | MB/s | files/s | sender CPU s | median ratio | best to best |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = {}
    with tempfile.TemporaryDirectory(prefix="fiona-bench-", dir=given.dir) as name:
        for key in given.case or CASES:
            wanted = {"openssh", *(given.systems or SYSTEMS)}
            systems = [system for system in CASES[key].systems if system in wanted]
            found[key] = measure(key, given.rounds, Path(name), systems)
            for system, row in found[key].items():
                lines.append(
                    f"| {key} | {system} | {row['megabytes_per_second']} | {row['files_per_second']} | "
                    f"{row['sender_cpu_seconds']} | {row['ratio']} | {row['best_ratio']} |"
                )
    print("\n".join(lines))  # noqa: T201
    ours = {key: table.get("transfer") for key, table in found.items()}
    missed = [key for key, row in ours.items() if row and row["ratio"] < CASES[key].ratio]
    if missed:
        print(f"MISSES {', '.join(f'{key} {CASES[key].ratio}' for key in missed)}", file=sys.stderr)  # noqa: T201
    if not given.case and not given.systems:
        RESULTS.write_text(json.dumps({"recorded": header, "cases": found}, indent=1) + "\n")
        before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
        DOCUMENT.write_text(before + _BEGIN + "\n" + "\n".join(lines) + "\n" + _END + rest.partition(_END)[2])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
