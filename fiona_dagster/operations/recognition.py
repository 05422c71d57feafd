"""Packages whose study has no record: their manifest tells which study they hold, REDCap who asked for them.

Used where a site's records are lost with its ledger. A package in DAIC/ was proven received by every target.
"""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Mapping
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

from fiona_dagster import deid
from fiona_dagster.config import DataRoot, has_project, load_project_in_force
from fiona_dagster.errors import FionaError, PermanentError
from fiona_dagster.ledger import Content, Ledger, Package, Request
from fiona_dagster.redcap import TransferRequest
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.package import read_manifest, verify_package
from fiona_dagster.transfers.verify import REPORT

_CHUNK = 1024 * 1024
REBUILT = "rebuilt: this package lay in DAIC/, where only proven ones go"


def recognise_packages(root: DataRoot, ledger: Ledger, problems: list[str]) -> int:
    """Books the packages in outbox/ and DAIC/ that no record tells of.

    Args:
        root: the data root.
        ledger: the one that is built; it has taken over journals and records.
        problems: what could not be taken over is added, and what to do.

    Returns:
        How many were booked.

    Raises:
        RedcapUnavailable: there is such a package, and nobody can say which request it answered.
    """
    known = {row["path"] for row in ledger.store.rows("SELECT path FROM packages")}
    found = [
        path
        for top in (root.outbox, root.daic)
        for path in sorted(top.glob("*/*.zip"))
        if not path.name.startswith(".") and path.relative_to(root.path).as_posix() not in known
    ]
    unknown = [path for path in found if not _is_moved(ledger, root, path)]
    if not unknown:
        return 0
    asked = _requests(root, ledger)
    read: list[tuple[Path, dict[str, Any]]] = []
    for path in unknown:
        problems = verify_package(path)
        if problems:
            problems.append(f"{path.relative_to(root.path)}: damaged ({problems[0]}); move it away")
        else:
            read.append((path, read_manifest(path)))
    count = 0
    # The newest of a study and project comes last, so that it is the transfer that counts.
    for path, manifest in sorted(read, key=lambda each: (int(each[1]["generation"]), _revision(each[1]))):
        try:
            _recognise(root, ledger, path, manifest, asked)
        except FionaError as error:
            problems.append(f"{path.relative_to(root.path)}: {error}")
        else:
            count += 1
    return count


def _revision(manifest: Mapping[str, Any]) -> int:
    return int(manifest.get("revision", 1))


def _is_moved(ledger: Ledger, root: DataRoot, path: Path) -> bool:
    """Moved to DAIC/ just before the ledger was lost: the record still has its place in outbox/."""
    here = path.relative_to(root.path).as_posix()
    row = ledger.store.row(
        "SELECT transfer, revision FROM packages WHERE path = ?", here.replace("DAIC/", "outbox/", 1)
    )
    if row is None or not here.startswith("DAIC/"):
        return False
    with ledger.store.writing() as db:
        db.execute(
            "UPDATE packages SET path = ? WHERE transfer = ? AND revision = ?",
            (here, row["transfer"], row["revision"]),
        )
    return True


def _requests(root: DataRoot, ledger: Ledger) -> list[TransferRequest]:
    """What REDCap has; without one the packages alone must do."""
    with Gateway(root, ledger) as gateway:
        return gateway.incoming().requests() if gateway.settings.redcap.url else []


def _recognise(
    root: DataRoot, ledger: Ledger, path: Path, manifest: Mapping[str, Any], asked: list[TransferRequest]
) -> None:
    study = _study_of(root, ledger, manifest)
    project, revision = str(manifest["project"]), _revision(manifest)
    participant, event = str(manifest["participant"]), str(manifest["event"])
    request = _request_of(asked, study, project, participant, event)
    wanted = Request(
        study,
        project,
        request.instance if request else 0,
        request.requested_date if request else "",
        participant,
        event,
    )
    with ledger.store.writing() as db:
        earlier = ledger.transfers.current(study, project)
        if earlier is not None and (earlier.participant, earlier.event) == (participant, event):
            db.execute("UPDATE transfers SET revision = ? WHERE id = ?", (revision, earlier.id))
            number = earlier.id
        else:
            number = ledger.transfers.accept(wanted, revision).id
        db.execute(
            "UPDATE transfers SET generation = ?, mapped_uid = ? WHERE id = ?",
            (int(manifest["generation"]), str(manifest["StudyInstanceUID"]), number),
        )
        if manifest.get("key_fingerprint"):
            ledger.record_key_fingerprint(project, str(manifest["key_fingerprint"]))
        if path.is_relative_to(root.daic):
            _book_proven(root, ledger, number, path, manifest)
        else:  # its verification is lost with the ledger: it is made again, the same bytes
            ledger.work.need("transfer", study, revision, project=project, again=True)
        _set_revision(ledger, db, study, revision, path)


def _book_proven(
    root: DataRoot, ledger: Ledger, number: int, path: Path, manifest: Mapping[str, Any]
) -> None:
    transfer = next(each for each in ledger.transfers.all() if each.id == number)
    size, digest, sum_ = _digests(path)
    files = len([entry for entry in manifest["files"] if entry["name"] != REPORT])
    package = Package(path.relative_to(root.path).as_posix(), size, sum_, digest, files, "")
    targets = _targets(root, ledger, transfer.project)
    ledger.transfers.record_package(transfer, package, targets)
    for target in targets:
        with (
            ledger.store.writing() as db
        ):  # a copy lies there: another participant's must not be sent beside it
            ledger.sendings.begin(db, transfer=number, target=target, content=Content(digest))
        ledger.transfers.record_delivery(transfer, target, digest, {"kind": "rebuilt", "why": REBUILT})
    ledger.transfers.set_state(transfer, "delivered")
    ledger.transfers.outcome_due(transfer)


def _set_revision(ledger: Ledger, db: sqlite3.Connection, study: str, revision: int, path: Path) -> None:
    """The next revision that is closed is the package's, or a later one if images came since it was made."""
    with zipfile.ZipFile(path) as package:
        report = json.loads(package.read(REPORT))
    received = report.get("deidentification", {}).get("received")
    same = received == len(ledger.receipts.instances(study))
    before = revision - 1 if same else revision
    db.execute("UPDATE studies SET revision = max(revision, ?) WHERE study = ?", (before, study))


def _targets(root: DataRoot, ledger: Ledger, project: str) -> tuple[str, ...]:
    with Gateway(root, ledger) as gateway:
        return tuple(gateway.project(project).targets)


def _study_of(root: DataRoot, ledger: Ledger, manifest: Mapping[str, Any]) -> str:
    """The study whose mapped UID the manifest names.

    Raises:
        PermanentError: no study that is here has it.
    """
    project = str(manifest["project"])
    key = deid.ProjectKey.load(root, project)
    if key is None:
        raise PermanentError(f"the key of project {project} is missing; restore it from the backup")
    assignment = deid.Assignment(project, str(manifest["participant"]), str(manifest["event"]))
    settings = load_project_in_force(root, project)[0] if has_project(root, project) else None
    deidentifier = deid.Deidentifier(
        settings or deid.basic_profile_only(project), key, assignment, int(manifest["generation"])
    )
    wanted = manifest["StudyInstanceUID"]
    for study in ledger.receipts.studies():
        if deidentifier.new_study_uid(study.study) == wanted:
            return study.study
    raise PermanentError(
        f"no study that is here has its mapped UID with the key of project {project}; "
        "restore the right key or site/ from the backup, or move the package away"
    )


def _request_of(
    asked: list[TransferRequest], study: str, project: str, participant: str, event: str
) -> TransferRequest | None:
    fitting = [
        request
        for request in asked
        if (request.study, request.project, request.participant, request.event)
        == (study, project, participant, event)
    ]
    return max(fitting, key=lambda request: (request.requested_date, request.instance), default=None)


def _digests(path: Path) -> tuple[int, str, str]:
    whole, sum_, size = sha256(), md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
            sum_.update(chunk)
            size += len(chunk)
    return size, whole.hexdigest(), sum_.hexdigest()
