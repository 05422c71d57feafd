"""The independent look at what would leave: reads every copy again by pydicom, and searches it.

Belongs here: what to search, over which files. Stays out: how one copy is examined (``inspection``), and
whether to send (the gate in transfers asks the ledger for a passed record of the bytes in hand).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiona_dagster.deid.deidentify import Deidentifier
from fiona_dagster.deid.elements import text
from fiona_dagster.deid.engine import SOP_INSTANCE, STUDY
from fiona_dagster.deid.files import opened
from fiona_dagster.deid.folding import fold
from fiona_dagster.deid.identities import is_well_known
from fiona_dagster.deid.inspection import Finding, Inspection, Search
from fiona_dagster.deid.learned import tells
from fiona_dagster.deid.pixels import has_embedded_overlay
from fiona_dagster.deid.plan import Place
from fiona_dagster.deid.profile import iod_of
from fiona_dagster.deid.reading import UNREADABLE, Found, raw_value, read_original
from fiona_dagster.deid.searchable import RULE as UNSEARCHABLE

_REPLACED = frozenset(("U", "D", "uid", "X", "Z", "private", "unknown"))
"""Actions after which an original UID is nowhere."""


@dataclass
class Verification:
    """The outcome over all copies of a study (or of several).

    Attributes:
        findings: what blocks.
        warnings: weak hits, for a person to look at.
        files: relative name -> SHA-256 of the bytes that were looked at.
        searched: number of terms by kind.
    """

    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    searched: dict[str, int] = field(default_factory=dict)

    def warnings_by_kind(self) -> dict[str, int]:
        """How many weak hits of each kind there are; nothing identifying."""
        return dict(sorted(Counter(finding.rule for finding in self.warnings).items()))

    @property
    def unsearchable(self) -> int:
        """Values that stay and can't be searched (pages, pictures, compressed data); among the warnings."""
        return sum(finding.rule == UNSEARCHABLE for finding in self.warnings)

    @property
    def passed(self) -> bool:
        """Nothing blocks, and something was looked at."""
        return bool(self.files) and not self.findings

    def to_json(self) -> dict[str, Any]:
        """As plain data; nothing identifying."""
        return {
            "passed": self.passed,
            "findings": [finding.to_json() for finding in self.findings],
            "warnings": [finding.to_json() for finding in self.warnings],
            "searched": dict(sorted(self.searched.items())),
            "files": dict(sorted(self.files.items())),
        }


def verify_outputs(sources: Sequence[Path], out_dir: Path, deidentifier: Deidentifier) -> Verification:
    """Reads every file below ``out_dir`` again and looks for what identified the person of its study.

    Args:
        sources: the originals of these copies. A file that can't be read must have no copy.
        out_dir: the folder of copies; everything in it is looked at.
        deidentifier: the rules and identities that were used.

    Returns:
        Findings, warnings and the digests of the very bytes that were searched.

    Raises:
        OriginalUnavailable: the disk does not give an original: nobody knows what to search.
    """
    result = Verification()
    by_study = _searches(sources, out_dir, deidentifier, result)
    for search in by_study.values():
        for kind in search.terms.counts():
            result.searched[kind] = result.searched.get(kind, 0) + 1
        result.searched["uid"] = result.searched.get("uid", 0) + len(search.uids)
    for path in sorted(p for p in out_dir.rglob("*") if p.is_symlink() or not p.is_dir()):
        inspection = Inspection(path, str(path.relative_to(out_dir)), deidentifier)
        digest = inspection.run(by_study)
        if digest:
            result.files[inspection.name] = digest
        result.findings += inspection.findings
        result.warnings += inspection.warnings
    return result


@dataclass(frozen=True)
class Said:
    """What a file that was made of copies says.

    Attributes:
        words: its texts, one a line.
        numbers: its numbers.
    """

    words: str
    numbers: Sequence[int | float] = ()


def search_made_of(
    sources: Sequence[Path], out_dir: Path, deidentifier: Deidentifier, said: Iterable[Said]
) -> list[Finding]:
    """Looks for what identified the person in other files than DICOM; weak terms don't count.

    Args:
        sources: the originals.
        out_dir: the folder of copies that the files were made of.
        deidentifier: the rules and identities that were used.
        said: what each file says.

    Returns:
        At most one finding for each file, without names and values.
    """
    result = Verification()
    searches = _searches(sources, out_dir, deidentifier, result).values()
    for file in said:
        folded, raw = fold(file.words), file.words.encode("utf-8", "replace")
        for search in searches:
            if (
                any(hit.term.strong for hit in search.terms.find(folded, thorough=True))
                or search.terms.are_numbers(file.numbers)
                or any(uid in raw for uid in search.uids)
            ):
                result.findings.append(Finding("image", "text", "identified the person in the originals"))
                break
    return result.findings


def _searches(
    sources: Sequence[Path], out_dir: Path, deidentifier: Deidentifier, result: Verification
) -> dict[str, Search]:
    """What to look for, by *new* Study Instance UID."""
    made: dict[str, Search] = {}
    identities = deidentifier.identities
    for source in sources:
        try:
            data_set, found = read_original(source)
        except UNREADABLE:
            result.findings += _copies_of(source, out_dir, deidentifier)
            continue
        asked = _Asked(deidentifier, iod_of(raw_value(data_set, 0x00080016)))
        study = asked.new_uid(STUDY, raw_value(data_set, STUDY))
        search = made.setdefault(study, Search(deidentifier.engine.known_terms()))
        search.accessions.add(identities.accession_number(raw_value(data_set, STUDY)))
        overlays = ((e.tag, e.value) for e in found if e.tag >> 24 == 0x60 and not e.path)
        if has_embedded_overlay(overlays, data_set.original_encoding[1] is not False):
            search.overlays.add(asked.new_uid(SOP_INSTANCE, raw_value(data_set, SOP_INSTANCE)))
        search.learn(
            (e.tag, e.vr, e.value, e.charset)
            for e in found
            if e.items < 0 and tells(e.tag, e.vr) and asked.action(e) != "keep"
        )
        kept = {uid.encode("ascii") for uid in identities.kept_uids}
        search.uids |= {uid for each in identities.source_uids for uid in _instance_uids(each.encode())}
        for e in found:
            if e.vr == "UI":
                action = asked.action(e)
                uids = search.uids if action in _REPLACED else kept
                uids.update(_instance_uids(e.value, newer=action == "uid"))
        search.uids -= kept
    return made


class _Asked:
    """What the rules say about one original."""

    def __init__(self, deidentifier: Deidentifier, iod: int | None) -> None:
        self._deidentifier, self._iod = deidentifier, iod

    def action(self, e: Found) -> str:
        return self._deidentifier.engine.step(Place(e.tag, e.vr, e.path, self._iod, e.creator)).action

    def new_uid(self, tag: int, uid: str) -> str:
        """The UID of the copy that stands for one of the original."""
        return self._deidentifier.new_uid(tag, uid)


def _copies_of(source: Path, out_dir: Path, deidentifier: Deidentifier) -> list[Finding]:
    """Copies of an original that pydicom can't read: nobody knows what to search in them."""
    try:
        with opened(source, deidentifier.engine.opaque) as read:
            instance = read.find(SOP_INSTANCE)
            name = deidentifier.new_uid(SOP_INSTANCE, text(instance.value)) if instance else ""
    except UNREADABLE:
        return []  # the engine can't read it either, so that it made no copy
    copies = [path for path in out_dir.rglob(f"{name}*.dcm") if path.stem.split("_")[0] == name]
    return [
        Finding(str(path.relative_to(out_dir)), "file", "its original can't be searched") for path in copies
    ]


def _instance_uids(value: bytes, *, newer: bool = False) -> list[bytes]:
    """UIDs that are replaced; ``newer``: what the standard may have registered since our list stays."""
    uids = (uid.strip(b" \0") for uid in value.split(b"\\"))
    return [
        uid
        for uid in uids
        if len(uid) > 5
        and not is_well_known(uid.decode("latin-1"))
        and not (newer and uid.startswith(b"1.2.840.10008."))
    ]
