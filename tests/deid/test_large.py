"""Large objects: memory does not grow with them. 300 MB, and with FIONA_TEST_FULL 5 GB."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from tests.deid import phantoms

LIMIT = 64
"""MiB, interpreter and dictionaries included."""
FULL = bool(os.environ.get("FIONA_TEST_FULL"))
J2K_FRAME = (
    b"\xff\x4f\xff\x51\x00\x29" + bytes(39) + b"\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x01\xff\x93"
)

WATCHED = """
import sys
from pathlib import Path
from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey
key = ProjectKey("DEMO", bytes(range(32)))
deidentifier = Deidentifier(ProjectSettings(name="DEMO"), key, Assignment("DEMO", "SUBJ", "Baseline"))
report = deidentifier.file(Path(sys.argv[1]), Path(sys.argv[2]), flush=False)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024, report.held or "-")
"""


def peak(source: Path, copy: Path) -> tuple[int, str]:
    """MiB of a process that de-identifies one file, and the kind for which it would be held."""
    line: list[str | Path] = [sys.executable, "-c", WATCHED, source, copy]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, held = done.stdout.split(maxsplit=1)
    return int(first), held.strip()


def native(path: Path, frames: int) -> Path:
    """Frames of half a MiB, native; sparse but for the first and the last."""
    ds = phantoms.image()
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames, 512, 512
    ds.PixelData = b""
    small = phantoms.write(ds, path).read_bytes()
    size = frames * 512 * 512 * 2
    with path.open("wb") as handle:
        handle.write(small[:-4] + size.to_bytes(4, "little") + b"first")
        handle.truncate(len(small) + size)
        handle.seek(-4, os.SEEK_END)
        handle.write(b"last")
    return path


def encapsulated(path: Path, frames: int, frame_bytes: int) -> Path:
    """JPEG 2000 frames, one fragment each, with an Extended Offset Table (PS3.3 C.7.6.3.1.8)."""
    ds = phantoms.image(syntax="1.2.840.10008.1.2.4.90")
    ds.NumberOfFrames = frames
    del ds.PixelData
    ds.ExtendedOffsetTable = struct.pack(f"<{frames}Q", *(n * (frame_bytes + 8) for n in range(frames)))
    ds.ExtendedOffsetTableLengths = struct.pack(f"<{frames}Q", *[frame_bytes] * frames)
    phantoms.write(ds, path)
    image = J2K_FRAME + bytes(frame_bytes - len(J2K_FRAME) - 2) + b"\xff\xd9"
    with path.open("ab") as handle:
        handle.write(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\0\0\0\0")
        for _ in range(frames):
            handle.write(b"\xfe\xff\x00\xe0" + frame_bytes.to_bytes(4, "little") + image)
        handle.write(b"\xfe\xff\xdd\xe0\0\0\0\0")
    return path


def same_tail(one: Path, other: Path, length: int) -> bool:
    """Whether two files end alike."""
    with one.open("rb") as first, other.open("rb") as second:
        first.seek(-length, os.SEEK_END)
        second.seek(-length, os.SEEK_END)
        while block := first.read(1 << 22):
            if block != second.read(1 << 22):
                return False
    return True


def test_native_pixels_pass_through_the_kernel(tmp_path: Path) -> None:
    source, copy = native(tmp_path / "in.dcm", 600), tmp_path / "out.dcm"

    used, held = peak(source, copy)

    assert used < LIMIT
    assert held == "-"
    assert same_tail(source, copy, 600 * 512 * 512 * 2)


@pytest.mark.parametrize("frames", [64, *([1280] if FULL else [])])
def test_encapsulated_pixels_with_an_extended_offset_table(tmp_path: Path, frames: int) -> None:
    size = 4 << 20
    source, copy = encapsulated(tmp_path / "in.dcm", frames, size), tmp_path / "out.dcm"

    used, held = peak(source, copy)

    assert used < LIMIT
    assert held == "-"
    assert same_tail(source, copy, frames * (size + 8) + 8 + 20)
    before, after = (pydicom.dcmread(path, stop_before_pixels=True) for path in (source, copy))
    assert after.ExtendedOffsetTable == before.ExtendedOffsetTable
    assert after.ExtendedOffsetTableLengths == before.ExtendedOffsetTableLengths
