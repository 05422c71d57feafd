"""An empty ledger, and journal lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import Receipt
from fiona_dagster.landing.receipt import Kind
from fiona_dagster.ledger import Ledger
from fiona_dagster.ledger.booking import book as book_receipt

Arrive = Callable[..., None]


@pytest.fixture
def ledger(root: DataRoot) -> Iterator[Ledger]:
    with Ledger(root) as opened:
        yield opened


@pytest.fixture
def arrive(ledger: Ledger) -> Arrive:
    """Books one receipt, as reading a journal does."""

    def book(
        study: str = "1.2",
        sop: str = "1.2.3.1",
        kind: Kind = "stored",
        path: str | None = None,
        time: str = "2026-11-23T10:00:00.000000Z",
        size: int = 10,
    ) -> None:
        receipt = Receipt(
            time=time,
            kind=kind,
            StudyInstanceUID=study,
            SeriesInstanceUID="1.2.3",
            SOPInstanceUID=sop,
            SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax="1.2.840.10008.1.2.1",
            path=path or f"site/archive/scp_{study}/CT.{sop}",
            size=size,
            calling_ae="CT1",
            called_ae="FIONA",
            caller_ip="127.0.0.1",
        )
        with ledger.store.writing() as db:
            book_receipt(db, receipt)

    return book
