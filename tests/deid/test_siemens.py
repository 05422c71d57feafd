"""CSA headers: what the list names stays to the byte, what is planted anywhere else goes."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, verify_outputs
from tests.deid import phantoms

PROTOCOL = """<XProtocol>
{ <ParamString."PatientName"> { "Quisling^Wendelin" } }
### ASCCONV BEGIN object=MrProtDataImpl@MrProtocolData version=51130001 ###
sSliceArray.lSize	 = 	60
alTR[0]	 = 	2500000
sKSpace.lBaseResolution	 = 	0x80
sSliceArray.asSlice[0].sNormal.dTra	 = 	0.99
tProtocolName	 = 	""Hand_Quisling_long""
tReferenceImage0	 = 	"1.3.12.2.1107.5.2.19.45160.2018091812245463725890422"
flUsedPatientWeight	 = 	81.5
tUnheardOf	 = 	"Quislingsdottir"
sPatPosition.lPatientNumber	 = 	83015577
### ASCCONV END ###
"""


def header(entries: dict[str, list[str]], *, old: bool = False) -> bytes:
    """A CSA header as Siemens writes it, SV10 or the older layout."""
    parts = [b"" if old else b"SV10\4\3\2\1", struct.pack("<2I", len(entries), 77)]
    for name, values in entries.items():
        items = [*values, *[""] * (6 - len(values))]
        parts.append(struct.pack("<64s i 4s 3i", name.encode(), len(values), b"LO", 0, len(items), 77))
        for value in items:
            data = value.encode() + b"\0" if value else b""
            size = len(data)
            numbers = (size + 6, size, 77, size) if old else (size, size, 77, size)
            parts += [struct.pack("<4i", *numbers), data, bytes(-size % 4)]
    return b"".join(parts)


def deidentifier(csa: str) -> Deidentifier:
    project = ProjectSettings.model_validate({"name": "DEMO", "siemens_csa": csa})
    return Deidentifier(
        project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_0001", "Baseline")
    )


def source(path: Path, *, old: bool = False) -> Path:
    ds = phantoms.image()
    ds.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
    image = {
        "B_value": ["1000"],
        "MosaicRefAcqTimes": ["0.0", "1450.00000001"],
        "ReferencedImageSequence": ["1.3.12.2.1107.5.2.19.45160.99.1"],
        "ImageHistory": ["by Quisling"],
        "ICE_Dims": ["ZX83015577"],
    }
    series = {"MrPhoenixProtocol": [PROTOCOL], "UsedPatientWeight": ["81"], "CoilId": ["255"]}
    ds.add_new(0x00291010, "OB", header(image, old=old))
    ds.add_new(0x00291020, "OB", header(series, old=old))
    return phantoms.write(ds, path)


def values(data: bytes) -> dict[str, list[str]]:
    """Read again by code of its own."""
    found, at = {}, 16
    for _ in range(struct.unpack_from("<I", data, 8)[0]):
        name, _, _, _, items, _ = struct.unpack_from("<64s i 4s 3i", data, at)
        at += 84
        texts = []
        for _ in range(items):
            size = struct.unpack_from("<4i", data, at)[1]
            texts.append(data[at + 16 : at + 16 + size].rstrip(b"\0").decode())
            at += 16 + size + -size % 4
        found[name.rstrip(b"\0").decode()] = [text for text in texts if text]
    return found


def test_listed_elements_stay_and_the_rest_goes(tmp_path: Path, out: Path) -> None:
    for number, old in enumerate((False, True)):
        original = source(tmp_path / f"{number}.dcm", old=old)
        report = deidentifier("rewrite").file(original, out)

        copy = pydicom.dcmread(out / report.name)
        image, series = values(copy[0x00291010].value), values(copy[0x00291020].value)
        assert image["B_value"] == ["1000"]
        assert image["MosaicRefAcqTimes"] == ["0.0", "1450.00000001"]
        assert image["ReferencedImageSequence"][0].startswith("2.25.")
        assert image["ICE_Dims"] == []
        assert "ImageHistory" not in image
        assert series.keys() == {"MrPhoenixProtocol", "CoilId"}
        protocol = series["MrPhoenixProtocol"][0]
        assert "sSliceArray.lSize\t = \t60\n" in protocol
        assert "sKSpace.lBaseResolution\t = \t0x80\n" in protocol
        assert "Hand_REMOVED_long" in protocol
        assert "2.25." in protocol
        raw = (out / report.name).read_bytes()
        for planted in (b"uisling", b"83015577", b"81.5", b"45160", b"XProtocol", b"Weight"):
            assert planted not in raw
        assert verify_outputs([original], out, deidentifier("rewrite")).findings == []
        (out / report.name).unlink()


def test_without_the_setting_and_when_damaged_headers_go(tmp_path: Path, out: Path) -> None:
    original = source(tmp_path / "in.dcm")
    report = deidentifier("remove").file(original, out)
    assert 0x00291010 not in pydicom.dcmread(out / report.name)

    ds = pydicom.dcmread(original)
    ds[0x00291010].value = ds[0x00291010].value[:300]
    damaged = phantoms.write(ds, tmp_path / "damaged.dcm")
    report = deidentifier("rewrite").file(damaged, out)
    copy = pydicom.dcmread(out / report.name)
    assert 0x00291010 not in copy
    assert 0x00291020 in copy


def test_a_header_that_was_seen_is_searched_again_for_another_person(tmp_path: Path, out: Path) -> None:
    made = deidentifier("rewrite")
    for number, (person, expected) in enumerate(
        [("Quisling^Wendelin", "Hand_REMOVED_long"), ("Olsen^Kari", "Hand_Quisling_long")]
    ):
        ds = pydicom.dcmread(source(tmp_path / "plain.dcm"))
        ds.PatientName, ds.SOPInstanceUID = person, f"{phantoms.ROOT}.3.{number}"
        report = made.file(phantoms.write(ds, tmp_path / f"{number}.dcm"), out)
        series = values(pydicom.dcmread(out / report.name)[0x00291020].value)
        assert expected in series["MrPhoenixProtocol"][0]
