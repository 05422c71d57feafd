"""What deliveries to a target are told by the ledger, for tests that call a target directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.opened import Open
from fiona_dagster.dicom.requestor import Context, Requestor
from fiona_dagster.ledger import Content, Ledger, Request


class Recorder:
    """``begin`` of a research PACS on a ledger of its own, with one transfer."""

    def __init__(self, folder: Path) -> None:
        self.root = DataRoot(folder)
        with Ledger(self.root) as ledger:
            request = Request("1.2", "P", 1, "2026-11-23 10:00", "X1", "E1")
            self.transfer = ledger.transfers.accept(request, 1)
        self.content = Content("")

    def __call__(
        self, instances: Mapping[str, str], listed: frozenset[str] | None, counted: int
    ) -> frozenset[str]:
        with Ledger(self.root) as ledger:
            content = Content("+".join(sorted(instances.values())), instances, listed, counted)
            self.content = content
            return ledger.transfers.begin_sending(self.transfer, "pacs", content).uncertain

    def prove(self) -> None:
        """What was begun last is proven, as a delivery books it."""
        with Ledger(self.root) as ledger:
            ledger.transfers.sendings.prove(self.transfer.id, "pacs", self.content.sha256, {"kind": "x"})


def unrecorded() -> None:
    """``begin`` of a target that needs no answer."""


def exchanging(monkeypatch: pytest.MonkeyPatch, replace: Callable[[str, Callable[[], int]], int]) -> None:
    """Puts something in the place of each exchange of a C-STORE with its answer.

    ``replace`` gets the SOP Instance UID and what really sends and gives the status; it returns a status, or
    raises ``Broken``.
    """
    store, answer = Requestor.store, Requestor.answer
    asked: dict[int, tuple[Context, str, memoryview | Open]] = {}

    def keep(self: Requestor, context: Context, sop_instance: str, data: memoryview | Open) -> None:
        asked[id(self)] = (context, sop_instance, data)

    def exchange(self: Requestor, seconds: float) -> int:
        request = asked[id(self)]

        def send() -> int:
            store(self, *request)
            return answer(self, seconds)

        return replace(request[1], send)

    monkeypatch.setattr(Requestor, "store", keep)
    monkeypatch.setattr(Requestor, "answer", exchange)
