"""Leak tests, each beside a retention test: what must go is gone, what the profile keeps is there."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from fiona_dagster.deid import deidentify_study, verify_outputs
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import BIG, DEFLATED, EXPLICIT, IMPLICIT, Canaries

SYNTAXES = [EXPLICIT, IMPLICIT, BIG, DEFLATED]
CLASSES = [
    phantoms.CT,
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.826.0.1.3680043.10.815.100",
]
MODIFIED = "retain_long_modified_dates"
KEPT = (
    "SOPClassUID",
    "Modality",
    "Manufacturer",
    "BodyPartExamined",
    "SliceThickness",
    "KVP",
    "RescaleSlope",
    "RescaleIntercept",
    "ImagePositionPatient",
    "PixelSpacing",
    "DiffusionBValue",
    "InstanceNumber",
    "ImageType",
    "AnatomicRegionSequence",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelData",
)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("sop_class", CLASSES)
def test_nothing_planted_survives(make: Make, tmp_path: Path, out: Path, syntax: str, sop_class: str) -> None:
    canaries = Canaries()
    tail = b"" if syntax == DEFLATED else b"QZCANTRAILING"
    source = phantoms.write(
        phantoms.planted(canaries, syntax, sop_class),
        tmp_path / "in.dcm",
        preamble=b"QZCANPREAMBLE".ljust(128, b"x"),
        tail=tail,
    )
    canaries.planted |= {"preamble": "QZCANPREAMBLE", "tail": "QZCANTRAILING", "id": "ZX83015577"}
    canaries.planted |= {"meta": phantoms.ROOT + ".9", "name": "Quisling", "own uid": phantoms.ROOT}

    report = make().file(source, out)

    assert len(canaries.planted) > 700
    assert phantoms.survivors(canaries, out / report.name) == {}
    assert verify_outputs([source], out, make()).passed


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("options", [(), (MODIFIED,)])
def test_what_the_profile_keeps_is_still_there(
    make: Make, tmp_path: Path, out: Path, syntax: str, options: tuple[str, ...]
) -> None:
    source = phantoms.write(phantoms.image(7, syntax), tmp_path / "in.dcm")

    report = make(*options).file(source, out)

    before, after = pydicom.dcmread(source), pydicom.dcmread(out / report.name)
    assert after.file_meta.TransferSyntaxUID == syntax
    for keyword in KEPT:
        assert after[keyword].value == before[keyword].value, keyword


def test_project_tags_are_written_as_the_original_writes_them(make: Make, tmp_path: Path, out: Path) -> None:
    sources = [phantoms.write(phantoms.image(n), tmp_path / f"{n}.dcm") for n in (1, 2)]

    report = deidentify_study(make(), sources, out)

    copies = [pydicom.dcmread(out / file.name) for file in report.files]
    for ds in copies:
        assert ds.PatientName == ds.PatientID == ds.ClinicalTrialSubjectID == "SUBJ_0001"
        assert ds.ReferringPhysicianName == "Eventname:Baseline"
        assert ds.InstitutionName == ds.ClinicalTrialProtocolID == ds.ClinicalTrialProtocolName == "DEMO"
        assert ds.ClinicalTrialSponsorName
        assert ds.ClinicalTrialTimePointID == ds.ClinicalTrialTimePointDescription == "Baseline"
        assert ds.PatientBirthDate == ""
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.LongitudinalTemporalInformationModified == "REMOVED"
        assert [item.CodeValue for item in ds.DeidentificationMethodCodeSequence] == ["113100"]
    accession = copies[0].AccessionNumber
    assert accession.startswith("Fiona")
    assert len(accession) == 16
    assert accession.isalnum()
    assert {ds.AccessionNumber for ds in copies} == {accession}


def test_claims_inside_a_file_are_not_trusted(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "by Quisling"
    ds.BurnedInAnnotation = "NO"
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    assert b"Quisling" not in (out / report.name).read_bytes()
    assert pydicom.dcmread(out / report.name).BurnedInAnnotation == "NO"


def test_names_in_kept_text_are_taken_out_and_the_rest_stays(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.DerivationCodeSequence = [pydicom.Dataset()]
    ds.DerivationCodeSequence[0].CodeMeaning = "averaged for Wendelin QUISLING born 04.07.1953"
    ds.SoftwareVersions = f"v2 {phantoms.STUDY}"
    ds.ProtocolContextSequence = []
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    text = pydicom.dcmread(out / report.name).DerivationCodeSequence[0].CodeMeaning
    assert text == "averaged for REMOVED born REMOVED"
    assert phantoms.STUDY.encode() not in (out / report.name).read_bytes()
    assert verify_outputs([source], out, make()).passed


@pytest.mark.parametrize("vr", ["UN", "SQ"])
def test_a_sequence_sent_as_unknown_is_cleaned_inside(make: Make, tmp_path: Path, out: Path, vr: str) -> None:
    inner = pydicom.Dataset()
    inner.PatientName, inner.CodeValue = "Nested^Quisling", "121401"
    ds = phantoms.image()
    if vr == "SQ":
        ds.PurposeOfReferenceCodeSequence = [inner]
    else:
        name = b"\x10\x00\x10\x00\x10\x00\x00\x00Nested^Quisling "
        code = b"\x08\x00\x00\x01\x06\x00\x00\x00121401"
        value = b"\xfe\xff\x00\xe0" + (len(name) + len(code)).to_bytes(4, "little") + code + name
        phantoms.unknown(ds, 0x0040A170, value)
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    assert b"Quisling" not in (out / report.name).read_bytes()
    after = pydicom.dcmread(out / report.name)
    assert after.PurposeOfReferenceCodeSequence[0].CodeValue == "121401"


def test_a_known_attribute_sent_as_unknown_gets_its_own_representation(
    make: Make, tmp_path: Path, out: Path
) -> None:
    ds = phantoms.image()
    phantoms.unknown(ds, 0x00180050, b"2.5 ")
    phantoms.unknown(ds, 0x00181000, b"SERIAL77123")
    phantoms.unknown(ds, 0x00080999, b"in no dictionary at all")
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    after = pydicom.dcmread(out / report.name)
    assert after["SliceThickness"].VR == "DS"
    assert after.SliceThickness == 2.5
    raw = (out / report.name).read_bytes()
    assert b"SERIAL77123" not in raw
    assert b"in no dictionary" not in raw


def report_object() -> pydicom.Dataset:
    ds = phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.88.33")
    del ds.PixelData

    def content(kind: str, code: str, meaning: str, **values: object) -> pydicom.Dataset:
        made = pydicom.Dataset()
        made.RelationshipType, made.ValueType = "CONTAINS", kind
        name = pydicom.Dataset()
        name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = code, "DCM", meaning
        made.ConceptNameCodeSequence = [name]
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return made

    unit, measured = pydicom.Dataset(), pydicom.Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mm", "UCUM", "millimeter"
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12.5", [unit]
    inner = content("TEXT", "121071", "Finding", TextValue="lesion of Quisling seen")
    ds.ContentSequence = [
        content("PNAME", "121008", "Person Observer Name", PersonName="Radiologist^Quisling"),
        content("TEXT", "121106", "Comment", TextValue="call 555 Quisling"),
        content("TEXT", "99999", "Local", TextValue="free Quisling"),
        content("DATETIME", "121125", "DateTime of Recording of Log Entry", DateTime="20180503101112"),
        content("DATE", "99998", "Local date", Date="20180503"),
        content("UIDREF", "112040", "Tracking Unique Identifier", UID=phantoms.ROOT + ".5"),
        content("NUM", "103355008", "Width", MeasuredValueSequence=[measured]),
        content("CONTAINER", "126000", "Imaging Measurement Report", ContentSequence=[inner]),
        content("QUISLING", "1", "Unknown kind", TextValue="Quisling"),
    ]
    return ds


def test_reports_keep_measurements_and_lose_what_people_wrote(make: Make, tmp_path: Path, out: Path) -> None:
    source = phantoms.write(report_object(), tmp_path / "sr.dcm")

    report = make().file(source, out)

    raw = (out / report.name).read_bytes()
    assert b"Quisling" not in raw
    assert b"QUISLING" not in raw
    assert b"20180503" not in raw
    assert phantoms.ROOT.encode() not in raw
    kept = pydicom.dcmread(out / report.name).ContentSequence
    kinds = [item.ValueType for item in kept]
    assert kinds == ["PNAME", "TEXT", "DATE", "UIDREF", "NUM", "CONTAINER"]
    assert kept[4].MeasuredValueSequence[0].NumericValue == 12.5
    assert kept[4].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    assert kept[5].ContentSequence[0].TextValue == "REMOVED"


def test_encapsulated_pixels_are_copied_byte_for_byte(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image(syntax="1.2.840.10008.1.2.4.50")
    fragments = [b"\xff\xd8" + bytes(range(200)) + b"\xff\xd9", b"\xff\xd8QZ\xff\xd9"]
    ds.PixelData = pydicom.encaps.encapsulate(fragments)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    assert pydicom.dcmread(out / report.name).PixelData == pydicom.dcmread(source).PixelData


@pytest.mark.shared
def test_planted_files_leak_nothing(make: Make, shared: Path, out: Path) -> None:
    import subprocess
    import sys

    folder = shared / "data" / "visible" / "phi_planted"
    sources = sorted(folder.glob("*.dcm"))

    report = deidentify_study(make(), sources, out)

    assert not report.failures
    assert len(list(out.iterdir())) == len(sources) == 3
    script = folder.parent / "check_canaries.py"
    done = subprocess.run([sys.executable, script, folder / "truth.csv", out], capture_output=True, text=True)  # noqa: PLW1510
    assert (done.returncode, ", 0 leaks" in done.stdout) == (0, True), done.stdout
    assert len((folder / "truth.csv").read_text().splitlines()) > 2000
    for source, file in zip(sources, report.files, strict=True):
        before, after = pydicom.dcmread(source), pydicom.dcmread(out / file.name)
        for keyword in ("Rows", "Columns", "BitsAllocated", "PixelData", "SOPClassUID", "Modality"):
            assert after[keyword].value == before[keyword].value, keyword
    assert verify_outputs(sources, out, make()).passed


def same_but_for_comments(after: bytes, before: bytes) -> bool:
    """Whether pixel data are the same; a compressed image may have lost its encoder's comment."""
    changed = [new for new, old in zip(after, before, strict=True) if new != old] if after != before else []
    return len(changed) < 64 and not any(changed)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["mr_siemens_fmap", "mr_ge_fmri", "mr_uih_dti", "ct_philips_axial", "transfer_syntaxes_ct"]
)
def test_real_series_keep_every_listed_science_and_pass_the_search(
    make: Make, shared: Path, out: Path, name: str
) -> None:
    from pydicom.datadict import dictionary_has_tag

    deidentifier = make(MODIFIED)
    folder = shared / "data" / "visible" / name
    sources = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "DIRFILE"][:20]

    report = deidentify_study(deidentifier, sources, out)

    assert not report.failures
    for source, file in zip(sources, report.files, strict=True):
        before, after = pydicom.dcmread(source), pydicom.dcmread(out / file.name)
        assert same_but_for_comments(after.PixelData, before.PixelData)
        for element in before:
            if deidentifier.profile.action(element.tag) == "keep" and dictionary_has_tag(element.tag):
                assert after[element.tag].value == element.value, element.tag
    verification = verify_outputs(sources, out, deidentifier)
    assert verification.findings == []
    assert len(verification.files) == len(sources)


def test_a_document_is_replaced_and_its_length_fits(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.104.1")
    del ds.PixelData
    ds.MIMETypeOfEncapsulatedDocument, ds.DocumentTitle = "application/pdf", "Letter about Wendelin Quisling"
    ds.EncapsulatedDocument, ds.EncapsulatedDocumentLength = b"%PDF-1.7 Quisling", 17
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    raw = (out / report.name).read_bytes()
    assert b"Quisling" not in raw
    after = pydicom.dcmread(out / report.name)
    assert after.EncapsulatedDocument.startswith(b"%PDF-")
    assert len(after.EncapsulatedDocument) - after.EncapsulatedDocumentLength in (0, 1)
    assert after.DocumentTitle == ""
    assert report.held == "encapsulated document"
    assert verify_outputs([source], out, make()).passed


def test_annotations_of_a_presentation_state_lose_their_text(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.11.1")
    del ds.PixelData
    note, shown, layer = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    note.UnformattedTextValue = "seen by Quisling"
    shown.GraphicLayer, shown.TextObjectSequence = "LAYER1", [note]
    layer.GraphicLayer, layer.GraphicLayerOrder = "LAYER1", 1
    ds.GraphicAnnotationSequence, ds.GraphicLayerSequence = [shown], [layer]
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    assert b"Quisling" not in (out / report.name).read_bytes()
    kept = pydicom.dcmread(out / report.name)
    assert (
        kept.GraphicAnnotationSequence[0].GraphicLayer
        == kept.GraphicLayerSequence[0].GraphicLayer
        == "LAYER1"
    )
    assert "TextObjectSequence" not in kept.GraphicAnnotationSequence[0]
    assert kept.GraphicAnnotationSequence[0].GraphicObjectSequence[0].NumberOfGraphicPoints == 1


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Bjørgård^Åse"),
        ("ISO_IR 192", "山田^太郎"),
        ("ISO_IR 144", "Иванова^Анна"),
        ("GB18030", "欧阳^小东"),
    ],
)
def test_names_in_any_character_set_are_found_in_kept_text(
    make: Make, tmp_path: Path, out: Path, charset: str, name: str
) -> None:
    ds = phantoms.image()
    ds.SpecificCharacterSet, ds.PatientName = charset, name
    ds.SoftwareVersions = f"for {name.partition('^')[0]} v2"
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    assert str(pydicom.dcmread(out / report.name).SoftwareVersions) == "for REMOVED v2"
    assert verify_outputs([source], out, make()).passed
