"""The independent look blocks what the engine might forget, and does not block honest studies."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.deid import verify_outputs
from fiona_dagster.deid.remembering import RememberedTerms
from fiona_dagster.deid.terms import Terms
from tests.deid import phantoms
from tests.deid.conftest import Make


@pytest.fixture
def copy(make: Make, tmp_path: Path, out: Path) -> tuple[Path, Path]:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    report = make().file(source, out)
    return source, out / report.name


@pytest.mark.parametrize(
    ("keyword", "value", "rule"),
    [
        ("ContrastBolusIngredient", "QUISLING", "residual search: name"),
        ("SoftwareVersions", "made for Wendelin Quisling", "residual search: name"),
        ("SoftwareVersions", "no. ZX83015577", "residual search: id"),
        ("SoftwareVersions", "1953-07-04", "residual search: birth_date"),
        ("SoftwareVersions", "4/7/1953", "residual search: birth_date"),
        ("SoftwareVersions", "03.05.2018", "residual search: date"),
        ("SoftwareVersions", phantoms.STUDY, "residual search: uid"),
        ("SeriesDescription", "T1", "table E.1-1: X"),
        ("StudyID", "77", "table E.1-1: Z"),
        ("FrameOfReferenceUID", "1.2.3.4.5.6", "table E.1-1: U"),
        ("PatientIdentityRemoved", "NO", "does not say how it was de-identified"),
        ("StudyInstanceUID", "2.25.77", "belongs to none of the originals"),
    ],
)
def test_what_is_left_blocks_by_tag_and_rule(
    make: Make, out: Path, copy: tuple[Path, Path], keyword: str, value: str, rule: str
) -> None:
    source, path = copy
    ds = pydicom.dcmread(path)
    setattr(ds, keyword, value)
    ds.save_as(path)

    result = verify_outputs([source], out, make())

    assert not result.passed
    assert rule in {finding.rule for finding in result.findings}
    shown = str(result.to_json())
    assert "uisling" not in shown
    assert "ZX83015577" not in shown


def test_what_is_left_in_one_copy_is_found_in_the_next_too(make: Make, tmp_path: Path, out: Path) -> None:
    """Answers that are remembered for a value; and what only the last original tells counts for the first."""
    sources = [phantoms.write(phantoms.image(n), tmp_path / f"{n}.dcm") for n in (1, 2, 3)]
    last = phantoms.image(3)
    last.OtherPatientNames = "Oblomov^Ilja"
    phantoms.write(last, sources[2])
    names = []
    for number, source in enumerate(sources):
        names.append(make().file(source, out).name)
        ds = pydicom.dcmread(out / names[-1])
        ds.SoftwareVersions = "for Oblomov" if number < 2 else "3.1"
        ds.save_as(out / names[-1])

    result = verify_outputs(sources, out, make())

    found = {(finding.file, finding.rule) for finding in result.findings}
    assert found == {(name, "residual search: name") for name in names[:2]}


@given(
    st.lists(st.sampled_from([b"Quisling", b"for quisling", b"", b"T1", b"1953-07-04", b"\xff"]), max_size=8)
)
def test_remembered_answers_are_those_of_the_terms(values: list[bytes]) -> None:
    terms = Terms()
    terms.learn([(0x00100010, "PN", b"Quisling^Wendelin", b""), (0x00100030, "DA", b"19530704", b"")])
    remembered = RememberedTerms(terms)
    for value in values:
        text = value.decode("latin-1").lower()
        assert remembered.hits(value) == terms.hits(value)
        remembered.hits(value).clear()
        for thorough in (True, False):
            assert remembered.find(text, thorough) == terms.find(text, thorough)


def test_what_the_standard_registered_since_stays_and_blocks_nothing(
    make: Make, tmp_path: Path, out: Path
) -> None:
    """In an attribute that no table lists; an UID of an instance there is replaced and searched for."""
    ds = phantoms.image()
    ds.SOPInstanceUIDOfConcatenationSource = "1.2.840.10008.5.1.4.1.1.999.5"
    source = phantoms.write(ds, tmp_path / "in.dcm")
    copy = pydicom.dcmread(out / make().file(source, out).name)

    assert copy.SOPInstanceUIDOfConcatenationSource == ds.SOPInstanceUIDOfConcatenationSource
    assert verify_outputs([source], out, make()).passed


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))


def test_file_meta_preamble_and_tail_are_looked_at(make: Make, out: Path, copy: tuple[Path, Path]) -> None:
    source, path = copy
    whole = path.read_bytes()
    damaged = {
        "preamble": b"Quisling".ljust(128, b"\0") + whole[128:],
        "(0002,0013)": whole.replace(b"FIONA_DAGSTER", b"QUISLINGXXXXX", 1),
        "end of file": whole + b"Quisling",
    }
    for tag, content in damaged.items():
        path.write_bytes(content)
        result = verify_outputs([source], out, make())
        assert tag in {finding.tag for finding in result.findings} or (
            tag == "(0002,0013)" and any("name" in finding.rule for finding in result.findings)
        )


def test_private_curves_and_overlays_are_looked_at(make: Make, out: Path, copy: tuple[Path, Path]) -> None:
    source, path = copy
    ds = pydicom.dcmread(path)
    ds.add_new(0x00110010, "LO", "CREATOR")
    ds.add_new(0x60023000, "OW", b"12")
    ds.add_new(0x50022500, "LO", "label")
    ds.save_as(path)

    tags = {finding.tag for finding in verify_outputs([source], out, make()).findings}

    assert {"(0011,0010)", "(6002,3000)", "(5002,2500)"} <= tags


def test_a_foreign_file_in_the_folder_blocks(make: Make, out: Path, copy: tuple[Path, Path]) -> None:
    source, _ = copy
    (out / "Quisling.txt").write_text("notes")

    assert not verify_outputs([source], out, make()).passed


def test_an_empty_folder_does_not_pass(make: Make, out: Path) -> None:
    assert not verify_outputs([], out, make()).passed


@pytest.mark.parametrize(
    ("name", "patient", "kept"),
    [
        ("Hand^Long", "12345", "Hand TA Long"),
        ("Head^Chest", "1", "HEAD CHEST"),
        ("Li^A", "AB", "Li A axial"),
        ("Siemens^Test", "TEST", "SIEMENS TEST"),
    ],
)
def test_common_words_warn_and_do_not_block(
    make: Make, tmp_path: Path, out: Path, name: str, patient: str, kept: str
) -> None:
    ds = phantoms.image()
    ds.PatientName, ds.PatientID, ds.SoftwareVersions = name, patient, kept
    source = phantoms.write(ds, tmp_path / "in.dcm")
    report = make().file(source, out)

    result = verify_outputs([source], out, make())

    assert result.passed, result.findings
    assert result.warnings
    assert pydicom.dcmread(out / report.name).SoftwareVersions == kept


def test_a_modality_is_nobody_s_initials(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.PatientName, ds.ManufacturerModelName = "Quisling^CT", "HiSpeed CT/i"
    source = phantoms.write(ds, tmp_path / "in.dcm")
    copy = out / make().file(source, out).name

    result = verify_outputs([source], out, make())

    assert pydicom.dcmread(copy).ManufacturerModelName == "HiSpeed CT/i"
    assert (result.findings, result.warnings) == ([], [])


def test_the_words_of_the_standard_s_own_method_are_nobody_s_name(
    make: Make, tmp_path: Path, out: Path
) -> None:
    ds = phantoms.image()
    ds.PatientName = "Confidentiality^Basic"
    source = phantoms.write(ds, tmp_path / "in.dcm")
    copy = out / make().file(source, out).name
    assert verify_outputs([source], out, make()).findings == []

    changed = pydicom.dcmread(copy)
    changed.DeidentificationMethodCodeSequence[0].CodeMeaning = "of Confidentiality"
    changed.save_as(copy)

    assert not verify_outputs([source], out, make()).passed


def test_what_the_request_assigns_is_exempt(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.PatientID, ds.PatientName = "SUBJ_0001", "SUBJ_0001"
    source = phantoms.write(ds, tmp_path / "in.dcm")
    make().file(source, out)

    assert verify_outputs([source], out, make()).passed


@given(
    st.binary(max_size=200),
    st.binary(max_size=200),
    st.sampled_from(["Quisling", "Anna Quisling", "B\xf8rge"]),
)
def test_terms_are_found_as_whole_words_wherever_they_stand(before: bytes, after: bytes, word: str) -> None:
    terms = Terms()
    terms.add(word.lower(), "name", True)
    raw = word.upper().encode("latin-1")

    assert any(hit.end - hit.start == len(word) for hit in terms.hits(before + b" " + raw + b"," + after))


def test_short_names_are_no_parts_of_longer_words() -> None:
    terms = Terms()
    terms.add("ann", "name", True)

    assert not terms.hits(b"Annabel hannah ANNE")
    assert terms.hits(b"Ann1972")


def test_the_original_does_not_stand_where_the_request_writes(make: Make, tmp_path: Path, out: Path) -> None:
    """The residual search passes over these attributes: what stands there is compared."""
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    copy = out / make().file(source, out).name
    made = copy.read_bytes()
    assert verify_outputs([source], out, make()).passed
    for tag in sorted({*make().assigned_tags(), 0x00080050}):
        for value in ("Quisling^Wendelin", None):
            ds = pydicom.dcmread(io.BytesIO(made))
            if value is None:
                del ds[tag]
            elif ds[tag].VR in ("DA", "SH"):
                ds[tag].value = "19530704"
            else:
                ds[tag].value = value
            ds.save_as(copy)

            result = verify_outputs([source], out, make())

            name = f"({tag:08X})"
            found = f"{name[:5]},{name[5:]}" in {finding.tag for finding in result.findings}
            assert found or (value is None and tag == 0x00100030), (name, value)
            assert "Quisling" not in str(result.to_json())
