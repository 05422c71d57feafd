from __future__ import annotations

import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import import_paths
from tests.making import STUDY, element, part10, write_object

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


def _item(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


def _image(instance: str, *, in_use: bool = True) -> bytes:
    return _item(
        element(0x00041410, b"US", b"\xff\xff" if in_use else b"\0\0"),
        element(0x00041430, b"CS", "IMAGE"),
        element(0x00041500, b"CS", "IMAGES\\" + instance.replace(".", "")),
        element(0x00041511, b"UI", instance),
    )


def directory(*instances: str, unused: str = "") -> bytes:
    study = _item(element(0x00041430, b"CS", "STUDY"), element(0x0020000D, b"UI", STUDY))
    records = study + b"".join(map(_image, instances)) + (_image(unused, in_use=False) if unused else b"")
    return part10(element(0x00041220, b"SQ", records), "1.2.9", sop_class=MEDIA_DIRECTORY)


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    folder = tmp_path / "cd"
    (folder / "IMAGES").mkdir(parents=True)
    for number in range(3):
        write_object(folder / "IMAGES", f"1.2.{number}")
    return folder


def test_what_the_directory_lists_is_there(root: DataRoot, medium: Path) -> None:
    (medium / "DICOMDIR").write_bytes(directory("1.2.0", "1.2.1", "1.2.2", unused="1.2.77"))
    report = import_paths(root, [medium])
    assert (report.stored, report.skipped, report.missing, report.problems) == (3, 1, 0, [])
    assert report.sound
    assert not list(root.quarantine.iterdir())


def test_what_the_directory_lists_and_is_not_there(root: DataRoot, medium: Path) -> None:
    (medium / "DICOMDIR").write_bytes(directory("1.2.0", "1.2.1", "1.2.2", "1.2.3", "1.2.4"))
    report = import_paths(root, [medium])
    assert (report.stored, report.missing) == (3, 2)
    assert not report.sound
    ((path, reason),) = report.problems
    assert path.endswith("DICOMDIR")
    assert "5 instances; 2 of them" in reason


def test_a_medium_in_an_archive(root: DataRoot, medium: Path, tmp_path: Path) -> None:
    (medium / "DICOMDIR").write_bytes(directory("1.2.0", "1.2.1", "1.2.2", "1.2.3"))
    packed = tmp_path / "cd.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(medium.rglob("*")):
            archive.write(path, path.relative_to(medium))
    report = import_paths(root, [packed])
    assert (report.stored, report.skipped, report.missing, report.quarantined) == (3, 1, 1, 0)


@pytest.mark.parametrize("cut", [170, 400, -1])
def test_a_damaged_directory_is_said_and_stops_nothing(root: DataRoot, medium: Path, cut: int) -> None:
    (medium / "DICOMDIR").write_bytes(directory("1.2.0", "1.2.1", "1.2.2")[:cut])
    report = import_paths(root, [medium])
    assert report.stored == 3
    assert not report.sound
    assert len(report.problems) == 1


@pytest.mark.peers
@pytest.mark.shared
def test_a_directory_written_by_dcmtk(
    root: DataRoot, shared: Path, tmp_path: Path, dcmtk: Callable[[str], str]
) -> None:
    source = sorted((shared / "data" / "visible").rglob("*.dcm"))
    folder = tmp_path / "cd"
    folder.mkdir()
    taken = 0
    for path in source:
        if "broken" not in path.parts and taken < 8:
            shutil.copy(path, folder / f"F{taken}")
            taken += 1
    command = [
        dcmtk("dcmmkdir"),
        "+r",
        "+id",
        str(folder),
        "+D",
        str(folder / "DICOMDIR"),
        "-Nxc",
        "--invent",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert (folder / "DICOMDIR").is_file()
    report = import_paths(root, [folder])
    assert (report.skipped, report.missing, report.directories_damaged) == (1, 0, 0)
    (folder / "F0").unlink()
    other = DataRoot(tmp_path / "other")
    other.make()
    report = import_paths(other, [folder])
    assert report.missing == 1
