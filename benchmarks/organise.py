"""Organising one large study as the gateway does it: the steps of ``process_study`` up to the record.

Journals are taken over, headers read and kept as far as rules may look at them, series classified, records
and links written, in a process of its own, so that the memory is that of the work: a first revision, then one
with a late image. Pixels are holes in the files: they are never read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.objects import CT, EXPLICIT, ROOT, data_set
from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import build_file_meta
from fiona_dagster.landing import adopt_orphans
from fiona_dagster.operations import initialise
from fiona_dagster.studies import write_raw_tree
from fiona_dagster.transfers import intake
from fiona_dagster.transfers.context import Gateway

DOCUMENT = Path(__file__).parents[1] / "docs" / "developers" / "performance.md"
_BEGIN, _END = "<!-- organise -->", "<!-- /organise -->"
STUDY = f"{ROOT}.7"
SECONDS, MEGABYTES = 30.0, 300.0
_PIXELS = 512 * 512 * 2


def fill(root: DataRoot, first: int, count: int) -> None:
    """Puts instances ``first`` … into the archive, ten series in turn."""
    folder = root.archive / f"scp_{STUDY}"
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(first)  # noqa: S311 - test data
    for number in range(first, first + count):
        series = f"{STUDY}.{number % 10}"
        instance = f"{series}.{number}"
        data = data_set(CT, STUDY, series, instance, number=number, pixels=b"", chance=chance)
        data = build_file_meta(CT, instance, EXPLICIT) + data[:-4] + _PIXELS.to_bytes(4, "little")
        path = folder / f"CT.{instance}"
        path.write_bytes(data)
        os.truncate(path, len(data) + _PIXELS)


def organise(root: DataRoot) -> dict[str, float]:
    """One revision in this process; its journal lines are there and not yet in the ledger."""
    begin = time.monotonic()
    with Gateway(root) as gateway:
        intake.ensure_revision(gateway, STUDY)
        booked = time.monotonic()
        _, contents = intake.read_contents(gateway, STUDY)
        read = time.monotonic()
        done = intake.process(gateway, STUDY)
        classified = time.monotonic()
        write_raw_tree(root, done.contents, done.records)
    end = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "instances": contents.instance_count,
        "damage": len(contents.damage),
        "book": booked - begin,
        "read": read - booked,
        "classify": classified - read,
        "write": end - classified,
        "seconds": end - begin,
        "MiB": peak,
    }


def main(arguments: list[str]) -> int:
    """Measures; exit code 1 above :data:`SECONDS` or :data:`MEGABYTES`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument(
        "--write", action="store_true", help="write the result into docs/developers/performance.md"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        sys.stdout.write(json.dumps(organise(DataRoot(options.child))) + "\n")
        return 0
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(folder))
        initialise(root)
        for first, count in ((1, options.instances), (options.instances + 1, 1)):
            fill(root, first, count)
            adopt_orphans(root, everything=True)  # writes their journal lines
            command = [sys.executable, "-m", "benchmarks.organise", "--child", folder]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    lines = [
        "| revision | instances | journals, s | read, s | classify, s | write, s | all, s | peak, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, run in zip(("first", "one late image"), runs, strict=True):
        numbers = " | ".join(f"{run[key]:.1f}" for key in ("book", "read", "classify", "write", "seconds"))
        lines.append(f"| {name} | {run['instances']:,} | {numbers} | {run['MiB']:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")
    if options.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, rest = text.split(_BEGIN)
        said = (
            f"Python {platform.python_version()}, {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}."
        )
        result = "\n".join(lines)
        DOCUMENT.write_text(
            f"{before}{_BEGIN}\n{said}\n\n{result}\n{_END}{rest.split(_END)[1]}", encoding="utf-8"
        )
    good = all(run["seconds"] < SECONDS and run["MiB"] < MEGABYTES and not run["damage"] for run in runs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
