"""``fiona rebuild``: a fresh ledger from journals, records, packages and REDCap.

What a study's record (``site/.ledger``) tells is taken over as it is. Packages without one, of a site whose
records are lost too, are recognised by their manifest: the mapped UID says which study they hold. A package
in DAIC/ was proven received by every target, so nothing of it is sent again.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fiona_dagster import deid, landing
from fiona_dagster.config import DataRoot, project_names
from fiona_dagster.errors import (
    Busy,
    ConfigurationError,
    FionaError,
    PermanentError,
    StorageFull,
    TransientError,
)
from fiona_dagster.ledger import Ledger, read_records, restore_common, restore_record, restore_sent
from fiona_dagster.ledger.condition import why_lost
from fiona_dagster.ledger.holding import nobody_else
from fiona_dagster.ledger.records import (
    common_file,
    count_on_disk,
    keep_aside,
    put_count_on_disk,
    set_count,
)
from fiona_dagster.operations.exchange import exchange, remove, settle
from fiona_dagster.operations.lock import hold_root
from fiona_dagster.operations.recognition import recognise_packages
from fiona_dagster.transfers import intake
from fiona_dagster.transfers.context import Gateway


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

    Nobody else may use the data root meanwhile: what a command books into the old ledger would be lost. Where
    the ledger is lost, nobody can book anything: then a receiver, and a `fiona up` that waits, may go on.

    Args:
        root: the data root.
        trees: write ``site/raw`` and ``site/participants``, too, which takes its time.

    Raises:
        Busy: `fiona up`, `fiona receive` or another command uses the data root; stop it first.
        ErasureUnfinished: an erasure was cut short.
        StorageFull: there is no room for it; nothing was changed.
        RedcapUnavailable: a package without a record needs REDCap to find its request; nothing was changed.
        PermanentError: nobody can tell who withdrew the consent, or what a package is; nothing was changed.
    """
    result = Rebuilt()
    with _claimed(root) as lost:
        with nobody_else(root):
            if lost and not _is_lost(root):
                raise Busy(f"{root.ledger_file}: was built anew meanwhile")
            build(root, result)
        if trees:
            _organise(root, result)
    return result


def build(root: DataRoot, result: Rebuilt) -> None:
    """Builds the new ledger and puts it in its place, for somebody who has made sure to be alone.

    Raises:
        StorageFull, RedcapUnavailable, PermanentError: as :func:`rebuild`.
    """
    for tree in root.site_trees():
        landing.adopt_orphans(tree, everything=True)
    new = root.ledger_file.with_name(".ledger.sqlite.new")
    remove(new)
    try:
        with Ledger(root, new) as ledger:
            _fill(root, ledger, result)
            counted = ledger.store.records_written
        settle(new)
        result.kept = exchange(root, new)
        put_count_on_disk(root, counted)
    finally:
        remove(new)


@contextmanager
def _claimed(root: DataRoot) -> Iterator[bool]:
    """The data root as it is needed; whether the ledger is lost: those who don't need it may go on then."""
    with ExitStack() as stack:
        lost = _is_lost(root)
        if lost:
            stack.enter_context(landing.Use(root))
        else:
            stack.enter_context(hold_root(root))
            stack.enter_context(landing.alone(root))
            _bring_records_up_to_date(root)
        yield lost


def _bring_records_up_to_date(root: DataRoot) -> None:
    """A ledger that is newer than the records (``site/`` was put back from a backup) tells them first."""
    if root.ledger_file.exists():
        try:
            with Ledger(root) as ledger:
                ledger.write_missing_records()
        except StorageFull:
            raise
        except (TransientError, sqlite3.DatabaseError):
            return  # it can't be read: that is why it is built anew


def _is_lost(root: DataRoot) -> bool:
    try:
        return bool(why_lost(root, thorough=True))
    except sqlite3.DatabaseError:
        return False  # its disk does not give it; others may have it open


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
        set_count(db, count_on_disk(root))
        ledger.receipts.read_journals()
        ledger.evidence.read_journals()
        known = {study.study for study in ledger.receipts.studies()}
        for study, record in read_records(root):
            why = ""
            if record is None:
                why = f"can't be read; kept as {keep_aside(root, study).name}"
            elif study not in known:
                why = "is of a study that no journal tells of"
                why += "; what was sent of it is remembered" * restore_sent(db, record)
            elif not restore_record(db, study, record):
                kept = keep_aside(root, study).name
                why = f"is not sound (a key is missing or a value of the wrong kind); kept as {kept}"
            if why:
                result.problems.append(f"site/.ledger/{study}.json {why}; restore site/ from the backup")
            else:
                result.records += 1
        if not restore_common(db, root):
            raise PermanentError(
                f"{common_file(root)}: can't be read, so nobody knows who withdrew the consent; restore it "
                "from the backup, or move it away and tell all withdrawals again (`fiona withdraw`)"
            )
    with ledger.store.writing() as db:
        _close_unchanged(ledger, db)
    result.packages = recognise_packages(root, ledger, result.problems)
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
        if transfer.state == "accepted":  # also what waits for a person: its verification is made again
            ledger.work.need(
                "transfer", transfer.study, transfer.revision, project=transfer.project, again=True
            )


# -- keys --------------------------------------------------------------------------------------------------


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
