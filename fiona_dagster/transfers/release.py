"""A person looks at a verified copy and lets it go, or does not.

Belongs here: when somebody has to look, and what follows from the decision. Stays out: the gate itself
(``ledger.releases``: packaging and every sender ask it), what there is to look at (``transfers.review``).
"""

from __future__ import annotations

from fiona_dagster.config import ProjectSettings
from fiona_dagster.errors import ConfigurationError, ReleaseAwaited, UsageError
from fiona_dagster.ledger import FIRST_STUDIES, Review, Transfer, Work, work_key
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.intake import study_lock
from fiona_dagster.transfers.rules import rules_digest, settings_of


def reasons_for_review(project: ProjectSettings, weak_hits: int, unsearchable: int = 0) -> dict[str, int]:
    """Why a person has to look at a verified copy: reason -> number; empty if nobody has to.

    Args:
        project: its settings in force.
        weak_hits: of the residual search.
        unsearchable: values that stay and can't be searched; no project waives that somebody looks at them.
    """
    reasons = {}
    if project.release == "review":
        reasons["project"] = 1
    if project.release_first_studies:
        reasons[FIRST_STUDIES] = project.release_first_studies
    if weak_hits and project.weak_hits == "review":
        reasons["weak_hits"] = weak_hits
    if unsearchable:
        reasons["unsearchable"] = unsearchable
    return reasons


def decide(
    gateway: Gateway, study: str, project: str | None, *, release: bool, by: str, reason: str
) -> Review:
    """Books what a person decided about the verified copy of a study, and lets the transfer go on or end.

    Args:
        gateway: the open gateway.
        study: StudyInstanceUID as received.
        project: whose copy; None if only one project's waits.
        release: False rejects it: the transfer fails with this reason.
        by: login name.
        reason: why; nothing identifying, since it stands in the study's history and in REDCap.

    Returns:
        The copy as it stands now.

    Raises:
        UsageError: nothing of this study waits, or copies of several projects do.
        NotVerified: the copy did not pass the verification.
    """
    name = project or _only_project(gateway, study)
    with study_lock(gateway, study):
        book = gateway.ledger.transfers
        transfer = book.current(study, name)
        if transfer is None:
            raise UsageError(f"study {study}: no transfer to project {name} was requested")
        files = book.files_to_review(transfer)
        review = gateway.ledger.releases.review(transfer)
        if review is None or (release and not review.reasons and review.decision != "rejected"):
            raise UsageError(f"study {study}: its copy for project {name} does not wait for a release")
        if transfer.state not in ("accepted", "failed"):
            raise UsageError(f"study {study}: its copy for project {name} is {transfer.state} already")
        before = {each.transfer.id for each in gateway.ledger.releases.waiting(name)}
        with gateway.ledger.store.writing():
            gateway.ledger.releases.decide(
                transfer, files, "released" if release else "rejected", by=by, reason=reason
            )
            if release:
                _go_on(gateway, transfer)
                after = {each.transfer.id for each in gateway.ledger.releases.waiting(name)}
                for other in gateway.ledger.transfers.all():
                    if other.id in before - after - {transfer.id}:
                        _go_on(gateway, other)
            else:
                _end(gateway, transfer, f"rejected at the review: {reason}")
        decided = gateway.ledger.releases.review(transfer)
    if decided is None:
        raise UsageError(f"study {study}: its copy for project {name} changed meanwhile; look at it again")
    return decided


def _only_project(gateway: Gateway, study: str) -> str:
    """The one project whose copy of a study waits, or was rejected and may be released after all."""
    book = gateway.ledger.transfers
    found = set()
    for name in {transfer.project for transfer in book.all(study)}:
        transfer = book.current(study, name)
        review = gateway.ledger.releases.review(transfer) if transfer else None
        if review is not None and (review.waits or review.decision == "rejected"):
            found.add(name)
    if not found:
        raise UsageError(f"study {study}: nothing of it waits for a release; `fiona release` lists what does")
    if len(found) > 1:
        raise UsageError(f"study {study}: copies of {', '.join(sorted(found))} wait; name one by --project")
    return found.pop()


def _go_on(gateway: Gateway, transfer: Transfer) -> None:
    if transfer.state == "failed":
        gateway.ledger.transfers.set_state(transfer, "accepted")
    gateway.ledger.work.need(
        "transfer", transfer.study, transfer.revision, project=transfer.project, again=True
    )


def _end(gateway: Gateway, transfer: Transfer, reason: str) -> None:
    key = work_key("transfer", transfer.study, transfer.project)
    gateway.ledger.work.failed(key, reason, permanent=True)
    gateway.ledger.transfers.set_state(transfer, "failed", reason)
    gateway.ledger.transfers.outcome_due(transfer)


def wait(gateway: Gateway, transfer: Transfer, message: str) -> None:
    """Books that a transfer goes no further until a person decides; no failure, and nothing is tried again.

    Args:
        gateway: the open gateway.
        transfer: what waits.
        message: why; nothing identifying.
    """
    key = work_key("transfer", transfer.study, transfer.project)
    gateway.ledger.work.failed(key, message, permanent=True)


def still_waits(gateway: Gateway, work: Work) -> bool:
    """Whether another run of a transfer would only end where it waits for a person again.

    An edited configuration gives everything blocked a new chance; a copy that was made by the rules in force
    and waits needs none. Its work is blocked again.
    """
    transfer = gateway.ledger.transfers.current(work.study, work.project)
    review = gateway.ledger.releases.review(transfer) if transfer else None
    if transfer is None or review is None or not review.waits or transfer.state != "accepted":
        return False
    try:
        if transfer.rules != rules_digest(settings_of(gateway, transfer)):
            return False
        gateway.ledger.releases.require(transfer)
    except ConfigurationError:
        return False
    except ReleaseAwaited as awaited:
        wait(gateway, transfer, str(awaited))
    return True


def only_package(gateway: Gateway, work: Work) -> bool:
    """Whether all that is left of a transfer is its package: its verified copy waited, and was released."""
    from fiona_dagster.transfers.execution import working_copy

    transfer = gateway.ledger.transfers.current(work.study, work.project)
    if transfer is None or transfer.state != "accepted" or transfer.revision != work.revision:
        return False
    review = gateway.ledger.releases.review(transfer)
    free = review is not None and (review.decision == "released" or (review.asked and not review.waits))
    return free and working_copy(gateway, transfer).is_dir()
