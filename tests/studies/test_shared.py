"""The same on other people's files."""

from __future__ import annotations

import csv
import resource
import shutil
import time
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom import config

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.studies import (
    build_series_records,
    classify_paths,
    default_rules,
    flags,
    read_instance,
    scan_study,
    write_raw_tree,
)
from fiona_dagster.studies.values import printed

pytestmark = pytest.mark.shared

PIXEL_DATA = 0x7FE00010
BINARY = ("SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN")


@pytest.fixture
def visible(shared: Path) -> Path:
    return shared / "data" / "visible"


def types_of(path: Path) -> list[list[str]]:
    return [record["ClassifyType"] for record in classify_paths([path], default_rules()).records]


@pytest.mark.parametrize(
    ("folder", "count", "expected", "unexpected"),
    [
        (
            "mr_siemens_fmap",
            4,
            {"SIEMENS", "MR", "original", "mosaic", "axial", "functional"},
            {"CT", "localizer"},
        ),
        ("mr_ge_fmri", 1, {"GE", "MR", "original", "axial", "functional"}, {"diffusion", "mosaic"}),
        ("mr_philips_fmri", 1, {"PHILIPS", "MR", "original", "axial", "functional"}, {"GE", "mosaic"}),
        ("mr_uih_dti", 1, {"UIH", "MR", "original", "axial", "diffusion"}, {"functional"}),
        ("mr_ge_genesis_implicit", 1, {"GE", "MR", "original", "coronal"}, {"axial"}),
        ("ct_ge_tilt", 1, {"GE", "CT", "original", "axial"}, {"MR", "derived"}),
        ("ct_philips_axial", 1, {"PHILIPS", "CT", "original", "axial"}, {"oblique"}),
        ("pydicom_test_files/MR_small.dcm", 1, {"CANON", "MR", "derived", "axial"}, {"GE", "oblique"}),
        ("us_burned_in_synthetic", 4, {"ultrasound"}, {"screenshot"}),
        ("encapsulated_pdf", 1, {"document"}, {"CT"}),
    ],
)
def test_our_own_rules_on_real_series(
    visible: Path, folder: str, count: int, expected: set[str], unexpected: set[str]
) -> None:
    found = types_of(visible / folder)

    assert len(found) == count
    for types in found:
        assert expected <= set(types)
        assert not unexpected & set(types)


@pytest.mark.parametrize(
    ("folder", "group", "creator", "lows"),
    [
        ("mr_ge_fmri", 0x19, "GEMS_ACQU_01", {"PulseSequenceName": 0x9C, "Private0019_105a": 0x5A}),
        ("mr_ge_fmri", 0x19, "GEMS_ACQU_01", {"Private0019_10BB": 0xBB}),
        ("mr_ge_fmri", 0x21, "GEMS_RELA_01", {"Slices": 0x4F}),
        ("mr_ge_fmri", 0x43, "GEMS_PARM_01", {"Private0043_1039": 0x39}),
        ("mr_philips_fmri", 0x2001, "Philips Imaging DD 001", {"SequenceType": 0x20}),
        ("mr_siemens_fmap", 0x51, "SIEMENS MR HEADER", {"AcquisitionLength": 0x0A, "ActiveCoils": 0x0F}),
    ],
)
def test_private_values_are_those_that_pydicom_finds(
    visible: Path, folder: str, group: int, creator: str, lows: dict[str, int]
) -> None:
    for record in classify_paths([visible / folder], default_rules()).records:
        first = next(
            ds
            for path in sorted((visible / folder).rglob("*"))
            if path.is_file()
            and (ds := pydicom.dcmread(path, stop_before_pixels=True, force=True)).get("SeriesInstanceUID")
            == record["SeriesInstanceUID"]
            and str(ds.InstanceNumber) == record["InstanceNumber"]
        )
        block = first.private_block(group, creator)
        assert {key: str(record[key]) for key in lows} == {
            key: str(block[low].value) for key, low in lows.items()
        }


def test_localizers_scouts_reports_and_captures(visible: Path) -> None:
    tests = visible / "pydicom_test_files"
    found = {name: set(types_of(tests / name)[0]) for name in ("reportsi.dcm", "SC_rgb_rle.dcm")}

    assert found["reportsi.dcm"] == {"structured report"}
    assert "screenshot" in found["SC_rgb_rle.dcm"]
    pilots = [
        record["ClassifyType"]
        for record in classify_paths([tests], default_rules()).records
        if "PILOT" in str(record.get("SeriesDescription")) or record.get("SeriesDescription") == "Scout"
    ]
    assert len(pilots) == 3
    assert all("localizer" in types for types in pilots)


def test_every_readable_file_reads_as_pydicom_reads_it(visible: Path) -> None:
    compared = 0
    for path in sorted(visible.rglob("*")):
        if not path.is_file() or path.parent.name == "broken":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config.settings.reading_validation_mode = config.IGNORE
            try:
                ds = pydicom.dcmread(path, stop_before_pixels=True)
            except pydicom.errors.InvalidDicomError:
                continue
            header = read_instance(path)
            tags = {int(tag) for tag in ds.keys()}  # noqa: SIM118 - a data set iterates over its elements
            assert tags - set(header.elements) == set(), path
            for tag in tags:
                if ds[tag].VR[:2] in BINARY or ds[tag].VM == 0:
                    continue
                value = header.value(tag)
                if value == ():
                    continue  # a long value that isn't kept
                theirs = str(ds[tag].value)
                assert printed(() if value is None else value).replace(" ", "") == theirs.replace(" ", ""), (
                    path,
                    hex(tag),
                )
                compared += 1

    assert compared > 50_000


BROKEN = {
    "deflate_bomb_200MiB.dcm": "inflated_too_large",
    "empty.dcm": "empty_file",
    "html_error_page.dcm": "not_dicom",
    "meta_mismatch.dcm": "meta_disagrees",
    "nested_5000_deep.dcm": "nested_too_deep",
    "nested_600_deep.dcm": "nested_too_deep",
    "pixel_length_huge.dcm": "truncated_pixel_data",
    "pixels_short.dcm": "pixel_data_short",
    "preamble_only.dcm": "truncated",
    "transfer_syntax_lies.dcm": "transfer_syntax_lies",
    "transfer_syntax_unknown.dcm": "transfer_syntax_unknown",
    "trunc_dataset.dcm": "truncated",
    "trunc_header.dcm": "truncated",
    "trunc_last_byte.dcm": "truncated",
    "trunc_pixels.dcm": "truncated_pixel_data",
}


def test_broken_files_do_no_harm_and_are_named(visible: Path) -> None:
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for row in csv.DictReader((visible / "broken" / "expected.csv").read_text().splitlines()):
        damage = read_instance(visible / "broken" / row["file"]).damage
        expected = BROKEN.get(row["file"])
        assert damage == ([expected] if expected else []), row["file"]

    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_real_files_are_not_called_damaged(visible: Path) -> None:
    damaged = []
    for folder in ("mr_", "ct_", "us_", "transfer_syntaxes_ct", "phi_planted", "encapsulated_pdf"):
        for path in (path for path in visible.glob(f"{folder}*/**/*") if path.is_file()):
            damage = read_instance(path).damage
            if damage and damage != ["not_dicom"]:
                damaged.append((path.name, damage))

    assert damaged == []


def test_broken_files_as_an_archive(visible: Path, root: DataRoot) -> None:
    for path in sorted((visible / "broken").glob("*.dcm")):
        header = read_instance(path)
        if is_uid(header.study) and is_uid(header.sop_instance):
            folder = root.archive / f"scp_{header.study}"
            folder.mkdir(exist_ok=True)
            shutil.copy(path, folder / f"{path.stem}.{header.sop_instance}")

    found = set()
    for folder in sorted(root.archive.iterdir()):
        contents = scan_study(root, folder.name.removeprefix("scp_"))
        write_raw_tree(root, contents, build_series_records(contents, default_rules()))
        found.update(flags(root, contents))

    assert found == {"two_patients", "damaged_instances"}
    links = [path for path in root.raw.rglob("*") if path.is_symlink()]
    assert len(links) > 5
    assert all(root.archive.resolve() in link.resolve().parents for link in links)


def test_a_thousand_headers_in_a_few_seconds(visible: Path) -> None:
    paths = sorted((visible / "ct_philips_axial").glob("*"))
    began = time.process_time()

    for number in range(1000):
        read_instance(paths[number % len(paths)])

    assert time.process_time() - began < 10  # measured: 0.7 s on an idle machine
