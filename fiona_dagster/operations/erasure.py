"""Erasure of the link between a person and de-identified data: what is left are counts.

Original and mapped UIDs and the participant go from REDCap, the archive, journals, records, packages, the
ledger, Dagster's storage and logs; the project's key stays. What was delivered is not reached from here: that
is told before, and nobody can tell afterwards whose it was.

A person who starts it must be able to finish it: the order of work is written to ``ledger/erasure.json``
first, every step can be repeated, and nobody else writes below the data root until it is done
(``landing.claim``). REDCap comes first, so that nothing is asked for again; where it can't be asked or told,
nothing is erased here and the gateway goes on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import (
    FionaError,
    PermanentError,
    RedcapRejected,
    RedcapUnavailable,
    UsageError,
)
from fiona_dagster.landing import alone
from fiona_dagster.landing.erasing import erase_commitments, erase_landed
from fiona_dagster.landing.files import sync_directory
from fiona_dagster.ledger import erasing, records_folder, remove_parts
from fiona_dagster.ledger.condition import why_lost
from fiona_dagster.ledger.holding import nobody_else
from fiona_dagster.ledger.link import Link, counts_of, is_there, packages_of, read_link
from fiona_dagster.operations.erasure_redcap import asked_for_by_others, erase_in_redcap
from fiona_dagster.operations.lock import hold_root
from fiona_dagster.operations.rebuild import Rebuilt, build
from fiona_dagster.operations.scrubbing import files_that_tell, scrub_dagster, scrub_logs
from fiona_dagster.studies.tree import forget_study
from fiona_dagster.transfers.beside import remove_package
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.packing import package_prefix
from fiona_dagster.transfers.scratch import SCRATCH


@dataclass(frozen=True)
class Plan:
    """What an erasure will do.

    Attributes:
        link: what goes.
        counts: what stays of it.
        places: (target, number of studies) where copies lie as far as is known; nobody can tell afterwards.
        committed: instances whose safekeeping was confirmed to a sender.
        kept_ledgers: old ledgers that `fiona rebuild` kept; they go too.
        unasked: no REDCap is configured that could say whether others want the studies: originals stay.
        awaiting: requests of others that wait until a copy of the link is removed; they wait no longer then.
    """

    link: Link
    counts: dict[str, int]
    places: dict[str, int]
    committed: int
    kept_ledgers: int
    unasked: bool
    awaiting: int


@dataclass
class Erased:
    """What became of it. ``problems``: what is left to a person."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Order:
    """What is to be done, and how far it is: ``told``: REDCap has nothing of it any more."""

    link: Link
    counts: dict[str, int]
    told: bool = False
    problems: list[str] = field(default_factory=list)


def plan(root: DataRoot, project: str, participant: str) -> Plan:
    """What an erasure of this participant would do; changes nothing.

    Raises:
        UsageError: nothing is known of this participant in this project.
        RedcapUnavailable, RedcapRejected: REDCap did not say whether others want the studies.
    """
    with Gateway(root) as gateway:
        gateway.ledger.receipts.read_journals()
        gateway.ledger.evidence.read_journals()
        link = read_link(root, project, participant)
        if not link.whole and not link.shared:
            raise UsageError(f"project {project}: nothing is known of such a participant")
        unasked = not gateway.settings.redcap.url
        needed = set(link.whole) if unasked else asked_for_by_others(gateway, link)
        if needed:
            link = read_link(root, project, participant, needed)
        places: dict[str, int] = {}
        committed = sum(len(gateway.ledger.evidence.committed(study)) for study in link.whole)
        for study in (*link.whole, *link.shared):
            found = gateway.ledger.sendings.at(study, project)
            for target in {each.target for each in found if each.transfer in link.numbers}:
                places[target] = places.get(target, 0) + 1
        awaiting = sum(
            each.awaits_removal and each.project == project and each.id not in link.numbers
            for study in link.shared
            for each in gateway.ledger.transfers.all(study)
        )
    return Plan(link, counts_of(root, link), places, committed, len(_kept_ledgers(root)), unasked, awaiting)


def erase(root: DataRoot, project: str, participant: str) -> Erased:
    """Erases the link of a participant of a project.

    Raises:
        Busy: `fiona up`, `fiona receive` or another command uses the data root; stop it first.
        UsageError: nothing is known of this participant, or another erasure waits to be finished.
        RedcapUnavailable, RedcapRejected: REDCap could not be asked or told; nothing was erased here.
    """
    with hold_root(root, erasing=True), alone(root):
        if root.erasure_file.exists():
            raise UsageError("an erasure was cut short; finish it first with `fiona erase --resume`")
        return _begin(root, project, participant)


def _begin(root: DataRoot, project: str, participant: str) -> Erased:
    with _giving_up(root):
        planned = plan(root, project, participant)
        order = _Order(planned.link, planned.counts)
        _write_order(root, order)
        with Gateway(root) as gateway:
            if planned.unasked:
                order.problems.append(
                    "no REDCap is configured: what it may hold is not reached from here, and nobody can say "
                    f"whether others asked for the {len(planned.link.shared)} studies: their originals stay"
                )
            else:
                erase_in_redcap(gateway, planned.link, order.problems)
    order.told = True
    _write_order(root, order)
    return _carry_out(root, order)


def resume(root: DataRoot) -> Erased:
    """Finishes an erasure that was cut short.

    Raises:
        UsageError: there is none.
        RedcapUnavailable, RedcapRejected: REDCap could not be asked or told; nothing was erased here.
    """
    with hold_root(root, erasing=True), alone(root):
        if not root.erasure_file.exists():
            raise UsageError("no erasure waits to be finished")
        order = _read_order(root)
        if why_lost(root):
            order = _in_a_new_ledger(root, order)
        if order.told:
            return _carry_out(root, order)
        # Nothing was erased here yet, and others may have asked for the studies since.
        return _begin(root, order.link.project, order.link.participant)


def _in_a_new_ledger(root: DataRoot, order: _Order) -> _Order:
    """The ledger was lost before all was erased: it is built anew of what is left, and says what still goes.

    Its journals may be gone already; what it can't take over is what the erasure has reached.
    """
    with nobody_else(root):
        build(root, Rebuilt())
    left = read_link(root, order.link.project, order.link.participant, order.link.shared)
    return replace(order, link=replace(order.link, numbers=left.numbers))


def _read_order(root: DataRoot) -> _Order:
    try:
        document = json.loads(root.erasure_file.read_bytes())
        link = Link(
            project=document["link"]["project"],
            participant=document["link"]["participant"],
            whole=tuple(document["link"]["whole"]),
            shared=tuple(document["link"]["shared"]),
            numbers=tuple(document["link"]["numbers"]),
            uids=frozenset(document["link"]["uids"]),
            instances=frozenset(document["link"]["instances"]),
            mapped=frozenset(document["link"]["mapped"]),
        )
        counts = {str(name): int(number) for name, number in document["counts"].items()}
        return _Order(link, counts, bool(document["told"]), [str(each) for each in document["problems"]])
    except (ValueError, KeyError, TypeError):
        raise PermanentError(f"{root.erasure_file}: can't be read; restore it from the backup") from None


def _write_order(root: DataRoot, order: _Order) -> None:
    document = asdict(order)
    document["link"] = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in document["link"].items()
    }
    part = _part(root)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(root.erasure_file)
    sync_directory(part.parent)


def _part(root: DataRoot) -> Path:
    return root.erasure_file.with_name(".erasure.json.part")


def _remove_order(root: DataRoot) -> None:
    _part(root).unlink(missing_ok=True)
    root.erasure_file.unlink(missing_ok=True)
    sync_directory(root.erasure_file.parent)


@contextmanager
def _giving_up(root: DataRoot) -> Iterator[None]:
    """When something fails before anything was erased here: the gateway must be able to go on meanwhile."""
    what = "nothing was erased here; start it again"
    try:
        yield
    except RedcapUnavailable as error:
        _remove_order(root)
        raise RedcapUnavailable(f"{error}; {what} when REDCap answers") from error
    except RedcapRejected as error:
        _remove_order(root)
        raise RedcapRejected(
            f"{error}; {what} when that is mended", error.status, whole=error.whole
        ) from error
    except FionaError:
        _remove_order(root)
        raise


def _carry_out(root: DataRoot, order: _Order) -> Erased:
    """What is here, when REDCap has nothing of it; the ledger last, since it knows what the rest is."""
    link = order.link
    _on_disk(root, link)
    for study in link.whole:
        erase_landed(root, study, link.instances)
        for tree in root.site_trees():
            name = f"{tree.site_name}.{study}" if tree.site_name else study
            for ending in (".lock", ".names"):
                (root.locks / f"{name}{ending}").unlink(missing_ok=True)
    erase_commitments(root, link.uids)
    # A resumed erasure whose rows are gone already counts nothing twice.
    erasing.erase_rows(root, link, order.counts if is_there(root, link) else {})
    for path in _kept_ledgers(root):
        path.unlink(missing_ok=True)
    result = Erased(order.counts, [*order.problems, *scrub_dagster(root, link.uids)])
    scrub_logs(root, link.uids)
    _flush_removals(root)
    _remove_order(root)
    result.problems += [f"{path}: still names what was erased" for path in files_that_tell(root, link.uids)]
    return result


def _flush_removals(root: DataRoot) -> None:
    """What was removed is so after a power loss, too, before nobody knows any more that it had to be."""
    tops = [root.outbox, root.daic, root.projects, root.quarantine, root.dagster_home, root.logs]
    tops += [root.locks, root.ledger_file.parent]
    for tree in root.site_trees():
        tops += [tree.site, tree.raw, tree.participants, tree.scanner, tree.conflicts]
    for top in dict.fromkeys(tops):
        for folder in (top, *(path for path in top.glob("*") if path.is_dir() and not path.is_symlink())):
            if folder.is_dir():
                sync_directory(folder)
    records = records_folder(root)
    if records.is_dir():
        sync_directory(records)


def _kept_ledgers(root: DataRoot) -> list[Path]:
    """What `fiona rebuild` put aside."""
    return sorted(root.ledger_file.parent.glob("ledger-*.sqlite*"))


# -- disk --------------------------------------------------------------------------------------------------


def _on_disk(root: DataRoot, link: Link) -> None:
    """Packages and copies, also what a kill left half-written or unbooked; nobody works on anything now."""
    paths, others = packages_of(root, link)
    kept = {Path(path).name for path in others}
    prefix = package_prefix(link.project, link.participant)
    for folder in (root.outbox / link.project, root.daic / link.project):
        names = {f"{path.name.partition('.zip')[0]}.zip" for path in folder.glob(f"{prefix}_*")}
        paths |= {f"outbox/{link.project}/{name}" for name in names - kept}
    for path in paths:
        for place in {path, path.replace("outbox/", "DAIC/", 1)}:
            remove_package(root.path / place)
    for part in root.outbox.rglob(".*.part"):
        part.unlink()
    remove_parts(root, older_than_seconds=-1)
    for scratch in root.projects.glob(f"*/{SCRATCH}*"):
        shutil.rmtree(scratch)
    for number in link.numbers:
        for path_ in root.projects.glob(f"*/*transfer-{number}-*"):
            if path_.is_dir():
                shutil.rmtree(path_)
            else:
                path_.unlink()
    for study in link.whole:
        for tree in root.site_trees():
            forget_study(tree, study)


def describe(planned: Plan) -> list[str]:
    """What a person should know before, a sentence each; nothing identifying."""
    link, counts = planned.link, planned.counts
    lines = [
        f"{len(link.whole)} studies with {counts['instances']} instances go wholly, originals included; of "
        f"{len(link.shared)} studies that others need, only what project {link.project} did with them goes",
        f"{counts['transfers']} transfers, {counts['packages']} packages, {counts['deliveries']} deliveries",
    ]
    if planned.unasked:
        lines.append(
            "no REDCap is configured: nobody can say whether others want the studies, so all originals stay"
        )
    for target, number in sorted(planned.places.items()):
        lines.append(
            f"copies of {number} studies lie at {target}: afterwards nobody here can tell which they are"
        )
    if planned.awaiting:
        lines.append(
            f"{planned.awaiting} requests of others wait until such a copy is removed: they wait no longer "
            "then; have it removed first"
        )
    if planned.committed:
        lines.append(f"the safekeeping of {planned.committed} instances was confirmed to their senders")
    if planned.kept_ledgers:
        lines.append("older ledgers that `fiona rebuild` kept are removed as a whole")
    lines.append(
        "REDCap's own log keeps the names of records, which are the original study UIDs in Incoming and the "
        "participant in the project's own REDCap: only REDCap's administrator can have them taken out"
    )
    lines.append(
        "backups of the data root, of REDCap and of the research PACS, and exports in other folders are not "
        "reached from here"
    )
    return lines
