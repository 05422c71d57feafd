"""The trees ``site/raw`` and ``site/participants``."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.config import DataRoot
from fiona_dagster.studies import build_series_records, parse_rules, safe_name, scan_study, write_raw_tree
from fiona_dagster.studies.names import MAX_NAME
from tests.studies.builders import SERIES, STUDY, archive, dataset, save

RULES = parse_rules("[]", "rules")


def organise(root: DataRoot, study: str = STUDY) -> None:
    contents = scan_study(root, study)
    write_raw_tree(root, contents, build_series_records(contents, RULES, {"AETitleCaller": "A"}))


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_ino, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def test_links_are_relative_and_lead_into_the_archive(root: DataRoot, tmp_path: Path) -> None:
    source = archive(root, dataset())
    organise(root)

    link = root.raw / STUDY / SERIES / f"{SERIES}.1"
    assert str(link.readlink()) == f"../../../archive/scp_{STUDY}/CT.{SERIES}.1"
    assert link.resolve() == source.resolve()

    root.path.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "site" / "raw" / STUDY / SERIES / f"{SERIES}.1").is_file()


def test_the_record_is_sorted_indented_json_with_mode_0600(root: DataRoot) -> None:
    archive(root, dataset())
    organise(root)

    path = root.raw / STUDY / f"{SERIES}.json"
    record = json.loads(path.read_text())
    assert path.read_text() == json.dumps(record, indent=2, sort_keys=True) + "\n"
    assert record["NumFiles"] == "1"
    assert record["ClassifyType"] == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_doing_it_again_touches_nothing(root: DataRoot) -> None:
    archive(root, dataset())
    organise(root)
    before = snapshot(root.site)

    organise(root)

    assert snapshot(root.raw / STUDY / SERIES) == {
        name.removeprefix(f"raw/{STUDY}/{SERIES}/"): value
        for name, value in before.items()
        if name.startswith(f"raw/{STUDY}/{SERIES}/")
    }
    assert before[f"raw/{STUDY}/{SERIES}.json"] == snapshot(root.site)[f"raw/{STUDY}/{SERIES}.json"]
    assert set(snapshot(root.site)) == set(before)


def test_what_is_stale_goes_and_what_is_wrong_is_repaired(root: DataRoot) -> None:
    archive(root, dataset(SERIES + ".1"))
    gone = archive(root, dataset(SERIES + ".2"))
    other = archive(root, dataset("1.2.9", SeriesInstanceUID="1.2.8"))
    organise(root)
    folder = root.raw / STUDY
    gone.unlink()
    other.unlink()
    (folder / SERIES / f"{SERIES}.1").unlink()
    (folder / SERIES / f"{SERIES}.1").symlink_to("../elsewhere")
    (folder / f".{SERIES}.json.1.part").write_text("left by a crash")

    organise(root)

    assert sorted(path.name for path in folder.iterdir()) == [".participants", SERIES, f"{SERIES}.json"]
    assert [path.name for path in (folder / SERIES).iterdir()] == [f"{SERIES}.1"]
    assert (folder / SERIES / f"{SERIES}.1").is_file()


def test_links_are_valid_at_every_moment(root: DataRoot) -> None:
    for i in range(30):
        archive(root, dataset(f"{SERIES}.{i}"))
    organise(root)
    link = root.raw / STUDY / SERIES / f"{SERIES}.7"
    stop = threading.Event()
    broken: list[str] = []

    def watch() -> None:
        while not stop.is_set():
            if not link.is_file():
                broken.append("link")
            seen = [entry for folder in (root.raw, root.participants) for entry in folder.rglob("*")]
            broken.extend(str(path) for path in seen if path.is_symlink() and not path.exists())
            json.loads((root.raw / STUDY / f"{SERIES}.json").read_text())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for i in range(30, 60):
        archive(root, dataset(f"{SERIES}.{i}"))
        organise(root)
    stop.set()
    watcher.join()

    assert broken == []
    assert len(list((root.raw / STUDY / SERIES).iterdir())) == 60


def participant_links(root: DataRoot) -> dict[str, str]:
    return {
        str(path.relative_to(root.participants)): str(path.readlink())
        for path in sorted(root.participants.rglob("*"))
        if path.is_symlink()
    }


def test_participants_link_to_the_study(root: DataRoot) -> None:
    archive(root, dataset())
    organise(root)
    organise(root)

    assert participant_links(root) == {"PID-1/20260102_030405": f"../../raw/{STUDY}"}
    assert (root.participants / "PID-1" / "20260102_030405").resolve() == (root.raw / STUDY).resolve()


def test_a_second_study_of_the_same_moment_gets_a_suffix(root: DataRoot) -> None:
    archive(root, dataset())
    other = STUDY + ".99"
    save(dataset("1.2.3", StudyInstanceUID=other), root.archive / f"scp_{other}" / "CT.1.2.3")
    for study in (STUDY, other, STUDY, other):
        organise(root, study)

    assert participant_links(root) == {
        "PID-1/20260102_030405": f"../../raw/{STUDY}",
        "PID-1/20260102_030405_2": f"../../raw/{other}",
    }


def test_links_follow_a_corrected_patient(root: DataRoot) -> None:
    archive(root, dataset())
    organise(root)
    archive(root, dataset(PatientID="PID-2", StudyTime="050607"))
    organise(root)

    assert participant_links(root) == {"PID-2/20260102_050607": f"../../raw/{STUDY}"}
    assert not (root.participants / "PID-1").exists()


def test_without_patient_id_there_is_no_link(root: DataRoot) -> None:
    archive(root, dataset(PatientID=""))
    organise(root)

    assert participant_links(root) == {}


@pytest.mark.parametrize(
    "patient",
    ["..", ".", "../../../../tmp/x", "/etc/passwd", "a\0b", "a\r\nb", "x" * 64, "Ü'; DROP TABLE"],
)
def test_hostile_patient_ids_stay_inside(root: DataRoot, patient: str) -> None:
    archive(root, dataset(PatientID=patient, StudyDate="../..", StudyTime="/"))
    outside = {path for path in root.path.parent.rglob("*") if root.participants not in path.parents}
    organise(root)

    now = {path for path in root.path.parent.rglob("*") if root.participants not in path.parents}
    assert {path for path in now - outside if root.raw not in path.parents} == set()
    (link,) = participant_links(root)
    assert link.count("/") == 1
    for name in link.split("/"):
        assert not name.startswith(".")
        assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%._-")
    assert (root.participants / link).resolve() == (root.raw / STUDY).resolve()


@given(st.text(max_size=400))
def test_safe_names_are_safe(text: str) -> None:
    name = safe_name(text)

    assert 0 < len(name) <= MAX_NAME
    assert name not in (".", "..")
    assert not name.startswith(".")
    assert os.sep not in name
    assert name.isascii()


@given(st.text(max_size=200), st.text(max_size=200))
def test_safe_names_differ(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) is (one == other)


def test_plain_names_stay_readable() -> None:
    assert safe_name("A-1_b.2") == "A-1_b.2"
    assert safe_name("a b") == "a%20b"
    assert safe_name("%20") == "%2520"
    assert safe_name(".hidden") == "%2Ehidden"
