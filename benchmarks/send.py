"""Sending by C-STORE: ours against dcmtk's dcmsend and pynetdicom, into the same storescp, in the same run.

Each sender is a process of its own; its reading of the files is inside its time, not the loading of Python,
which a delivery has behind it. Ours compares every file with its SHA-256 while it sends, as a delivery does.
``sync`` before each run, order turned round each time, medians; ratios are medians of the rounds' own. What
was stored is counted on the disk.

``python -m benchmarks.send --sender-process HOST PORT ASSOCIATIONS LIST`` is our sender's process; ``LIST``
has a line ``SHA-256 PATH`` for each file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs" / "developers" / "performance.md"
_BEGIN, _END = "<!-- send -->", "<!-- /send -->"
RESULTS = Path(__file__).parent / "results" / "send.json"
WANTED = 0.7
"""Of dcmsend's rate."""


@dataclass(frozen=True)
class Case:
    """What is sent: how many objects of which size over how many associations."""

    kind: str
    count: int
    pixel_bytes: int
    associations: int


CASES = {
    "ct1": Case("ct", 400, 512 * 512 * 2, 1),
    "ct4": Case("ct", 400, 512 * 512 * 2, 4),
    "mr1": Case("mr", 2000, 128 * 128 * 2, 1),
    "mr4": Case("mr", 2000, 128 * 128 * 2, 4),
    "big1": Case("mr", 1, 300_000_000, 1),
}


def send_here(host: str, port: int, associations: int, listed: Path) -> int:
    """Our sender, as a delivery uses it; returns how many were stored."""
    from fiona_dagster.dicom.instances import read_instance
    from fiona_dagster.dicom.peers import Peer
    from fiona_dagster.dicom.sender import store_files

    lines = [line.split(" ", 1) for line in listed.read_text().splitlines()]
    digests = {path: digest for digest, path in lines}
    _await_go()
    instances = [read_instance(Path(path)) for path in digests]
    results = store_files(Peer(host, port, "ANY"), instances, digests=digests, associations=associations)
    return sum(result.stored for result in results)


def _await_go() -> None:
    """Interpreter and modules are loaded, as they are in a run of a delivery."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def send_pynetdicom(host: str, port: int, listed: Path) -> int:
    """The client of pynetdicom, Nagle's algorithm off; what it loses the answer of is sent again."""
    import socket

    from pydicom import dcmread
    from pynetdicom import AE, _config, evt

    def no_delay(event: Any) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    _config.STORE_SEND_CHUNKED_DATASET = True
    waiting = [line.split(" ", 1)[1] for line in listed.read_text().splitlines()][::-1]
    first = dcmread(waiting[0], stop_before_pixels=True)
    entity = AE()
    entity.dimse_timeout = 5
    entity.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    stored = 0
    _await_go()
    while waiting:
        association = entity.associate(host, port, evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)])
        while waiting and association.is_established:
            if association.send_c_store(waiting[-1]).get("Status") == 0:
                waiting.pop()
                stored += 1
        association.release()
    return stored


def _ours(port: int, listed: Path, case: Case) -> list[list[str]]:
    command = [sys.executable, "-m", "benchmarks.send", "--sender-process"]
    return [[*command, "127.0.0.1", str(port), str(case.associations), str(listed)]]


def _dcmsend(port: int, listed: Path, case: Case) -> list[list[str]]:
    paths = [line.split(" ", 1)[1] for line in listed.read_text().splitlines()]
    command = ["dcmsend", "127.0.0.1", str(port), "--max-pdu", "131072"]
    return [[*command, *paths[number :: case.associations]] for number in range(case.associations)]


def _pynetdicom(port: int, listed: Path, case: Case) -> list[list[str]]:
    command = [sys.executable, "-m", "benchmarks.send", "--sender-process"]
    return [[*command, "127.0.0.1", str(port), "0", str(listed)]]


Commands = Callable[[int, Path, Case], list[list[str]]]
SENDERS: dict[str, Commands] = {"dcmsend": _dcmsend, "fiona": _ours, "pynetdicom": _pynetdicom}


@dataclass(frozen=True)
class Run:
    """One run: seconds of the whole, processor seconds and peak memory (MiB) of the senders."""

    seconds: float
    cpu: float
    rss: float


def run_once(name: str, case: Case, listed: Path, scratch: Path) -> Run:
    """One run of one sender into an empty storescp.

    Raises:
        RuntimeError: it failed, or not everything is stored.
    """
    from benchmarks import receivers

    folder = scratch / "store"
    with receivers.storescp(folder, case.associations > 1) as running:
        environment = {**os.environ, **receivers.DCMTK_ENVIRONMENT}
        commands = SENDERS[name](running.port, listed, case)
        os.sync()
        begin = time.monotonic()
        pipe = None if name == "dcmsend" else subprocess.PIPE
        senders = [subprocess.Popen(each, env=environment, stdin=pipe, stdout=pipe) for each in commands]
        if name != "dcmsend":
            begin = _go(senders[0])
        usages = [os.wait4(sender.pid, 0) for sender in senders]
        seconds = time.monotonic() - begin
    stored = len(receivers.stored("storescp", folder))
    shutil.rmtree(folder)
    folder.with_suffix(".log").unlink()
    if any(status for _, status, _ in usages) or stored < case.count:
        raise RuntimeError(f"{name}: {stored} of {case.count} stored")
    cpu = sum(usage.ru_utime + usage.ru_stime for _, _, usage in usages)
    return Run(seconds, cpu, sum(usage.ru_maxrss for _, _, usage in usages) / 1024)


def _go(sender: subprocess.Popen[bytes]) -> float:
    """Lets a sender begin that is loaded; returns when."""
    assert sender.stdin is not None and sender.stdout is not None  # noqa: S101, PT018 - for mypy
    sender.stdout.readline()
    begin = time.monotonic()
    sender.stdin.write(b"go\n")
    sender.stdin.close()
    return begin


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(key: str, rounds: int, scratch: Path) -> dict[str, dict[str, Any]]:
    """All rounds of one case; medians by sender."""
    case = CASES[key]
    folder = scratch / f"{case.kind}-{case.count}-{case.pixel_bytes}"
    if not folder.exists():
        # In a process of its own: what this one has held counts as the memory of its children.
        making = "import sys, pathlib; from benchmarks.objects import make; "
        making += "make(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
        values = [str(folder), case.kind, str(case.count), str(case.pixel_bytes)]
        subprocess.run([sys.executable, "-c", making, *values], check=True)
    files = sorted(folder.iterdir())
    listed = scratch / "list"
    listed.write_text("".join(f"{_digest(path)} {path}\n" for path in files))
    size = sum(path.stat().st_size for path in files)
    names = [name for name in SENDERS if name != "pynetdicom" or key == "ct1"]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            runs[name].append(run_once(name, case, listed, scratch))
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        seconds = statistics.median(run.seconds for run in runs[name])
        table[name] = {
            "instances_per_second": round(case.count / seconds, 1),
            "lowest": round(case.count / max(run.seconds for run in runs[name]), 1),
            "highest": round(case.count / min(run.seconds for run in runs[name]), 1),
            "megabytes_per_second": round(size / seconds / 1e6, 1),
            "cpu_ms_per_instance": round(
                statistics.median(run.cpu for run in runs[name]) / case.count * 1000, 3
            ),
            "peak_rss_mib": round(max(run.rss for run in runs[name]), 1),
        }
    for name, row in table.items():
        # Each round against dcmsend's of the same round: other work on the machine hits both.
        pairs = zip(runs["dcmsend"], runs[name], strict=True)
        row["ratio"] = round(statistics.median(base.seconds / run.seconds for base, run in pairs), 2)
    return table


def _print(key: str, table: dict[str, dict[str, Any]]) -> None:
    case = CASES[key]
    print(f"\n{key}: {case.count} {case.kind.upper()}, associations: {case.associations}")  # noqa: T201
    for name, row in table.items():
        verdict = f"{'reaches' if row['ratio'] >= WANTED else 'MISSES'} {WANTED}" if name == "fiona" else ""
        print(  # noqa: T201
            f"  {name:12}{row['instances_per_second']:>9} ({row['lowest']:.0f}-{row['highest']:.0f})/s"
            f"{row['megabytes_per_second']:>8} MB/s{row['cpu_ms_per_instance']:>9} ms"
            f"{row['peak_rss_mib']:>7} MiB  ratio {row['ratio']}  {verdict}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases, prints tables, and writes ``benchmarks/results/send.json`` when all were run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.send", description=main.__doc__)
    parser.add_argument(
        "--case", action="append", choices=sorted(CASES), help="may be repeated; default: all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure; default: the temporary one")
    parser.add_argument("--sender-process", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.sender_process:
        host, port, associations, listed = given.sender_process
        path = Path(listed)
        if associations == "0":
            stored = send_pynetdicom(host, int(port), path)
        else:
            stored = send_here(host, int(port), int(associations), path)
        return 0 if stored == len(path.read_text().splitlines()) else 1
    result: dict[str, Any] = {
        "machine": f"{os.cpu_count()} processors, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rounds": given.rounds,
        "load_before": os.getloadavg()[0],
        "cases": {},
    }
    with tempfile.TemporaryDirectory(prefix="fiona-bench-", dir=given.dir) as name:
        for key in given.case or CASES:
            result["cases"][key] = table = measure(key, given.rounds, Path(name))
            _print(key, table)
    if not given.case:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        DOCUMENT.write_text(_with_results(DOCUMENT.read_text(), result))
    return 0


def _with_results(text: str, result: dict[str, Any]) -> str:
    """The page on performance with the figures of this run in place of the last one's."""
    lines = [
        f"Recorded on {result['machine']}, Python {result['python']}, load {result['load_before']:.1f},"
        f" medians of {result['rounds']}.",
        "",
        "| case | sender | instances/s | MB/s | processor ms each | peak RSS, MiB | ratio to dcmsend |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, table in result["cases"].items():
        lines += [
            f"| {key} | {name} | {row['instances_per_second']} | {row['megabytes_per_second']} | "
            f"{row['cpu_ms_per_instance']} | {row['peak_rss_mib']} | {row['ratio']} |"
            for name, row in table.items()
        ]
    before, _, rest = text.partition(_BEGIN)
    return before + _BEGIN + "\n" + "\n".join(lines) + "\n" + _END + rest.partition(_END)[2]


if __name__ == "__main__":
    sys.exit(main())
