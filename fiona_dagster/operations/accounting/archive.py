"""Archive, journals and the ledger's instances: each must say the same as the others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.landing import JournalDamage
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations.accounting.findings import MAINTENANCE, Account

_PREFIX = "scp_"
_PATH = re.compile(rb'"path":"([^"\\]{1,400})"')

Listing = dict[str, dict[str, int]]
"""Folder of a study, relative to the data root -> file name -> size."""


@dataclass
class Lines:
    """What all journals say.

    Attributes:
        filed: paths in the archive that have a line (of a file that was placed by a process that was killed
            before its line, only a repeat tells), with the study.
        aside: paths of what was set aside, with the study.
        damage: lines whose checksum is wrong, with the tree that they are in.
        count: number of sound lines.
    """

    filed: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    damage: list[tuple[DataRoot, JournalDamage]] = field(default_factory=list)
    count: int = 0


def list_archive(root: DataRoot, account: Account) -> Listing:
    """Every archived file of all sites with its size; also names what does not belong into an archive."""
    found: Listing = {}
    for tree in root.site_trees():
        if tree.archive.is_dir():
            found.update(_list_archive(tree, account))
    return found


def _list_archive(tree: DataRoot, account: Account) -> Listing:
    found: Listing = {}
    with os.scandir(tree.archive) as entries:
        folders = [entry.name for entry in entries if not entry.name.startswith(".")]
    archive = tree.archive.relative_to(tree.path).as_posix()
    for name in sorted(folders):
        study = name.removeprefix(_PREFIX)
        if study == name or not is_uid(study):
            account.add("foreign", "", f"{archive}/{name}", "does not belong into the archive; move it away")
            continue
        with os.scandir(tree.archive / name) as entries:
            found[f"{archive}/{name}"] = {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if not entry.name.startswith(".")
            }
    return found


def _study_of(folder: str) -> str:
    return folder.rpartition("/")[2].removeprefix(_PREFIX)


def read_lines(root: DataRoot, study: str | None = None) -> Lines:
    """Reads all journals of all sites from front to back, or those of one study."""
    lines = Lines()
    for tree in root.site_trees():
        _read_tree(tree, study, lines)
    return lines


def _read_tree(tree: DataRoot, study: str | None, lines: Lines) -> None:
    def on_damage(damage: JournalDamage) -> None:
        lines.damage.append((tree, damage))

    for _, _, receipt in landing.read_journals(tree, {}, study=study, on_damage=on_damage):
        lines.count += 1
        if landing.is_set_aside(receipt.path):
            lines.aside[receipt.path] = receipt.StudyInstanceUID
        elif receipt.kind in ("stored", "adopted", "repeat"):
            lines.filed[receipt.path] = receipt.StudyInstanceUID


def check_archive(root: DataRoot, ledger: Ledger, listing: Listing, lines: Lines, account: Account) -> None:
    """Compares the three; ``listing`` was taken before the journals were read.

    So a file without a line may have got it meanwhile, or may be about to: an association that is still open
    holds its journal.
    """
    listed = {f"{folder}/{name}": size for folder, names in listing.items() for name, size in names.items()}
    account.checked["archived files"] = len(listed)
    account.checked["journal lines"] = lines.count
    orphans = _files_without_line(root, listing, lines)
    for path, study in lines.filed.items():
        if path not in listed and not (root.path / path).is_file():
            account.add(
                "lost_file",
                study,
                path,
                "acknowledged, but not in the archive any more; restore it or have it sent again",
            )
    nameless = {(study, path.rpartition("/")[2].partition(".")[2]) for path, study in orphans.items()}
    _compare_ledger(ledger, listed, lines, nameless, account)
    told = {finding.path for finding in account.unaccounted}
    for path, study in orphans.items():
        if path not in told:
            message = "in the archive without a journal line (killed before the answer)"
            account.add("no_journal_line", study, path, message, MAINTENANCE)
    for tree, damage in lines.damage:
        _judge_damage(tree, damage, listed, lines, account)


def _files_without_line(root: DataRoot, listing: Listing, lines: Lines) -> dict[str, str]:
    """Paths that no journal tells of, and that no open association may still be about to write down."""
    found: dict[str, str] = {}
    for folder, names in listing.items():
        study, tree = _study_of(folder), root.tree_of(folder)
        orphans = [name for name in names if f"{folder}/{name}" not in lines.filed]
        if not orphans or landing.open_associations(tree, study):
            continue
        known = read_lines(root, study).filed
        for name in orphans:
            path = f"{folder}/{name}"
            if path not in known and (root.path / path).is_file():
                found[path] = study
    return found


def _compare_ledger(
    ledger: Ledger,
    listed: dict[str, int],
    lines: Lines,
    orphans: set[tuple[str, str]],
    account: Account,
) -> None:
    """``orphans``: (study, SOP Instance UID) of files without a line; what conflicts with one has no path."""
    known: set[str] = set()
    rows = ledger.store.rows("SELECT study, sop_instance, path, size, altered FROM site_instances")
    account.checked["instances"] = len(rows)
    for row in rows:
        path, study = row["path"], row["study"]
        known.add(path)
        if not path and (study, row["sop_instance"]) in orphans:
            continue  # told as a file without a line
        if path not in lines.filed:
            where = path or row["sop_instance"]
            account.add(
                "no_receipt",
                study,
                where,
                "in the ledger, but no journal tells of it; restore site/.arrived from the backup, "
                "or `fiona rebuild`",
            )
        elif path in listed and listed[path] != row["size"]:
            account.add(
                "size_differs",
                study,
                path,
                f"has {listed[path]} bytes, received were {row['size']}; restore it from the backup",
            )
        elif row["altered"]:
            account.add(
                "altered",
                study,
                path,
                "is not what was received (digest); restore it from the backup, "
                f"then `fiona launch --study {study}`",
            )
    for path, study in lines.filed.items():
        if path not in known:
            account.add("not_in_ledger", study, path, "the ledger lacks this journal line; `fiona rebuild`")


def _judge_damage(
    tree: DataRoot, damage: JournalDamage, listed: dict[str, int], lines: Lines, account: Account
) -> None:
    """A damaged line matters if it may have been acknowledged and its file can't be told.

    A torn line (without its end) was never flushed, so that nobody was told Success for it. A whole line with
    a wrong checksum is a fault of the disk: it is made good by a file that has another line or gets one.
    """
    raw = _bytes_of(tree, damage)
    named = _PATH.search(raw)
    path = named[1].decode("ascii", "replace") if named else ""
    if not raw.rstrip().endswith(b"}") or path in lines.filed or path in lines.aside or path in listed:
        return
    account.add(
        "damaged_line",
        landing.study_of(damage.journal) or "",
        f"{tree.arrived.relative_to(tree.path)}/{damage.journal}",
        f"line at byte {damage.start} is damaged and its file unknown; restore the journal from the backup",
    )


def _bytes_of(tree: DataRoot, damage: JournalDamage) -> bytes:
    try:
        with (tree.arrived / damage.journal).open("rb") as file:
            file.seek(damage.start)
            return file.read(min(damage.end - damage.start, 65536))
    except FileNotFoundError:
        return b""


def altered_files(root: DataRoot, ledger: Ledger) -> Iterator[tuple[str, str, str, str]]:
    """Hashes every instance that has a digest: (study, instance, path, new digest) where they differ."""
    rows = ledger.store.rows(
        "SELECT study, sop_instance, path, digest FROM site_instances WHERE digest != ''"
    )
    for row in rows:
        path: Path = root.path / row["path"]
        if path.is_file():
            digest = landing.digest_of(path)
            if digest != row["digest"]:
                yield row["study"], row["sop_instance"], row["path"], digest
