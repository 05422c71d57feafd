"""Reading headers: ours against pydicom, on the attributes that record and rules need.

Both read the same files in the same process, in turn, order turned round each time; processor time, medians.
Ours is always with every value that record and rules ask for. pydicom is measured bare
(``dcmread(stop_before_pixels=True)`` decodes nothing yet), which is what the goal is against, and with the
same values. ``new`` is ours when nothing was learned or remembered before the first file of the set.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom import config

from benchmarks.objects import make
from fiona_dagster.studies import default_rules, needed_tags, plain, read_instance, values

DOCUMENT = Path(__file__).parents[1] / "docs" / "developers" / "performance.md"
_BEGIN, _END = "<!-- headers -->", "<!-- /headers -->"
GOAL = 8.0
SETS = ("ct_philips_axial", "ct_ge_tilt", "mr_ge_fmri", "mr_philips_fmri", "mr_siemens_fmap", "mr_uih_dti")
"""Series of the shared files, where they are at hand."""


@dataclass(frozen=True)
class Result:
    """Files per second (medians)."""

    name: str
    files: int
    rates: dict[str, float]

    def ratio(self, kind: str) -> float:
        """Ours to pydicom's."""
        return self.rates["fiona"] / self.rates[kind]


def ways(tags: frozenset[int]) -> dict[str, Callable[[Path], object]]:
    """What is compared, by name."""

    def pydicom_values(path: Path) -> object:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        return [ds[tag].value for tag in tags if tag in ds]

    def fiona_values(path: Path) -> object:
        header = read_instance(path, tags)
        return [header.value(tag) for tag in tags & header.elements.keys()]

    return {
        "fiona": fiona_values,
        "pydicom bare": lambda path: pydicom.dcmread(path, stop_before_pixels=True),
        "pydicom values": pydicom_values,
    }


def measure(name: str, files: list[Path], rounds: int) -> Result:
    """Reads all files ``rounds`` times in each way."""
    compared = ways(needed_tags(default_rules().tags))
    seconds: dict[str, list[float]] = {way: [] for way in compared}
    for path in files:  # into the page cache, dictionaries into memory
        for read in compared.values():
            read(path)
    repeats = max(1, 200 // len(files))
    seconds["fiona new"] = []
    for number in range(rounds):
        order = list(compared) if number % 2 else list(reversed(compared))
        for way in order:
            read = compared[way]
            begin = time.process_time()
            for _ in range(repeats):
                for path in files:
                    read(path)
            seconds[way].append(time.process_time() - begin)
    for _ in range(rounds):
        spent = 0.0
        for _ in range(repeats):
            plain.forget()
            values.forget()
            begin = time.process_time()
            for path in files:
                compared["fiona"](path)
            spent += time.process_time() - begin
        seconds["fiona new"].append(spent)
    count = len(files) * repeats
    return Result(name, len(files), {way: count / statistics.median(found) for way, found in seconds.items()})


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = [
        "| files | ours | pydicom, bare | ratio | pydicom, values | ratio | ours, new | ratio to bare |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        cells = [f"{result.name} ({result.files})", f"{result.rates['fiona']:,.0f}"]
        for kind in ("pydicom bare", "pydicom values"):
            cells += [f"{result.rates[kind]:,.0f}", f"**{result.ratio(kind):.1f}**"]
        new = result.rates["fiona new"]
        cells += [f"{new:,.0f}", f"{new / result.rates['pydicom bare']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Measures; exit code 1 if a ratio to bare pydicom is below :data:`GOAL`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("FIONA_SHARED", "../shared")))
    parser.add_argument("--json", type=Path, help="write the rates there")
    parser.add_argument(
        "--write", action="store_true", help="write the table into docs/developers/performance.md"
    )
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    config.settings.reading_validation_mode = config.IGNORE
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("ct", "mr"):
            files = make(Path(folder) / kind, kind, 60, 128 * 128 * 2)
            results.append(measure(f"generated {kind}", files, options.rounds))
            sys.stderr.write(table(results[-1:]).splitlines()[-1] + "\n")
        for name in SETS:
            files = sorted(
                path
                for path in (options.shared / "data/visible" / name).rglob("*")
                if path.is_file() and path.name not in ("DICOMDIR", "DIRFILE")
            )
            if files:
                results.append(measure(name, files[:60], options.rounds))
                sys.stderr.write(table(results[-1:]).splitlines()[-1] + "\n")
    sys.stdout.write(table(results) + "\n")
    if options.json:
        options.json.write_text(json.dumps([{"name": r.name, "rates": r.rates} for r in results], indent=2))
    if options.write:
        write(results, options.rounds)
    return 0 if all(result.ratio("pydicom bare") >= GOAL for result in results) else 1


def write(results: list[Result], rounds: int) -> None:
    """Puts the table between the marks of the page."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    said = (
        f"Files per second of processor time, medians of {rounds} rounds; "
        f"Python {platform.python_version()}, pydicom {pydicom.__version__}, {os.cpu_count()} processors, "
        f"{time.strftime('%Y-%m-%d')}."
    )
    DOCUMENT.write_text(f"{before}{_BEGIN}\n{said}\n\n{table(results)}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
