"""``fiona rebuild``: a fresh ledger from journals, records, packages and REDCap.

What a study's record (``site/.ledger``) tells is taken over as it is. Packages without one, of a site whose
records are lost too, are recognised by their manifest: the mapped UID says which study they hold. A package
in DAIC/ was proven received by every target, so nothing of it is sent again.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

from fiona_dagster import deid, landing
from fiona_dagster.config import DataRoot, has_project, load_project_in_force, project_names
from fiona_dagster.errors import ConfigurationError, FionaError, PermanentError
from fiona_dagster.landing.files import sync_directory
from fiona_dagster.ledger import (
    Content,
    Ledger,
    Package,
    Request,
    read_records,
    restore_common,
    restore_record,
)
from fiona_dagster.operations.lock import hold_root
from fiona_dagster.redcap import TransferRequest
from fiona_dagster.transfers import intake
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.package import read_manifest, verify_package
from fiona_dagster.transfers.verify import REPORT

_CHUNK = 1024 * 1024
REBUILT = "rebuilt: this package lay in DAIC/, where only proven ones go"


@dataclass
class Rebuilt:
    """What a rebuild brought.

    Attributes:
        studies: studies that the journals know.
        instances: their instances.
        records: studies whose record was taken over.
        packages: packages that were recognised by their manifest alone.
        keys: projects whose key has its fingerprint recorded again.
        trees: studies whose links and series records below ``site/raw`` were written again.
        kept: where the old ledger is now, "" if there was none.
        problems: what could not be taken over, and what to do.
    """

    studies: int = 0
    instances: int = 0
    records: int = 0
    packages: int = 0
    keys: int = 0
    trees: int = 0
    kept: str = ""
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able picture."""
        return asdict(self)


def rebuild(root: DataRoot, *, trees: bool = True) -> Rebuilt:
    """Builds a new ledger beside the old one and puts it in its place; the old one is kept.

    Nobody else may use the data root meanwhile: what a receiver is just filing would look like an orphan, and
    what a command books into the old ledger would be lost.

    Args:
        root: the data root.
        trees: write ``site/raw`` and ``site/participants``, too, which takes its time.

    Raises:
        Busy: `fiona up`, `fiona receive` or another command uses the data root; stop it first.
        ErasureUnfinished: an erasure was cut short.
        RedcapUnavailable: a package without a record needs REDCap to find its request; nothing was changed.
        PermanentError: a package of unknown origin can't be told apart; nothing was changed.
    """
    result = Rebuilt()
    with hold_root(root), landing.alone(root):
        for tree in root.site_trees():
            landing.adopt_orphans(tree, everything=True)
        new = root.ledger_file.with_name(".ledger.sqlite.new")
        _remove(new)
        try:
            with Ledger(root, new) as ledger:
                _fill(root, ledger, result)
            result.kept = _exchange(root, new)
        finally:
            _remove(new)
        if trees:
            _organise(root, result)
    return result


def _organise(root: DataRoot, result: Rebuilt) -> None:
    """Writes ``site/raw`` and ``site/participants`` from the archive; of retired studies what is gone."""
    with Gateway(root) as gateway:
        for study in gateway.ledger.receipts.studies():
            tree = root.of_site(study.site).raw / study.study
            if not study.registered or (study.retired and tree.is_dir()):
                continue  # processing writes them; what is finished is not read again without need
            try:
                with intake.study_lock(gateway, study.study):
                    intake.organise(gateway, study.study)
            except FionaError as error:
                result.problems.append(f"site/raw/{study.study}: {error}")
            else:
                result.trees += 1


def _fill(root: DataRoot, ledger: Ledger, result: Rebuilt) -> None:
    with (
        ledger.store.restoring() as db
    ):  # decisions in the journals would write records that say nothing else
        ledger.receipts.read_journals()
        ledger.evidence.read_journals()
        known = {study.study for study in ledger.receipts.studies()}
        if not restore_common(db, root):
            result.problems.append("site/.ledger/consents.json can't be read; restore it from the backup")
        for study, record in read_records(root):
            if record is None or study not in known:
                why = "can't be read" if record is None else "is of a study that no journal tells of"
                result.problems.append(f"site/.ledger/{study}.json {why}; restore site/ from the backup")
                continue
            restore_record(db, study, record)
            result.records += 1
    with ledger.store.writing() as db:
        _close_unchanged(ledger, db)
    _recognise_packages(root, ledger, result)
    _need_what_is_open(ledger)
    result.keys = _record_keys(root, ledger, result)
    result.studies = len(known)
    row = ledger.store.row("SELECT count(*) AS number FROM instances")
    result.instances = int(row["number"]) if row else 0


def _close_unchanged(ledger: Ledger, db: sqlite3.Connection) -> None:
    """Reading journals opened every study; one that holds what its last revision held is closed again."""
    for study in ledger.receipts.studies():
        if study.revision and ledger.receipts.is_unchanged(study.study):
            db.execute("UPDATE studies SET open = 0 WHERE study = ?", (study.study,))


def _need_what_is_open(ledger: Ledger) -> None:
    """Work that follows from states; a record written before the last need would lack it."""
    for study in ledger.receipts.studies():
        if study.revision > study.registered and not study.open:
            ledger.work.need("process", study.study, study.revision)
    for transfer in ledger.transfers.all():
        if transfer.state == "accepted":
            ledger.work.need("transfer", transfer.study, transfer.revision, project=transfer.project)


# -- packages without a record -----------------------------------------------------------------------------


def _recognise_packages(root: DataRoot, ledger: Ledger, result: Rebuilt) -> None:
    known = {row["path"] for row in ledger.store.rows("SELECT path FROM packages")}
    found = [
        path
        for top in (root.outbox, root.daic)
        for path in sorted(top.glob("*/*.zip"))
        if not path.name.startswith(".") and path.relative_to(root.path).as_posix() not in known
    ]
    unknown = [path for path in found if not _is_moved(ledger, root, path)]
    if not unknown:
        return
    asked = _requests(root, ledger)
    read: list[tuple[Path, dict[str, Any]]] = []
    for path in unknown:
        problems = verify_package(path)
        if problems:
            result.problems.append(f"{path.relative_to(root.path)}: damaged ({problems[0]}); move it away")
        else:
            read.append((path, read_manifest(path)))
    # The newest of a study and project comes last, so that it is the transfer that counts.
    for path, manifest in sorted(read, key=lambda each: (int(each[1]["generation"]), _revision(each[1]))):
        try:
            _recognise(root, ledger, path, manifest, asked)
        except FionaError as error:
            result.problems.append(f"{path.relative_to(root.path)}: {error}")
        else:
            result.packages += 1


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


# -- keys, and the exchange of files -----------------------------------------------------------------------


def _looks_like_a_key(path: Path) -> bool:
    """Whether a file may be the key of a project without a file; those of TLS and SSH lie there, too."""
    try:
        return bool(re.fullmatch(r"[0-9a-fA-F]{64}\s*", path.read_text("ascii")))
    except (OSError, UnicodeDecodeError):
        return False


def _record_keys(root: DataRoot, ledger: Ledger, result: Rebuilt) -> int:
    """A fingerprint that a record or a package names counts; else that of the key that is there."""
    names = set(project_names(root)) | {transfer.project for transfer in ledger.transfers.all()}
    names |= {path.stem for path in root.secrets.glob("*.key") if _looks_like_a_key(path)}
    count = 0
    for name in sorted(names):
        try:
            key = deid.ProjectKey.load(root, name)
        except ConfigurationError as error:
            result.problems.append(str(error))
            continue
        recorded = ledger.key_fingerprint(name)
        if key is not None and recorded is None:
            ledger.record_key_fingerprint(name, key.fingerprint)
        elif recorded is not None and (key is None or key.fingerprint != recorded):
            result.problems.append(
                f"project {name}: the key is missing or not the one that was used ({recorded}); "
                "restore it from the backup"
            )
        count += ledger.key_fingerprint(name) is not None
    return count


def _exchange(root: DataRoot, new: Path) -> str:
    """Keeps the old ledger under another name and puts the new one in its place, in one step."""
    file = root.ledger_file
    kept = ""
    if file.exists():
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")  # two rebuilds may share a second
        aside = file.with_name(f"ledger-{stamp}.sqlite")
        _checkpoint(file)
        os.link(file, aside)
        kept = aside.relative_to(root.path).as_posix()
        for ending in ("-wal", "-shm"):  # a broken one keeps them; they must not meet the new file
            side = Path(f"{file}{ending}")
            if side.exists():
                side.replace(f"{aside}{ending}")
    new.replace(file)
    sync_directory(file.parent)
    return kept


def _checkpoint(file: Path) -> None:
    """Brings everything into the one file, as far as the old ledger can be read at all."""
    connection = sqlite3.connect(file)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError:
        return  # that is why it is rebuilt
    finally:
        connection.close()


def _remove(file: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
