"""Whether the participant id that a request assigns is one of the hospital's own identifiers.

What a request assigns is exempt from the residual search, or no copy would ever pass. So a PatientID that
somebody typed as the participant would leave in every object, unseen: this looks for exactly that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fiona_dagster.deid.deidentify import Deidentifier
from fiona_dagster.deid.elements import name_of
from fiona_dagster.deid.inspection import Finding
from fiona_dagster.deid.reading import UNREADABLE, read_original

RULE = "is the assigned participant id: assign another one, or see participant_may_be_identifier"

_IDS = frozenset(
    (0x00080050, 0x00100020, 0x00101000, 0x00380010, 0x00380060, 0x00401001, 0x00402016, 0x00402017)
)  # fmt: skip
"""PatientID and its like, accession number, admission and order numbers; at any depth."""
_NAMES = frozenset((0x00100010, 0x00101001, 0x00101005, 0x00101060))
"""The person's names, and the mother's birth name."""


def identifiers_used(sources: Sequence[Path], deidentifier: Deidentifier) -> list[Finding]:
    """Attributes of the originals whose value is the participant id; without the values.

    Letters and digits are compared, without regard to case, punctuation and leading zeros; of a name each
    component by itself too.

    Args:
        sources: the originals; what can't be read has no copy and is passed over.
        deidentifier: knows the assignment, and whether the project allows it.

    Raises:
        OriginalUnavailable: the disk does not give one.
    """
    if deidentifier.project.participant_may_be_identifier:
        return []
    participant = _plain(deidentifier.assignment.participant)
    found: set[int] = set()
    for source in sources:
        try:
            _, values = read_original(source)
        except UNREADABLE:
            continue
        for e in values:
            if e.tag in found or (e.tag not in _IDS and e.tag not in _NAMES):
                continue
            if participant in map(_plain, _forms(e.value, name=e.tag in _NAMES)):
                found.add(e.tag)
    return [Finding("original", name_of(tag), RULE) for tag in sorted(found)]


def _forms(value: bytes, *, name: bool) -> Iterable[str]:
    for encoding in ("utf-8", "latin-1"):
        text = value.decode(encoding, "replace").strip(" \0")
        for part in text.split("\\"):
            if part.strip():
                yield part
            if name:
                words = [word for word in re.split(r"[\^=\s,]+", part) if len(word) > 1]
                yield from words
                if words:
                    yield "".join(reversed(words))


def _plain(text: str) -> str:
    return "".join(ch for ch in text.casefold() if ch.isalnum()).lstrip("0") or "0"
