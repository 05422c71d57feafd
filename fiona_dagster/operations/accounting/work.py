"""Studies, transfers and work in the ledger: what is not finished must have somebody who takes it up."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from fiona_dagster.config import DataRoot, InstanceTarget, load_project_in_force, load_settings_in_force
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.ledger import Ledger, Transfer, work_key
from fiona_dagster.operations.accounting.findings import MAINTENANCE, Account
from fiona_dagster.transfers.unbooked import OVER, owner

KINDS = ("process", "transfer", "deliver", "status")
SENSOR = "the sensor transfer_requests, while `fiona up` runs"


@dataclass(frozen=True)
class Books:
    """The ledger's rows that describe what is under way; one picture of one moment."""

    studies: dict[str, sqlite3.Row]
    transfers: list[sqlite3.Row]
    work: dict[str, sqlite3.Row]
    packages: dict[tuple[int, int], sqlite3.Row]
    deliveries: dict[tuple[int, int], dict[str, str]]
    every: list[Transfer]
    """All transfers, those that count no more among them."""

    @classmethod
    def read(cls, ledger: Ledger) -> Books:
        """Everything, to be called inside ``Store.reading``."""
        store = ledger.store
        deliveries: dict[tuple[int, int], dict[str, str]] = {}
        for row in store.rows("SELECT transfer, revision, target, sha256 FROM deliveries"):
            deliveries.setdefault((row["transfer"], row["revision"]), {})[row["target"]] = row["sha256"]
        return cls(
            {
                row["study"]: row
                for row in store.rows("SELECT study, open, revision, registered FROM studies")
            },
            store.rows(
                "SELECT id, study, project, state, revision FROM transfers WHERE state != 'superseded'"
            ),
            {row["key"]: row for row in store.rows("SELECT * FROM work")},
            {(row["transfer"], row["revision"]): row for row in store.rows("SELECT * FROM packages")},
            deliveries,
            ledger.transfers.all(),
        )

    def current(self) -> Iterator[sqlite3.Row]:
        """Transfers that count."""
        return (
            row
            for row in self.transfers
            if row["state"] not in ("refused", "stopped", "withdrawn", "adopted")
        )


def check_studies(books: Books, account: Account) -> None:
    """A revision that is not registered needs work that carries it."""
    account.checked["studies"] = len(books.studies)
    for study, row in books.studies.items():
        if row["open"] or (row["registered"] >= row["revision"] and row["revision"]):
            continue  # still arriving: the sensor closes it when it is quiet
        key = work_key("process", study)
        if key not in books.work:
            account.add(
                "stuck_study",
                study,
                key,
                f"revision {row['revision']} is not registered, nothing processes it; "
                f"`fiona launch --study {study}`",
            )


def check_transfers(root: DataRoot, books: Books, account: Account) -> None:
    """A transfer that is not finished needs work, a project and targets that exist."""
    account.checked["transfers"] = len(books.transfers)
    for transfer in books.current():
        if transfer["state"] == "accepted":
            _check_accepted(root, books, transfer, account)
        elif transfer["state"] == "packaged":
            _check_packaged(root, books, transfer, account)


def _check_accepted(root: DataRoot, books: Books, transfer: sqlite3.Row, account: Account) -> None:
    study, project = transfer["study"], transfer["project"]
    key = work_key("transfer", study, project)
    if _targets(root, project) is None:
        account.add("no_project", study, key, f"project {project} has no usable file here; put it back")
    elif key not in books.work:
        account.add(
            "stuck_transfer",
            study,
            key,
            f"was accepted, but nothing carries it; `fiona launch --study {study} --project {project}`",
        )


def _check_packaged(root: DataRoot, books: Books, transfer: sqlite3.Row, account: Account) -> None:
    study, project = transfer["study"], transfer["project"]
    targets = _targets(root, project)
    if targets is None:
        key = work_key("deliver", study, project)
        account.add("no_project", study, key, f"project {project} has no usable file here; put it back")
        return
    place = (transfer["id"], transfer["revision"])
    package = books.packages.get(place)
    proven = books.deliveries.get(place, {})
    missing = [name for name in targets if package is None or proven.get(name) != package["sha256"]]
    for target in missing:
        key = work_key("deliver", study, project, target)
        if key not in books.work:
            account.add("not_sent", study, key, f"{target} was added since the package was made", SENSOR)
    if not missing:
        key = work_key("transfer", study, project)
        account.add("not_closed", study, key, "proven everywhere, but not closed (killed in between)", SENSOR)


def check_work(root: DataRoot, books: Books, account: Account) -> None:
    """Work that nothing will ever take up."""
    account.checked["work"] = len(books.work)
    current = {(row["study"], row["project"]): row for row in books.current()}
    known = {(row["study"], row["project"]) for row in books.transfers}
    for key, row in books.work.items():
        why = _why_never(root, row, books, current, known)
        if why:
            account.add("orphan_work", row["study"], key, f"nothing will take this up: {why}")


def _why_never(
    root: DataRoot,
    row: sqlite3.Row,
    books: Books,
    current: dict[tuple[str, str], sqlite3.Row],
    known: set[tuple[str, str]],
) -> str:
    kind, place = row["kind"], (row["study"], row["project"])
    if kind not in KINDS:
        return "its kind is unknown to this version"
    if row["study"] not in books.studies:
        return "no such study here"
    if kind == "process":
        return ""
    if place not in known:
        return "no transfer of this study to this project"
    if kind == "status":
        return ""
    if place not in current:
        return "no transfer of this study to this project counts any more"
    targets = _targets(root, row["project"])
    closed = current[place]["state"] == "delivered"  # else the sensor forgets a target that was taken out
    if kind == "deliver" and closed and targets is not None and row["target"] not in targets:
        return f"project {row['project']} has no target {row['target']} any more"
    return ""


def check_packages(root: DataRoot, books: Books, account: Account) -> None:
    """Packages in the ledger against ``outbox/`` and ``DAIC/``."""
    account.checked["packages"] = len(books.packages)
    on_disk = _packages_on_disk(root)
    known = {row["path"] for row in books.packages.values()}
    moving = set()
    for transfer in books.current():
        package = books.packages.get((transfer["id"], transfer["revision"]))
        if package is None or transfer["state"] not in ("packaged", "delivered"):
            continue
        path, study = package["path"], transfer["study"]
        moved = path.replace("outbox/", "DAIC/", 1)
        if path not in on_disk and transfer["state"] == "packaged" and moved in on_disk:
            moving.add(moved)
        elif path not in on_disk:
            account.add(
                "lost_package", study, path, "the package is not there any more; restore it from the backup"
            )
        elif on_disk[path] != package["size"]:
            account.add(
                "size_differs",
                study,
                path,
                f"has {on_disk[path]} bytes, packed were {package['size']}; restore it",
            )
        for target, sha256 in books.deliveries.get((transfer["id"], transfer["revision"]), {}).items():
            if sha256 != package["sha256"] and transfer["state"] == "delivered":
                account.add(
                    "other_package", study, path, f"{target} was proven to have another package than this"
                )
    underway = {row["project"] for row in books.current() if row["state"] == "accepted"}
    for path in sorted(on_disk.keys() - known - moving):
        # made by a step that was killed before it was booked: its repetition, if any, replaces it
        _, project, name = path.split("/")
        handled = f"the next run of transfer_{project}" if project in underway else ""
        whose = owner(name, (each for each in books.every if each.project == project))
        if path.startswith("outbox/") and whose is not None and whose.state in OVER:
            handled = MAINTENANCE
        account.add(
            "unknown_package", "", path, "a package that the ledger does not know; `fiona rebuild`", handled
        )


def altered_packages(root: DataRoot, account: Account) -> None:
    """Hashes every package that still counts; one that has another size is told by :func:`check_packages`."""
    with Ledger(root) as ledger, ledger.store.reading():
        books = Books.read(ledger)
    count = 0
    for transfer in books.current():
        package = books.packages.get((transfer["id"], transfer["revision"]))
        if package is None or transfer["state"] not in ("packaged", "delivered"):
            continue
        for path in (package["path"], package["path"].replace("outbox/", "DAIC/", 1)):
            try:
                with (root.path / path).open("rb") as file:
                    same_size = os.fstat(file.fileno()).st_size == package["size"]
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                continue
            count += 1
            if same_size and digest != package["sha256"]:
                account.add(
                    "altered_package",
                    transfer["study"],
                    path,
                    "its bytes are not those that were packed; restore it from the backup",
                )
            break
    account.checked["packages read"] = count


def _packages_on_disk(root: DataRoot) -> dict[str, int]:
    return {
        path.relative_to(root.path).as_posix(): path.stat().st_size
        for top in (root.outbox, root.daic)
        for path in top.glob("*/*.zip")
        if not path.name.startswith(".")
    }


def check_working_copies(root: DataRoot, books: Books, account: Account) -> None:
    """Working copies that a delivery still needs, and those that nobody needs."""
    there = {
        path.relative_to(root.path).as_posix() for path in root.projects.glob("*/transfer-*") if path.is_dir()
    }
    wanted = set()
    for transfer in books.current():
        name = f"projects/{transfer['project']}/transfer-{transfer['id']}-r{transfer['revision']}"
        if transfer["state"] in ("accepted", "packaged", "failed"):
            wanted.add(name)
        if transfer["state"] == "packaged" and name not in there and _needs_copy(root, books, transfer):
            account.add(
                "lost_working_copy",
                transfer["study"],
                name,
                "a delivery needs it, and makes it again",
            )
    for name in sorted(there - wanted):
        account.add("leftover_copy", "", name, "a working copy that nobody needs any more", MAINTENANCE)


def _needs_copy(root: DataRoot, books: Books, transfer: sqlite3.Row) -> bool:
    """Whether a target of a packaged transfer that takes instances is not proven yet."""
    configured = load_settings_in_force(root)[0].targets if root.config_file.is_file() else {}
    proven = books.deliveries.get((transfer["id"], transfer["revision"]), {})
    targets = _targets(root, transfer["project"]) or ()
    return any(isinstance(configured.get(name), InstanceTarget) and name not in proven for name in targets)


def _targets(root: DataRoot, project: str) -> tuple[str, ...] | None:
    """Targets of a project; None if it has no usable file."""
    try:
        return tuple(load_project_in_force(root, project)[0].targets)
    except ConfigurationError:
        return None


def check_flags(ledger: Ledger, account: Account) -> None:
    """Counts what waits for a person; it is a known state."""
    flagged = ledger.store.rows("SELECT flags FROM studies WHERE flags != '[]'")
    account.checked["flagged studies"] = sum(bool(json.loads(row["flags"])) for row in flagged)
