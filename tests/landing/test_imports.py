from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError
from fiona_dagster.landing import ImportReport, import_paths, read_journals
from tests.making import EXPLICIT, IMPLICIT, STUDY, data_set, part10, write_object


def run_import(root: DataRoot, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process that leaves its kernel statistics beside the data root."""
    code = (
        "import atexit, sys; from pathlib import Path; from fiona_dagster.cli import main\n"
        f"kept = Path({str(_statistics(root))!r}); sys.argv[0] = 'fiona'\n"
        "atexit.register(lambda: kept.write_text(Path('/proc/self/status').read_text())); main()"
    )
    command = [sys.executable, "-c", code, "import", *arguments]
    environment = {**os.environ, "FIONA_DATA": str(root.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def _statistics(root: DataRoot) -> Path:
    return root.path.with_name("statistics")


def test_every_byte_is_kept(root: DataRoot, tmp_path: Path) -> None:
    content = part10(data_set("1.2.3"), "1.2.3", pad=0x5A)
    source = tmp_path / "in" / "deep" / "file with blank"
    source.parent.mkdir(parents=True)
    source.write_bytes(content)
    report = import_paths(root, [tmp_path / "in"])
    assert (report.stored, report.files) == (1, 1)
    assert (root.archive / f"scp_{STUDY}" / "CT.1.2.3").read_bytes() == content
    assert source.read_bytes() == content
    ((_, _, receipt),) = read_journals(root, {})
    assert (receipt.calling_ae, receipt.caller_ip) == ("IMPORT", "local")


def test_all_kinds_are_counted(root: DataRoot, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_object(folder, "1.2.1")
    shutil.copy(folder / "1.2.1.dcm", folder / "again.dcm")
    (folder / "other.dcm").write_bytes(part10(data_set("1.2.1", pixels=b"zz"), "1.2.1"))
    (folder / "README").write_text("DOE^JOHN")
    (folder / "DICOMDIR").write_bytes(part10(b"", "1.2.9", sop_class="1.2.840.10008.1.3.10"))
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere")
    seen: list[int] = []
    report = import_paths(root, [folder], progress=lambda r: seen.append(r.files))
    assert (report.stored, report.repeats, report.conflicts) == (1, 1, 1)
    assert (report.quarantined, report.skipped, report.failed) == (1, 2, 1)
    assert seen[-1] == report.files == 7
    assert report.studies == {STUDY}
    assert {Path(path).name for path, _ in report.problems} == {"README", "dangling"}
    (reason,) = root.quarantine.glob("*.json")
    assert reason.with_suffix(".dcm").read_text() == "DOE^JOHN"
    assert json.loads(reason.read_text())["code"] == "unreadable"
    assert "DOE" not in reason.read_text()


def test_contradicting_meta_goes_to_quarantine(root: DataRoot, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(part10(data_set("1.2.1"), "1.2.2"))
    assert import_paths(root, [path]).quarantined == 1
    path.write_bytes(part10(data_set("1.2.1"), "1.2.1", sop_class="1.2.840.10008.5.1.4.1.1.4"))
    assert import_paths(root, [path]).quarantined == 1
    path.write_bytes(part10(data_set("1.2.1"), "", sop_class=""))
    assert import_paths(root, [path]).stored == 1


def test_a_missing_path_stops_before_anything_is_done(root: DataRoot, tmp_path: Path) -> None:
    path = write_object(tmp_path, "1.2.1")
    with pytest.raises(UsageError):
        import_paths(root, [path, tmp_path / "nowhere"])
    assert list(read_journals(root, {})) == []


def test_the_command_speaks_json_and_exit_codes(root: DataRoot, tmp_path: Path) -> None:
    path = write_object(tmp_path, "1.2.1")
    done = run_import(root, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stored"] == 1
    bad = tmp_path / "bad"
    bad.write_bytes(b"x")
    done = run_import(root, str(path), str(bad))
    assert done.returncode == 1
    assert "1 repeats" in done.stdout
    assert "no DICM prefix" in done.stderr
    done = run_import(root, str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.startswith("fiona: ")
    assert done.stderr.count("\n") == 1


def test_two_imports_at_once_store_once(root: DataRoot, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        write_object(folder, f"1.2.{number}")
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            import_paths(root, [folder])
            os._exit(0)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    kinds = [r.kind for _, _, r in read_journals(root, {})]
    assert (kinds.count("stored"), kinds.count("repeat")) == (60, 120)


@pytest.mark.shared
def test_broken_files_harm_nothing(root: DataRoot, shared: Path, tmp_path: Path) -> None:
    before = {p for p in tmp_path.rglob("*") if root.path not in p.parents}
    done = run_import(root, "--json", str(shared / "data" / "visible" / "broken"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == 0
    assert report["files"] == len(list((shared / "data" / "visible" / "broken").iterdir()))
    reasons = {Path(p["path"]).name: p["reason"] for p in report["problems"]}
    for name in (
        "empty.dcm",
        "html_error_page.dcm",
        "meta_mismatch.dcm",
        "no_study_uid.dcm",
        "trunc_header.dcm",
    ):
        assert name in reasons
    for name in ("trunc_pixels.dcm", "pixels_short.dcm", "dup_a.dcm", "rle_corrupt.dcm", "control_chars.dcm"):
        assert name not in reasons
    after = {p for p in tmp_path.rglob("*") if root.path not in p.parents}
    assert after == before | {_statistics(root)}
    inside = {p.relative_to(root.path).parts[0] for p in root.path.rglob("*") if p.is_file()}
    assert inside <= {"site", "quarantine", "ledger"}
    # VmHWM and not ru_maxrss, which a child inherits from whoever forked it.
    status = _statistics(root).read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 200 * 1024


@pytest.mark.shared
def test_everything_at_hand_is_accounted_for(root: DataRoot, shared: Path) -> None:
    folder = shared / "data" / "visible"
    files = sum(1 for p in folder.rglob("*") if p.is_file())
    report: ImportReport = import_paths(root, [folder])
    assert report.files == files
    receipts = [r for _, _, r in read_journals(root, {})]
    assert len(receipts) == report.stored + report.repeats + report.conflicts
    assert all((root.path / r.path).is_file() for r in receipts)
    assert len(list(root.quarantine.glob("*.dcm"))) == report.quarantined
    again = import_paths(root, [folder])
    assert (again.stored, again.conflicts) == (0, 0)


def bare(*, implicit: bool = False, compressed: bool = False) -> bytes:
    """A data set as it stands, by the standard's rules for its VRs (PS3.5 section 7.1)."""
    explicit = data_set("1.2.1")
    if compressed:
        at = explicit.index(b"\xe0\x7f\x10\0OW")
        fragment = b"\xfe\xff\0\xe0\4\0\0\0abcd\xfe\xff\xdd\xe0\0\0\0\0"
        return explicit[:at] + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + fragment
    if not implicit:
        return explicit
    out, at = b"", 0
    while at < len(explicit):
        long = explicit[at + 4 : at + 6] == b"OW"
        start = at + (12 if long else 8)
        length = int.from_bytes(explicit[start - (4 if long else 2) : start], "little")
        out += explicit[at : at + 4] + length.to_bytes(4, "little") + explicit[start : start + length]
        at = start + length
    return out


@pytest.mark.parametrize("implicit", [True, False])
def test_a_bare_data_set_gets_the_beginning_that_it_lacks(
    root: DataRoot, tmp_path: Path, implicit: bool
) -> None:
    content = bare(implicit=implicit)
    path = tmp_path / "x"
    path.write_bytes(content)
    assert import_paths(root, [path]).stored == 1
    ((_, _, receipt),) = read_journals(root, {})
    assert receipt.transfer_syntax == (IMPLICIT if implicit else EXPLICIT)
    kept = (root.path / receipt.path).read_bytes()
    assert kept[128:132] == b"DICM"
    assert kept.endswith(content)
    assert pydicom.dcmread(root.path / receipt.path).PatientName == "Planted^Patient"
    assert import_paths(root, [root.path / receipt.path, path]).repeats == 2


def test_a_file_without_preamble_keeps_its_own_meta(root: DataRoot, tmp_path: Path) -> None:
    whole = part10(data_set("1.2.1"), "1.2.1")
    path = tmp_path / "x"
    path.write_bytes(whole[132:])
    assert import_paths(root, [path]).stored == 1
    assert (root.archive / f"scp_{STUDY}" / "CT.1.2.1").read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        bare(compressed=True),
        bare()[:60],
        data_set(""),
        b"\x08\0\x16\0UI\xff\xff" + bytes(100),
        b"\x02\0\0\0UL\4\0" + bytes(200),
        bytes(range(256)) * 4,
    ],
)
def test_what_leaves_a_doubt_is_not_guessed(root: DataRoot, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    report = import_paths(root, [path])
    assert (report.quarantined, report.stored) == (1, 0)
    (kept,) = root.quarantine.glob("*.dcm")
    assert kept.read_bytes().endswith(content)
