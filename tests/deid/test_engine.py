"""Determinism, references, dates, refusals."""

from __future__ import annotations

import resource
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiona_dagster.deid import deidentify_study, verify_outputs
from fiona_dagster.deid.elements import FileRange
from fiona_dagster.deid.encoding import encode, flat
from fiona_dagster.deid.files import opened
from fiona_dagster.deid.reading import elements, read_header
from fiona_dagster.dicom.walker import MAX_DEPTH
from fiona_dagster.errors import FionaError, RefusedDicom, UnreadableDicom
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import BIG, DEFLATED, EXPLICIT, IMPLICIT

MODIFIED = "retain_long_modified_dates"
NO_FIXTURE_RESET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_the_same_input_twice_gives_the_same_bytes(
    make: Make, tmp_path: Path, out: Path, syntax: str
) -> None:
    source = phantoms.write(phantoms.planted(phantoms.Canaries(), syntax), tmp_path / "in.dcm")

    first = make(MODIFIED).file(source, out / "a.dcm")
    deidentifier = make(MODIFIED)
    deidentifier.file(phantoms.write(phantoms.image(5), tmp_path / "other.dcm"), out / "o.dcm")
    second = deidentifier.file(source, out / "b.dcm")

    assert first.size == second.size
    assert (out / "a.dcm").read_bytes() == (out / "b.dcm").read_bytes()


def test_references_between_files_keep_pointing(make: Make, tmp_path: Path, out: Path) -> None:
    target, pointing = phantoms.image(1), phantoms.image(2)
    reference, series = pydicom.Dataset(), pydicom.Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = phantoms.CT, target.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = phantoms.SERIES, [reference]
    pointing.ReferencedSeriesSequence = [series]
    sources = [phantoms.write(ds, tmp_path / f"{n}.dcm") for n, ds in enumerate((target, pointing))]

    report = deidentify_study(make(), sources, out)

    one, two = (pydicom.dcmread(out / file.name) for file in report.files)
    kept = two.ReferencedSeriesSequence[0]
    assert kept.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert kept.ReferencedInstanceSequence[0].ReferencedSOPClassUID == phantoms.CT
    assert kept.SeriesInstanceUID == one.SeriesInstanceUID
    assert one.StudyInstanceUID == two.StudyInstanceUID == make().map_uid(phantoms.STUDY)
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID


def test_well_known_uids_stay(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # Talairach

    report = make().file(phantoms.write(ds, tmp_path / "in.dcm"), out)

    assert pydicom.dcmread(out / report.name).FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"


def test_dates_move_together_and_times_stay(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.SeriesDate, ds.ContentDate, ds.AcquisitionDateTime = "May 3rd", "201805", "20180504000501.25+0200"

    report = make(MODIFIED).file(phantoms.write(ds, tmp_path / "in.dcm"), out)

    after = pydicom.dcmread(out / report.name)
    days = [pydicom.valuerep.DA(value) for value in (after.StudyDate, after.AcquisitionDate)]
    assert (days[1] - days[0]).days == 1
    assert after.StudyDate != "20180503"
    assert (after.StudyTime, after.AcquisitionTime) == ("101112", "000501.250000")
    assert after.AcquisitionDateTime == after.AcquisitionDate + "000501.25+0200"
    assert "SeriesDate" not in after
    assert after.ContentDate == ""
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [item.CodeValue for item in after.DeidentificationMethodCodeSequence] == ["113100", "113107"]
    assert after.PatientBirthDate == ""


def test_participants_with_letters_beyond_ascii(make: Make, tmp_path: Path, out: Path) -> None:
    deidentifier = make(event="Måned 3")

    plain = deidentifier.file(phantoms.write(phantoms.image(1), tmp_path / "a.dcm"), out)
    latin = phantoms.image(2)
    latin.SpecificCharacterSet = "ISO_IR 100"
    western = deidentifier.file(phantoms.write(latin, tmp_path / "b.dcm"), out)

    for report in (plain, western):
        assert pydicom.dcmread(out / report.name).ClinicalTrialTimePointID == "Måned 3"


def nested(depth: int) -> pydicom.Dataset:
    inner = pydicom.Dataset()
    inner.PatientName = "Deep^Quisling"
    for _ in range(depth):
        outer = pydicom.Dataset()
        outer.DerivationCodeSequence = [inner]
        inner = outer
    ds = phantoms.image()
    ds.update(inner)
    return ds


def test_nesting_is_cleaned_up_to_the_limit_and_refused_beyond(make: Make, tmp_path: Path, out: Path) -> None:
    at_limit = phantoms.write(nested(MAX_DEPTH), tmp_path / "in.dcm")
    beyond = phantoms.write(nested(MAX_DEPTH + 1), tmp_path / "deep.dcm")

    report = make().file(at_limit, out)

    assert b"Quisling" not in (out / report.name).read_bytes()
    with pytest.raises(RefusedDicom, match="nested deeper"):
        make().file(beyond, out)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_a_file_that_is_cut_anywhere_leaves_no_partial_copy(
    make: Make, tmp_path: Path, out: Path, syntax: str
) -> None:
    whole = phantoms.write(phantoms.image(1, syntax), tmp_path / "in.dcm").read_bytes()
    cut = tmp_path / "cut.dcm"
    deidentifier = make()

    for length in (*range(0, len(whole) - 1, 7), len(whole) - 1):
        cut.write_bytes(whole[:length])
        try:
            report = deidentifier.file(cut, out / "copy.dcm")
        except FionaError:
            assert list(out.iterdir()) == []
            continue
        # only a cut between two elements can't be told from a shorter object
        after = pydicom.dcmread(out / report.name)
        assert after.get("PixelData") in (None, bytes(range(64)) * 2)
        (out / report.name).unlink()


@NO_FIXTURE_RESET
@given(data=st.data())
def test_damaged_bytes_are_an_error_of_ours_or_a_clean_copy(
    make: Make, tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(phantoms.write(phantoms.planted(phantoms.Canaries()), tmp_path / "in.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(132, len(whole) - 1))] = data.draw(st.integers(0, 255))
    source = tmp_path / "damaged.dcm"
    source.write_bytes(whole)

    message = ""
    try:
        make().file(source, tmp_path / "copy.dcm")
    except (UnreadableDicom, RefusedDicom) as error:
        message = str(error)

    assert "QZCAN" not in message
    assert "Quisling" not in message


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_reading_and_writing_change_nothing(tmp_path: Path, syntax: str) -> None:
    source = phantoms.write(phantoms.planted(phantoms.Canaries(), syntax), tmp_path / "in.dcm")

    with opened(source, lambda _tag: False) as found:
        chunks = list(flat(encode(found.elements, found.implicit, found.little)))

    raw = source.read_bytes()
    written = b"".join(
        raw[chunk.start : chunk.start + chunk.length] if isinstance(chunk, FileRange) else chunk
        for chunk in chunks
    )
    meta = raw[: 144 + int.from_bytes(raw[140:144], "little")]
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(meta + written)
    # what follows the pixel data (signatures, padding) is not read
    before, after = (
        [(e.path, e.tag, e.value.rstrip(b"\0 ")) for e in elements(read_header(p))] for p in (source, copy)
    )
    assert len(before) > 700
    assert after == before
    assert pydicom.dcmread(copy).PixelData == pydicom.dcmread(source).PixelData


def test_reports_hold_nothing_identifying(make: Make, tmp_path: Path, out: Path) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "Quisling_ZX83015577.dcm")
    broken = tmp_path / "Wendelin.dcm"
    broken.write_bytes(source.read_bytes()[:700])
    deidentifier = make()

    report = deidentify_study(deidentifier, [source, broken], out)
    verification = verify_outputs([source, broken], out, deidentifier)

    shown = f"{report.to_json()} {verification.to_json()}"
    for value in ("Quisling", "ZX83015577", "Wendelin", "SUBJ_0001", "Baseline", phantoms.ROOT, "20180503"):
        assert value not in shown
    assert [failure.number for failure in report.failures] == [2]
    assert deidentifier.key.fingerprint in shown


def test_two_inputs_with_one_uid_give_two_files(make: Make, tmp_path: Path, out: Path) -> None:
    sources = [phantoms.write(phantoms.image(1), tmp_path / name) for name in ("a.dcm", "b.dcm")]

    report = deidentify_study(make(), sources, out)

    assert len({file.name for file in report.files}) == len(list(out.iterdir())) == 2
    assert verify_outputs(sources, out, make()).passed


def test_an_unusual_order_is_put_right(make: Make, tmp_path: Path, out: Path) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    raw = source.read_bytes()
    modality = b"\x08\x00\x60\x00CS\x02\x00CT"
    assert modality in raw
    source.write_bytes(
        raw.replace(modality, b"").replace(b"\x28\x00\x02\x00US", modality + b"\x28\x00\x02\x00US")
    )

    report = make().file(source, out)

    tags = [int(e.tag) for e in pydicom.dcmread(out / report.name)]
    assert tags == sorted(tags)
    assert 0x00080060 in tags


@pytest.mark.shared
def test_every_visible_file_is_copied_or_refused_within_bounds(make: Make, shared: Path, out: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sources = [p for p in sorted((shared / "data" / "visible").rglob("*")) if p.is_file()]

    report = deidentify_study(make(MODIFIED), sources, out)

    assert len(report.files) + len(report.failures) == len(sources)
    assert len(report.files) > 500
    failed = {sources[failure.number - 1].name for failure in report.failures}
    must_fail = (
        "trunc_header trunc_dataset trunc_pixels trunc_last_byte empty pixel_length_huge nested_5000_deep"
    )
    assert {f"{name}.dcm" for name in must_fail.split()} <= failed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KiB
    assert verify_outputs(sources, out, make(MODIFIED)).findings == []
