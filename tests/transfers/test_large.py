"""Memory does not grow with the size: an object of 300 MB, and with FIONA_TEST_FULL one of 5 GB (ZIP64)."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fiona_dagster.transfers.verify import verify_package
from tests.making import data_set, element, part10
from tests.transfers.test_package import KEY

LIMIT_MB = 200
SIZES = [300 << 20, *([5 << 30] if os.environ.get("FIONA_TEST_FULL") else [])]
JPEG = "1.2.840.10008.1.2.4.70"
_FRAGMENT = 1 << 30

_PACK = """
import json, sys
from pathlib import Path
from fiona_dagster.config import PackageSettings
from fiona_dagster.transfers.assembly import assemble
from fiona_dagster.transfers.signature import SigningKey
from tests.transfers.test_package import HEAD
folder, target, digest = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
info = assemble(folder, {"large": digest}, target, manifest=HEAD, report={}, key=SigningKey(b"k" * 32),
    look=PackageSettings())
# VmHWM and not ru_maxrss, which a child inherits from whoever forked it.
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps({"size": info.size, "peak": peak, "sha256": info.sha256}))
"""


def large_object(path: Path, size: int) -> None:
    """A compressed multi-frame whose fragments are holes in a sparse file."""
    data = data_set("2.25.3", study="2.25.1", series="2.25.2", name="P001", pixels=b"")
    head = part10(data.removesuffix(element(0x7FE00010, b"OW", b"")), "2.25.3", syntax=JPEG)
    with path.open("wb") as stream:
        stream.write(head + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF))
        stream.write(struct.pack("<HHI", 0xFFFE, 0xE000, 0))
        while size > 0:
            piece = min(size, _FRAGMENT)
            stream.write(struct.pack("<HHI", 0xFFFE, 0xE000, piece))
            stream.seek(piece, os.SEEK_CUR)
            size -= piece
        stream.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", SIZES)
def test_a_large_object_is_packed_and_verified_in_little_memory(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    large_object(folder / "large", size)
    with (folder / "large").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = tmp_path / "large.zip"

    done = subprocess.run(
        [sys.executable, "-c", _PACK, str(folder), str(target), digest],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["size"] == target.stat().st_size > size
    assert answer["peak"] < LIMIT_MB
    assert verify_package(target, KEY.public) == []
    with zipfile.ZipFile(target) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dcm")]
        assert archive.getinfo(name).file_size == (folder / "large").stat().st_size
        assert archive.testzip() is None
    target.unlink()
