"""CSA headers: what the list names stays to the byte, what is planted anywhere else goes."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pydicom
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, siemens, verify_outputs
from fiona_dagster.deid.identities import Identities
from fiona_dagster.deid.plan import Context, Place
from fiona_dagster.deid.terms import Terms
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


def hostile(entries: list[tuple[bytes, int, bytes, int, list[bytes]]]) -> bytes:
    """A header of any names, numbers and values that the layout can hold."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(entries), 77)]
    for name, multiplicity, vr, kind, items in entries:
        parts.append(struct.pack("<64s i 4s 3i", name, multiplicity, vr, kind, len(items), 1953))
        parts += [
            struct.pack("<4i", 704, len(i), 19530704, 7) + i + b"Quisling"[: -len(i) % 4] for i in items
        ]
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


TERMS = Terms()
TERMS.learn([(0x00100010, "PN", b"Quisling^Wendelin", b""), (0x00100030, "DA", b"19530704", b"")])
CONTEXT = Context(
    Place(0x00291010, "OB"), b"", True, Identities(bytes(32), "P"), Identities(bytes(32), "P").uid, TERMS
)
VRS = frozenset(
    ("DS", "IS", "FD", "FL", "US", "SS", "UL", "SL", "SH", "LO", "CS", "ST", "LT", "UT", "UN", "UI")
)
SECRETS = st.sampled_from(
    [b"Quisling", b"1953-07-04", b"19530704", b"19530704.0", b"4.7.1953", b"WENDELIN", b"1.2.3.4.5.6.7 Olsen"]
)
TEXTS = st.one_of(
    SECRETS, st.binary(max_size=12), st.sampled_from([b"1.5", b"M", b"*ep2d", b"1.2.3.4.5.6.7"])
)
LINES = st.tuples(
    st.sampled_from(["sSliceArray.lSize", "sPat.ucQuisling", "tProtocolName", "tReferenceImage0", "alTR[0]"]),
    st.one_of(SECRETS, TEXTS, TEXTS.map(lambda text: b'"' + text + b'"')),
)
PROTOCOLS = st.lists(LINES, max_size=6).map(
    lambda lines: (
        b"### ASCCONV BEGIN ###\n"
        + b"".join(name.encode() + b" = " + value + b"\n" for name, value in lines)
        + b"### ASCCONV END ###"
    )
)
NAMES = st.sampled_from(
    [b"B_value", b"ICE_Dims", b"SequenceName", b"MrPhoenixProtocol", b"CoilId", b"ImageHistory"]
)
ENTRIES = st.tuples(
    st.one_of(NAMES, NAMES.map(lambda name: name + b"\0Quisling"), st.binary(max_size=64)),
    st.one_of(st.integers(0, 6), st.sampled_from([19530704, -1])),
    st.one_of(st.sampled_from([b"DS", b"LO\0\0", b"UT", b"ANNA", b"LO19", b"IS\0Q"]), st.binary(max_size=4)),
    st.one_of(st.integers(0, 32), st.sampled_from([19530704, -5])),
    st.lists(st.one_of(TEXTS, PROTOCOLS), max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ENTRIES, max_size=6), st.sampled_from(["image", "series"]), st.data())
def test_nothing_but_what_is_understood_is_written(
    entries: list[tuple[bytes, int, bytes, int, list[bytes]]], section: str, data: st.DataObject
) -> None:
    """Whatever stands in names, numbers, VRs, paddings and values: only what belongs there comes out."""
    whole = hostile(entries)
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    made = siemens.rewritten(whole[:cut], section, CONTEXT)
    if made is None:
        return
    at = 16
    assert made[:16] == b"SV10\4\3\2\1" + struct.pack("<2I", struct.unpack_from("<I", made, 8)[0], 77)
    for _ in range(struct.unpack_from("<I", made, 8)[0]):
        name, multiplicity, vr, kind, items, end = struct.unpack_from("<64s i 4s 3i", made, at)
        at += 84
        assert name.rstrip(b"\0").decode() in siemens.lists()[section]
        assert vr[:2].decode() in VRS
        assert vr[2:] == b"\0\0"
        assert (0 <= multiplicity <= 64, 0 <= kind <= 32, end) == (True, True, 77)
        for _ in range(items):
            size = struct.unpack_from("<4i", made, at)[0]
            assert struct.unpack_from("<4i", made, at) == (size, size, 77, size)
            value = made[at + 16 : at + 16 + size]
            if vr in (b"DS\0\0", b"IS\0\0") and b"ASCCONV" not in value:
                assert re.fullmatch(rb"\s*[-+0-9.eExa-fA-F]*\s*\0?", value)
            at += 16 + size
            assert not any(made[at : at + -size % 4])
            at += -size % 4
    assert not any(made[at:])
    assert struct.pack("<i", 19530704) not in made
    folded = made.decode("latin-1").lower()
    for secret in ("quisling", "wendelin", "19530704", "1953-07-04", "4.7.1953", "anna"):
        assert secret not in folded
    for reference in re.findall('treferenceimage0\t = \t"(.*)"\n', folded):
        assert reference.startswith("2.25.")
        assert "olsen" not in reference
