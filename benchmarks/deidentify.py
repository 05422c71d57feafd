"""De-identification: 400 CT slices and one multi-frame object of 315 MB, ours against five others.

All run as processes of their own, start included, one after the other in turn, order turned round each time.
Ours is ``deidentify_study`` as a transfer calls it: every copy searched for left identity while it is made,
reported. ``fiona verified`` also reads every copy again by pydicom, searches it, and flushes it meanwhile,
as a transfer does before it vouches for a copy. The others run with their defaults; ``pydicom`` is a plain
script over our own table, ``dcmodify`` gets our table as options, on a copy. None of them flushes; after each
run the files of any tool are flushed in the same way, and rates with that stand beside those without. The
start of the processes, taken from a run over one slice each, is left out of both; further columns have it.
Goals are judged by processor time, since rates follow the load of the machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "developers" / "performance.md"
RECORD = HERE / "results" / "deidentify.json"
_BEGIN, _END = "<!-- deidentify -->", "<!-- /deidentify -->"
TABLE = HERE.parent / "fiona_dagster" / "deid" / "data" / "attributes.csv"
PACKAGES = ("dicom-anonymizer==2.1.0", "dicognito==0.19.0", "deid==0.4.13")
OURS, VERIFIED = "fiona", "fiona verified"
OTHERS = ("dcmodify", "pydicom", "dicognito", "dicom-anonymizer", "deid")
GOAL, MEMORY = 4.0, 64.0
"""Times the fastest of the others; MiB."""

_FIONA = """
import sys
from pathlib import Path
from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, deidentify_study
verify, out, *names = sys.argv[1:]
key = ProjectKey("BENCH", bytes(range(32)))
deidentifier = Deidentifier(ProjectSettings(name="BENCH"), key, Assignment("BENCH", "SUBJ1", "Baseline"))
sources = [Path(name) for name in names]
report = deidentify_study(deidentifier, sources, Path(out))
if report.failures or len(report.files) != len(sources):
    sys.exit(f"not all are copied: {report.failures[:1]}")
if verify == "verify":
    from fiona_dagster.deid import flushed, verify_outputs
    with flushed(Path(out)):
        verification = verify_outputs(sources, Path(out), deidentifier)
    if not verification.passed:
        sys.exit(f"not verified: {verification.findings[:3]}")
"""


_COPY_FIRST = """
out=$1; number=$2; shift 2
while [ "$number" -gt 0 ]; do cp "$1" "$out"; shift; number=$((number-1)); done
exec "$@"
"""


@dataclass
class Run:
    """One tool over one set of files.

    Attributes:
        seconds, cpu: of the whole run, start included; ``cpu`` is processor time of all processes.
        memory: MiB of the largest process.
        flush_seconds: until all that was written is on the disk, after the run.
        start_seconds, start_cpu: of a run over one small object for each process, just before.
    """

    seconds: float
    cpu: float
    memory: float
    flush_seconds: float = 0.0
    start_seconds: float = 0.0
    start_cpu: float = 0.0

    @property
    def work(self) -> float:
        """Seconds without the start."""
        return max(self.seconds - self.start_seconds, 1e-6)

    @property
    def durable(self) -> float:
        """The same until all is on the disk."""
        return self.work + self.flush_seconds

    @property
    def work_cpu(self) -> float:
        """Processor time without the start."""
        return max(self.cpu - self.start_cpu, 1e-6)


def _make(folder: Path, kind: str, number: int) -> list[Path]:
    """Makes the objects in a process of its own: a child's peak of memory begins at its parent's."""
    line = [sys.executable, "-m", "benchmarks.clinical", str(folder), kind, str(number)]
    subprocess.run(line, check=True, cwd=HERE.parent)
    return sorted(folder.iterdir())


def environment(folder: Path) -> Path:
    """Makes the throw-away environment of the others; its interpreter."""
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *PACKAGES], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def _dcmodify() -> list[str]:
    """Our table as options of dcmodify: no consistent dates or dummies, new UIDs."""
    options = ["dcmodify", "-nb", "-ie", "-imt", "-gst", "-gse", "-gin", "-ep"]
    for row in csv.DictReader(TABLE.read_text("utf-8").splitlines()):
        tag = row["tag"]
        if "x" in tag or tag == "private" or tag[:4] < "0008" or row["basic"] == "U":
            continue
        name = f"({tag[:4]},{tag[4:]})"
        options += ["-ea", name] if row["basic"].startswith("X") else ["-ma", f"{name}="]
    return options


def command(tool: str, python: Path, out: Path, files: list[Path]) -> list[str]:
    """What is run for one share of the files."""
    names = list(map(str, files))
    if tool in (OURS, VERIFIED):
        return [sys.executable, "-c", _FIONA, "verify" if tool == VERIFIED else "", str(out), *names]
    if tool == "dcmodify":
        copies = [str(out / path.name) for path in files]
        return ["sh", "-c", _COPY_FIRST, "sh", str(out), str(len(files)), *names, *_dcmodify(), *copies]
    return [str(python), str(HERE / "other_deidentifiers.py"), tool, str(TABLE), str(out), *names]


def run(tool: str, python: Path, out: Path, files: list[Path], processes: int) -> Run:
    """Runs a tool over the files, shared out among processes.

    Raises:
        RuntimeError: a process failed, or not every file has a copy.
    """
    _set_aside(out)
    # with compiled modules, as any installation has them after the first run
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    surroundings["PYTHONPYCACHEPREFIX"] = str(out.parent / "compiled")
    begin = time.perf_counter()
    started = []
    for number in range(processes):
        folder = out / str(number)
        folder.mkdir(parents=True)
        line = command(tool, python, folder, files[number::processes])
        log = (out / f"{number}.log").open("wb")
        started.append(subprocess.Popen(line, stdout=log, stderr=log, cwd=HERE.parent, env=surroundings))
    cpu = memory = 0.0
    for number, process in enumerate(started):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{tool}: {(out / f'{number}.log').read_text('utf-8', 'replace')[-2000:]}")
        cpu += used.ru_utime + used.ru_stime
        memory = max(memory, used.ru_maxrss / 1024)
    seconds = time.perf_counter() - begin
    made = [path for path in out.glob("*/*") if path.is_file() and not path.name.endswith(".bak")]
    if len(made) != len(files):
        raise RuntimeError(f"{tool}: {len(files)} files went in, {len(made)} came out")
    begin = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:  # commits of the file system's journal are shared
        list(pool.map(_flush, made, chunksize=8))
    return Run(seconds, cpu, memory, time.perf_counter() - begin)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _set_aside(out: Path) -> None:
    """Frees the blocks of a run's files, and keeps their inodes until all runs are over.

    For minutes ext4 gives out no inode again that was just given back, and steps over each of them whenever a
    file is made: a run after the removal of others would measure that (see ``benchmarks.receive``).
    """
    if out.exists():
        for path in out.rglob("*"):
            if path.is_file():
                os.truncate(path, 0)
        out.rename(out.with_name(f"{out.name}.{time.monotonic_ns()}"))


@dataclass(frozen=True)
class Bench:
    """What is the same for all cases; ``small``: objects whose run is taken for the start."""

    tools: list[str]
    python: Path
    folder: Path
    small: list[Path]
    rounds: int


def measure(bench: Bench, files: list[Path], processes: int) -> dict[str, list[Run]]:
    """Runs all tools in turn."""
    tools, folder = bench.tools, bench.folder
    found: dict[str, list[Run]] = {tool: [] for tool in tools}
    for tool in tools:
        try:
            run(tool, bench.python, folder / "out", files[:2], 1)  # into the page cache, modules compiled
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
    for number in range(bench.rounds):
        for tool in tools if number % 2 else reversed(tools):
            try:
                start = run(tool, bench.python, folder / "out", bench.small[:processes], processes)
                made = run(tool, bench.python, folder / "out", files, processes)
            except RuntimeError as error:
                sys.stderr.write(f"{error}\n")
                continue
            made.start_seconds, made.start_cpu = start.seconds, start.cpu
            found[tool].append(made)
            sys.stderr.write(f"{tool}: {made.seconds:.2f} s, {made.cpu:.2f} s cpu, {made.memory:.0f} MiB\n")
    _set_aside(folder / "out")
    return found


def _medians(runs: list[Run]) -> Run:
    names = [field.name for field in fields(Run)]
    return Run(*(statistics.median(getattr(each, name) for each in runs) for name in names))


def table(case: str, amount: float, unit: str, processes: int, found: dict[str, list[Run]]) -> list[str]:
    """Rows of the page, the fastest first."""
    medians = {tool: _medians(runs) for tool, runs in found.items() if runs}
    ours = medians[OURS]
    return [
        f"| {case}, {processes} | {tool} | {amount / each.work:,.0f} {unit}/s | "
        f"{each.work_cpu / amount * 1000:.2f} | {each.work / ours.work:.1f} | "
        f"{each.work_cpu / ours.work_cpu:.1f} | {amount / each.durable:,.0f} {unit}/s | "
        f"{each.durable / ours.durable:.1f} | {amount / each.seconds:,.0f} {unit}/s | "
        f"{each.seconds / ours.seconds:.1f} | {each.memory:.0f} |"
        for tool, each in sorted(medians.items(), key=lambda item: item[1].work)
    ]


def missed(case: str, found: dict[str, list[Run]]) -> list[str]:
    """Which goals are not reached, by processor time without the start, which other load disturbs least."""
    ours = _medians(found[OURS])
    others = {tool: _medians(found[tool]) for tool in OTHERS if found.get(tool)}
    told = [] if ours.memory < MEMORY else [f"{case}: {ours.memory:.0f} MiB"]
    for tool, each in others.items():
        ratio = each.work_cpu / ours.work_cpu
        if ratio < GOAL:
            told.append(f"{case}: {tool} takes {ratio:.1f} times our processor time, not {GOAL:.0f}")
    return told


def main(arguments: list[str]) -> int:
    """Measures; exit code 1 if ours is not :data:`GOAL` times the fastest other, or takes too much memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--frames", type=int, default=600, help="of 512 x 512 x 16 bits; 600 make 315 MB")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--tools", nargs="*", default=[OURS, VERIFIED, *OTHERS])
    parser.add_argument("--case", choices=["ct", "big"], nargs="*", default=["ct", "big"])
    parser.add_argument(
        "--folder", type=Path, help="where files are written; a file system of its own counts"
    )
    parser.add_argument(
        "--python", type=Path, help="interpreter of an environment of the others that is there"
    )
    parser.add_argument("--write", action="store_true", help="write table and record into the project")
    options = parser.parse_args(arguments)
    rows: list[str] = []
    problems: list[str] = []
    record: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        python = options.python or environment(folder / "others")
        small = _make(folder / "small", "ct", max(options.processes))
        for case in options.case:
            if case == "ct":
                files = _make(folder / "ct", "ct", options.slices)
                amount, unit = float(len(files)), "files"
            else:
                files = _make(folder / "big", "mr", options.frames)
                amount, unit = files[0].stat().st_size / 1e6, "MB"
            for processes in options.processes if case == "ct" else [1]:
                found = measure(Bench(options.tools, python, folder, small, options.rounds), files, processes)
                rows += table(case, amount, unit, processes, found)
                problems += missed(f"{case}, {processes}", found)
                record[f"{case} {processes}"] = {t: [asdict(r) for r in runs] for t, runs in found.items()}
    head = [
        "| case, processes | tool | rate | cpu ms | times ours | cpu ours | flushed | times ours "
        "| with start | times ours | MiB |",
        f"| --- | --- |{' ---: |' * 9}",
    ]
    sys.stdout.write("\n".join(head + rows + ["", *problems]) + "\n")
    if options.write:
        _write(head + rows, record, options.rounds)
    return 1 if problems else 0


def _write(lines: list[str], record: dict[str, dict[str, list[dict[str, float]]]], rounds: int) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    said = (
        f"Recorded on {os.cpu_count()} processors, Linux {platform.release()}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[2]:.1f}, medians of {rounds}; "
        f"{', '.join(PACKAGES)}."
    )
    made = "\n".join([_BEGIN, said, "", *lines, _END])
    DOCUMENT.write_text(f"{before}{made}{after}", encoding="utf-8")
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
