"""Identities for results that were made of de-identified copies and come back (behaviour reference 7.8).

What was mapped already stays as it is: it is recognised by mapping the originals once more, never by what a
file claims or by the form of a UID. Everything else, such as the UIDs of new series and the dates of their
making, is replaced as in any other study; so derived data are consistent with the copies they were made of.
What identified the person in the originals must not stand in them either: who made them may have known it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.deid.identities import Identities, Told, is_well_known
from fiona_dagster.deid.learned import tells
from fiona_dagster.deid.plan import Place
from fiona_dagster.deid.profile import Profile, iod_of
from fiona_dagster.deid.reading import UNREADABLE, Found, raw_value, read_original

_DAY = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_MOMENT = re.compile(rb"\d{8}")
_SOP_CLASS, _SOP_INSTANCE, _STUDY = 0x00080016, 0x00080018, 0x0020000D


@dataclass
class Mapped:
    """What the originals of a study hold, and what its copies hold in place of it.

    Attributes:
        uids: mapped UIDs.
        days: shifted days, ``YYYYMMDD``; none that is also a day of the originals, since nobody could tell
            which of the two a day means, and a true one must not stay.
        instances: of the UIDs, those of the instances themselves.
        told: what identified the person.
        originals: UIDs that the copies don't have.
    """

    uids: set[str] = field(default_factory=set, repr=False)
    days: set[str] = field(default_factory=set, repr=False)
    instances: set[str] = field(default_factory=set, repr=False)
    told: set[Told] = field(default_factory=set, repr=False)
    originals: set[str] = field(default_factory=set, repr=False)


def already_mapped(originals: Iterable[Path], identities: Identities, profile: Profile) -> Mapped:
    """Maps every UID and day in the headers of the originals once more, and takes what tells who it is.

    Args:
        originals: as received; one that can't be read has no copy and is passed over.
        identities: those that the copies were made with.
        profile: likewise; what it keeps tells nothing that must go.

    Raises:
        OriginalUnavailable: the disk does not give one.
    """
    mapped, days = Mapped(), set[str]()
    for source in originals:
        try:
            data_set, found = read_original(source)
        except UNREADABLE:
            continue
        identities.begin(raw_value(data_set, _STUDY))
        iod = iod_of(raw_value(data_set, _SOP_CLASS))
        for e in found:
            stays = profile.step(Place(e.tag, e.vr, e.path, iod, e.creator)).action == "keep"
            _map(e, identities, mapped, days, stays=stays)
            if e.items < 0 and not stays and e.value and tells(e.tag, e.vr):
                day = _MOMENT.match(e.value) if e.vr == "DT" and not tells(e.tag, "") else None
                mapped.told.add((e.tag, e.vr, day[0] if day else e.value, e.charset))
    mapped.originals -= mapped.uids
    mapped.days -= days
    return mapped


def _map(e: Found, identities: Identities, mapped: Mapped, days: set[str], *, stays: bool) -> None:
    text = e.value.decode("latin-1") if e.vr in ("UI", "DA", "DT") else ""
    for part in filter(None, (part.strip(" \0") for part in text.split("\\"))):
        if e.vr == "UI" and not is_well_known(part):
            top = e.tag == _STUDY and not e.path
            uid = identities.study_uid(part) if top else identities.uid(part)
            mapped.uids.add(uid)
            if not stays:
                mapped.originals.add(part)
            if e.tag == _SOP_INSTANCE and not e.path:
                mapped.instances.add(part if stays else uid)
        elif e.vr in ("DA", "DT") and (day := _DAY.match(part)):
            days.add("".join(day.groups()))
            moved = identities.shifted("DA", "".join(day.groups()))
            mapped.days |= {moved} if moved else set()


class DerivedIdentities(Identities):
    """Keeps what is mapped already.

    Args:
        made: the identities that the copies were made with.
        original: StudyInstanceUID as received, of the study that the copies are of.
        mapped: see :func:`already_mapped`.
    """

    def __init__(self, made: Identities, *, original: str, mapped: Mapped) -> None:  # not those of a key
        self._made = made
        self._original = original
        self._days = mapped.days
        self.prefixes, self.shift_days = made.prefixes, made.shift_days
        self.kept_uids = frozenset(mapped.uids)
        self.kept_words = frozenset({made.accession_number(original)})
        self.told = tuple(sorted(mapped.told))
        self.source_uids = frozenset(mapped.originals)

    def begin(self, study: str) -> None:
        """An object of this study comes next."""
        self._made.begin(study)

    def uid(self, original: str) -> str:
        """A mapped UID as it is; else the UID in place of it."""
        plain = original.rstrip("\0 ").strip()
        return plain if plain in self.kept_uids else self._made.uid(plain)

    def study_uid(self, original: str) -> str:
        """Likewise, of a Study Instance UID."""
        plain = original.rstrip("\0 ").strip()
        return plain if plain in self.kept_uids else self._made.study_uid(plain)

    def pseudonym(self, value: bytes) -> bytes:
        """The same as in the copies."""
        return self._made.pseudonym(value)

    def accession_number(self, study: str) -> str:
        """That of the copies that the data were made of."""
        return self._made.accession_number(self._original)

    def moved(self, year: str, month: str, day: str) -> str | None:
        """A day of the copies as it is; else moved like theirs."""
        known = f"{year}{month}{day}"
        return known if known in self._days else self._made.moved(year, month, day)
