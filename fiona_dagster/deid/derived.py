"""Identities for results that were made of de-identified copies and come back (behaviour reference 7.8).

What was mapped already stays as it is: it is recognised by mapping the originals once more, never by what a
file claims or by the form of a UID. Everything else, such as the UIDs of new series and the dates of their
making, is replaced as in any other study; so derived data are consistent with the copies they were made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.deid.identities import Identities, is_well_known
from fiona_dagster.deid.reading import UNREADABLE, bounded, elements, read_header

_DAY = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")


@dataclass(frozen=True)
class Mapped:
    """What the copies of a study hold in place of the originals' values.

    Attributes:
        uids: mapped UIDs.
        days: shifted days, ``YYYYMMDD``.
        instances: of the UIDs, those of the instances themselves.
    """

    uids: frozenset[str] = field(repr=False)
    days: frozenset[str] = field(repr=False)
    instances: frozenset[str] = field(repr=False)


def already_mapped(originals: Iterable[Path], identities: Identities) -> Mapped:
    """Maps every UID and day in the headers of the originals once more.

    Args:
        originals: as received; one that can't be read has no copy and is passed over.
        identities: those that the copies were made with.
    """
    uids: set[str] = set()
    days: set[str] = set()
    instances: set[str] = set()
    for source in originals:
        try:
            bounded(source)
            found = elements(read_header(source, force=True))
        except UNREADABLE:
            continue
        for e in found:
            text = e.value.decode("latin-1") if e.vr in ("UI", "DA", "DT") else ""
            for part in filter(None, (part.strip(" \0") for part in text.split("\\"))):
                if e.vr == "UI" and not is_well_known(part):
                    uids.add(identities.uid(part))
                    if e.tag == 0x00080018 and not e.path:
                        instances.add(identities.uid(part))
                elif e.vr in ("DA", "DT") and (day := _DAY.match(part)):
                    moved = identities.shifted("DA", "".join(day.groups()))
                    days |= {moved} if moved else set()
    return Mapped(frozenset(uids), frozenset(days), frozenset(instances))


class DerivedIdentities(Identities):
    """Keeps what is mapped already.

    Args:
        secret: the project's key.
        participant: owner of the date shift.
        generation: of the copies that the data were made of.
        original: StudyInstanceUID as received, of the study that the copies are of.
        mapped: see :func:`already_mapped`.
    """

    def __init__(
        self, secret: bytes, participant: str, generation: int, *, original: str, mapped: Mapped
    ) -> None:
        super().__init__(secret, participant, generation)
        self._original = original
        self._days = mapped.days
        self.kept_uids = mapped.uids
        self.kept_words = frozenset({super().accession_number(original)})

    def uid(self, original: str) -> str:
        """A mapped UID as it is; else the UID in place of it."""
        plain = original.rstrip("\0 ").strip()
        return plain if plain in self.kept_uids else super().uid(plain)

    def accession_number(self, study: str) -> str:
        """That of the copies that the data were made of."""
        return super().accession_number(self._original)

    def _moved(self, year: str, month: str, day: str) -> str | None:
        known = f"{year}{month}{day}"
        return known if known in self._days else super()._moved(year, month, day)
