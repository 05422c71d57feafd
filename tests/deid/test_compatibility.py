"""The original gateway's identities, computed here from its description alone."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pydicom

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, verify_outputs
from tests.deid import phantoms


def deidentifier(generation: int = 0, **more: Any) -> Deidentifier:
    project = ProjectSettings.model_validate(
        {
            "name": "DEMO",
            "options": ["retain_long_modified_dates"],
            "compatibility": {"date_increment": 42, "project": "MMIV", **more},
        }
    )
    return Deidentifier(
        project,
        ProjectKey("DEMO", bytes(range(32))),
        Assignment("DEMO", "SUBJ_0001", "Baseline"),
        generation,
    )


def original(value: str, project: str = "MMIV") -> str:
    """Behaviour reference 6.2: hexadecimal digits, a to f as 0 to 5."""
    digest = sha256(value.encode() + project.encode()).hexdigest()
    digits = "".join(str(int(digit, 16) % 10) for digit in digest)
    return f"1.3.6.1.4.1.45037.{digits[:45]}"


def test_the_value_of_the_reference() -> None:
    made = deidentifier().new_study_uid("1.2.3")

    assert made == original("1.2.3")
    assert made == "1.3.6.1.4.1.45037.128103758383334473105347032174383565248630721"


def test_padding_counts_for_all_but_the_study_and_dates_move_by_a_constant(tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3.11", "1.2.3.222", "1.2.3.4444"
    ds.StudyInstanceUID += "1"  # of odd length
    reference = pydicom.Dataset()
    reference.SeriesInstanceUID = "1.2.3.222"
    ds.ReferencedSeriesSequence = [reference]
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = deidentifier().file(source, out)

    copy = pydicom.dcmread(out / report.name)
    assert copy.StudyInstanceUID == original("1.2.3.111")
    assert copy.SeriesInstanceUID == original("1.2.3.222\0")
    assert copy.SOPInstanceUID == original("1.2.3.4444")
    assert copy.ReferencedSeriesSequence[0].SeriesInstanceUID == original("1.2.3.222\0")
    assert copy.StudyDate == "20180614"
    assert copy.AccessionNumber.startswith("Fiona")
    assert verify_outputs([source], out, deidentifier()).findings == []


def test_another_generation_has_other_uids() -> None:
    assert deidentifier(1).new_study_uid("1.2.3") != deidentifier().new_study_uid("1.2.3")
