"""A person confirms that the copies of a study were removed where they had been sent.

Only that opens the way for another participant or event of the same project, under new UIDs (a new
generation), and for bytes in place of which a research PACS would keep its old ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from fiona_dagster.config import InstanceTarget
from fiona_dagster.errors import ConfigurationError, DeliveryRefused, UsageError
from fiona_dagster.ledger import Sending
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.targets.instances import count_at


def confirm_removed(
    gateway: Gateway, study: str, project: str, targets: Sequence[str] = (), *, by: str, ask: bool = True
) -> list[str]:
    """Writes down that nothing of the study is at these targets any more; who said so and when is kept.

    A transfer that waits for a delivery there is delivered again. One that was delivered is stopped: what was
    removed on purpose does not come back without a new request.

    Args:
        gateway: the open gateway.
        study: StudyInstanceUID.
        project: the project's name.
        targets: names of targets; empty: all that may have something.
        by: who confirms it, as the operating system knows this person.
        ask: ask each research PACS whether it still lists the study.

    Returns:
        The targets.

    Raises:
        UnknownStudy: no such study.
        UsageError: a target has nothing of this study and project.
        DeliveryRefused: a research PACS still lists something; nothing was written down.
        PeerUnavailable: it does not answer; nothing was written down.
    """
    gateway.ledger.receipts.study(study)
    found = gateway.ledger.sendings.at(study, project)
    there = sorted({sending.target for sending in found})
    unknown = sorted(set(targets) - set(there))
    if unknown or not there:
        raise UsageError(
            f"study {study}, project {project}: nothing was sent to {', '.join(unknown) or 'any target'}, or "
            f"its removal is confirmed already (something may be at: {', '.join(there) or 'no target'})"
        )
    chosen = [sending for sending in found if not targets or sending.target in targets]
    if ask:
        _ask(gateway, chosen)
    names = sorted({sending.target for sending in chosen})
    with gateway.ledger.store.writing():
        gateway.ledger.sendings.confirm_removed(chosen, by)
        gateway.ledger.store.note(
            study, f"{project}: removal of the copy at {', '.join(names)} confirmed by {by}"
        )
        _go_on(gateway, study, project, names)
    return names


def _ask(gateway: Gateway, sendings: Sequence[Sending]) -> None:
    for name, mapped in sorted({(sending.target, sending.mapped_uid) for sending in sendings}):
        try:
            target = gateway.target(name)
        except ConfigurationError:
            continue  # taken out of config.json: nobody to ask, the person's word counts
        if isinstance(target, InstanceTarget) and mapped:
            count = count_at(target, gateway.root, name, mapped)
            if count:
                raise DeliveryRefused(
                    f"target {name}: still lists {count} instances; nothing was recorded. Have the copy "
                    "removed there first; `fiona status --json STUDY` has its StudyInstanceUID (mapped_uid)"
                )


def _go_on(gateway: Gateway, study: str, project: str, names: Sequence[str]) -> None:
    transfer = gateway.ledger.transfers.current(study, project)
    if transfer is None:
        return
    if transfer.state == "delivered":
        gateway.ledger.transfers.stop(
            study,
            project,
            f"stopped: the removal of the copy at {', '.join(names)} was confirmed; ask again with another "
            "date to have it sent again",
        )
    elif transfer.state in ("packaged", "failed"):
        for name in names:
            if name in gateway.project(project).targets:
                gateway.ledger.work.need(
                    "deliver", study, transfer.revision, project=project, target=name, again=True
                )
