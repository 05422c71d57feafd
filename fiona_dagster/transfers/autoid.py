"""Participant ids that are made automatically: the same person in the same project always gets the same id.

An id is drawn at random from the project's pattern. *AutoID* in REDCap is the only place that ties it to the
person, by an HMAC of PatientID with the project's key: removing the project's records there is what makes its
ids anonymous (behaviour reference 7.8). So nothing here can be computed again.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import rstr

from fiona_dagster.config import ProjectSettings
from fiona_dagster.config.patterns import NO_PATTERN
from fiona_dagster.errors import RequestRefused
from fiona_dagster.ledger import Person
from fiona_dagster.redcap import RedcapClient
from fiona_dagster.redcap.tables import AutoIdEntry, ProjectEntry, next_numbers, read_autoid, write_autoid
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import project_key
from fiona_dagster.transfers.optout import normal
from fiona_dagster.transfers.projects import matches

TRIES = 400
"""Draws from a pattern before it counts as used up."""
LONGEST = 64
"""Characters of a participant id (VR LO, PS3.5 table 6.2-1)."""


class _Source(rstr.Rstr):
    """Draws; a pattern whose repetitions within repetitions would make a text without end is given up."""

    def __init__(self) -> None:
        super().__init__(secrets.SystemRandom())
        self._left = 0

    def draw(self, pattern: str) -> str:
        """One text that the pattern matches. Raises ValueError: its texts are too long."""
        self._left = 100 * LONGEST
        return self.xeger(pattern)

    def _handle_state(self, state: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too long")
        return super()._handle_state(state)

    def _handle_repeat(self, start_range: int, end_range: int, value: str) -> str:
        if start_range > LONGEST:
            raise ValueError("too long")
        return super()._handle_repeat(start_range, end_range, value)


def key_of(gateway: Gateway, project: str, person: Person) -> str:
    """What the person is called in *AutoID*: an HMAC that nobody can compute without the project's key.

    Raises:
        KeyMismatch: the project's key is missing or another one than before.
    """
    (patient_id,) = person.patient_ids
    message = f"autoid\0{normal(patient_id)}".encode()
    return hmac.new(project_key(gateway, project).secret, message, sha256).hexdigest()


def participants(
    gateway: Gateway, client: RedcapClient, entry: ProjectEntry, persons: Iterable[Person]
) -> dict[Person, str]:
    """The participant id of each person in a project; those that have none get one, written down first.

    Args:
        gateway: the open gateway.
        client: of *AutoID*.
        entry: the project in *DataTransferProjects*.
        persons: with exactly one PatientID each.

    Raises:
        RequestRefused: the pattern has no free id left that the project would take.
        RedcapUnavailable, RedcapRejected: REDCap gave no usable answer; nobody got an id that is not there.
    """
    known = read_autoid(client)
    mine = {each.hash: each.value for each in known if each.project == entry.name and each.value}
    keys = {person: key_of(gateway, entry.name, person) for person in persons}
    missing = sorted(set(keys.values()) - mine.keys())
    if missing:
        taken = set(mine.values()) | gateway.ledger.transfers.participants(entry.name)
        research = gateway.research(entry.name)
        if research is not None:
            taken |= research.participants()
        new = _draw(gateway.project(entry.name), entry, missing, taken)
        number = next_numbers(each.record for each in known)
        entries = [
            AutoIdEntry(str(number + index), entry.name, key, new[key]) for index, key in enumerate(missing)
        ]
        write_autoid(client, entries)
        mine |= new
    return {person: mine[key] for person, key in keys.items()}


def _draw(
    project: ProjectSettings, entry: ProjectEntry, keys: Iterable[str], taken: set[str]
) -> Mapping[str, str]:
    source = _Source()
    pattern = entry.pattern or project.participant_pattern
    found: dict[str, str] = {}
    for key in keys:
        for _ in range(TRIES):
            try:
                value = source.draw(pattern)
            except (*NO_PATTERN, KeyError, ValueError):
                raise RequestRefused(
                    f"no participant id can be drawn from the pattern of project {project.name}: it is no "
                    "regular expression, or one with parts that can't be drawn (such as atomic groups, or "
                    "repetitions within repetitions)"
                ) from None
            if value not in taken and _fits(value, project, entry):
                break
        else:
            raise RequestRefused(f"the pattern of project {project.name} has no free participant id left")
        taken.add(value)
        found[key] = value
    return found


def _fits(value: str, project: ProjectSettings, entry: ProjectEntry) -> bool:
    plain = (
        0 < len(value) <= LONGEST
        and value.isascii()
        and value.isprintable()
        and value == value.strip()
        and not set(value) & set("\\^=*?/")
    )
    return (
        plain
        and matches(project.participant_pattern, value, f"project {project.name}")
        and (
            not entry.pattern
            or matches(entry.pattern, value, f"project {project.name} in DataTransferProjects")
        )
    )
