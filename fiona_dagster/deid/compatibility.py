"""Identities as the original gateway made them, for projects that must merge with older data.

Behaviour reference 6.2: UIDs are a plain hash below the original's root, dates move by one constant. Nobody
needs a key to try out candidates: a project selects this in the knowledge of it (``compatibility``).
"""

from __future__ import annotations

from hashlib import sha256

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid.identities import Identities
from fiona_dagster.deid.keys import ProjectKey

ROOT = "1.3.6.1.4.1.45037"
_DIGITS = str.maketrans("abcdef", "012345")


class OriginalIdentities(Identities):
    """UIDs and dates of the original gateway; accession numbers and pseudonyms come from the key.

    Args:
        secret: the project's key.
        participant: owner of pseudonyms.
        generation: above 0 UIDs differ from the original's, which knew no generations.
        project: the name that is hashed with every UID.
        date_increment: days added to every date.
    """

    prefixes = (f"{ROOT}.",)

    def __init__(
        self, secret: bytes, participant: str, generation: int, *, project: str, date_increment: int
    ) -> None:
        super().__init__(secret, participant, generation)
        self._salt = project + (f" generation {generation}" if generation else "")
        self.shift_days = date_increment
        self._study = ""

    def begin(self, study: str) -> None:
        """The original hashes the Study Instance UID of an object without padding, all others with it."""
        self._study = _plain(study)

    def study_uid(self, original: str) -> str:
        """The Study Instance UID in place of ``original``."""
        return self._hashed(_plain(original))

    def uid(self, original: str) -> str:
        """Root and 45 digits of SHA-256 over the value as it stands in a file, and the project's name."""
        plain = _plain(original)
        return self._hashed(plain if plain == self._study else plain + "\0" * (len(plain) & 1))

    def _hashed(self, value: str) -> str:
        content = (value + self._salt).encode("utf-8", "surrogateescape")
        return f"{ROOT}.{sha256(content).hexdigest().translate(_DIGITS)[:45]}"


def _plain(uid: str) -> str:
    return uid.rstrip("\0 ").strip()


def identities_for(
    project: ProjectSettings, key: ProjectKey, participant: str, generation: int
) -> Identities:
    """The identities of a participant in a project."""
    compatible = project.compatibility
    if compatible is None:
        return Identities(key.secret, participant, generation)
    return OriginalIdentities(
        key.secret,
        participant,
        generation,
        project=compatible.project or project.name,
        date_increment=compatible.date_increment,
    )
