"""The outcome of a transfer is written to REDCap, from the ledger, until it stands there."""

from __future__ import annotations

import contextlib
from datetime import datetime

from fiona_dagster.errors import RequestRefused, UnknownStudy
from fiona_dagster.ledger import Transfer
from fiona_dagster.redcap import ANONYMIZATION_ERROR, SEND_ERROR, IncomingProject
from fiona_dagster.transfers import imaging
from fiona_dagster.transfers.context import Gateway


def write_outcomes(gateway: Gateway, study: str, project: str) -> list[Transfer]:
    """Writes how the transfers of a study and project stand into their REDCap records.

    Idempotent: it writes what the ledger says now, so that a repeat changes nothing.

    Returns:
        The transfers that REDCap now knows.

    Raises:
        RedcapUnavailable: REDCap gave no usable answer; call it again later.
        RedcapRejected: *Incoming*, or the project's own REDCap, did not take what was written.
    """
    work = gateway.ledger.work.get(f"status:{study}:{project}")
    newest = {t.request: t for t in gateway.ledger.transfers.outcome_to_write(study, project)}
    zone = gateway.settings.LOCALTIMEZONE
    incoming = gateway.incoming()
    for transfer in newest.values():
        if transfer.state == "delivered":
            incoming.write_outcome(
                study,
                transfer.request,
                transfer_date=datetime.fromisoformat(transfer.changed),
                zone=zone,
                mapped_uid=transfer.mapped_uid,
                message=_left_out(gateway, transfer),
            )
        elif transfer.state == "withdrawn":
            _write_withdrawn(incoming, transfer)
        elif transfer.state == "superseded":
            incoming.write_outcome(study, transfer.request, message=transfer.reason)
        else:
            packaged = gateway.ledger.transfers.package(transfer) is not None
            incoming.write_outcome(
                study,
                transfer.request,
                zone=zone,
                errors=(SEND_ERROR if packaged else ANONYMIZATION_ERROR,),
                message=transfer.reason,
            )
    for transfer in newest.values():  # after everything that people wait for in Incoming
        if transfer.state == "delivered":
            imaging.write_entry(gateway, transfer)
    if work is not None:
        gateway.ledger.work.done(work.key, work.revision, work.token)
    return list(newest.values())


def _write_withdrawn(incoming: IncomingProject, transfer: Transfer) -> None:
    """Says that it was withdrawn and where something may lie. A record that is gone needs no word."""
    with contextlib.suppress(UnknownStudy, RequestRefused):
        incoming.write_outcome(transfer.study, transfer.request, withdrawn=True, message=transfer.reason)


def _left_out(gateway: Gateway, transfer: Transfer) -> str | None:
    """What a delivered transfer is lacking, if the project goes on without what can't be processed."""
    left_out = gateway.ledger.transfers.left_out(transfer)
    if not left_out:
        return None
    return f"delivered without {left_out} instances that could not be de-identified; see report.json"
