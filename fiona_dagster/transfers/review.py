"""What is still in the verified copies of a project: every attribute with its values, to be judged.

Belongs here: collecting and counting. Stays out: deciding (``transfers.release``). It reads copies only,
never an original: working copies, or packages where the working copy is gone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiona_dagster.errors import NotVerified, UsageError
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import working_copy
from fiona_dagster.transfers.writing import write_synced

if TYPE_CHECKING:
    from fiona_dagster.deid.reading import Found

KEPT_VALUES = 1000
"""Distinct values of one attribute that are told apart unless all are asked for; more are counted."""
LONGEST = 100
"""Characters of a value that a table shows."""
SHOWN_NUMBERS = 8
"""Numbers of a binary value that are shown without a digest."""
SHOWN_BYTES = 4096
"""Longer binary values are shown by their size, digest and the words in them."""
_WORDS = re.compile(rb"[\x20-\x7e]{4,}")


@dataclass
class Remaining:
    """One attribute that is still there, at one place of the tree.

    Attributes:
        tag: ``(gggg,eeee)``, with those of the sequences above it joined by points.
        keyword: keywords in the same way; the tag where the dictionary has none.
        vr: value representation as written.
        assigned: the request or the profile writes it; its value is none of the original.
        elements: how many there are, in all instances.
        values: value -> elements; at most :attr:`most`.
        more: elements with values that were not told apart any more.
        most: values that are told apart; ``None``: all.
    """

    tag: str
    keyword: str
    vr: str
    assigned: bool
    elements: int = 0
    values: Counter[str] = field(default_factory=Counter)
    more: int = 0
    most: int | None = KEPT_VALUES

    def add(self, value: str) -> None:
        """Counts one element."""
        self.elements += 1
        if value in self.values or self.most is None or len(self.values) < self.most:
            self.values[value] += 1
        else:
            self.more += 1

    def frequent(self) -> list[tuple[str, int]]:
        """Values and how many elements have them, the most frequent first."""
        return sorted(self.values.items(), key=lambda item: (-item[1], item[0]))

    def to_json(self, most: int | None) -> dict[str, Any]:
        """As plain data, with the ``most`` most frequent values (``None``: all), uncut."""
        return {
            "tag": self.tag,
            "keyword": self.keyword,
            "vr": self.vr,
            "assigned": self.assigned,
            "elements": self.elements,
            "distinct": len(self.values),
            "more_than": self.most if self.more else None,
            "values": [{"value": value, "elements": n} for value, n in self.frequent()[:most]],
        }


@dataclass
class Review:
    """Everything that is left, over some studies of a project."""

    project: str
    studies: int = 0
    instances: int = 0
    remaining: dict[str, Remaining] = field(default_factory=dict)
    every: bool = False
    """Every distinct value is told apart, however many there are."""
    unread: list[str] = field(default_factory=list)
    """Studies (as received) whose copy is not there any more, neither as files nor as a package."""

    def rows(self) -> list[Remaining]:
        """By place."""
        return [self.remaining[tag] for tag in sorted(self.remaining)]

    def to_json(self, most: int | None) -> dict[str, Any]:
        """As plain data, with the ``most`` most frequent values of each attribute (``None``: all), uncut."""
        return {
            "project": self.project,
            "studies": self.studies,
            "instances": self.instances,
            "unread": self.unread,
            "attributes": [row.to_json(most) for row in self.rows()],
        }

    def to_csv(self) -> str:
        """One row for each distinct value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["tag", "keyword", "vr", "assigned", "value", "elements"])
        for row in self.rows():
            for value, count in row.frequent():
                writer.writerow([row.tag, row.keyword, row.vr, int(row.assigned), _safe(value), count])
            if row.more:
                writer.writerow([row.tag, row.keyword, row.vr, int(row.assigned), "(other values)", row.more])
        return text.getvalue()


def _safe(value: str) -> str:
    """Spreadsheets take what begins like a formula for one."""
    return "'" + value if value[:1] in ("=", "+", "-", "@") and not _is_number(value) else value


def _is_number(value: str) -> bool:
    try:
        float(value.split("\\", maxsplit=1)[0])
    except ValueError:
        return False
    return True


def review(
    gateway: Gateway,
    project: str,
    study: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    every: bool = False,
) -> Review:
    """Reads every verified copy of a project.

    Args:
        gateway: the open gateway.
        project: its name.
        study: only this one, StudyInstanceUID as received; None: all.
        progress: told (studies done, studies in all).
        every: tell every distinct value apart, whatever memory that takes.

    Raises:
        ConfigurationError: no such project.
        UsageError: there is no verified copy.
    """
    gateway.project(project)
    chosen = list(_transfers(gateway, project, study))
    if not chosen:
        what = f"study {study}" if study else "no study"
        raise UsageError(f"project {project}: {what} has a verified copy; nothing to review")
    found = Review(project, every=every)
    for number, transfer in enumerate(chosen, 1):
        try:
            _read(gateway, transfer, found)
        except NotVerified:
            found.unread.append(transfer.study)
        if progress:
            progress(number, len(chosen))
    return found


def report_page(gateway: Gateway, project: str, study: str) -> bytes:
    """The report of a verified copy as a page, also while the copy waits for a person (HTML).

    Args:
        gateway: the open gateway.
        project: its name.
        study: StudyInstanceUID as received.

    Raises:
        UsageError: there is no verified copy.
    """
    from fiona_dagster.deid.report import page

    for transfer in _transfers(gateway, project, study):
        report = gateway.ledger.transfers.verification_report(transfer) or {}
        return page(report.get("deidentification", {}), report.get("verification", {}))
    raise UsageError(f"project {project}: study {study} has no verified copy; nothing to report")


def _transfers(gateway: Gateway, project: str, study: str | None) -> Iterator[Transfer]:
    book = gateway.ledger.transfers
    studies = {each.study for each in book.all(study) if each.project == project}
    for uid in sorted(studies):
        transfer = book.current(uid, project)
        if transfer is not None and gateway.ledger.releases.review(transfer) is not None:
            yield transfer


def _read(gateway: Gateway, transfer: Transfer, found: Review) -> None:
    """Counts what the verified copy of one transfer holds.

    Raises:
        NotVerified: neither the working copy nor the package has the verified files.
    """
    from fiona_dagster.deid.reading import UNREADABLE, elements, read_header

    assigned = _assigned(gateway, transfer)
    counted = 0
    for _, file in _files(gateway, transfer):
        try:
            read = elements(read_header(file))
        except UNREADABLE:
            raise NotVerified(f"study {transfer.study}: its copy can't be read again") from None
        counted += 1
        _count(read, assigned, found)
    found.studies += 1
    found.instances += counted


def _assigned(gateway: Gateway, transfer: Transfer) -> frozenset[int]:
    from fiona_dagster.deid.inspection import METHOD_TAGS
    from fiona_dagster.transfers.execution import deidentifier_of

    return deidentifier_of(gateway, transfer).assigned_tags() | METHOD_TAGS


def copy_files(gateway: Gateway, project: str, study: str, folder: Path) -> int:
    """Writes the verified files of a study to a folder, to be looked at by other programs; their number.

    Args:
        gateway: the open gateway.
        project: its name.
        study: StudyInstanceUID as received.
        folder: outside the data root; made if missing. Files are named by their new UIDs, mode 0600.

    Raises:
        UsageError: there is no verified copy, or the folder can't be used.
        NotVerified: neither the working copy nor the package has the verified files.
    """
    if folder.resolve().is_relative_to(gateway.root.path.resolve()):
        raise UsageError(f"{folder}: lies in the data root; choose a folder outside")
    for transfer in _transfers(gateway, project, study):
        written = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, file in _files(gateway, transfer):
                written += 1
                write_synced(folder / name, file.getbuffer())
        except OSError as error:
            raise UsageError(f"{folder}: can't be written ({error.strerror})") from None
        return written
    raise UsageError(f"project {project}: study {study} has no verified copy; nothing to look at")


def _files(gateway: Gateway, transfer: Transfer) -> Iterator[tuple[str, io.BytesIO]]:
    """Names in the record and the very bytes that were verified, from the working copy or from the package.

    Raises:
        NotVerified: not all of them are there.
    """
    verified = gateway.ledger.transfers.files_to_review(transfer)
    folder = working_copy(gateway, transfer)
    if folder.is_dir() and {path.name for path in folder.iterdir()} >= set(verified):
        for name, digest in sorted(verified.items()):
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise NotVerified(f"study {transfer.study}: a file is not the one that was verified")
            yield name, io.BytesIO(content)
        return
    package = gateway.ledger.transfers.package(transfer)
    path = gateway.root.path / package.path if package else None
    if path is None or not path.is_file():
        raise NotVerified(f"study {transfer.study}: neither its working copy nor its package is there")
    names = {digest: name for name, digest in verified.items()}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():  # documents and images of other formats are none of them
                content = archive.read(member)
                name = names.pop(hashlib.sha256(content).hexdigest(), "")
                if name:
                    yield name, io.BytesIO(content)
    except (OSError, zipfile.BadZipFile):
        raise NotVerified(f"study {transfer.study}: its package can't be read") from None
    if names:
        raise NotVerified(
            f"study {transfer.study}: {len(names)} of {len(verified)} verified files are not in its package"
        )


def _count(read: Iterable[Found], assigned: frozenset[int], into: Review) -> None:
    from fiona_dagster.deid.elements import name_of

    for element in read:
        path = (*element.path, element.tag)
        tag = ".".join(map(name_of, path))
        row = into.remaining.get(tag)
        if row is None:
            keyword = ".".join(map(_keyword, path))
            top = path[0] in assigned
            most = None if into.every else KEPT_VALUES
            row = into.remaining[tag] = Remaining(tag, keyword, element.vr, top, most=most)
        row.add(shown(element))


def _keyword(tag: int) -> str:
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or f"{tag:08X}"


def shown(element: Found) -> str:
    """A value as a person reads it, whole: text decoded, numbers, bytes as digits, many by their words."""
    from fiona_dagster.deid.folding import decode
    from fiona_dagster.deid.terms import BINARY

    if element.items >= 0:
        return f"({element.items} items)"
    if element.vr in BINARY:
        return _binary(element)
    text = decode(element.value, element.charset, element.vr).strip(" \0")
    return "".join(char if char.isprintable() else "\N{MIDDLE DOT}" for char in text)


def _binary(element: Found) -> str:
    value, numbers = element.value, element.numbers()
    if numbers is not None and (len(numbers) <= SHOWN_NUMBERS or len(value) <= SHOWN_BYTES):
        digits = ".9g" if element.vr in ("FL", "OF") else ".17g"
        return "\\".join(f"{n:{digits}}" if isinstance(n, float) else str(n) for n in numbers)
    if len(value) <= SHOWN_BYTES:
        return f"({len(value)} bytes) {value.hex()}" if value else ""
    words = " ".join(found.decode("ascii") for found in _WORDS.findall(value))
    digest = hashlib.sha256(value).hexdigest()
    return f"({len(value)} bytes, SHA-256 {digest}; words: {words or 'none'})"


def cut(value: str) -> str:
    """A value as a table shows it: what is cut is told."""
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}... ({len(value)} characters)"
