"""What research does with a series still works: dcm2niix makes the same images of originals and copies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import dcm2niix
import pytest

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, deidentify_study, verify_outputs

OPTIONS = ["retain_safe_private", "retain_long_modified_dates", "clean_descriptors"]
SERIES: list[tuple[str, dict[str, Any]]] = [
    ("mr_siemens_fmap", {"siemens_csa": "rewrite"}),
    ("mr_ge_fmri", {"safe_private": {"GEMS_PARM_01": ["0043,xx2c", "0043,xx2f", "0043,xx83"]}}),
    ("mr_philips_fmri", {}),
]
SCIENCE = (
    "EchoTime",
    "RepetitionTime",
    "FlipAngle",
    "SliceTiming",
    "PhaseEncodingDirection",
    "EffectiveEchoSpacing",
    "TotalReadoutTime",
    "MultibandAccelerationFactor",
    "SeriesDescription",
    "AcquisitionTime",
    "ConversionSoftware",
    "Manufacturer",
)
"""Keys of a sidecar that an analysis needs."""


def converted(folder: Path, out: Path) -> dict[str, bytes]:
    """Name -> bytes of the images that dcm2niix makes, and of their sidecars."""
    out.mkdir()
    command = [dcm2niix.bin_path, "-f", "s%s", "-z", "n", "-b", "y", "-ba", "n", "-w", "1", "-o", out, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "more"), SERIES)
def test_images_are_byte_identical_and_sidecars_lose_who_it_was(
    shared: Path, tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    folder = shared / "data" / "visible" / name
    sources = sorted(path for path in folder.rglob("*") if path.is_file())
    project = ProjectSettings.model_validate({"name": "DEMO", "options": OPTIONS, **more})
    deidentifier = Deidentifier(
        project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_0001", "Baseline")
    )
    copies = tmp_path / "copies"
    assert deidentify_study(deidentifier, sources, copies).failures == []
    verification = verify_outputs(sources, copies, deidentifier)
    assert (verification.findings, len(verification.files)) == ([], len(sources))

    before, after = converted(folder, tmp_path / "before"), converted(copies, tmp_path / "after")

    assert sorted(after) == sorted(before)
    assert {name for name in before if before[name] != after[name]} <= {
        name for name in before if name.endswith(".json")
    }
    for sidecar in (name for name in before if name.endswith(".json")):
        old, new = json.loads(before[sidecar]), json.loads(after[sidecar])
        lost = {"SliceTiming"} if name == "mr_ge_fmri" else set()  # stands in a compressed private block only
        for key in set(SCIENCE) - lost:
            assert new.get(key) == old.get(key), key
        assert new["PatientID"] == "SUBJ_0001"
        for key in ("PatientBirthDate", "AccessionNumber", "SeriesInstanceUID", "StudyInstanceUID"):
            assert not old.get(key) or new.get(key) != old[key], key
