"""Quarantine: listed, sent through the door again, discarded on the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError
from fiona_dagster.landing import (
    Quarantined,
    discard,
    find_entries,
    import_paths,
    quarantine_file,
    quarantined,
    read_journals,
    retry,
)
from tests.accounting import assert_all_accounted
from tests.making import data_set, part10

UID = "1.2.3"


def shelve(root: DataRoot, content: bytes, **reason: str) -> Quarantined:
    path = root.path / "x"
    path.write_bytes(content)
    where = quarantine_file(root, path, {"code": "test", "message": "a test", **reason})
    return next(entry for entry in quarantined(root) if entry.path == where)


def log(root: DataRoot) -> list[dict[str, object]]:
    path = root.quarantine / ".log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_can_be_filed_now_leaves_the_quarantine(root: DataRoot) -> None:
    caller = {"calling_ae": "CT1", "called_ae": "FIONA", "caller_ip": "10.0.0.1"}
    entry = shelve(root, part10(data_set(UID), UID), source="association", **caller)
    (result,) = retry(root, [entry])

    assert result.outcome == "filed"
    assert quarantined(root) == []
    ((_, _, receipt),) = read_journals(root, {})
    assert (receipt.kind, receipt.calling_ae, receipt.caller_ip) == ("stored", "CT1", "10.0.0.1")
    assert [(line["what"], line["id"]) for line in log(root)] == [("filed", entry.id)]
    assert_all_accounted(root)


def test_what_is_refused_again_stays_with_the_new_reason(root: DataRoot) -> None:
    shelve(root, b"no DICOM", source="import")
    for count in (1, 2):
        (result,) = retry(root, quarantined(root))
        assert result.outcome == "refused"
        (entry,) = quarantined(root)
        assert (entry.text("code"), entry.retries) == ("unreadable", count)
        assert entry.text("source") == "import"
        assert entry.path.read_bytes() == b"no DICOM"
    assert_all_accounted(root)


def test_bytes_without_a_reason_are_taken_up(root: DataRoot) -> None:
    (root.quarantine / "lost.dcm").write_bytes(b"no DICOM")
    retry(root, quarantined(root))
    (entry,) = quarantined(root)
    assert entry.has_reason
    assert_all_accounted(root)


def test_another_data_set_becomes_a_conflict(root: DataRoot, tmp_path: Path) -> None:
    source = tmp_path / "one.dcm"
    source.write_bytes(part10(data_set(UID), UID))
    import_paths(root, [source])
    retry(root, [shelve(root, part10(data_set(UID, pixels=b"\7\7"), UID))])
    assert quarantined(root) == []
    assert sorted(r.kind for _, _, r in read_journals(root, {})) == ["conflict", "stored"]
    assert_all_accounted(root)


def test_a_kill_after_filing_makes_a_repeat(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    from fiona_dagster.landing import retry as command

    entry = shelve(root, part10(data_set(UID), UID))
    module = __import__("sys").modules[command.__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "note", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            retry(root, [entry])
    assert len(quarantined(root)) == 1
    retry(root, quarantined(root))
    assert quarantined(root) == []
    assert [r.kind for _, _, r in read_journals(root, {})] == ["stored", "repeat"]
    assert_all_accounted(root)


def test_discarding_is_on_the_record(root: DataRoot) -> None:
    entry = shelve(root, b"no DICOM", source="association")
    assert discard(root, [entry]) == [entry.id]
    assert quarantined(root) == []
    (line,) = log(root)
    assert line["what"] == "discarded"
    assert line["size"] == 8
    assert line["by"]
    assert len(str(line["sha256"])) == 64
    assert_all_accounted(root)


def test_what_may_have_been_acknowledged_is_not_discarded_lightly(root: DataRoot) -> None:
    entry = shelve(root, b"stood in the archive", source="archive")
    with pytest.raises(UsageError, match="--acknowledged"):
        discard(root, [entry])
    assert len(quarantined(root)) == 1
    discard(root, [entry], acknowledged=True)
    assert log(root)[-1]["acknowledged"] is True


def test_ids_may_be_shortened_but_not_guessed(root: DataRoot) -> None:
    one, other = shelve(root, b"one"), shelve(root, b"other")
    assert find_entries(root, [one.id[-8:], other.id]) == [one, other]
    for wrong in ("20", "", "nothing", "../archive/x"):
        with pytest.raises(UsageError):
            find_entries(root, [wrong])


def test_unreadable_names_and_reasons_are_listed(root: DataRoot) -> None:
    odd = root.quarantine / "a\udcff\n.dcm"
    odd.write_bytes(b"?")
    odd.with_suffix(".json").write_bytes(b"{ broken")
    (entry,) = quarantined(root)
    assert (entry.has_bytes, entry.has_reason) == (True, False)
