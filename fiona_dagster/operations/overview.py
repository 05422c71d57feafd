"""Where everything stands, read from the ledger after it took over what the journals have."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from fiona_dagster import landing
from fiona_dagster.config import DataRoot, Switches, read_switches
from fiona_dagster.landing.inbox import count_waiting
from fiona_dagster.ledger import STATES, AccountedInstance, Ledger, Sending, Study, Transfer, Work
from fiona_dagster.transfers import outage
from fiona_dagster.transfers.adoption import to_adopt


def overview(root: DataRoot) -> dict[str, Any]:
    """All studies with their transfers, and the work that is open. JSON-able, nothing identifying."""
    switches = read_switches(root)
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        states = ledger.accounts.counts()
        totals = Counter[str]()
        for counts in states.values():
            totals.update(counts)
        transfers: dict[str, list[Transfer]] = {}
        for transfer in ledger.transfers.all():
            transfers.setdefault(transfer.study, []).append(transfer)
        return {
            "studies": [
                {
                    **_study(study),
                    "states": states.get(study.study, {}),
                    "transfers": [_transfer(t) for t in transfers.get(study.study, [])],
                }
                for study in ledger.receipts.studies()
            ],
            "work": [_work(work, switches) for work in ledger.work.open()],
            "waiting_for_release": len(ledger.releases.waiting()),
            "to_adopt": to_adopt(ledger),
            "targets_down": [asdict(circuit) for circuit in ledger.circuits.opened()],
            "redcap_down": asdict(down) if (down := outage.outage(ledger)) else None,
            "switches": asdict(switches),
            "states": {state: totals[state] for state in STATES if totals[state]},
            "quarantine": landing.quarantine_count(root),
            "inbox": count_waiting(root),
        }


def study_detail(root: DataRoot, study: str) -> dict[str, Any]:
    """Everything about one study, packages and proofs in full.

    Raises:
        UnknownStudy: the ledger has no such study.
    """
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.evidence.read_journals()
        found = ledger.receipts.study(study)
        judged = ledger.evidence.completion(study)
        transfers = []
        for transfer in ledger.transfers.all(study):
            package = ledger.transfers.package(transfer)
            transfers.append(
                {
                    **_transfer(transfer),
                    "participant": transfer.participant,
                    "event": transfer.event,
                    "mapped_uid": transfer.mapped_uid,
                    "package": asdict(package) if package else None,
                    "weak_hits": _weak_hits(ledger, transfer),
                    "release": _release(ledger, transfer),
                    "not_sent": ledger.transfers.not_sent(transfer),
                    "deliveries": [asdict(d) for d in ledger.transfers.deliveries(transfer).values()],
                    "sendings": [
                        _sending(sending)
                        for sending in ledger.sendings.of(study, transfer.project)
                        if sending.transfer == transfer.id
                    ],
                }
            )
        instances = [*ledger.accounts.instances(study), *_quarantined(root, study)]
        return {
            **_study(found),
            "completion": asdict(judged) if judged else None,
            "committed": len(ledger.evidence.committed(study)),
            "states": _counts(instances),
            "instance_states": [asdict(instance) for instance in instances],
            "digests": sum(bool(i.digest) for i in instances),
            "series": found.summary.get("series", []),
            "transfers": transfers,
            "work": [_work(work, read_switches(root)) for work in ledger.work.open(study)],
            "assignment": asdict(assigned) if (assigned := ledger.assignments.of(study)) else None,
            "history": ledger.store.history(study),
        }


def _quarantined(root: DataRoot, study: str) -> list[AccountedInstance]:
    """Bytes of this study that stood in the archive once and were found unfit for it."""
    return [
        AccountedInstance(
            item.sop_instance,
            item.path.relative_to(root.path).as_posix(),
            "quarantined",
            {},
            item.size,
            0,
            "",
        )
        for item in landing.quarantined(root)
        if item.acknowledged and item.study == study
    ]


def _counts(instances: list[AccountedInstance]) -> dict[str, int]:
    counts = Counter(instance.state for instance in instances)
    return {state: counts[state] for state in STATES if counts[state]}


def _study(study: Study) -> dict[str, Any]:
    return {
        "study": study.study,
        "state": study.state,
        "instances": study.instances,
        "conflicts": study.conflicts,
        "flags": list(study.flags),
        "revision": study.revision,
        "registered": study.registered,
        "first_arrival": study.first_arrival,
        "last_arrival": study.last_arrival,
        "retired": study.retired,
        "site": study.site,
        "sites": list(study.sites),
    }


def _work(work: Work, switches: Switches) -> dict[str, Any]:
    return {**asdict(work), "held": work.kind == "deliver" and not switches.sending}


def _weak_hits(ledger: Ledger, transfer: Transfer) -> dict[str, int]:
    """What the verification was not sure of, by kind: for a person to look at."""
    report = ledger.transfers.verification_report(transfer) or {}
    warnings = report.get("verification", {}).get("warnings", [])
    return dict(sorted(Counter(str(warning["rule"]) for warning in warnings).items()))


def _release(ledger: Ledger, transfer: Transfer) -> dict[str, Any] | None:
    """Whether a person has to look at the verified copy, and what was decided; None without such a copy."""
    review = ledger.releases.review(transfer)
    if review is None or not (review.asked or review.decision):
        return None
    return {
        "waits": review.waits,
        "reasons": review.reasons,
        "decision": review.decision,
        "by": review.by,
        "time": review.time,
    }


def _sending(sending: Sending) -> dict[str, Any]:
    return {
        "target": sending.target,
        "state": sending.state,
        "revision": sending.revision,
        "generation": sending.generation,
        "mapped_uid": sending.mapped_uid,
        "sha256": sending.sha256,
        "instances": len(sending.instances),
        "uncertain": sorted(sending.uncertain),
        "problems": sending.problems,
        "began": sending.began,
        "removed": sending.removed,
        "removed_by": sending.removed_by,
    }


def _transfer(transfer: Transfer) -> dict[str, Any]:
    return {
        "id": transfer.id,
        "project": transfer.project,
        "state": transfer.state,
        "reason": transfer.reason,
        "revision": transfer.revision,
        "generation": transfer.generation,
        "changed": transfer.changed,
    }
