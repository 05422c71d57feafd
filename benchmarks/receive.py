"""Reception: ours against dcmtk's storescp and Orthanc, in the same run with the same sender.

``sync`` before each run, order alternating, medians. What was answered with Success is counted on the disk
after each run. In the same run, what the disk allows: the same writes, names and flushes with nothing else,
in as many processes as there are associations (:mod:`benchmarks.floor`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import floor, receivers
from benchmarks.objects import make
from benchmarks.receivers import Running

DOCUMENT = Path(__file__).parents[1] / "docs" / "developers" / "performance.md"
_BEGIN, _END = "<!-- receive -->", "<!-- /receive -->"
RESULTS = Path(__file__).parent / "results" / "receive.json"


@dataclass(frozen=True)
class Case:
    """What is sent: how many objects of which size over how many associations, and the ratios to reach."""

    kind: str
    count: int
    pixel_bytes: int
    associations: int
    rename: float
    full: float

    @property
    def material(self) -> str:
        """Name of the folder with the objects."""
        return f"{self.kind}-{self.count}-{self.pixel_bytes}"


CASES = {
    "ct1": Case("ct", 400, 512 * 512 * 2, 1, rename=0.9, full=0.3),
    "ct4": Case("ct", 400, 512 * 512 * 2, 4, rename=0.9, full=0.4),
    "mr1": Case("mr", 2000, 128 * 128 * 2, 1, rename=0.9, full=0.25),
    "mr4": Case("mr", 2000, 128 * 128 * 2, 4, rename=0.7, full=0.25),
    "big1": Case("mr", 1, 300_000_000, 1, rename=1.2, full=0.25),
}

Start = Callable[[Path, bool], AbstractContextManager[Running]]
SYSTEMS: dict[str, Start] = {
    "storescp": receivers.storescp,
    "fiona-rename": partial(receivers.fiona, durability="rename"),
    "fiona-full": partial(receivers.fiona, durability="full"),
    "orthanc": receivers.orthanc,
}
FLOOR = "disk-full"
"""Not a receiver: see :mod:`benchmarks.floor`."""
_ROWS = ("storescp", "fiona-rename", "fiona-full", FLOOR, "orthanc")


@dataclass
class Run:
    """One run: seconds from the first connection to the last answer, processor seconds, memory in MiB."""

    seconds: float
    cpu: float
    rss: float
    pss: float
    start: float


def replay(running: Running, files: list[Path], associations: int) -> tuple[float, int]:
    """Sends with our sender, a process for each association; returns seconds and Successes."""
    module = ["benchmarks.sender", "127.0.0.1", str(running.port)]
    seconds, said = _at_once(module, files, associations)
    return seconds, sum(int(line or 0) for line in said)


def _at_once(module: list[str], files: list[Path], count: int) -> tuple[float, list[str]]:
    """Has so many processes do their share of the files; returns seconds and what each of them said."""
    processes = []
    for number in range(count):
        share = [str(path) for path in files[number::count]]
        command = [sys.executable, "-m", *module, *share]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
    for process in processes:
        assert process.stdout is not None  # noqa: S101 - for mypy
        process.stdout.readline()
    os.sync()
    begin = time.monotonic()
    for process in processes:
        assert process.stdin is not None  # noqa: S101 - for mypy
        process.stdin.write("go\n")
        process.stdin.flush()
    said = []
    for process in processes:
        assert process.stdout is not None  # noqa: S101 - for mypy
        said.append(process.stdout.readline())
    seconds = time.monotonic() - begin
    for process in processes:
        process.communicate()
    return seconds, said


def dcmsend(running: Running, files: list[Path], associations: int) -> tuple[float, int]:
    """The same with dcmtk's sender; its reading of the files is inside the time."""
    os.sync()
    begin = time.monotonic()
    senders = []
    for number in range(associations):
        share = [str(path) for path in files[number::associations]]
        command = ["dcmsend", "127.0.0.1", str(running.port), "--max-pdu", "131072", *share]
        environment = {**os.environ, **receivers.DCMTK_ENVIRONMENT}
        senders.append(subprocess.Popen(command, env=environment))
    failed = [sender.wait() for sender in senders]
    seconds = time.monotonic() - begin
    return seconds, 0 if any(failed) else len(files)


SENDERS = {"replay": replay, "dcmsend": dcmsend}


def run_once(name: str, case: Case, files: list[Path], scratch: Path, sender: str) -> Run:
    """One run of one system on an empty folder.

    Raises:
        RuntimeError: not everything was answered with Success and stored.
    """
    folder = scratch / name
    if name == FLOOR:
        return _run_floor(case, files, folder)
    with SYSTEMS[name](folder, case.associations > 1) as running:
        before = running.cpu()
        seconds, answered = SENDERS[sender](running, files, case.associations)
        cpu = running.cpu() - before
        rss, pss = running.memory()
        start = running.seconds
    there = len(receivers.stored(name, folder))
    _set_aside(folder, scratch)
    with contextlib.suppress(FileNotFoundError):
        folder.with_suffix(".log").unlink()
    if answered != len(files) or there < len(files):
        raise RuntimeError(f"{name}: {answered} answered with Success, {there} stored, of {len(files)}")
    return Run(seconds, cpu, rss, pss, start)


def _run_floor(case: Case, files: list[Path], folder: Path) -> Run:
    floor.prepare(folder)
    seconds, said = _at_once(["benchmarks.floor", str(folder)], files, case.associations)
    results = [line.split() for line in said]
    there = len(list((folder / "study").iterdir()))
    _set_aside(folder, folder.parent)
    if sum(int(stored) for stored, _ in results) != len(files) or there != len(files):
        raise RuntimeError(f"{FLOOR}: {there} stored, of {len(files)}")
    return Run(seconds, sum(float(cpu) for _, cpu in results), 0.0, 0.0, 0.0)


def _set_aside(folder: Path, scratch: Path) -> None:
    """Frees the blocks of a run's files, and keeps their inodes until all runs are over.

    For minutes ext4 gives out no inode again that was just given back, and steps over each of them whenever a
    file is made: a run after the removal of 2,000 files would be a measurement of that (0.8 ms a file).
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
    (scratch / "over").mkdir(exist_ok=True)
    folder.rename(scratch / "over" / f"{folder.name}-{time.monotonic_ns()}")


def measure(
    key: str, systems: list[str], rounds: int, scratch: Path, sender: str
) -> dict[str, dict[str, Any]]:
    """All rounds of one case, the order turned round each time; medians by system."""
    case = CASES[key]
    folder = scratch / case.material
    files = (
        sorted(folder.iterdir()) if folder.exists() else make(folder, case.kind, case.count, case.pixel_bytes)
    )
    size = sum(path.stat().st_size for path in files)
    runs: dict[str, list[Run]] = {name: [] for name in systems}
    for number in range(rounds):
        for name in systems if number % 2 == 0 else reversed(systems):
            runs[name].append(run_once(name, case, files, scratch, sender))
    table: dict[str, dict[str, Any]] = {}
    for name, all_runs in runs.items():
        seconds = statistics.median(run.seconds for run in all_runs)
        rates = [case.count / run.seconds for run in all_runs]
        table[name] = {
            "instances_per_second": round(case.count / seconds, 1),
            "lowest": round(min(rates), 1),
            "highest": round(max(rates), 1),
            "megabytes_per_second": round(size / seconds / 1e6, 1),
            "cpu_ms_per_instance": round(
                statistics.median(run.cpu for run in all_runs) / case.count * 1000, 3
            ),
            "peak_rss_mib": round(max(run.rss for run in all_runs), 1),
            "pss_mib": round(max(run.pss for run in all_runs), 1),
        }
    for column, system, rows in (
        ("ratio", "storescp", set(table)),
        ("of_disk", FLOOR, {"fiona-full", FLOOR}),
    ):
        for name in rows & table.keys() if system in table else ():
            ratio = table[name]["instances_per_second"] / table[system]["instances_per_second"]
            table[name][column] = round(ratio, 2)
    return table


def start_and_memory(scratch: Path) -> dict[str, float]:
    """Time to listening, and the memory of all processes with 64 associations that each send CTs."""
    seconds = []
    for _ in range(5):
        folder = scratch / "start"
        with receivers.fiona(folder, True, "full") as running:
            seconds.append(running.seconds)
        _set_aside(folder, scratch)
    files = make(scratch / "ct-64", "ct", 256, 512 * 512 * 2)
    folder = scratch / "many"
    with receivers.fiona(folder, True, "full") as running:
        _, answered = replay(running, files, 64)
        rss, pss = running.memory()
    _set_aside(folder, scratch)
    if answered != len(files):
        raise RuntimeError(f"64 associations: {answered} of {len(files)} answered with Success")
    return {
        "seconds_to_listening": round(statistics.median(seconds), 3),
        "peak_rss_mib_64_associations": round(rss, 1),
        "pss_mib_64_associations": round(pss, 1),
    }


def _verdict(key: str, name: str, row: dict[str, Any]) -> str:
    wanted = {"fiona-rename": CASES[key].rename, "fiona-full": CASES[key].full}.get(name)
    if wanted is None or "ratio" not in row:
        return ""
    return f"{'reaches' if row['ratio'] >= wanted else 'MISSES'} {wanted}"


def _print(key: str, table: dict[str, dict[str, Any]]) -> None:
    case = CASES[key]
    print(f"\n{key}: {case.count} {case.kind.upper()}, associations: {case.associations}")  # noqa: T201
    heads = f"{'inst/s':>9}{'min-max':>18}{'MB/s':>8}{'CPU ms':>9}{'RSS':>7}{'ratio':>7}{'of disk':>9}"
    print(f"  {'':14}{heads}")  # noqa: T201
    for name, row in table.items():
        span = f"{row['lowest']:.0f}-{row['highest']:.0f}"
        print(  # noqa: T201
            f"  {name:14}{row['instances_per_second']:>9}{span:>18}{row['megabytes_per_second']:>8}"
            f"{row['cpu_ms_per_instance']:>9}{row['peak_rss_mib']:>7}{row.get('ratio', ''):>7}"
            f"{row.get('of_disk', ''):>9}"
            f"  {_verdict(key, name, row)}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases, prints tables, and writes ``benchmarks/results/receive.json`` when all were run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receive", description=main.__doc__)
    parser.add_argument(
        "--case", action="append", choices=sorted(CASES), help="may be repeated; default: all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--system", action="append", choices=sorted(_ROWS), help="default: all")
    parser.add_argument("--sender", choices=sorted(SENDERS), default="replay")
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure; default: the temporary one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="a receiver setting")
    given = parser.parse_args(arguments)
    cases, systems = given.case or list(CASES), given.system or list(_ROWS)
    extra = {key: json.loads(value) for key, _, value in (text.partition("=") for text in given.set)}
    for name, durability in (("fiona-rename", "rename"), ("fiona-full", "full")):
        SYSTEMS[name] = partial(receivers.fiona, durability=durability, **extra)
    result: dict[str, Any] = {
        "machine": f"{os.cpu_count()} processors, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rounds": given.rounds,
        "sender": given.sender,
        "load_before": os.getloadavg()[0],
        "cases": {},
    }
    with tempfile.TemporaryDirectory(prefix="fiona-bench-", dir=given.dir) as name:
        for key in cases:
            table = measure(key, systems, given.rounds, Path(name), given.sender)
            result["cases"][key] = table
            _print(key, table)
        if not given.case:
            result["process"] = start_and_memory(Path(name))
            print("\n" + ", ".join(f"{key}: {value}" for key, value in result["process"].items()))  # noqa: T201
    if not given.case and not given.system and not given.set and given.sender == "replay":
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        DOCUMENT.write_text(_with_results(DOCUMENT.read_text(), result))
    return 0


def _with_results(text: str, result: dict[str, Any]) -> str:
    """The page on performance with the figures of this run in place of the last one's."""
    lines = [
        f"Recorded on {result['machine']}, Python {result['python']}, load {result['load_before']:.1f},"
        f" medians of {result['rounds']}: instances a second (ratio to storescp).",
        f"*Of the disk* is `fiona-full` to `{FLOOR}`.",
        "",
        "| case | " + " | ".join(_ROWS) + " | of the disk |",
        "| --- " * (len(_ROWS) + 2) + "|",
    ]
    for key, table in result["cases"].items():
        cells = [f"{table[name]['instances_per_second']} ({table[name]['ratio']})" for name in _ROWS]
        lines.append(f"| {key} | " + " | ".join([*cells, str(table["fiona-full"]["of_disk"])]) + " |")
    lines += ["", ", ".join(f"{key} {value}" for key, value in result["process"].items()) + ".", ""]
    before, _, rest = text.partition(_BEGIN)
    return before + _BEGIN + "\n" + "\n".join(lines) + _END + rest.partition(_END)[2]


if __name__ == "__main__":
    sys.exit(main())
