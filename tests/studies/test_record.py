"""The series record and the fields for REDCap."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.config import DataRoot
from fiona_dagster.studies import (
    build_series_records,
    incoming_fields,
    parse_rules,
    read_instance,
    scan_study,
)
from fiona_dagster.studies.contents import collect
from tests.studies.builders import SERIES, STUDY, archive, dataset, save

RULES = parse_rules(
    json.dumps(
        [
            {"type": "first", "rules": [{"tag": ["InstanceNumber"], "operator": "==", "value": "1"}]},
            {"type": "thick", "rules": [{"tag": ["SliceThickness"], "operator": ">", "value": "2"}]},
        ]
    ),
    "rules",
)
NO_ADDRESS = "0.0.0.0"  # noqa: S104 - the original's word for none
CONNECTION = {"AETitleCaller": 'MR "1"\\', "AETitleCalled": "FIONA", "CallerIP": ""}


def record_of(root: DataRoot, *datasets: Any) -> dict[str, Any]:
    for ds in datasets:
        archive(root, ds)
    return build_series_records(scan_study(root, STUDY), RULES, CONNECTION)[SERIES]


def full(sop: str, **more: Any) -> Any:
    ds = dataset(
        sop,
        Manufacturer="SIEMENS",
        ImageType=["ORIGINAL", "PRIMARY", "M"],
        AcquisitionMatrix=[0, 256, 256, 0],
        EchoTime="2.50",
        SoftwareVersions="release:25_x",
        SeriesDescription="Schädel",
        SpecificCharacterSet="ISO_IR 192",
        SeriesNumber="7",
        StudyDescription="",
        **more,
    )
    for tag, vr, value in (
        (0x00190010, "LO", "GEMS_ACQU_01"),
        (0x0019109C, "LO", "research/ABCD/muxepi"),
        (0x0019105A, "FL", 312800384.0),
        (0x00430010, "LO", "GEMS_PARM_01"),
        (0x00431039, "IS", ["1000", "8", "0", "0"]),
        (0x00510010, "LO", "SIEMENS MR HEADER"),
        (0x0051100A, "LO", "TA 05:11"),
        (0x0051100F, "LO", "HEA;HEP"),
        (0x20010010, "LO", "Philips Imaging DD 001"),
        (0x20011020, "LO", "SEEPI"),
    ):
        ds.add_new(tag, vr, value)
    return ds


def test_values_look_as_the_original_prints_them(root: DataRoot) -> None:
    record = record_of(root, full(SERIES + ".1", InstanceNumber="1", SliceLocation="-5.0"))

    assert record == {
        "AcquisitionLength": "TA 05:11",
        "AcquisitionMatrix": "[0, 256, 256, 0]",
        "ActiveCoils": "HEA;HEP",
        "ClassifyType": ["first"],
        "EchoTime": "2.50",
        "ImageType": "['ORIGINAL', 'PRIMARY', 'M']",
        "IncomingConnection": {"AETitleCaller": "MR1", "AETitleCalled": "FIONA", "CallerIP": NO_ADDRESS},
        "InstanceNumber": "1",
        "Manufacturer": "SIEMENS",
        "Modality": "CT",
        "NumFiles": "1",
        "OSLevel": "25",
        "PatientID": "PID-1",
        "PatientName": "Muster^Erika",
        "Private0019_105a": "312800384.0",
        "Private0043_1039": [1000, 8, 0, 0],
        "PulseSequenceName": "research/ABCD/muxepi",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SequenceType": "SEEPI",
        "SeriesDescription": "Schädel",
        "SeriesInstanceUID": SERIES,
        "SeriesNumber": "7",
        "SliceLocation": "-5.0",
        "SoftwareVersion": "release:25_x",
        "StudyDate": "20260102",
        "StudyDescription": "",
        "StudyInstanceUID": STUDY,
        "StudyTime": "030405",
    }
    assert list(record) == sorted(record)
    assert "PatientBirthDate" not in record


def test_files_without_connection_say_unknown(root: DataRoot) -> None:
    archive(root, dataset())

    record = build_series_records(scan_study(root, STUDY), RULES)[SERIES]

    assert set(record["IncomingConnection"].values()) == {"unknown"}


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=6))
def test_the_record_is_the_same_whatever_the_order_and_repetition_of_arrivals(
    order: list[int], repeated: list[int]
) -> None:
    headers = [copy.deepcopy(HEADERS[i]) for i in (*order, *repeated)]

    contents = collect(STUDY, headers)

    assert build_series_records(contents, RULES, CONNECTION) == EXPECTED
    assert EXPECTED[SERIES]["NumFiles"] == "4"
    assert EXPECTED[SERIES]["InstanceNumber"] == "1"
    assert EXPECTED[SERIES]["SliceLocation"] == "-20.50"
    assert EXPECTED[SERIES]["ClassifyType"] == ["first", "thick"]
    assert EXPECTED[SERIES]["ValuesDiffer"] == ["SliceThickness"]
    assert "ValuesDiffer" not in EXPECTED["1.2.8"]


def test_values_of_siemens_own_headers_that_differ_are_marked(root: DataRoot) -> None:
    for number in (1, 2):
        archive(root, dataset(f"{SERIES}.{number}"))
    contents = scan_study(root, STUDY)
    for number, header in enumerate(contents.series[SERIES], 1):
        header.say(
            {"MeasID": "4", "PhaseEncodingDirectionPositive": str(number % 2), "OSLevel": f"VE{number}"}
        )
    record = build_series_records(contents, RULES)[SERIES]

    assert record["ValuesDiffer"] == ["OSLevel", "PhaseEncodingDirectionPositive"]
    assert (record["MeasID"], record["PhaseEncodingDirectionPositive"]) == ("4", "1")


def _headers() -> list[Any]:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    values = [("1", 3, "10"), ("2", 1, "3.0"), ("3", 1, "-20.50"), ("4", 2, "100")]
    found = [
        read_instance(
            save(
                dataset(f"{SERIES}.{n}", InstanceNumber=number, SliceLocation=place, SliceThickness=n),
                folder / n,
            )
        )
        for n, number, place in values
    ]
    return [*found, read_instance(save(dataset("1.2.9", SeriesInstanceUID="1.2.8"), folder / "5"))]


HEADERS = _headers()
EXPECTED = build_series_records(collect(STUDY, HEADERS), RULES, CONNECTION)


def test_fields_for_redcap(root: DataRoot) -> None:
    archive(
        root,
        full(
            SERIES + ".1",
            InstanceNumber="1",
            SliceThickness=3,
            SeriesDate="20260103",
            SeriesTime="010203",
            AccessionNumber="ACC",
            SequenceName="ep_b0",
        ),
    )
    archive(root, dataset("1.2.9", SeriesInstanceUID="1.2.8", InstitutionName="Klinik", SeriesNumber="2"))
    contents = scan_study(root, STUDY)

    study, series = incoming_fields(
        contents, build_series_records(contents, RULES, CONNECTION), calling_ae="MR 1", called_ae="FIONA"
    )

    assert study == {
        "study_instance_uid": STUDY,
        "study_institution_name": "Klinik",
        "study_aetitle_sender": "MR 1",
        "study_aetitle_addressed": "FIONA",
        "study_patient_name": "Muster^Erika",
        "study_patient_id": "PID-1",
        "study_description": "",
        "study_date": "20260102",
        "study_time": "030405",
        "study_accession_number": "ACC",
    }
    assert [row["series_instance_uid"] for row in series] == ["1.2.8", SERIES]
    assert series[1] == {
        "series_instance_uid": SERIES,
        "series_description": "Schädel",
        "series_date": "20260103",
        "series_time": "010203",
        "series_num_files": "1",
        "series_sequence_name": "ep_b0",
        "series_classify_types": "first, thick",
    }
