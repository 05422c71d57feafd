"""The transfer log of a project: every request, how it ended, and what each target proved.

Two views that must never be joined in one place: for the project's people participant, event and the UID of
the copy; for Dagster the hospital's StudyInstanceUID and nothing of these. Exact sizes belong to the first:
the recipients have a file of that size, so that it would join the two as well as a digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.context import Gateway

View = Literal["project", "dagster"]

COMMON = ("State", "Requested", "Accepted", "Changed", "Revision", "Instances")
OF_TARGET = ("Target", "Proof", "Proven", "Delivered", "Sent")
OF_PROJECT = ("Participant", "Event", "StudyInstanceUID", *COMMON, "Bytes", "Reason", *OF_TARGET, "Sha256")
OF_DAGSTER = ("StudyInstanceUID", *COMMON, "Megabytes", *OF_TARGET)


def columns(view: View) -> tuple[str, ...]:
    """The columns of a view."""
    return OF_PROJECT if view == "project" else OF_DAGSTER


def transfer_log(
    gateway: Gateway, project: str, view: View, limit: int | None = None, *, study: str | None = None
) -> list[dict[str, Any]]:
    """One row for each transfer and target, the newest transfer first; one without a target has empty cells.

    Args:
        gateway: the open gateway.
        project: the project's name.
        view: for whom.
        limit: how many transfers at most; None: all.
        study: only those of this one, StudyInstanceUID as received.
    """
    transfers = gateway.ledger.transfers.newest_of(project, limit)
    names = columns(view)
    return [
        {name: row.get(name, "") for name in names}
        for transfer in transfers
        if study in (None, transfer.study)
        for row in _rows(gateway, transfer, view)
    ]


def _rows(gateway: Gateway, transfer: Transfer, view: View) -> Iterator[dict[str, Any]]:
    package = gateway.ledger.transfers.package(transfer)
    about: dict[str, Any] = {
        "State": transfer.state,
        "Requested": transfer.requested_date,
        "Accepted": transfer.created,
        "Changed": transfer.changed,
        "Revision": transfer.revision,
        "Instances": package.instances if package else 0,
        "Bytes": package.size if package else 0,
        "Megabytes": rounded_megabytes(package.size) if package else 0,
    }
    if view == "project":
        about |= {
            "Participant": transfer.participant,
            "Event": transfer.event,
            "StudyInstanceUID": transfer.mapped_uid,
            "Reason": transfer.reason.replace(transfer.study, "(study)"),
        }
    else:
        about["StudyInstanceUID"] = transfer.study
    deliveries = gateway.ledger.transfers.deliveries(transfer)
    for name, delivery in sorted(deliveries.items()):
        yield about | {
            "Target": name,
            "Proof": str(delivery.proof.get("kind", "")),
            "Proven": "no" if delivery.proof.get("kind") == "agreement" else "yes",
            "Delivered": delivery.time,
            "Sent": _sent(delivery.proof),
            "Sha256": delivery.sha256,
        }
    if not deliveries:
        yield about


def _sent(proof: Mapping[str, Any]) -> int:
    """How many packages or instances left for it; 0: all was there before."""
    return int((proof.get("counts") or {}).get("sent", 0))


def rounded_megabytes(size: int) -> int:
    """Rounded up: the exact size of a package tells it apart as well as a digest."""
    return -(-size // 1_000_000)
