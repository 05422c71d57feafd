"""The outcome of a transfer is written to REDCap, from the ledger, until it stands there."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.context import Gateway

ANONYMIZATION_ERROR = "1"
SEND_ERROR = "2"


def write_outcomes(gateway: Gateway, study: str, project: str) -> list[Transfer]:
    """Writes how the transfers of a study and project stand into their REDCap records.

    Idempotent: it writes what the ledger says now, so that a repeat changes nothing.

    Returns:
        The transfers that REDCap now knows.

    Raises:
        RedcapUnavailable: REDCap gave no usable answer; call it again later.
    """
    work = gateway.ledger.work.get(f"status:{study}:{project}")
    transfers = gateway.ledger.transfers.outcome_to_write(study, project)
    incoming = gateway.incoming()
    for transfer in transfers:
        if transfer.state == "delivered":
            incoming.write_outcome(
                study,
                transfer.request,
                transfer_date=_local(gateway, transfer.changed),
                mapped_uid=transfer.mapped_uid,
            )
        else:
            incoming.write_outcome(
                study,
                transfer.request,
                errors=(ANONYMIZATION_ERROR if transfer.state == "failed" else SEND_ERROR,),
                message=transfer.reason,
            )
    if work is not None:
        gateway.ledger.work.done(work.key, work.revision, work.token)
    return transfers


def _local(gateway: Gateway, time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(ZoneInfo(gateway.settings.LOCALTIMEZONE))
