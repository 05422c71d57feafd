"""``fiona resend``: what was requested is transferred once more, with the assignment that it has."""

from __future__ import annotations

from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import RequestRefused, Superseded, UsageError
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.context import Gateway


def to_resend(gateway: Gateway, what: str, project: str = "") -> list[Transfer]:
    """The transfers that a person means.

    Args:
        gateway: the open gateway.
        what: a StudyInstanceUID: all its transfers; or a project: those of all its studies.
        project: of a study, only the transfer to this project.

    Raises:
        UnknownStudy: no such study.
        ConfigurationError: no such project.
        RequestRefused: nothing was requested that could be sent.
        UsageError: a project was given twice.
    """
    transfers = gateway.ledger.transfers
    if is_uid(what):
        gateway.ledger.receipts.study(what)
        projects = sorted({each.project for each in transfers.all(what) if project in ("", each.project)})
        found = [transfers.current(what, name) for name in projects]
    else:
        if project:
            raise UsageError("name a study with --project, or a project alone")
        gateway.project(what)
        studies = sorted({each.study for each in transfers.all() if each.project == what})
        found = [transfers.current(study, what) for study in studies]
    chosen = [transfer for transfer in found if transfer is not None]
    if not chosen:
        raise RequestRefused(f"{what}: no transfer that counts; `fiona assign` requests one")
    return chosen


def resend(gateway: Gateway, chosen: list[Transfer], *, by: str) -> list[Transfer]:
    """Starts transfers again, from the de-identification on; each is verified and proven anew.

    One that has not been packaged yet only gets another chance. The request in REDCap stays as it is; its
    date is renewed when all targets are proven to have the copy.

    Args:
        gateway: the open gateway.
        chosen: what :func:`to_resend` found.
        by: who orders it, as the operating system knows this person.

    Returns:
        The transfers as they stand now; those that were replaced meanwhile are left out.
    """
    started = []
    for transfer in chosen:
        try:
            started.append(gateway.ledger.transfers.start_over(transfer, f"{by} ordered it sent again"))
        except Superseded:
            continue
    return started
