from __future__ import annotations

import json
import os
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import Caller, Landing, adopt_orphans, read_journals
from tests.landing.test_door import file_one
from tests.making import STUDY, data_set, part10


def orphan(root: DataRoot, name: str, content: bytes, study: str = STUDY) -> Path:
    folder = root.archive / f"scp_{study}"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_file_without_a_line_is_adopted_once(root: DataRoot) -> None:
    orphan(root, "CT.1.2.3", part10(data_set("1.2.3"), "1.2.3"))
    assert adopt_orphans(root).adopted == 1
    assert adopt_orphans(root).adopted == 0
    ((_, _, receipt),) = read_journals(root, {})
    assert (receipt.kind, receipt.SOPInstanceUID, receipt.calling_ae) == ("adopted", "1.2.3", "unknown")


def test_files_with_lines_are_left_alone(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(Caller("A", "B", "c")) as visit:
        file_one(landing, visit, "1.2.3")
    assert adopt_orphans(root).adopted == 0


def test_a_study_that_is_being_sent_to_waits(root: DataRoot) -> None:
    with Landing(root) as landing:
        visit = landing.visit(Caller("A", "B", "c"))
        file_one(landing, visit, "1.2.3")
        orphan(root, "CT.1.2.4", part10(data_set("1.2.4"), "1.2.4"))
        result = adopt_orphans(root)
        assert (result.adopted, result.waiting) == (0, [STUDY])
        visit.close()
        assert adopt_orphans(root).adopted == 1


def test_what_does_not_belong_into_the_archive_goes_to_quarantine(root: DataRoot) -> None:
    orphan(root, "CT.1.2.3", b"no dicom")
    orphan(root, "CT.1.2.4", part10(data_set("1.2.5"), "1.2.5"))
    orphan(root, "CT.1.2.6", part10(data_set("1.2.6"), "1.2.6"), study="7.7")
    result = adopt_orphans(root)
    assert (result.adopted, result.quarantined) == (0, 3)
    reasons = sorted(json.loads(p.read_text())["code"] for p in root.quarantine.glob("*.json"))
    assert reasons == ["misplaced", "misplaced", "unreadable"]


def test_later_passes_only_look_at_what_changed(root: DataRoot) -> None:
    path = orphan(root, "CT.1.2.3", part10(data_set("1.2.3"), "1.2.3"))
    adopt_orphans(root)
    journal = next(p for p in root.arrived.iterdir() if not p.name.startswith("."))
    journal.unlink()
    os.utime(path.parent, (1, 1))
    assert adopt_orphans(root).adopted == 0
    assert adopt_orphans(root, thorough=True).adopted == 1  # none was made yet
    next(p for p in root.arrived.iterdir() if not p.name.startswith(".")).unlink()
    os.utime(path.parent, (1, 1))
    assert adopt_orphans(root, thorough=True).adopted == 0
    os.utime(root.arrived / ".adopted-all", (1, 1))
    assert adopt_orphans(root, thorough=True).adopted == 1
    next(p for p in root.arrived.iterdir() if not p.name.startswith(".")).unlink()
    os.utime(path.parent, (1, 1))
    assert adopt_orphans(root, everything=True).adopted == 1
