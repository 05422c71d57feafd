"""REDCap, ledger, disk and research PACS against each other: every gap with its reason and age.

Belongs here: comparing, per project. Stays out: whether single files are accounted for (``accounting``), and
repairing anything: what can be repaired is repaired by whoever owns it, level by level.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

from fiona_dagster.config import DicomTarget, InstanceTarget
from fiona_dagster.errors import ConfigurationError, FionaError
from fiona_dagster.ledger import Sending, Study, Transfer
from fiona_dagster.redcap import TransferRequest
from fiona_dagster.transfers import withdrawals
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.targets.instances import count_at

if TYPE_CHECKING:  # imported when called: pynetdicom is slow to import
    from fiona_dagster.dicom.peers import Peer

Code = Literal[
    "requested_not_received",
    "received_not_requested",
    "not_registered",
    "requested_not_delivered",
    "delivered_not_recorded",
    "recorded_not_delivered",
    "fewer_in_archive",
    "package_missing",
    "fewer_at_target",
    "more_at_target",
    "withdrawn_but_there",
]
HARMLESS: frozenset[str] = frozenset({"received_not_requested", "more_at_target"})
"""What is told and is no fault by itself, however old."""
FIND_BATCH = 50
"""Studies in one C-FIND (list of UID matching, PS3.4 C.2.2.2.2)."""


@dataclass(frozen=True, order=True)
class Gap:
    """Two that should say the same and don't.

    Attributes:
        project: whose; "" for what no project asked for.
        study: StudyInstanceUID as received.
        code: one word for programs.
        reason: what differs and what to do; nothing identifying.
        since: when it began as far as can be told, UTC; "" unknown.
    """

    project: str
    study: str
    code: Code
    reason: str
    since: str

    def age_days(self, now: datetime) -> float:
        """Days since it began; 0 where nobody knows."""
        if not self.since:
            return 0.0
        return max(0.0, (now - datetime.fromisoformat(self.since)).total_seconds() / 86400)


@dataclass
class Reconciliation:
    """What one comparison found.

    Attributes:
        time: when it was made, UTC.
        gaps: all of them, by project.
        checked: how much was compared.
        problems: what could not be asked, and why.
        limit_days: age from which a gap is too old.
    """

    time: datetime
    limit_days: float
    gaps: list[Gap] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def too_old(self) -> list[Gap]:
        """Gaps that nobody closed in time."""
        return [
            gap
            for gap in self.gaps
            if gap.code not in HARMLESS and gap.age_days(self.time) >= self.limit_days
        ]

    def by_project(self) -> dict[str, list[Gap]]:
        """Project -> its gaps, oldest first."""
        found: dict[str, list[Gap]] = defaultdict(list)
        for gap in sorted(self.gaps, key=lambda gap: (gap.project, gap.since or "~", gap.study)):
            found[gap.project].append(gap)
        return dict(found)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able picture."""
        return {
            "time": self.time.isoformat(),
            "limit_days": self.limit_days,
            "gaps": [
                {**asdict(gap), "age_days": round(gap.age_days(self.time), 2)}
                for gaps in self.by_project().values()
                for gap in gaps
            ],
            "too_old": len(self.too_old()),
            "checked": self.checked,
            "problems": self.problems,
        }


def reconcile(gateway: Gateway, now: datetime | None = None) -> Reconciliation:
    """Compares everything once; changes nothing.

    Args:
        gateway: the open gateway.
        now: the present time, with zone; default: the clock.
    """
    settings = gateway.settings
    result = Reconciliation(now or datetime.now(UTC), settings.reconciliation.gap_days)
    gateway.ledger.receipts.read_journals()
    studies = {study.study: study for study in gateway.ledger.receipts.studies()}
    current = _current(gateway)
    requests = _requests(gateway, result)
    result.checked = {"studies": len(studies), "transfers": len(current)}
    if requests is not None:
        result.checked["requests"] = len(requests[0])
        result.gaps += _against_redcap(gateway, studies, current, *requests)
    result.gaps += _unfinished(gateway, current)
    result.gaps += _on_disk(gateway, studies, current)
    _at_targets(gateway, current, result)
    for place in withdrawals.follow_up(gateway):
        reason = (
            "was withdrawn, or its request names another project; something of it may still be at "
            f"{place['target']}: `fiona removed`"
        )
        result.gaps.append(
            Gap(place["project"], place["study"], "withdrawn_but_there", reason, place["began"])
        )
    return result


def _current(gateway: Gateway) -> dict[tuple[str, str], Transfer]:
    """(study, project) -> the transfer that counts."""
    over = ("refused", "superseded", "stopped", "withdrawn", "adopted")
    return {(t.study, t.project): t for t in gateway.ledger.transfers.all() if t.state not in over}


def _requests(
    gateway: Gateway, result: Reconciliation
) -> tuple[list[TransferRequest], frozenset[str]] | None:
    """All requests, and the names of all records of *Incoming*; None where REDCap can't be read."""
    if not gateway.settings.redcap.url:
        result.problems.append("no REDCap is configured; nothing was compared with it")
        return None
    try:
        incoming = gateway.incoming()
        client = incoming.client
        rows = client.export_records(fields=["study_instance_uid"])
        return incoming.requests(), frozenset(row.get("study_instance_uid", "") for row in rows)
    except FionaError as error:
        result.problems.append(f"REDCap was not compared: {error}")
        return None


# -- REDCap ------------------------------------------------------------------------------------------------


def _against_redcap(
    gateway: Gateway,
    studies: Mapping[str, Study],
    current: Mapping[tuple[str, str], Transfer],
    requests: Sequence[TransferRequest],
    records: frozenset[str],
) -> Iterator[Gap]:
    asked: set[str] = set()
    known = gateway.ledger.transfers.newest_of_requests()
    for request in requests:
        if request.active and not request.withdrawn:
            asked.add(request.study)
            mine = known.get((request.study, request.instance, request.requested_date))
            if mine is not None and mine.state == "adopted":
                continue  # the system before this one delivered it: no gap of ours
            yield from _of_request(gateway, studies, current, request, mine)
    requested = {study for study, _ in current}
    for uid, study in studies.items():
        if study.registered and uid not in records:
            yield Gap(
                "",
                uid,
                "not_registered",
                f"processed here, but Incoming has no record of it; `fiona launch --study {uid}` writes it",
                study.last_arrival,
            )
        if study.registered and not study.retired and uid not in asked and uid not in requested:
            yield Gap("", uid, "received_not_requested", "nobody asked for it", study.last_arrival)


def _of_request(
    gateway: Gateway,
    studies: Mapping[str, Study],
    current: Mapping[tuple[str, str], Transfer],
    request: TransferRequest,
    known: Transfer | None,
) -> Iterator[Gap]:
    since = _utc(request.requested_date, gateway.settings.LOCALTIMEZONE)
    place = (request.project, request.study)
    transfer = current.get((request.study, request.project))
    if request.study not in studies:
        yield Gap(*place, "requested_not_received", "no image of it arrived", since)
        return
    if transfer is None:
        yield from _without_transfer(gateway, studies[request.study], request, known, since)
        return
    mine = transfer.request == request.instance
    if mine and transfer.state == "delivered" and request.mapped_uid != transfer.mapped_uid:
        reason = "delivered and proven, but REDCap does not say so yet; it is told at the next poll"
        yield Gap(*place, "delivered_not_recorded", reason, transfer.changed)
    elif mine and transfer.state != "delivered" and request.transfer_date >= request.requested_date != "":
        reason = f"REDCap has a transfer date, the transfer is {transfer.state} (late images, a correction)"
        yield Gap(*place, "recorded_not_delivered", reason, transfer.changed)


def _without_transfer(
    gateway: Gateway, study: Study, request: TransferRequest, known: Transfer | None, since: str
) -> Iterator[Gap]:
    """A request of which nothing counts: it was not taken up, or was refused, stopped or replaced."""
    place = (request.project, request.study)
    if request.transfer_date:
        reason = "but this ledger no delivery (another system, an old backup)"
        if known is not None:
            reason = f"the transfer is {known.state}: {known.reason}"
        when = known.changed if known is not None else _utc(request.transfer_date, _zone(gateway))
        yield Gap(*place, "recorded_not_delivered", f"REDCap has a transfer date, {reason}", when)
    elif known is None:
        reason = "not taken up yet; the sensor transfer_requests says why"
        if not (request.participant and request.event):
            reason = "not taken up: participant or event is not filled in"
        elif not study.registered:
            reason = f"not taken up: the study is {study.state}"
        yield Gap(*place, "requested_not_delivered", reason, since)
    elif known.state == "stopped" or known.awaits_removal:
        reason = f"{known.state}: {known.reason}"
        yield Gap(*place, "requested_not_delivered", reason, known.changed)


def _zone(gateway: Gateway) -> str:
    return gateway.settings.LOCALTIMEZONE


def _utc(local: str, zone: str) -> str:
    """A time of REDCap as the ledger writes it; "" where it can't be read."""
    try:
        moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone))
    except (ValueError, KeyError, OSError):
        return ""
    return moment.astimezone(UTC).isoformat()


# -- ledger and disk ---------------------------------------------------------------------------------------


def _unfinished(gateway: Gateway, current: Mapping[tuple[str, str], Transfer]) -> Iterator[Gap]:
    work = {(each.study, each.project): each for each in gateway.ledger.work.open() if each.error}
    for place, transfer in current.items():
        if transfer.state == "delivered":
            continue
        reason = transfer.reason or (work[place].error if place in work else "under way")
        yield Gap(
            transfer.project,
            transfer.study,
            "requested_not_delivered",
            f"{transfer.state}: {reason}",
            transfer.created,
        )


def _on_disk(
    gateway: Gateway, studies: Mapping[str, Study], current: Mapping[tuple[str, str], Transfer]
) -> Iterator[Gap]:
    for uid, study in studies.items():
        folder = gateway.root.of_site(study.site).archive / f"scp_{uid}"
        try:
            count = sum(not name.startswith(".") for name in os.listdir(folder))  # noqa: PTH208 - names only
        except FileNotFoundError:
            count = 0
        if count < study.instances:
            yield Gap(
                "",
                uid,
                "fewer_in_archive",
                f"{study.instances} instances were received, the archive has {count}: restore the backup",
                study.last_arrival,
            )
    for transfer in current.values():
        package = gateway.ledger.transfers.package(transfer)
        if transfer.state in ("packaged", "delivered") and package is not None:
            path = gateway.root.path / package.path
            moved = gateway.root.path / package.path.replace("outbox/", "DAIC/", 1)
            if not path.is_file() and not moved.is_file():
                yield Gap(
                    transfer.project,
                    transfer.study,
                    "package_missing",
                    f"the package is not at {package.path.partition('/')[0]}/ any more: restore the backup",
                    transfer.changed,
                )


# -- the research PACS -------------------------------------------------------------------------------------


def _at_targets(
    gateway: Gateway, current: Mapping[tuple[str, str], Transfer], result: Reconciliation
) -> None:
    """What each research PACS says it has of every study that was proven there."""
    from fiona_dagster.transfers.targets.dicom import peer_of

    proven: dict[str, dict[str, list[tuple[Transfer, Sending]]]] = defaultdict(lambda: defaultdict(list))
    for (study, project), transfer in current.items():
        for sending in gateway.ledger.sendings.at(study, project):
            if sending.instances and sending.state != "begun":
                proven[sending.target][sending.mapped_uid].append((transfer, sending))
    for name, sent in sorted(proven.items()):
        try:
            target = gateway.target(name)
        except ConfigurationError:
            continue  # taken out of config.json: nobody to ask
        if not isinstance(target, InstanceTarget):
            continue
        try:
            counts = (
                _ask(peer_of(target, gateway.root), sorted(sent))
                if isinstance(target, DicomTarget)
                else {mapped: count_at(target, gateway.root, name, mapped) for mapped in sorted(sent)}
            )
        except FionaError as error:
            result.problems.append(f"target {name} was not asked: {error}")
            continue
        result.checked[f"studies at {name}"] = len(sent)
        for mapped, pairs in sent.items():
            expected = {uid for _, sending in pairs for uid in sending.instances}
            transfer, sending = pairs[-1]
            there = counts.get(mapped, 0)
            if there == len(expected):
                continue
            code: Code = "fewer_at_target" if there < len(expected) else "more_at_target"
            reason = f"{name} lists {there} instances, {len(expected)} were proven there"
            result.gaps.append(Gap(transfer.project, transfer.study, code, reason, sending.changed))


def _ask(peer: Peer, studies: Sequence[str]) -> dict[str, int]:
    """Mapped StudyInstanceUID -> number of instances that the PACS has.

    Studies are asked for in lists; one of which it has none, or not the number, is asked for alone, since not
    every PACS knows lists.
    """
    from fiona_dagster.dicom.clients import count_instances, find

    counts: dict[str, int] = {}
    for start in range(0, len(studies), FIND_BATCH):
        batch = studies[start : start + FIND_BATCH]
        keys = {"StudyInstanceUID": "\\".join(batch), "NumberOfStudyRelatedInstances": ""}
        for answer in find(peer, "STUDY", keys):
            number = answer.get("NumberOfStudyRelatedInstances", "")
            if number.isdigit():
                counts[answer.get("StudyInstanceUID", "")] = int(number)
        for study in batch:
            if not counts.get(study):
                counts[study] = count_instances(peer, study) or _count_one_by_one(peer, study)
    return counts


def _count_one_by_one(peer: Peer, study: str) -> int:
    """For a PACS that does not say how many instances a study has."""
    from fiona_dagster.dicom.clients import find, find_instance_uids

    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": ""}
    series = {answer.get("SeriesInstanceUID", "") for answer in find(peer, "SERIES", keys)} - {""}
    return len(find_instance_uids(peer, study, sorted(series))) if series else 0
