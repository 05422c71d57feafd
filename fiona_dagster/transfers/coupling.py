"""``fiona couple``: examinations that are registered beforehand, from a table into REDCap's coupling list.

All lines are checked before the first is written; one that is wrong stops all of them. Lines that stand in
the list already are left alone, so that the same file may be given again after a break.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from fiona_dagster.errors import ConfigurationError, RequestRefused, UsageError
from fiona_dagster.redcap import RedcapClient
from fiona_dagster.redcap.tables import CouplingEntry, next_numbers, read_coupling, write_coupling
from fiona_dagster.transfers import projects
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.placing import is_live
from fiona_dagster.transfers.requests import check_names
from fiona_dagster.transfers.turns import turn

COLUMNS = {
    "accession_number": ("accessionnumber", "accession", "claccessionnumber"),
    "project": ("project", "projectname", "clprojectname"),
    "participant": ("participant", "participantid", "subject", "subjectid", "clsubjectid"),
    "event": ("event", "eventname", "cleventname"),
}
"""What each column may be called, without capitals, blanks and signs."""
LONGEST_ACCESSION = 16
"""Characters of an accession number (VR SH, PS3.5 table 6.2-1)."""


@dataclass(frozen=True)
class Line:
    """One line of the table; ``number`` as an editor counts them."""

    number: int
    accession_number: str = field(repr=False)
    project: str
    participant: str = field(repr=False)
    event: str = field(repr=False)

    @property
    def assignment(self) -> tuple[str, str, str]:
        """Where it sends the examination."""
        return self.project, self.participant, self.event


@dataclass(frozen=True)
class Coupled:
    """What became of a table."""

    added: int
    there: int
    """Lines that stand in the list already."""
    problems: tuple[str, ...] = ()
    """A sentence for each line that is wrong, without its values; then nothing was written."""


def couple(gateway: Gateway, path: Path) -> Coupled:
    """Checks a table and adds its lines to REDCap's coupling list.

    Args:
        gateway: the open gateway.
        path: CSV with a header, separated by comma, semicolon or tab, UTF-8.

    Raises:
        UsageError: the file is no such table.
        ConfigurationError: no token of *CouplingList* is configured.
        RedcapUnavailable, RedcapRejected: REDCap gave no usable answer; the same call later goes on.
    """
    lines = read_table(path)
    client = gateway.table("CouplingList")
    if client is None:
        raise ConfigurationError(
            f"{gateway.root.config_file}: redcap.tokens.CouplingList: not set; the list can't be written"
        )
    projects.refresh(gateway)
    with turn(gateway, "coupling"):  # two tables at once would be given the same records
        return _add(gateway, client, lines)


def _add(gateway: Gateway, client: RedcapClient, lines: list[Line]) -> Coupled:
    zone = ZoneInfo(gateway.settings.LOCALTIMEZONE)
    now = datetime.now(UTC).astimezone(zone).replace(tzinfo=None)
    known = read_coupling(client)
    days = gateway.settings.redcap.coupling_days
    live = [entry for entry in known if is_live(entry, now, days)]
    problems = [*_repeats(lines), *_wrong(gateway, lines), *_contradicting(lines, live)]
    if problems:
        return Coupled(0, 0, tuple(problems))
    # one that ends soon is written anew: the examination may come later
    lasting = [entry for entry in live if is_live(entry, now + timedelta(days=days / 2), days)]
    there = {(entry.accession_number, entry.project, entry.participant, entry.event) for entry in lasting}
    new = {
        (line.accession_number, *line.assignment): line
        for line in lines
        if (line.accession_number, *line.assignment) not in there
    }
    first = next_numbers(entry.record for entry in known)
    write_coupling(
        client,
        [
            CouplingEntry(str(first + index), *key, entered=now.strftime("%Y-%m-%d %H:%M"))
            for index, key in enumerate(new)
        ],
    )
    return Coupled(len(new), len(lines) - len(new))


def read_table(path: Path) -> list[Line]:
    """The lines of a table; empty ones are left out.

    Raises:
        UsageError: it can't be read, has no header with the four columns, or no line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path}: is no readable UTF-8 text") from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=False)
    try:
        places = _places(path, next(rows, []))
        lines = []
        for row in rows:
            values = {name: row[place].strip() if place < len(row) else "" for name, place in places.items()}
            if any(values.values()):
                lines.append(Line(rows.line_num, **values))
    except csv.Error as error:
        raise UsageError(f"{path}: line {rows.line_num}: not CSV: {error}") from None
    if not lines:
        raise UsageError(f"{path}: holds no line besides its header")
    return lines


def _places(path: Path, header: Sequence[str]) -> dict[str, int]:
    names = [re.sub(r"[^a-z0-9]", "", cell.casefold()) for cell in header]
    found = {
        column: next((names.index(name) for name in accepted if name in names), -1)
        for column, accepted in COLUMNS.items()
    }
    if lacking := [column for column, place in found.items() if place < 0]:
        raise UsageError(
            f"{path}: line 1: no column {' and no column '.join(lacking)}; the header must be like "
            "AccessionNumber,Project,Participant,Event"
        )
    return found


def _repeats(lines: Iterable[Line]) -> list[str]:
    first: dict[str, Line] = {}
    problems = []
    for line in lines:
        other = first.setdefault(line.accession_number, line)
        if other.assignment != line.assignment:
            problems.append(
                f"line {line.number}: line {other.number} sends the same accession number elsewhere"
            )
    return problems


def _wrong(gateway: Gateway, lines: Iterable[Line]) -> list[str]:
    events = projects.ProjectEvents(gateway)
    known: dict[tuple[str, str, str], str] = {}
    problems = []
    for line in lines:
        number = line.accession_number
        if not (number and len(number) <= LONGEST_ACCESSION and number.isprintable() and "\\" not in number):
            problems.append(
                f"line {line.number}: an accession number has 1 to {LONGEST_ACCESSION} printable characters"
            )
        if line.assignment not in known:
            known[line.assignment] = ""
            try:
                check_names(gateway, *line.assignment)
                events.require(line.project, line.event)
            except RequestRefused as error:
                known[line.assignment] = str(error)
        if known[line.assignment]:
            problems.append(f"line {line.number}: {known[line.assignment]}")
    return problems


def _contradicting(lines: Iterable[Line], live: Iterable[CouplingEntry]) -> list[str]:
    there: dict[str, set[tuple[str, str, str]]] = {}
    for entry in live:
        there.setdefault(entry.accession_number, set()).add((entry.project, entry.participant, entry.event))
    return [
        f"line {line.number}: the coupling list sends this accession number elsewhere; correct one of the two"
        for line in lines
        if there.get(line.accession_number, set()) - {line.assignment}
    ]
