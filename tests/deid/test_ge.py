"""GE's user data block: date, time, examination and initials go, the flags of the phase encoding stay."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.deid import verify_outputs
from fiona_dagster.deid.elements import Element
from fiona_dagster.deid.ge import flags_only, is_flags_only
from fiona_dagster.deid.identities import Identities
from fiona_dagster.deid.plan import Context, Place
from fiona_dagster.deid.terms import Terms
from tests.deid import phantoms
from tests.deid.conftest import Make

TAG = 0x0043102A
CONTEXT = Context(Place(TAG, "OB"), b"", True, Identities(bytes(32), "P"), str, Terms())


def block(version: float, start: int = 64) -> bytes:
    """A block that begins with the flags that dcm2niix reads, among what identifies."""
    made = bytearray(b"QX" * 700)
    struct.pack_into("<H", made, 24, start)
    struct.pack_into("<f", made, start, version)
    base, order = (start + 0x4C, 0x394 - 0x8C) if version > 25 else (start, 0x394)
    struct.pack_into("<HH", made, base + 0x30, 0xFFFF, 0)
    struct.pack_into("<H", made, base + 0x3A, 0x0F00)
    struct.pack_into("<h", made, base + order, 2)
    made[700:709] = b"09/18/118"
    return bytes(made)


@pytest.mark.parametrize("version", [14.2, 26.0])
def test_flags_stay_and_everything_else_is_zero(version: float) -> None:
    data = block(version)

    made = flags_only(Element(TAG, "OB", data), CONTEXT)

    assert made is not None
    new = bytes(made.value)
    assert len(new) == len(data)
    assert b"Q" not in new
    assert b"/118" not in new
    base, order = (64 + 0x4C, 0x394 - 0x8C) if version > 25 else (64, 0x394)
    assert struct.unpack_from("<f", new, 64) == struct.unpack_from("<f", data, 64)
    assert struct.unpack_from("<H", new, base + 0x30) == (4,)
    assert struct.unpack_from("<H", new, base + 0x3A) == (0x0800,)
    assert struct.unpack_from("<h", new, base + order) == (2,)
    assert sum(map(bool, new)) <= 10
    assert is_flags_only(new)
    assert not is_flags_only(data)


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_block_or_nothing(data: bytes) -> None:
    made = flags_only(Element(TAG, "OB", data), CONTEXT)

    assert made is None or (len(made.value) == len(data) and is_flags_only(bytes(made.value)))


def test_a_copy_has_the_flags_and_the_verification_wants_nothing_else(
    make: Make, tmp_path: Path, out: Path
) -> None:
    image = phantoms.image()
    image.add_new(0x00430010, "LO", "GEMS_PARM_01")
    image.add_new(TAG, "OB", block(26.0))
    source = phantoms.write(image, tmp_path / "in.dcm")
    deidentifier = make("retain_safe_private")

    copy = out / deidentifier.file(source, out).name

    assert is_flags_only(pydicom.dcmread(copy)[TAG].value)
    assert verify_outputs([source], out, deidentifier).passed
    changed = pydicom.dcmread(copy)
    changed[TAG].value = changed[TAG].value[:-2] + b"X1"
    changed.save_as(copy)
    assert {f.tag for f in verify_outputs([source], out, deidentifier).findings} == {"(0043,102A)"}
    (out / copy.name).unlink()
    plain = out / make().file(source, out).name
    assert TAG not in pydicom.dcmread(plain)
