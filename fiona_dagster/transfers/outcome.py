"""The outcome of a transfer is written to REDCap, from the ledger, until it stands there."""

from __future__ import annotations

import contextlib
from datetime import datetime

from fiona_dagster.errors import RequestChanged, RequestRefused, UnknownStudy
from fiona_dagster.ledger import Transfer
from fiona_dagster.redcap import ANONYMIZATION_ERROR, SEND_ERROR, IncomingProject
from fiona_dagster.transfers import imaging
from fiona_dagster.transfers.assembly import partial_of
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.words import expected_of


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
    incoming = gateway.incoming()
    told = []
    for transfer in newest.values():
        with contextlib.suppress(RequestChanged):  # its place in REDCap belongs to another request now
            _write(gateway, incoming, transfer)
            told.append(transfer)
    for transfer in newest.values():  # after everything that people wait for in Incoming
        if transfer.state == "delivered":
            imaging.write_entry(gateway, transfer)
    if work is not None:
        gateway.ledger.work.done(work.key, work.revision, work.token)
    return told


def _write(gateway: Gateway, incoming: IncomingProject, transfer: Transfer) -> None:
    """The outcome of one transfer, if its request still says what was carried out."""
    study, instance, expected = transfer.study, transfer.request, expected_of(transfer)
    if transfer.state == "delivered":
        incoming.write_outcome(
            study,
            instance,
            transfer_date=datetime.fromisoformat(transfer.changed),
            zone=gateway.settings.LOCALTIMEZONE,
            mapped_uid=transfer.mapped_uid,
            message=_left_out(gateway, transfer),
            expected=expected,
        )
    elif transfer.state == "withdrawn":
        with contextlib.suppress(UnknownStudy, RequestRefused):  # a record that is gone needs no word
            incoming.write_outcome(
                study, instance, withdrawn=True, message=transfer.reason, expected=expected
            )
    elif transfer.state == "superseded":
        incoming.write_outcome(study, instance, message=transfer.reason, expected=expected)
    else:
        packaged = gateway.ledger.transfers.package(transfer) is not None
        incoming.write_outcome(
            study,
            instance,
            errors=(SEND_ERROR if packaged else ANONYMIZATION_ERROR,),
            message=transfer.reason,
            expected=expected,
        )


def _left_out(gateway: Gateway, transfer: Transfer) -> str | None:
    """What a delivered transfer is lacking, if the project goes on without what can't be processed."""
    said = []
    if left_out := gateway.ledger.transfers.left_out(transfer):
        said.append(f"without {left_out} instances that could not be de-identified; see report.json")
    package = gateway.ledger.transfers.package(transfer)
    path = gateway.root.path / package.path if package is not None and package.path else None
    if path is not None and path.is_file() and (partial := partial_of(path)):
        said.append(f"with {len(partial)} series that are missing or not whole as NIfTI; see manifest.json")
    return f"delivered {', '.join(said)}" if said else None
