"""b-values and directions of classic objects, as each vendor says them; the duration by XA software."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fiona_dagster.studies import default_rules, needed_tags
from fiona_dagster.studies.attributes import series_value
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.reader import read_instance
from fiona_dagster.studies.record import series_record
from tests.studies.builders import dataset, save

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
NEEDED = needed_tags(default_rules().tags)


def mr(manufacturer: str, **values: Any) -> Dataset:
    return dataset(Modality="MR", Manufacturer=manufacturer, InstanceNumber="3", **values)


def private(ds: Dataset, group: int, creator: str, elements: dict[int, tuple[str, Any]]) -> Dataset:
    """Private elements, in a block that is not the original's."""
    ds.private_block(group, "SOMEBODY ELSE", create=True).add_new(1, "LO", "x")
    block = ds.private_block(group, creator, create=True)
    for low, (vr, value) in elements.items():
        block.add_new(low, vr, value)
    return ds


def siemens(b_value: str = "1000") -> Dataset:
    directions = {0x0C: ("IS", b_value), 0x0D: ("CS", "DIRECTIONAL"), 0x0E: ("FD", [0.5, -0.25, 0.75])}
    return private(mr("SIEMENS"), 0x19, "SIEMENS MR HEADER", directions)


def ge(value: Any, sequence: Any = ("EP", "SE")) -> Dataset:
    return private(
        mr("GE MEDICAL SYSTEMS", ScanningSequence=list(sequence)), 0x43, "GEMS_PARM_01", {0x39: ("IS", value)}
    )


def philips(b_value: float = 800.0) -> Dataset:
    return private(mr("Philips Medical Systems"), 0x2001, "Philips Imaging DD 001", {0x03: ("FL", b_value)})


def uih() -> Dataset:
    measured = {0x09: ("FD", 929.75), 0x0A: ("FD", 1000.0)}
    return private(mr("UIH"), 0x65, "Image Private Header", measured)


def record(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> dict[str, Any]:
    header = read_instance(save(ds, path, syntax), NEEDED)
    assert not header.damage
    return series_record([header], default_rules(), {})


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_vendor_says_the_b_value(tmp_path: Path, syntax: str) -> None:
    cases = {
        1000.0: [siemens(), ge([1000, 8, 0, 0]), ge([1_000_001_000, 8, 0, 0]), uih()],
        800.0: [philips()],
        0.0: [siemens("0"), ge([0, 8, 0, 0]), philips(0.0)],
    }
    for b_value, objects in cases.items():
        for number, ds in enumerate(objects):
            found = record(ds, tmp_path / f"{b_value}-{number}", syntax)
            assert float(found["DiffusionBValue"]) == b_value
            assert ("diffusion" in found["ClassifyType"]) == (b_value > 0)


def test_what_means_something_else_is_no_b_value(tmp_path: Path) -> None:
    objects = [
        ge([1000, 8, 0, 0], ("GR", "SE")),
        ge([500_000, 0, 0, 0]),
        siemens(""),
        private(mr("SIEMENS"), 0x19, "OTHER", {0x0C: ("IS", "1000")}),
        mr("SIEMENS"),
    ]
    for number, ds in enumerate(objects):
        assert "DiffusionBValue" not in record(ds, tmp_path / str(number))
    ds = siemens()
    ds.DiffusionBValue = 50.0
    assert record(ds, tmp_path / "standard")["DiffusionBValue"] == "50.0", "the standard's own counts"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_siemens_diffusion_without_a_csa_header(tmp_path: Path, syntax: str) -> None:
    ds = siemens()
    expected = {
        "B_value": "1000",
        "SOPInstanceUID": ds.SOPInstanceUID,
        "InstanceNumber": "3",
        "DiffusionDirectionality": "DIRECTIONAL",
        "DiffusionGradientDirection": ["0.5", "-0.25", "0.75"],
    }
    assert record(ds, tmp_path / "private", syntax)["siemensDiffusionInformation"] == [expected]
    header = read_instance(tmp_path / "private", NEEDED)
    assert series_value(header, "siemensDiffusionInformation") == "DIRECTIONAL"

    for manufacturer, there in (("Siemens Healthineers", True), ("Other", False)):
        found = record(enhanced(manufacturer), tmp_path / manufacturer, syntax)
        assert ("siemensDiffusionInformation" in found) == there
        if there:
            assert found["siemensDiffusionInformation"] == [expected]


def enhanced(manufacturer: str) -> Dataset:
    """What XA software writes: everything in functional groups."""
    gradient, diffusion, groups = Dataset(), Dataset(), Dataset()
    gradient.DiffusionGradientOrientation = [0.5, -0.25, 0.75]
    diffusion.DiffusionBValue = 1000.0
    diffusion.DiffusionDirectionality = "DIRECTIONAL"
    diffusion.DiffusionGradientDirectionSequence = [gradient]
    groups.MRDiffusionSequence = [diffusion]
    ds = mr(manufacturer, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", NumberOfFrames=1)
    ds.PerFrameFunctionalGroupsSequence = [groups]
    return ds


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5.0, "TA 05.00"), (59.99, "TA 59.99"), (59.999, "TA 01:00"), (311.2, "TA 05:11"), (0.0, None)],
)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_length_of_an_acquisition_by_xa_software(
    tmp_path: Path, syntax: str, seconds: float, said: str | None
) -> None:
    found = record(mr("SIEMENS", AcquisitionDuration=seconds), tmp_path / "x", syntax)
    assert found.get("AcquisitionLength") == said
    if said:
        ds = mr("SIEMENS", AcquisitionDuration=seconds)
        ds.private_block(0x51, "SIEMENS MR HEADER", create=True).add_new(0x0A, "SH", "TA 09:09")
        assert record(ds, tmp_path / "classic", syntax)["AcquisitionLength"] == "TA 09:09"
        assert "AcquisitionLength" not in record(
            mr("Other", AcquisitionDuration=seconds), tmp_path / "other", syntax
        )


def test_real_files_of_united_imaging(shared: Path) -> None:
    def values(folder: str) -> set[str]:
        files = sorted((shared / "data" / "visible" / folder).rglob("*.dcm"))[:17]
        headers: list[InstanceHeader] = [read_instance(path, NEEDED) for path in files]
        return {header.text(0x00189087) for header in headers}

    assert values("mr_uih_dti") == {"0.0", "1000.0"}
