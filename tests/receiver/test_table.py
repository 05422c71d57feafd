"""Walks the table of docs/operators/reception.md: every row is sent to a receiver, and imported."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import pdu
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing import ImportReport, import_paths
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations import initialise
from fiona_dagster.transfers import intake
from fiona_dagster.transfers.context import Gateway
from tests.accounting import assert_all_accounted
from tests.receiver.conftest import Start
from tests.receiver.raw import Raw, command_set, p_data
from tests.receiver.table import CASES, Case, Object

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operators" / "reception.md"
NO_ROOM = 10**9
"""A reserve in MiB that no disk has free."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    status: str
    imported: str
    kept: str
    state: str


def rows() -> list[Row]:
    """The first table of the page."""
    lines = PAGE.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| what comes "))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append(Row(*(cell.strip() for cell in line.strip("|").split("|"))))
    return found


ROWS = rows()


def test_every_row_has_a_driver_and_every_driver_a_row() -> None:
    assert len(ROWS) > 30
    assert sorted(row.what for row in ROWS) == sorted(CASES)


@pytest.mark.parametrize("row", [r for r in ROWS if r.status != "-"], ids=lambda row: row.what)
def test_sent(root: DataRoot, start: Start, row: Row) -> None:
    case = CASES[row.what]
    initialise(root)
    settings = {"reserve_mb": NO_ROOM} if case.full else case.settings
    with Raw(start(processes=1, **settings).address) as raw:
        assert send(raw, case) == row.status
    if row.status == "no context":
        return  # nothing came; bytes and state are those of the import
    check(root, row, [each.data for each in case.objects])


@pytest.mark.parametrize("row", [r for r in ROWS if r.imported != "-"], ids=lambda row: row.what)
def test_imported(root: DataRoot, tmp_path: Path, row: Row) -> None:
    case = CASES[row.what]
    initialise(root)
    folder = tmp_path / "medium"
    folder.mkdir()
    assert take(root, folder, case) == row.imported
    check(root, row, [] if case.files else [each.data for each in case.objects])


def send(raw: Raw, case: Case) -> str:
    """Sends every object of a row; the answer to the last one as the table writes it."""
    kinds = list(dict.fromkeys((each.sop_class, each.syntax) for each in case.objects))
    contexts = [(2 * at + 1, sop_class, [syntax]) for at, (sop_class, syntax) in enumerate(kinds)]
    answer = raw.associate(contexts)
    if answer.kind != pdu.ASSOCIATE_AC:
        return "no association"
    if 0 not in results(answer.body):
        return "no context"
    status = ""
    for each in case.objects:
        context = 2 * kinds.index((each.sop_class, each.syntax)) + 1
        if case.breaks:
            break_off(raw, each, context)
            return "no answer"
        if case.without_data:
            raw.send(p_data(context, command_set(1, 1, each.sop_class, each.instance), command=True))
            return f"{raw.receive().status:04X}"
        found = raw.store(each.instance, each.data, sop_class=each.sop_class, context=context)
        status = f"{found.status:04X}"
    raw.release()
    return status


def results(body: bytes) -> list[int]:
    """Result of each presentation context in an A-ASSOCIATE-AC (PS3.8 section 9.3.3)."""
    found, at = [], 68
    while at + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21:
            found.append(body[at + 6])
        at += 4 + length
    return found


def break_off(raw: Raw, each: Object, context: int) -> None:
    raw.send(p_data(context, command_set(1, 1, each.sop_class, each.instance, data=True), command=True))
    raw.send(p_data(context, each.data[:100], command=False, last=False))
    raw.sock.close()


def take(root: DataRoot, folder: Path, case: Case) -> str:
    """Imports the files of a row one by one; how the last one was counted."""
    if case.files:
        files = case.files(folder)
    else:
        files = [folder / f"{at}.dcm" for at in range(len(case.objects))]
        for path, each in zip(files, case.objects, strict=True):
            path.write_bytes(each.file())
    report = ImportReport()
    for path in files:
        try:
            report = import_paths(root, [path], reserve_mb=NO_ROOM if case.full else 0)
        except StorageFull:
            return "stopped"
    counts = {
        "stored": report.stored,
        "repeat": report.repeats,
        "conflict": report.conflicts,
        "quarantined": report.quarantined,
        "skipped": report.skipped,
        "failed": report.failed,
    }
    assert sum(counts.values()) == 1, counts
    return next(name for name, count in counts.items() if count)


def check(root: DataRoot, row: Row, sent: list[bytes]) -> None:
    """Where the bytes are, what the ledger says, and that nothing is unaccounted for."""
    assert_all_accounted(root)
    kept = kept_files(root)
    assert ", ".join(place for place, files in kept.items() if files) == row.kept.replace("nowhere", "")
    if row.kept != "nowhere":
        contents = [path.read_bytes() for files in kept.values() for path in files]
        assert all(any(content.endswith(data) for content in contents) for data in sent), "bytes were lost"
    assert processed(root) == row.state
    assert_all_accounted(root)


def kept_files(root: DataRoot) -> dict[str, list[Path]]:
    archive = [path for path in root.archive.glob("scp_*/*") if path.is_file()]
    return {
        "archive": archive,
        "conflicts": list(root.conflicts.rglob("*.dcm")),
        "quarantine": list(root.quarantine.glob("*.dcm")),
    }


def processed(root: DataRoot) -> str:
    """The states that the ledger has once every study is processed, with the flags."""
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        studies = [study.study for study in ledger.receipts.studies()]
        assert all(i.state in ("received", "conflict") for s in studies for i in ledger.accounts.instances(s))
    states: set[str] = set()
    flags: set[str] = set()
    with Gateway(root) as gateway:
        for study in studies:
            gateway.ledger.receipts.close_revision(study)
            done = intake.process(gateway, study)
            gateway.ledger.receipts.registered(study, done.study.revision, done.flags, {})
            states |= {instance.state for instance in gateway.ledger.accounts.instances(study)}
            flags |= set(done.flags)
    said = ", ".join(sorted(states)) or "none"
    return f"{said} ({', '.join(sorted(flags))})" if flags else said
