from __future__ import annotations

import errno
import io
import json
import shutil
import stat
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing import ImportReport, archives, import_paths, read_journals
from tests.landing.test_imports import run_import
from tests.making import STUDY, Values, data_set, part10, write_object


def dicom(instance: str, **keywords: Unpack[Values]) -> bytes:
    return part10(data_set(instance, **keywords), instance)


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def bring_in(root: DataRoot, tmp_path: Path, content: bytes, name: str = "x") -> ImportReport:
    path = tmp_path / name
    path.write_bytes(content)
    report = import_paths(root, [path])
    assert path.read_bytes() == content
    return report


def reasons(root: DataRoot) -> list[str]:
    return sorted(json.loads(path.read_text())["code"] for path in root.quarantine.glob("*.json"))


def test_entries_go_through_the_door_byte_for_byte(root: DataRoot, tmp_path: Path) -> None:
    contents = {f"1.2.{n}": part10(data_set(f"1.2.{n}"), f"1.2.{n}", pad=n) for n in range(3)}
    many = [(f"A/B{uid}", content) for uid, content in contents.items()]
    report = bring_in(
        root, tmp_path, zipped(*many, ("A/", b""), ("A/notes.txt", b"DOE^JOHN")), "no extension"
    )
    assert (report.stored, report.quarantined, report.files, report.studies) == (3, 1, 4, {STUDY})
    for uid, content in contents.items():
        assert (root.archive / f"scp_{STUDY}" / f"CT.{uid}").read_bytes() == content
    assert {r.calling_ae for _, _, r in read_journals(root, {})} == {"IMPORT"}
    ((path, reason),) = report.problems
    assert path.endswith("no extension: A/notes.txt")
    assert "DICM" in reason
    (beside,) = root.quarantine.glob("*.json")
    assert "notes" not in beside.read_text()
    assert beside.with_suffix(".dcm").read_bytes() == b"DOE^JOHN"


def test_content_decides_and_not_the_name(root: DataRoot, tmp_path: Path) -> None:
    assert bring_in(root, tmp_path, zipped(("x", dicom("1.2.1"))), "study.dcm").stored == 1
    assert bring_in(root, tmp_path, dicom("1.2.2"), "image.zip").stored == 1
    preamble = b"PK\x03\x04" + bytes(124) + dicom("1.2.3")[128:]
    assert bring_in(root, tmp_path, preamble, "both").stored == 1


def test_names_that_want_out_stay_labels(root: DataRoot, tmp_path: Path) -> None:
    names = (
        "../../escape.dcm",
        "/etc/escape.dcm",
        "C:\\escape.dcm",
        "a\nb\x1b[31m.dcm",
        "x" * 5000,
        "..",
        "x/",
    )
    entries = [(name, dicom(f"1.2.{number}")) for number, name in enumerate(names)]
    before = {path for path in tmp_path.rglob("*") if root.path not in path.parents}
    report = bring_in(root, tmp_path, zipped(*entries))
    assert report.stored == len(names)
    after = {path for path in tmp_path.rglob("*") if root.path not in path.parents}
    assert after - before == {tmp_path / "x"}
    assert not list(root.path.rglob("*escape*"))


def test_an_entry_may_have_no_name(root: DataRoot, tmp_path: Path) -> None:
    content = zipped(("Q", dicom("1.2.1")), ("b", dicom("1.2.2")), method=zipfile.ZIP_STORED)
    report = bring_in(root, tmp_path, content.replace(b"\0Q", b"\0\0"))  # zipfile ends names at a zero
    assert report.stored == 2


def test_duplicate_names_are_all_taken(root: DataRoot, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped(("a", dicom("1.2.1")), ("a", dicom("1.2.2")))
    assert bring_in(root, tmp_path, content).stored == 2


def test_links_in_archives_are_left_out(root: DataRoot, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    report = bring_in(root, tmp_path, zipped((link, b"/etc/passwd"), ("a", dicom("1.2.1"))))
    assert (report.stored, report.skipped, report.files) == (1, 1, 2)


def test_an_archive_in_an_archive_is_opened_once(root: DataRoot, tmp_path: Path) -> None:
    inner = zipped(("deep", dicom("1.2.2")))
    report = bring_in(root, tmp_path, zipped(("a", dicom("1.2.1")), ("inner", inner)))
    assert (report.stored, report.quarantined) == (2, 0)
    report = bring_in(root, tmp_path, zipped(("a", dicom("1.2.1")), ("b", zipped(("c", inner)))), "y")
    assert (report.repeats, report.quarantined) == (1, 1)
    (kept,) = root.quarantine.glob("*.dcm")
    assert kept.read_bytes() == inner
    assert reasons(root) == ["archive_unknown"]


def test_a_document_is_one_file_for_quarantine(root: DataRoot, tmp_path: Path) -> None:
    content = zipped(("[Content_Types].xml", b"<x/>"), ("word/document.xml", b"<x/>"))
    report = bring_in(root, tmp_path, zipped(("letter.docx", content), ("a", dicom("1.2.1"))))
    assert (report.stored, report.quarantined, report.failed) == (1, 1, 0)
    assert reasons(root) == ["archive_without_dicom"]
    assert bring_in(root, tmp_path, zipped()).quarantined == 1


@pytest.mark.parametrize(
    "magic", [b"\x1f\x8b\x08", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\0", bytes(257) + b"ustar"]
)
def test_other_archives_are_named(root: DataRoot, tmp_path: Path, magic: bytes) -> None:
    report = bring_in(root, tmp_path, magic + bytes(1000))
    assert report.quarantined == 1
    assert "unpack it" in report.problems[0][1]


def test_encrypted_entries(root: DataRoot, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_object(tmp_path / "in", "1.2.1")
    secret = tmp_path / "secret.zip"
    subprocess.run(["zip", "-q", "-P", "pw", "-r", str(secret), "in"], cwd=tmp_path, check=True)
    report = import_paths(root, [secret])
    assert (report.stored, report.quarantined, report.failed) == (0, 1, 0)
    assert reasons(root) == ["archive_encrypted"]
    write_object(tmp_path, "1.2.2")
    subprocess.run(["zip", "-q", str(secret), "1.2.2.dcm"], cwd=tmp_path, check=True)
    report = import_paths(root, [secret])
    assert (report.stored, report.quarantined, report.failed) == (1, 0, 1)
    assert "encrypted" in report.problems[0][1]


def test_a_wrong_checksum_is_never_filed(root: DataRoot, tmp_path: Path) -> None:
    content = bytearray(zipped(("bad", dicom("1.2.1")), ("good", dicom("1.2.2")), method=zipfile.ZIP_STORED))
    at = content.index(b"Planted")
    content[at : at + 4] = b"Plan"[::-1]
    report = bring_in(root, tmp_path, bytes(content))
    assert (report.stored, report.quarantined) == (1, 1)
    assert reasons(root) == ["archive_entry_damaged"]
    assert [r.SOPInstanceUID for _, _, r in read_journals(root, {})] == ["1.2.2"]


def test_a_cut_archive_goes_to_quarantine_whole(root: DataRoot, tmp_path: Path) -> None:
    content = zipped(("a", dicom("1.2.1")))[:-30]
    report = bring_in(root, tmp_path, content)
    assert (report.quarantined, report.stored) == (1, 0)
    (kept,) = root.quarantine.glob("*.dcm")
    assert kept.read_bytes() == content
    assert reasons(root) == ["archive_broken"]


def test_bombs_are_refused_before_they_unpack(
    root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_OF_RATIO", 1024)
    bomb = zipped(("a", dicom("1.2.1")), ("zeros", bytes(5_000_000)))
    report = bring_in(root, tmp_path, bomb)
    assert (report.stored, report.quarantined) == (0, 1)
    assert reasons(root) == ["archive_too_large"]
    monkeypatch.setattr(archives, "FREE_OF_RATIO", 2**30)
    assert bring_in(root, tmp_path, bomb).stored == 1
    path = tmp_path / "bomb"
    path.write_bytes(bomb)
    assert import_paths(root, [path], max_unpacked=1_000_000).quarantined == 1


def test_an_entry_gives_no_more_than_it_claims(root: DataRoot, tmp_path: Path) -> None:
    honest = zipped(("a", dicom("1.2.1")), ("zeros", bytes(5_000_000)))
    lying = honest.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1000))
    report = bring_in(root, tmp_path, lying)
    assert (report.stored, report.quarantined) == (1, 1)
    assert max(path.stat().st_size for path in root.quarantine.glob("*.dcm")) <= 1000


def test_too_many_entries_are_refused(
    root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 30_000)
    entries = [("a", dicom("1.2.1")), *((f"{n}", b"") for n in range(30_000))]
    assert reasons(root) == []
    assert bring_in(root, tmp_path, zipped(*entries, method=zipfile.ZIP_STORED)).quarantined == 1
    assert reasons(root) == ["archive_too_large"]


def test_an_archive_that_does_not_fit_is_not_begun(
    root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(zipped(("a", dicom("1.2.1")), ("b", bytes(100_000))))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000))
    with pytest.raises(StorageFull):
        import_paths(root, [path])
    assert list(read_journals(root, {})) == []


def test_zip64_and_thousands_of_small_entries(root: DataRoot, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        with archive.open("big", "w", force_zip64=True) as entry:
            entry.write(dicom("1.2.0"))
        for number in range(1, 1500):
            archive.writestr(f"{number}", dicom(f"1.2.{number}"))
    end = out.getvalue()
    report = bring_in(root, tmp_path, end)
    assert (report.stored, report.files) == (1500, 1500)


def test_progress_shows_bytes_of_the_source(root: DataRoot, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(zipped(*((f"{n}", dicom(f"1.2.{n}")) for n in range(20))))
    seen: list[int] = []
    import_paths(root, [path], progress=lambda report: seen.append(report.bytes))
    assert seen == sorted(seen)
    assert seen[-1] == path.stat().st_size


def test_the_command_names_entries_on_stderr(root: DataRoot, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(zipped(("a", dicom("1.2.1")), ("sub/read\tme", b"x")))
    done = run_import(root, "--json", str(path))
    assert done.returncode == 1
    assert json.loads(done.stdout)["stored"] == 1
    done = run_import(root, str(path))
    assert f"{path}: sub/read?me: " in done.stderr


_SOUND = zipped(("a", dicom("1.2.1")), ("b", dicom("1.2.2")), ("c.zip", zipped(("d", dicom("1.2.3")))))


@given(
    flips=st.lists(st.tuples(st.integers(0, len(_SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, len(_SOUND)),
)
def test_damage_never_harms(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(_SOUND)
    for at, value in flips:
        content[at] = value
    folder = tmp_path_factory.mktemp("damaged")
    data = DataRoot(folder / "data")
    data.make()
    report = bring_in(data, folder, bytes(content[:cut]))
    assert report.files >= 1
    assert {path.name for path in folder.iterdir()} == {"data", "x"}
    receipts = [receipt for _, _, receipt in read_journals(data, {})]
    assert len(receipts) == report.stored + report.repeats + report.conflicts
    assert all((data.path / receipt.path).is_file() for receipt in receipts)
    assert len(list(data.quarantine.glob("*.dcm"))) == report.quarantined
    assert not list((data.archive / ".incoming").iterdir())


@pytest.mark.parametrize("reads", [0, 5, 8])
def test_a_disk_that_fails_is_no_damaged_archive(reads: int) -> None:
    class Failing(io.BytesIO):
        left = 10**9

        def read(self, size: int | None = -1, /) -> bytes:
            Failing.left -= 1
            if Failing.left < 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    def read_all(file: io.BytesIO) -> None:
        for entry in archives.Archive(file, 1 << 30).entries():
            entry.head()
            list(entry.chunks())

    file = Failing(zipped(("a", bytes(range(256)) * 8192), method=zipfile.ZIP_STORED))
    Failing.left = reads
    with pytest.raises(OSError, match="Input/output error"):
        read_all(file)
