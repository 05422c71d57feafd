"""Structured reports by concept, graphics, and what a project does with kinds of objects."""

from __future__ import annotations

import base64
import gzip
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydantic import ValidationError

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, deidentify_study, verify_outputs
from fiona_dagster.deid.searchable import is_searchable
from fiona_dagster.transfers.left_out import hold_back
from tests.deid import phantoms

SR, PR, PDF = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.104.1"


def deidentifier(**more: Any) -> Deidentifier:
    project = ProjectSettings.model_validate({"name": "DEMO", **more})
    return Deidentifier(
        project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_0001", "Baseline")
    )


def item(kind: str, code: tuple[str, str, str], **values: Any) -> pydicom.Dataset:
    made, name = pydicom.Dataset(), pydicom.Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = code
    made.RelationshipType, made.ValueType, made.ConceptNameCodeSequence = "CONTAINS", kind, [name]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def report() -> pydicom.Dataset:
    ds = phantoms.image(sop_class=SR)
    ds.InstitutionName = "Olga Sykehus"
    ds.ValueType = "CONTAINER"
    measured = pydicom.Dataset()
    measured.NumericValue = "42"
    ds.ContentSequence = [
        item("TEXT", ("121071", "DCM", "Finding"), TextValue="Nodule, Mrs Quisling, seen 03.05.2018"),
        item("PNAME", ("121008", "DCM", "Person Observer Name"), PersonName="Hofstadter^Gudrun"),
        item("DATETIME", ("121125", "DCM", "DateTime of Recording"), DateTime="20180503101112"),
        item("UIDREF", ("121012", "DCM", "Device Observer UID"), UID=phantoms.ROOT + ".66"),
        item("NUM", ("118565006", "SCT", "Volume"), MeasuredValueSequence=[measured]),
        item("TEXT", ("121022", "DCM", "Accession Number"), TextValue="ACC4455667"),
    ]
    return ds


def through(
    tmp_path: Path, ds: pydicom.Dataset, **more: Any
) -> tuple[dict[str, pydicom.Dataset], pydicom.Dataset]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    source = phantoms.write(ds, tmp_path / "in.dcm")
    done = deidentifier(**more).file(source, out)
    assert verify_outputs([source], out, deidentifier(**more)).findings == []
    copy = pydicom.dcmread(out / done.name)
    content = copy.get("ContentSequence", [])
    return {i.ConceptNameCodeSequence[0].CodeValue: i for i in content}, copy


def test_without_the_option_text_is_a_dummy_and_numbers_stay(tmp_path: Path) -> None:
    items, _ = through(tmp_path, report())

    assert items["121071"].TextValue == "REMOVED"
    assert items["118565006"].MeasuredValueSequence[0].NumericValue == 42
    assert "121022" not in items


def test_with_options_each_concept_is_treated_by_its_columns(tmp_path: Path) -> None:
    items, _ = through(
        tmp_path,
        report(),
        options=["clean_structured_content", "clean_descriptors", "retain_long_full_dates", "retain_uids"],
    )

    assert items["121071"].TextValue == "Nodule, Mrs REMOVED, seen 03.05.2018"
    assert "121008" not in items or "Hofstadter" not in str(items["121008"].PersonName)
    assert items["121125"].DateTime == "20180503101112"
    assert items["121012"].UID == phantoms.ROOT + ".66"
    assert "121022" not in items


@pytest.mark.parametrize("kind", ["DATE", "DATETIME"])
def test_a_birth_date_under_a_concept_of_its_own_blocks_where_dates_are_kept(
    tmp_path: Path, kind: str
) -> None:
    ds = report()
    day = str(ds.PatientBirthDate)
    value = {"DATE": {"Date": day}, "DATETIME": {"DateTime": f"{day}120000"}}[kind]
    ds.ContentSequence.append(item(kind, ("21112-8", "LN", "Birth date"), **value))
    out = tmp_path / "out"
    out.mkdir()
    source = phantoms.write(ds, tmp_path / "in.dcm")
    by_day = deidentifier(options=["retain_long_full_dates"])
    by_day.file(source, out)
    assert verify_outputs([source], out, by_day).findings


def test_graphics_keep_their_shapes_and_lose_the_name(tmp_path: Path) -> None:
    ds = phantoms.image(sop_class=PR)
    text, shape, note = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    text.UnformattedTextValue, text.BoundingBoxAnnotationUnits = "lesion of Quisling", "PIXEL"
    shape.GraphicData, shape.GraphicType, shape.GraphicDimensions = [1.0, 2.0, 3.0, 4.0], "POLYLINE", 2
    note.TextObjectSequence, note.GraphicObjectSequence, note.GraphicLayer = [text], [shape], "LAYER1"
    ds.GraphicAnnotationSequence = [note]

    _, plain = through(tmp_path, ds)
    _, copy = through(tmp_path, ds, options=["clean_graphics"])

    assert "TextObjectSequence" not in plain.GraphicAnnotationSequence[0]
    kept = copy.GraphicAnnotationSequence[0]
    assert kept.GraphicObjectSequence[0].GraphicData == [1.0, 2.0, 3.0, 4.0]
    assert kept.TextObjectSequence[0].UnformattedTextValue == "lesion of REMOVED"


def document() -> pydicom.Dataset:
    ds = phantoms.image(sop_class=PDF)
    ds.EncapsulatedDocument, ds.MIMETypeOfEncapsulatedDocument = b"%PDF-1.4 plain words", "application/pdf"
    return ds


def test_a_document_stays_only_if_the_project_keeps_documents(tmp_path: Path) -> None:
    assert b"plain words" not in through(tmp_path, document())[1].EncapsulatedDocument
    cleaned = through(tmp_path, document(), kinds={"encapsulated_document": "clean"})[1]
    assert b"plain words" not in cleaned.EncapsulatedDocument
    kept = through(tmp_path, document(), kinds={"encapsulated_document": "keep"})[1]
    assert b"plain words" in kept.EncapsulatedDocument


WORDS = b"<?xml version='1.0'?><observation>knee, left</observation>" * 20
PICTURE = base64.encodebytes(bytes(range(256)) * 4)


@pytest.mark.parametrize(
    ("value", "searchable"),
    [
        (WORDS, True),
        ("knæ".encode() * 50, True),
        ("knæ".encode("latin-1") * 50 + b"\0", True),
        ("\ufeffknee".encode("utf-16-le"), False),
        (base64.b64encode(WORDS), True),  # it is looked into
        (b"%PDF-1.4 plain words", False),
        (b"\xef\xbb\xbf %PDF-1.4 plain words", False),
        (rb"{\rtf1 plain words}", False),
        (zlib.compress(WORDS), False),
        (gzip.compress(WORDS, mtime=0), False),
        (b"solid \0\1\2\3", False),
        (b"<image>" + PICTURE + b"</image>", False),
        (b"<image>" + PICTURE.replace(b"\n", b"") + b"</image>", False),
        (b"<page>" + base64.b64encode(b"%PDF-1.4 plain words " * 20) + b"</page>", False),
    ],
)
def test_only_text_can_be_searched(value: bytes, searchable: bool) -> None:
    assert is_searchable(0x00420011, value) is searchable


def test_what_stays_and_can_t_be_searched_is_told(tmp_path: Path) -> None:
    """Documents that the project keeps, and files in private values that it vouches for."""
    hidden: list[tuple[pydicom.Dataset, dict[str, Any]]] = []
    for vr in ("OB", "OF", "OD", "OL", "OV"):  # whoever wrote the file chose the VR
        hidden.append((document(), {"kinds": {"encapsulated_document": "keep"}}))
        words = hidden[-1][0].EncapsulatedDocument
        hidden[-1][0][0x00420011] = pydicom.DataElement(0x00420011, vr, words + bytes(-len(words) % 8))
    pdf = base64.b64encode(b"%PDF-1.4 " + bytes(range(256)) * 2).decode()
    for vr, value in (("OB", gzip.compress(b"Quisling")), ("OF", b"%PDF-1.4 xyz"), ("UT", f"scan: {pdf}")):
        hidden.append((phantoms.image(), KEPT_PRIVATE))
        hidden[-1][0].private_block(0x0099, "ACME", create=True).add_new(1, vr, value)
    for number, (ds, more) in enumerate(hidden):
        folder = tmp_path / str(number)
        (folder / "out").mkdir(parents=True)
        source = phantoms.write(ds, folder / "in.dcm")
        made = deidentifier(**more)
        made.file(source, folder / "out")
        verified = verify_outputs([source], folder / "out", made)
        assert (verified.findings, verified.unsearchable) == ([], 1)


KEPT_PRIVATE = {"rules": [{"tag": "0099,xx01", "creator": "ACME", "action": "keep"}]}


@pytest.mark.parametrize(
    ("ds", "more", "left_out"),
    [
        (report(), {}, ""),
        (report(), {"kinds": {"structured_report": "drop"}}, "structured report"),
        (report(), {"kinds": {"structured_report": "clean"}}, ""),
        (document(), {}, "encapsulated document"),
        (phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.7"), {}, "secondary capture"),
        (phantoms.image(sop_class=PR), {"kinds": {"presentation_state": "hold"}}, "presentation state"),
    ],
)
def test_kinds_are_left_out_as_the_project_says(
    tmp_path: Path, out: Path, ds: pydicom.Dataset, more: dict[str, Any], left_out: str
) -> None:
    source = phantoms.write(ds, tmp_path / "in.dcm")

    assert deidentifier(**more).file(source, out).held == left_out


def test_pixels_can_not_be_cleaned_yet() -> None:
    with pytest.raises(ValidationError, match="pixels can't be cleaned yet"):
        deidentifier(kinds={"ultrasound": "clean"})


def test_what_is_dropped_is_named_apart_from_what_is_held(tmp_path: Path, out: Path) -> None:
    project = {"kinds": {"structured_report": "drop", "ultrasound": "keep"}}
    objects = [
        report(),
        document(),
        phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.6.1"),
        phantoms.image(),
    ]
    sources = []
    for number, ds in enumerate(objects):
        ds.SOPInstanceUID = f"{phantoms.ROOT}.3.{number + 1}"
        sources.append(phantoms.write(ds, tmp_path / f"{number}.dcm"))
    made = deidentifier(**project)

    kinds = hold_back(deidentify_study(made, sources, out), out, made.project)

    assert kinds == ["structured_report, dropped", "encapsulated_document", "", ""]
    assert len(list(out.iterdir())) == 2
