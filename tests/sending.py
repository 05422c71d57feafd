"""What deliveries to a target are told by the ledger, for tests that call a target directly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Content, Ledger, Request


class Recorder:
    """``begin`` of a research PACS on a ledger of its own, with one transfer."""

    def __init__(self, folder: Path) -> None:
        self.root = DataRoot(folder)
        with Ledger(self.root) as ledger:
            request = Request("1.2", "P", 1, "2026-11-23 10:00", "X1", "E1")
            self.transfer = ledger.transfers.accept(request, 1)

    def __call__(
        self, instances: Mapping[str, str], listed: frozenset[str] | None, counted: int
    ) -> frozenset[str]:
        with Ledger(self.root) as ledger:
            content = Content("+".join(sorted(instances.values())), instances, listed, counted)
            return ledger.transfers.begin_sending(self.transfer, "pacs", content).uncertain


def unrecorded() -> None:
    """``begin`` of a target that needs no answer."""
