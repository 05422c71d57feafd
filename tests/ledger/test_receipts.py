"""Studies, instances and revisions."""

from __future__ import annotations

import pytest

from fiona_dagster.errors import UnknownStudy
from fiona_dagster.ledger import Ledger
from tests.ledger.conftest import Arrive


def test_a_first_revision_is_counted_once_and_asks_for_processing(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    assert ledger.receipts.close_revision("1.2") == 1
    assert [work.key for work in ledger.work.due("process")] == ["process:1.2"]

    assert ledger.receipts.close_revision("1.2") is None
    assert ledger.receipts.study("1.2").revision == 1


def test_repeats_make_no_new_revision(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    ledger.receipts.close_revision("1.2")
    arrive(kind="repeat")

    assert ledger.receipts.study("1.2").open
    assert ledger.receipts.close_revision("1.2") is None
    assert ledger.receipts.study("1.2").instances == 1


def test_a_late_image_makes_a_new_revision(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    ledger.receipts.close_revision("1.2")
    ledger.receipts.registered("1.2", 1, [], {})
    assert ledger.receipts.study("1.2").state == "held"
    arrive(sop="1.2.3.2")

    assert ledger.receipts.close_revision("1.2") == 2
    assert ledger.receipts.study("1.2").state == "processing"


def test_a_conflict_makes_a_new_revision_so_that_the_study_is_flagged(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    ledger.receipts.close_revision("1.2")
    arrive(kind="conflict", path="site/conflicts/1.2/x")

    assert ledger.receipts.close_revision("1.2") == 2
    assert ledger.receipts.study("1.2").conflicts == 1


@pytest.mark.parametrize("order", [("stored", "conflict"), ("conflict", "stored")])
def test_the_archived_file_is_the_instance_whichever_line_is_read_first(
    ledger: Ledger, arrive: Arrive, order: tuple[str, str]
) -> None:
    paths = {"stored": "site/archive/scp_1.2/CT.1.2.3.1", "conflict": "site/conflicts/1.2/CT.1.2.3.1"}
    for kind in order:
        arrive(kind=kind, path=paths[kind])

    (row,) = ledger.receipts.instances("1.2")
    assert row["path"] == paths["stored"]
    assert row["conflicts"] == 1


@pytest.mark.parametrize(
    "order", [("repeat",), ("conflict", "repeat"), ("repeat", "conflict"), ("repeat", "stored")]
)
def test_a_repeat_alone_tells_of_the_archived_file(
    ledger: Ledger, arrive: Arrive, order: tuple[str, ...]
) -> None:
    """Whoever placed the file was killed before its line; the sender came again, and was told Success."""
    there = "site/archive/scp_1.2/CT.1.2.3.1"
    for kind in order:
        aside = kind == "conflict"
        arrive(kind=kind, path="site/conflicts/1.2/CT.1.2.3.1" if aside else there, size=7 if aside else 10)

    (row,) = ledger.receipts.instances("1.2")
    assert (row["path"], row["size"]) == (there, 10)


def test_an_unknown_study_is_named_as_such(ledger: Ledger) -> None:
    with pytest.raises(UnknownStudy, match=r"9\.9"):
        ledger.receipts.study("9.9")


def test_a_ledger_opened_twice_sees_the_same(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    with Ledger(ledger.root) as second:
        assert [study.study for study in second.receipts.studies()] == ["1.2"]


def test_a_conflict_that_is_told_twice_is_no_new_revision(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    arrive(kind="conflict", path="site/conflicts/1.2/CT.1.2.3.1.aa.dcm", time="2026-11-23T11:00:00.000000Z")
    assert ledger.receipts.close_revision("1.2") == 1
    arrive(kind="conflict", path="site/conflicts/1.2/CT.1.2.3.1.aa.dcm", time="2026-11-23T11:00:00.000000Z")
    assert ledger.receipts.close_revision("1.2") is None
    arrive(kind="conflict", path="site/conflicts/1.2/CT.1.2.3.1.bb.dcm", time="2026-11-23T12:00:00.000000Z")
    assert ledger.receipts.close_revision("1.2") == 2
