"""What processes that are gone have left: what they had promised is put in place, what they had not goes.

A promise is an entry of :mod:`fiona_dagster.landing.ahead`: the object's bytes were flushed under their first
name. After a kill it stands in its place already, with its line, and is only flushed. After a power loss its
last name or its line may be missing. Doing this twice, or cut short, changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing.ahead import DOUBT, LOG, read_entries
from fiona_dagster.landing.compare import same_object
from fiona_dagster.landing.files import HERE
from fiona_dagster.landing.journal import Journal, JournalDamage, journal_name, read_journals
from fiona_dagster.landing.names import StudyNames
from fiona_dagster.landing.receipt import Caller, Receipt, decode_line
from fiona_dagster.landing.workshop import dead_workshop, workshops

log = logging.getLogger("fiona.landing")


def recover(root: DataRoot) -> int:
    """Settles and removes the workshops of processes that are gone; waits for others who do the same.

    Whatever looks for files without a journal line, or files objects, calls this before.

    Returns:
        Number of unfinished files that were removed.
    """
    removed = 0
    if not workshops(root).is_dir():
        return removed
    with _by_itself(workshops(root)):
        for folder in sorted(workshops(root).iterdir()):
            with dead_workshop(folder) as is_dead:
                if is_dead and _settled(root, folder):
                    removed += sum(path.suffix == ".part" for path in folder.iterdir())
                    shutil.rmtree(folder, ignore_errors=True)
    return removed


@contextmanager
def _by_itself(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _settled(root: DataRoot, workshop: Path) -> bool:
    """Puts what was promised in place, flushed; False if that can't be done now, and it must be kept."""
    promised: dict[str, dict[str, Receipt]] = {}
    for entry in read_entries(workshop / LOG):
        receipt = decode_line(entry.line.strip(b"\n"))
        if receipt is not None:
            promised.setdefault(receipt.StudyInstanceUID, {})[entry.part] = receipt
    doubtful = (workshop / DOUBT).exists()
    for study, receipts in promised.items():
        try:
            _settle(root, study, receipts, workshop, doubtful=doubtful)
        except (OSError, StorageFull) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            log.error("study %s: what was promised can't be put in place (%s)", study, why)  # noqa: TRY400
            return False
    return True


def _settle(
    root: DataRoot, study: str, receipts: dict[str, Receipt], workshop: Path, *, doubtful: bool
) -> None:
    if doubtful:
        for part, receipt in receipts.items():
            with suppress(
                FileNotFoundError
            ):  # its entry is made anew: one whose flush failed is not believed
                (root.path / receipt.path).rename(workshop / part)
    missing = {part: receipt for part, receipt in receipts.items() if (workshop / part).exists()}
    there = [receipt for receipt in receipts.values() if (root.path / receipt.path).exists()]
    if not missing and not there:
        return  # settled long ago, and gone since
    names = StudyNames(root, study)
    for part, receipt in missing.items():
        _place(names, workshop / part, receipt)
    lines = () if doubtful else read_journals(root, {}, study=study, on_damage=_known_damage)
    known = {receipt.path for _, _, receipt in lines if receipt.kind != "repeat"}
    lost = _write_lines(root, study, [*missing.values(), *there], known)
    names.settle()
    if missing or lost:
        log.warning("study %s: %d names and %d lines were put back", study, len(missing), lost)


def _place(names: StudyNames, part: Path, receipt: Receipt) -> None:
    name = receipt.path.rpartition("/")[2]
    there = names.place(HERE, str(part), name)
    if there is None:
        return
    if not same_object(names.folder / there, part):
        raise FileExistsError(errno.EEXIST, "another object has taken its name")
    part.unlink()


def _write_lines(root: DataRoot, study: str, receipts: list[Receipt], known: set[str]) -> int:
    """Writes the lines that are missing, and flushes all journals that these receipts stand in."""
    by_caller: dict[Caller, list[Receipt]] = {}
    for receipt in receipts:
        caller = Caller(receipt.calling_ae, receipt.called_ae, receipt.caller_ip)
        by_caller.setdefault(caller, []).append(receipt)
    lost = 0
    for caller, those in by_caller.items():
        lines = [receipt for receipt in those if receipt.path not in known]
        if lines or (root.arrived / journal_name(caller, study)).exists():
            journal = Journal(root, caller, study)
            try:
                for receipt in lines:
                    journal.append(receipt, settle=False)
                journal.settle()
            finally:
                journal.close()
        lost += len(lines)
    return lost


def _known_damage(damage: JournalDamage) -> None:
    """Damage is reported by who tails the journals."""
