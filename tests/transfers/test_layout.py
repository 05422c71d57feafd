"""Names inside packages: from the headers, safe everywhere, never twice."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from fiona_dagster.errors import UnreadableDicom
from fiona_dagster.studies import InstanceHeader, read_instance
from fiona_dagster.studies.attributes import RECORD_TAGS
from fiona_dagster.studies.keeping import BASIC_TAGS
from fiona_dagster.transfers import layout
from fiona_dagster.transfers.layout import arcnames, lay_out, safe_component
from fiona_dagster.transfers.zipformat import is_safe_name


def _file(path: Path, **values: object) -> tuple[str, Path]:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    defaults = {
        "PatientID": "P001",
        "ClinicalTrialTimePointID": "Year 1",
        "Modality": "MR",
        "SeriesNumber": 3,
        "SeriesDescription": "T2 FLAIR/ax",
        "SeriesInstanceUID": "2.25.1",
        "InstanceNumber": 1,
        "SOPInstanceUID": f"2.25.9.{path.stem}",
    }
    for keyword, value in {**defaults, **values}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path.name, path


def test_template(tmp_path: Path) -> None:
    files = [_file(tmp_path / f"{n}", InstanceNumber=11 - n) for n in (1, 2)]

    assert [(name, path.name) for name, path in arcnames(files)] == [
        ("P001/Year_1/MR/003_T2_FLAIR_ax/00001.dcm", "2"),
        ("P001/Year_1/MR/003_T2_FLAIR_ax/00002.dcm", "1"),
    ]


def test_headers_are_read_without_a_search_for_cycles_and_it_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def note(path: Path, tags: frozenset[int]) -> InstanceHeader:
        seen.append(gc.isenabled())
        return read_instance(path, tags)

    monkeypatch.setattr(layout, "read_instance", note)
    files = [_file(tmp_path / "1"), _file(tmp_path / "2", InstanceNumber=2)]
    assert gc.isenabled()
    [series] = lay_out(files)
    assert seen[:2] == [False, False]
    assert gc.isenabled()
    assert set(series.files[1].header.elements) <= layout.TAGS | BASIC_TAGS
    (tmp_path / "2").write_bytes(b"no DICOM")
    with pytest.raises(UnreadableDicom):
        lay_out(files)
    assert gc.isenabled()


def test_the_first_header_of_a_series_has_what_its_record_holds(tmp_path: Path) -> None:
    files = [
        _file(tmp_path / f"{n}", InstanceNumber=4 - n, EchoTime="2.5", SliceLocation=f"{n}.0")
        for n in (1, 2, 3)
    ]
    [series] = lay_out(files)
    echo = RECORD_TAGS["EchoTime"]
    assert [file.path.name for file in series.files] == ["3", "2", "1"]
    assert [file.header.text(echo) for file in series.files] == ["2.5", "", ""]
    assert [file.header.text(layout.SLICE_LOCATION) for file in series.files] == ["3.0", "2.0", "1.0"]


def test_what_the_request_says_goes_before_the_headers(tmp_path: Path) -> None:
    [(name, _)] = arcnames([_file(tmp_path / "1")], participant="X-7", event="Baseline")
    assert name.startswith("X-7/Baseline/MR/")


def test_underscores_give_way_where_a_project_wants_it(tmp_path: Path) -> None:
    file = _file(tmp_path / "1", PatientID="P_001")
    [series] = lay_out([file], separator="-")
    assert series.folder == "P-001/Year-1/MR/003_T2-FLAIR-ax"


def test_missing_values_leave_no_hole(tmp_path: Path) -> None:
    nothing = dict.fromkeys(
        ["ClinicalTrialTimePointID", "SeriesDescription", "SeriesNumber", "InstanceNumber", "Modality"]
    )
    [(name, _)] = arcnames([_file(tmp_path / "1", **nothing)])
    assert name == "P001/OT/000/00001.dcm"


def test_series_with_equal_names_stay_apart_without_regard_to_case(tmp_path: Path) -> None:
    files = [
        _file(tmp_path / "1", SeriesInstanceUID="2.25.1"),
        _file(tmp_path / "2", SeriesInstanceUID="2.25.2"),
        _file(tmp_path / "3", SeriesInstanceUID="2.25.3", SeriesDescription="t2 flair/AX"),
    ]
    names = [name for name, _ in arcnames(files)]
    assert len({name.lower() for name in names}) == 3
    assert all(is_safe_name(name) for name in names)


def test_names_do_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    files = [_file(tmp_path / f"{n}", SeriesInstanceUID=f"2.25.{n % 3}") for n in range(1, 8)]
    assert arcnames(files) == arcnames(files[::-1])


def test_an_error_quotes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.write_bytes(b"Zyxomma^Quillfeather" * 20)
    with pytest.raises(UnreadableDicom) as caught:
        arcnames([("1", path)])
    assert "Zyx" not in str(caught.value)


@given(st.text())
def test_components_are_safe_whatever_comes(text: str) -> None:
    component = safe_component(text, "x")
    assert is_safe_name(component)
