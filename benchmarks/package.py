"""Packages: ours, whole as a transfer makes them, against Python's zipfile that stores the same files.

Ours also reads every header, makes pictures and documents, takes MD5 and SHA-256 of the package and SHA-256
of each file, compares with the record, signs, and flushes to the disk; zipfile does none of that.
``sync`` before each run, order alternating, medians; each run is a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.objects import make

DOCUMENT = Path(__file__).parents[1] / "docs" / "developers" / "performance.md"
RECORD = Path(__file__).parent / "results" / "package.json"
_BEGIN, _END = "<!-- package -->", "<!-- /package -->"
RATIO = 0.4
"""Of zipfile's rate, to be reached by ours."""


@dataclass(frozen=True)
class Case:
    """What is packed: so many objects of which kind and size."""

    kind: str
    count: int
    pixel_bytes: int


CASES = {
    "ct": Case("ct", 600, 512 * 512 * 2),
    "mr": Case("mr", 2000, 128 * 128 * 2),
    "big": Case("mr", 1, 600_000_000),
}


def stored(folder: Path, target: Path, record: dict[str, str]) -> float:
    """Python's zipfile without compression; returns seconds."""
    begin = time.monotonic()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(record):
            archive.write(folder / name, name)
    return time.monotonic() - begin


def packed(folder: Path, target: Path, record: dict[str, str]) -> float:
    """A package of the same files; returns seconds, without the imports."""
    from fiona_dagster.config import PackageSettings
    from fiona_dagster.transfers import assembly
    from fiona_dagster.transfers.signature import SigningKey

    key = SigningKey(b"benchmark" * 4)
    manifest = {
        "project": "BENCH",
        "participant": "P1",
        "event": "E1",
        "StudyInstanceUID": "2.25.1",
        "generation": 0,
        "key_fingerprint": "0",
    }
    one = dict(
        [min(record.items(), key=lambda item: (folder / item[0]).stat().st_size)]
    )  # a package of one file: imports what is imported when called
    assembly.assemble(folder, one, target, manifest=manifest, report={}, key=key, look=PackageSettings())
    target.unlink()
    os.sync()
    begin = time.monotonic()
    assembly.assemble(folder, record, target, manifest=manifest, report={}, key=key, look=PackageSettings())
    return time.monotonic() - begin


SYSTEMS: dict[str, Callable[[Path, Path, dict[str, str]], float]] = {"zipfile": stored, "fiona": packed}


def _child(name: str, folder: Path, target: Path, record: dict[str, str]) -> tuple[float, float]:
    """Seconds, and peak memory in MiB."""
    seconds = SYSTEMS[name](folder, target, record)
    status = Path("/proc/self/status").read_text()  # getrusage would tell the parent's peak too
    return seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(key: str, rounds: int, scratch: Path) -> dict[str, dict[str, float]]:
    """All rounds of one case; medians by system."""
    case = CASES[key]
    folder = scratch / key
    files = make(folder, case.kind, case.count, case.pixel_bytes)
    size = sum(path.stat().st_size for path in files)
    record = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in SYSTEMS}
    for number in range(rounds):
        for name in SYSTEMS if number % 2 == 0 else reversed(SYSTEMS):
            target = scratch / f"{name}.zip"
            os.sync()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                runs[name].append(pool.apply(_child, (name, folder, target, record)))
            target.unlink()
    for path in files:
        path.unlink()
    table = {
        name: {
            "megabytes_per_second": round(size / statistics.median(run[0] for run in all_runs) / 1e6, 1),
            "peak_rss_mib": round(max(run[1] for run in all_runs), 1),
        }
        for name, all_runs in runs.items()
    }
    pairs = [theirs[0] / ours[0] for ours, theirs in zip(runs["fiona"], runs["zipfile"], strict=True)]
    for name, all_runs in runs.items():
        table[name]["lowest"] = round(size / max(run[0] for run in all_runs) / 1e6, 1)
        table[name]["highest"] = round(size / min(run[0] for run in all_runs) / 1e6, 1)
    table["fiona"]["lowest_ratio"] = round(min(pairs), 2)
    table["fiona"]["highest_ratio"] = round(max(pairs), 2)
    for row in table.values():
        row["ratio"] = round(row["megabytes_per_second"] / table["zipfile"]["megabytes_per_second"], 2)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases and prints a table; with all cases it goes into docs/developers/performance.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.package", description=main.__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure; default: the temporary one")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    given = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    lines = [
        f"Recorded on {os.cpu_count()} processors, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, load {load:.1f}, medians of {given.rounds}.",
        "",
        "| case | zipfile MB/s | fiona MB/s | ratio | ratio in each round | fiona peak MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found = {}
    with tempfile.TemporaryDirectory(prefix="fiona-bench-", dir=given.dir) as name:
        for key in given.case or CASES:
            table = found[key] = measure(key, given.rounds, Path(name))
            ours, theirs = table["fiona"], table["zipfile"]
            lines.append(
                f"| {key} | {theirs['megabytes_per_second']} | {ours['megabytes_per_second']} | "
                f"{ours['ratio']} | {ours['lowest_ratio']} to {ours['highest_ratio']} | "
                f"{ours['peak_rss_mib']} |"
            )
    missed = [key for key, table in found.items() if table["fiona"]["ratio"] < RATIO]
    print(json.dumps(found, indent=1) if given.json else "\n".join(lines))  # noqa: T201
    if missed:
        print(f"MISSES {RATIO}: {', '.join(missed)}", file=sys.stderr)  # noqa: T201
    if not given.case:
        record = {
            "machine": f"{os.cpu_count()} processors, {platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "rounds": given.rounds,
            "load_before": load,
            "cases": found,
        }
        RECORD.write_text(json.dumps(record, indent=2) + "\n")
        text = DOCUMENT.read_text()
        before, _, rest = text.partition(_BEGIN)
        DOCUMENT.write_text(before + _BEGIN + "\n" + "\n".join(lines) + "\n" + _END + rest.partition(_END)[2])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
