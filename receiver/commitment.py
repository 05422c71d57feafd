"""Storage commitment (PS3.4 annex J): requests, whose report comes later, and reports of who was asked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fiona_dagster.dicom.commitment import COMMITTED, FAILURES, REQUEST_ACTION, read_report, read_request
from fiona_dagster.dicom.dimse import (
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT,
    NO_SUCH_INSTANCE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    Command,
)
from fiona_dagster.dicom.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from fiona_dagster.errors import StorageFull, UnreadableDicom
from fiona_dagster.landing import Visit
from fiona_dagster.landing.asked import keep_answer
from fiona_dagster.landing.commitment import keep_request
from receiver.storage import Outcome, describe

if TYPE_CHECKING:
    from fiona_dagster.config import DataRoot

log = logging.getLogger("fiona.receiver")

MAX_REQUEST = 8 * 1024 * 1024
"""Bytes of a request that are collected: some 50,000 instances."""


class IncomingRequest:
    """A request while it comes in; stands where an incoming object would.

    Args:
        root: the data root that it is about.
        visit: this association's visit.
        command: the N-ACTION-RQ.
        transfer_syntax: what was agreed for the presentation context.
        wanted: whether this caller may ask for commitment.
    """

    def __init__(
        self, root: DataRoot, visit: Visit, command: Command, transfer_syntax: str, *, wanted: bool
    ) -> None:
        self._root = root
        self._visit = visit
        self._command = command
        self._transfer_syntax = transfer_syntax
        self._data = bytearray()
        self._fault = self._check(wanted)

    def _check(self, wanted: bool) -> Outcome | None:
        command = self._command
        if not wanted or command.sop_class != STORAGE_COMMITMENT:
            return Outcome("refused", SOP_CLASS_NOT_SUPPORTED, "no such service for you")
        if command.sop_instance != STORAGE_COMMITMENT_INSTANCE:
            return Outcome("refused", NO_SUCH_INSTANCE, "not the well-known SOP Instance")
        if command.action != REQUEST_ACTION:
            return Outcome("refused", NO_SUCH_ACTION, "Action Type ID must be 1")
        return None

    def write(self, part: memoryview) -> None:
        """Takes the next bytes; what is too long is not kept."""
        if len(self._data) + len(part) > MAX_REQUEST:
            self.refuse("the request is too long; split it")
        if self._fault is None:
            self._data += part

    def refuse(self, why: str) -> None:
        """Takes no more of it."""
        self._fault = self._fault or Outcome("refused", RESOURCE_LIMITATION, why)
        self._data.clear()

    def flush(self) -> None:
        """Nothing waits in the buffer."""

    def discard(self) -> None:
        """The association ended in the middle."""
        self._data.clear()

    def finish(self) -> Outcome:
        """The data set is complete: keeps the request and says how it went. Never raises."""
        outcome = self._fault or self._keep()
        if outcome.status:
            log.warning("refused storage commitment of %s: %s", describe(self._visit.caller), outcome.comment)
        return outcome

    def _keep(self) -> Outcome:
        caller = self._visit.caller
        try:
            request = read_request(bytes(self._data), self._transfer_syntax)
            keep_request(
                self._root,
                request.transaction,
                request.references,
                calling_ae=caller.calling_ae,
                called_ae=caller.called_ae,
            )
        except UnreadableDicom as error:
            return Outcome("refused", INVALID_ARGUMENT, str(error))
        except (OSError, StorageFull):
            return Outcome("no_room", RESOURCE_LIMITATION, "out of resources, ask again later")
        log.info("%s asks for commitment of %d instances", describe(caller), len(request.references))
        return Outcome("commitment")


class IncomingReport(IncomingRequest):
    """The answer of a research PACS that a delivery asked to keep instances safe, by N-EVENT-REPORT."""

    def _check(self, wanted: bool) -> Outcome | None:
        command = self._command
        if not wanted or command.sop_class != STORAGE_COMMITMENT:
            return Outcome("refused", SOP_CLASS_NOT_SUPPORTED, "nothing was asked of you")
        if command.sop_instance != STORAGE_COMMITMENT_INSTANCE:
            return Outcome("refused", NO_SUCH_INSTANCE, "not the well-known SOP Instance")
        if command.action not in (COMMITTED, FAILURES):
            return Outcome("refused", NO_SUCH_EVENT, "Event Type ID must be 1 or 2")
        return None

    def _keep(self) -> Outcome:
        caller = self._visit.caller
        try:
            report = read_report(bytes(self._data), self._transfer_syntax)
            committed = tuple(instance for _, instance in report.committed)
            failed = {instance: reason for (_, instance), reason in report.failed.items()}
            known = keep_answer(self._root, report.transaction, caller.calling_ae, committed, failed)
        except UnreadableDicom as error:
            return Outcome("refused", INVALID_ARGUMENT, str(error))
        except (OSError, StorageFull):
            return Outcome("no_room", RESOURCE_LIMITATION, "out of resources, report again later")
        if not known:
            return Outcome("refused", INVALID_ARGUMENT, "no such Transaction UID of you")
        log.info("%s promises %d instances, not %d", describe(caller), len(committed), len(failed))
        return Outcome("commitment")
