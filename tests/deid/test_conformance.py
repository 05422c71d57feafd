"""dciodvfy (dicom3tools) reports no error of a copy that it does not report of the original."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest

from fiona_dagster.deid.conditions import unmet
from fiona_dagster.deid.elements import Element
from fiona_dagster.errors import FionaError
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.peers_fixtures import program

OPTIONS = [
    (),
    (
        "retain_long_modified_dates",
        "clean_descriptors",
        "clean_structured_content",
        "clean_graphics",
        "retain_safe_private",
    ),
    ("retain_uids", "retain_long_full_dates", "retain_device_identity"),
]
_VALUES = re.compile(r"UID [0-9.]+$|[0-9]+(?:\.[0-9]+){3,}|<[^>]*?>|`[^`]*`|=\s*\S+")
"""New UIDs and the names that errors quote."""
_MIXED = ("pydicom_test_files", "pydicom_data_misc", "sr_seg_sm", "charsets", "transfer_syntaxes_ct")


def errors(path: Path) -> Counter[str]:
    check = program("dciodvfy", "dicom3tools")
    done = subprocess.run([check, str(path)], capture_output=True, text=True, errors="replace", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return Counter(_VALUES.sub("", line) for line in lines if line.startswith("Error"))


def new_errors(pair: tuple[Path, Path]) -> dict[str, list[str]]:
    before, after = map(errors, pair)
    added = sorted(line for line in after if line not in before)
    return {pair[0].name: added} if added else {}


def one_a_series(folder: Path) -> list[Path]:
    """The first file of each series, every file of the mixed sets."""
    found: dict[Path, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "broken" not in p.parts):
        series = path.parent.parent == folder and path.parent.name not in _MIXED
        found.setdefault(path.parent if series else path, path)
    return list(found.values())


@pytest.mark.peers
@pytest.mark.shared
@pytest.mark.parametrize("options", OPTIONS if os.environ.get("FIONA_TEST_FULL") else OPTIONS[:2])
def test_copies_have_no_new_errors(make: Make, shared: Path, out: Path, options: tuple[str, ...]) -> None:
    deidentifier, pairs = make(*options), []
    for number, source in enumerate(one_a_series(shared / "data" / "visible")):
        copy = out / f"{number}.dcm"
        try:
            deidentifier.file(source, copy, flush=False)
        except FionaError:
            continue
        pairs.append((source, copy))

    with ThreadPoolExecutor(2) as threads:
        found = [added for added in threads.map(new_errors, pairs) if added]

    assert len(pairs) > 200
    assert found == []


@pytest.mark.peers
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[2]])
def test_a_phantom_has_no_new_errors(make: Make, tmp_path: Path, options: tuple[str, ...]) -> None:
    source = phantoms.write(phantoms.planted(phantoms.Canaries()), tmp_path / "in.dcm")
    copy = tmp_path / "out.dcm"
    make(*options).file(source, copy)

    assert new_errors((source, copy)) == {}


def test_what_lists_references_goes_with_the_last_of_them() -> None:
    reference = Element(0x00081155, "UI", b"1.2.3")
    lists = [Element(0x00081115, "SQ", b"", [[reference]]), Element(0x00081200, "SQ", b"", [])]
    source = Element(0x00082112, "SQ", b"", [[reference]])
    region = Element(0x00082218, "SQ", b"", [[Element(0x00080100, "SH", b"1")]])

    assert unmet([*lists, source, region], [*lists, region]) == {0x00081115, 0x00081200}
    assert unmet([*lists, source], [*lists, source]) == frozenset()
    assert unmet([*lists, region], [*lists, region]) == frozenset()


def test_the_name_of_a_committee_goes_with_its_number(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.ClinicalTrialProtocolEthicsCommitteeName = "Committee"
    named = make().file(phantoms.write(ds, tmp_path / "named.dcm"), out)
    ds.ClinicalTrialProtocolEthicsCommitteeApprovalNumber = "4711"
    ds.SOPInstanceUID += ".1"
    both = make().file(phantoms.write(ds, tmp_path / "both.dcm"), out)

    assert pydicom.dcmread(out / named.name).ClinicalTrialProtocolEthicsCommitteeName == "REMOVED"
    after = pydicom.dcmread(out / both.name)
    assert "ClinicalTrialProtocolEthicsCommitteeName" not in after
    assert "ClinicalTrialProtocolEthicsCommitteeApprovalNumber" not in after
