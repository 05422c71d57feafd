"""Conflicts: accepted, rejected, and cut short at every step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError
from fiona_dagster.landing import (
    Caller,
    Landing,
    OpenConflict,
    adopt_orphans,
    decide,
    differing_tags,
    open_conflicts,
    read_journals,
)
from fiona_dagster.landing import decisions as module
from fiona_dagster.landing.journal import Journal
from tests.accounting import assert_all_accounted
from tests.landing.test_door import file_one
from tests.making import STUDY, data_set, part10

UID = "1.2.3"
FIRST = part10(data_set(UID), UID)
SECOND = part10(data_set(UID, pixels=b"\3\4" * 64), UID)


def conflict(root: DataRoot) -> OpenConflict:
    """One instance and another data set under its UID."""
    with Landing(root) as landing, landing.visit(Caller("CT1", "FIONA", "10.0.0.1")) as visit:
        file_one(landing, visit, UID, FIRST)
        assert file_one(landing, visit, UID, SECOND).kind == "conflict"
    (found,) = open_conflicts(root)
    return found


def archived(root: DataRoot) -> bytes:
    return (root.archive / f"scp_{STUDY}" / f"CT.{UID}").read_bytes()


def files(folder: Path, ending: str = ".dcm") -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{ending}") if not path.name.startswith("."))


def kinds(root: DataRoot) -> list[str]:
    return sorted({receipt.kind for _, _, receipt in read_journals(root, {})})


def check_accepted(root: DataRoot) -> None:
    assert archived(root) == SECOND
    (old,) = files(root.conflicts)
    assert old.parent == root.conflicts / "superseded" / STUDY
    assert old.read_bytes() == FIRST
    assert old.with_suffix(".json").is_file()
    assert kinds(root) == ["accepted", "conflict", "stored", "superseded"]
    (reason,) = files(root.conflicts / "accepted", ".json")
    decision = json.loads(reason.read_text())["decision"]
    assert (decision["state"], decision["by"], decision["reason"]) == ("accepted", "me", "sent again")


def check_rejected(root: DataRoot) -> None:
    assert archived(root) == FIRST
    (kept,) = files(root.conflicts)
    assert kept.parent == root.conflicts / "rejected" / STUDY
    assert kept.read_bytes() == SECOND
    assert json.loads(kept.with_suffix(".json").read_text())["decision"]["by"] == "me"
    assert kinds(root) == ["conflict", "rejected", "stored"]


CHECKS: dict[Any, Callable[[DataRoot], None]] = {"accepted": check_accepted, "rejected": check_rejected}


@pytest.mark.parametrize("decision", ["accepted", "rejected"])
def test_a_decision_moves_files_and_is_in_the_journals(root: DataRoot, decision: Any) -> None:
    decide(root, conflict(root), decision, by="me", reason="sent again")
    CHECKS[decision](root)
    assert open_conflicts(root) == []
    assert_all_accounted(root)


class Cut(BaseException):
    """The process dies here."""


STEPS = ("write_json_new", "sync_directory", "rename_new", "make_directory", "inspect_file")


def cut_at(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> Callable[[], int]:
    """The process dies before or after its ``number``-th change; says how many there were."""
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and not after:
                raise Cut
            result = function(*arguments, **more)
            if count == number:
                raise Cut
            return result

        return step

    for name in STEPS:
        monkeypatch.setattr(module, name, wrap(getattr(module, name)))
    monkeypatch.setattr(os, "link", wrap(os.link))
    monkeypatch.setattr(Path, "replace", wrap(Path.replace))
    monkeypatch.setattr(Journal, "append", wrap(Journal.append))
    return lambda: count


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("decision", ["accepted", "rejected"])
def test_a_decision_cut_short_anywhere_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decision: Any, after: bool
) -> None:
    cuts = 0
    for number in range(1, 100):
        root = DataRoot(tmp_path / f"{number}")
        root.make()
        found = conflict(root)
        with monkeypatch.context() as patch:
            count = cut_at(patch, number, after=after)
            try:
                decide(root, found, decision, by="me", reason="sent again")
            except Cut:
                cuts += 1
            steps = count()
        assert archived(root) in (FIRST, SECOND)
        assert_all_accounted(root)
        adopt_orphans(root)
        if open_conflicts(root):  # cut before the decision was durable: nothing happened
            assert archived(root) == FIRST
            decide(root, open_conflicts(root)[0], decision, by="me", reason="sent again")
        CHECKS[decision](root)
        assert_all_accounted(root)
        if steps < number:
            break
    assert cuts >= 8


@pytest.mark.parametrize(("decision", "again"), [("rejected", SECOND), ("accepted", FIRST)])
def test_bytes_that_were_decided_about_are_a_repeat_when_they_come_again(
    root: DataRoot, decision: Any, again: bytes
) -> None:
    decide(root, conflict(root), decision, by="me", reason="sent again")
    with Landing(root) as landing, landing.visit(Caller("CT1", "FIONA", "10.0.0.1")) as visit:
        assert file_one(landing, visit, UID, again).kind == "repeat"
    assert open_conflicts(root) == []
    assert_all_accounted(root)


def test_a_third_data_set_is_a_conflict_again(root: DataRoot) -> None:
    decide(root, conflict(root), "accepted", by="me")
    third = part10(data_set(UID, pixels=b"\5\6" * 64), UID)
    with Landing(root) as landing, landing.visit(Caller("CT1", "FIONA", "10.0.0.1")) as visit:
        assert file_one(landing, visit, UID, third).kind == "conflict"
    (found,) = open_conflicts(root)
    decide(root, found, "accepted", by="me")
    assert archived(root) == third
    assert sorted(path.read_bytes() for path in files(root.conflicts)) == sorted([FIRST, SECOND])
    assert_all_accounted(root)


def test_a_decision_about_nothing_is_refused(root: DataRoot) -> None:
    found = conflict(root)
    decide(root, found, "rejected", by="me")
    with pytest.raises(UsageError, match="no such conflict"):
        decide(root, found, "accepted", by="me")


def test_a_kept_aside_file_without_a_line_gets_one(root: DataRoot) -> None:
    found = conflict(root)
    (journal,) = (path for path in root.arrived.iterdir() if path.name.startswith("CT1"))
    first = journal.read_bytes().splitlines(keepends=True)[0]
    journal.write_bytes(first)
    assert_all_accounted(root)
    adopt_orphans(root)
    adopt_orphans(root)
    assert [r.kind for _, _, r in read_journals(root, {})] == ["stored", "conflict"]
    assert found.path.is_file()
    assert_all_accounted(root)


def test_differing_elements_are_named_without_values(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(FIRST)
    other.write_bytes(part10(data_set(UID, pixels=b"\3\4" * 64, name="Somebody^Else"), UID))
    assert differing_tags(one, other) == ["(0010,0010)", "(7FE0,0010)"]
    assert differing_tags(one, one) == []
