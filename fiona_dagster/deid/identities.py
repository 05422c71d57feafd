"""New identities from a project's key: UIDs, date shifts, accession numbers; and dummy values.

Everything is a keyed HMAC (RFC 2104, SHA-256), so the same input gives the same output on any machine, and
nobody without the key can go back or try out candidates (PS3.15 E.1.1 discourages plain hashes).
"""

from __future__ import annotations

import datetime
import hmac
import re
import string

from fiona_dagster.dicom.dictionary import UIDS

MAX_SHIFT_DAYS = 3650
"""Dates move back by 1 to so many days."""

DUMMY_DATE = "19000101"
DUMMY_TEXT = "REMOVED"
_DUMMIES: dict[str, bytes] = {
    "DA": DUMMY_DATE.encode(),
    "DT": DUMMY_DATE.encode() + b"000000",
    "TM": b"000000",
    "AS": b"000Y",
    "DS": b"0",
    "IS": b"0",
    "UR": b"urn:removed",
    "AT": bytes(4),
    "FL": bytes(4),
    "FD": bytes(8),
    "OB": bytes(2),
    "OD": bytes(8),
    "OF": bytes(4),
    "OL": bytes(4),
    "OV": bytes(8),
    "OW": bytes(2),
    "SL": bytes(4),
    "SS": bytes(2),
    "SV": bytes(8),
    "UL": bytes(4),
    "UN": bytes(2),
    "US": bytes(2),
    "UV": bytes(8),
}

_DATE = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})")
_DATE_TIME = re.compile(r"(\d{4})(\d{2})(\d{2})((?:\d{2}){0,3}|\d{6}\.\d{1,6})([+-]\d{4})?")
_TIME = re.compile(r"\d{2}(?::?[0-5]\d){0,2}|\d{2}:?[0-5]\d:?[0-6]\d\.\d{1,6}")
_ZONE = re.compile(r"[+-]\d{4}")
_ALPHABET = string.ascii_letters + string.digits


Told = tuple[int, str, bytes, bytes]
"""Tag, VR, raw value and Specific Character Set of what tells whose an object is."""


def is_well_known(uid: str) -> bool:
    """Whether the standard itself assigned this UID (PS3.6 annex A)."""
    return uid in UIDS


def dummy(vr: str) -> bytes:
    """A value of non-zero length that says nothing, for action D."""
    return _DUMMIES.get(vr, DUMMY_TEXT.encode())


class Identities:
    """Replaces what identifies, for one project and participant.

    Args:
        secret: the project's key.
        participant: owner of the date shift.
        generation: raised when a delivered study gets another participant or event: all UIDs are new ones.
    """

    prefixes: tuple[str, ...] = ("2.25.",)
    """Every UID that is made begins with one of these."""
    kept_uids: frozenset[str] = frozenset()
    """UIDs that are mapped already and stay as they are."""
    kept_words: frozenset[str] = frozenset()
    """Other values of which that is true."""
    told: tuple[Told, ...] = ()
    """What identified the person besides what an object says itself (of derived data: in the originals)."""
    source_uids: frozenset[str] = frozenset()
    """UIDs that must not stand anywhere besides those of an object itself."""

    def __init__(self, secret: bytes, participant: str, generation: int = 0) -> None:
        self._secret = secret
        self._generation = str(generation)
        self._uids: dict[str, str] = {}
        number = int.from_bytes(self._mac("dates", participant)[:8], "big")
        self.shift_days = -(1 + number % MAX_SHIFT_DAYS)

    def _mac(self, purpose: str, *parts: str) -> bytes:
        message = "\0".join(("fiona", purpose, *parts)).encode("utf-8", "surrogateescape")
        return hmac.digest(self._secret, message, "sha256")

    def uid(self, original: str) -> str:
        """The UID in place of ``original``: ``2.25.`` and 128 bits as a decimal number (PS3.5 B.2)."""
        original = original.rstrip("\0 ").strip()
        new = self._uids.get(original)
        if new is None:
            number = int.from_bytes(self._mac("uid", self._generation, original)[:16], "big")
            new = self._uids[original] = f"2.25.{number}"
        return new

    def begin(self, study: str) -> None:
        """An object of this study comes next."""

    def study_uid(self, original: str) -> str:
        """The Study Instance UID in place of ``original``."""
        return self.uid(original)

    def pseudonym(self, value: bytes) -> bytes:
        """16 bytes in place of a value; the same for the same value in all of the project."""
        return self._mac("pseudonym", value.hex())[:16]

    def accession_number(self, study: str) -> str:
        """``Fiona`` and 11 letters or digits, the same for every file of a study."""
        number = int.from_bytes(self._mac("accession", self._generation, study), "big")
        letters = []
        for _ in range(11):
            number, index = divmod(number, len(_ALPHABET))
            letters.append(_ALPHABET[index])
        return "Fiona" + "".join(letters)

    def moved(self, year: str, month: str, day: str) -> str | None:
        """A day moved by the participant's number of whole days; ``None``: there is no such day."""
        try:
            moved = datetime.date(int(year), int(month), int(day)) + datetime.timedelta(self.shift_days)
        except (ValueError, OverflowError):
            return None
        return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"

    def shifted(self, vr: str, value: str) -> str | None:
        """A date, time or date-time moved by the participant's number of whole days.

        Args:
            vr: DA, TM, DT; SH for a zone.
            value: may hold several values; surrounding blanks are dropped.

        Returns:
            The new value: times, fractions and zones stay. ``None`` when any part of it is not exactly what
            the VR allows (PS3.5 6.2), so that nothing but numbers can pass.
        """
        done: list[str] = []
        for part in value.split("\\"):
            new = self._shifted_one(vr, part.strip(" \0"))
            if new is None:
                return None
            done.append(new)
        return "\\".join(done)

    def _shifted_one(self, vr: str, part: str) -> str | None:
        if not part.isascii():
            return None
        if vr == "DA" and (found := _DATE.fullmatch(part)):
            return self.moved(found[1], found[3], found[4])
        if vr == "DT" and (found := _DATE_TIME.fullmatch(part)):
            moved = self.moved(found[1], found[2], found[3])
            return moved and moved + found[4] + (found[5] or "")
        if (vr == "TM" and _TIME.fullmatch(part)) or (vr == "SH" and _ZONE.fullmatch(part)):
            return part
        return None
