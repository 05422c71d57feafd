"""What would be done with attributes, and why: for people who decide, before anything is done.

Belongs here: rows for tables, of a profile and of a file. Stays out: doing it (``engine``). Values are never
shown.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.datadict import dictionary_description, keyword_for_tag

from fiona_dagster.config.deid import OwnRule, TagPattern, tag_pattern
from fiona_dagster.deid.elements import name_of
from fiona_dagster.deid.files import opened
from fiona_dagster.deid.inspection import METHOD_TAGS
from fiona_dagster.deid.options import NEWER_VRS
from fiona_dagster.deid.own_rules import fits_tag
from fiona_dagster.deid.plan import REMOVED, Place, Step
from fiona_dagster.deid.private import safe_table
from fiona_dagster.deid.profile import Profile, iod_of
from fiona_dagster.deid.reading import Found, raw_value, read_original
from fiona_dagster.deid.report import MEANINGS
from fiona_dagster.dicom.dictionary import dictionary_vr
from fiona_dagster.errors import FionaError, OriginalUnavailable, RefusedDicom, UnreadableDicom

if TYPE_CHECKING:
    from fiona_dagster.deid.deidentify import Deidentifier

ASSIGNED = "written from the request"
UNKNOWN = "of an unlisted private creator"
_MEANINGS = {
    **MEANINGS,
    "keep": "kept, without what identifies",
    "sequence": "kept, its items treated one by one",
    "pixels": "the picture alone stays",
    "clean": "text stays without what identifies",
    "replace": "replaced by the project's text",
    "hash": "replaced by a pseudonym",
    "regex": "only what the expression finds stays",
    "exchange": "cleaned, and parts exchanged",
    "rewrite": "written anew from a list",
    "C": "date moved",
}


@dataclass(frozen=True)
class Row:
    """One line of an explanation.

    Attributes:
        tag: ``(gggg,eeee)``, in sequences with what is around it.
        name: of the attribute, or keyword.
        action: code of table E.1-1, or of a rule.
        meaning: the action in words.
        reason: table, option or rule of the project.
        count: elements of a file that it holds for.
    """

    tag: str
    name: str
    action: str
    meaning: str
    reason: str
    count: int = 0

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)


def meaning(action: str) -> str:
    """An action in words."""
    if "/" in action:
        return "removed, emptied or replaced, by the attribute's type in its IOD"
    return _MEANINGS.get(action, action)


def _row(place: Place, step: Step, name: str, action: str = "", count: int = 0) -> Row:
    path = ".".join(name_of(tag) for tag in (*place.within, place.tag))
    shown = action or ("X" if step.action in REMOVED else step.action)
    return Row(path, name, shown, meaning(shown), step.reason, count)


def profile_rows(profile: Profile, assigned: Iterable[int] = ()) -> Iterator[Row]:
    """Every row of table E.1-1 as it is carried out, then private attributes and the project's own rules.

    Args:
        profile: of a project.
        assigned: tags that a request writes at the top level.
    """
    written = frozenset(assigned)
    content = (files(__package__) / "data" / "attributes.csv").read_text("utf-8")
    for row in csv.DictReader(content.splitlines()):
        if "x" in row["tag"] or row["tag"] == "private":
            name = row["tag"] if row["tag"] == "private" else str(tag_pattern(row["tag"]))
            kept = row["tag"] == "private" and "retain_safe_private" in profile.options
            reason = "table E.1-1" + (", but for those listed below" if kept else "")
            yield Row(name, row["name"], "X", meaning("X"), reason)
            continue
        tag = int(row["tag"], 16)
        if tag in written:
            yield Row(name_of(tag), row["name"], "D", ASSIGNED, "project tags; nested ones by the table")
            continue
        place = Place(tag, dictionary_vr(tag) or NEWER_VRS.get(tag, "LO"))
        step = profile.step(place)
        code = profile.action(tag)
        combined = code if "/" in code and step.reason.startswith(f"table E.1-1: {code}") else ""
        if tag >> 16 < 8:
            yield Row(name_of(tag), row["name"], "X", meaning("X"), "file meta is written anew, commands go")
            continue
        yield _row(place, step, row["name"], combined)
    yield from _private_rows(profile)
    yield from map(_rule_row, profile.own.rules)


def _rule_row(rule: OwnRule) -> Row:
    action = {"remove": "X", "empty": "Z", "uid": "U", "shift": "C"}.get(rule.action, rule.action)
    return Row(rule.tag, rule.creator or "own rule", rule.action, meaning(action), rule.reason or "own rule")


def _private_rows(profile: Profile) -> Iterator[Row]:
    if "retain_safe_private" not in profile.options:
        return
    listed = {(tag, creator) for tag, creator in safe_table()} | profile.private.own
    for tag, creator in sorted(listed, key=lambda entry: (entry[1], entry[0])):
        step = profile.step(
            Place(tag | 0x1000, safe_table().get((tag, creator), "") or "LO", creator=creator)
        )
        name = str(TagPattern(0xFFFF00FF, tag))
        shown = "X" if step.action in REMOVED else step.action
        yield Row(name, creator, shown, meaning(shown), step.reason)


def explain_tag(deidentifier: Deidentifier, text: str) -> list[Row]:
    """What is done with an attribute that stands at the top level, for every private creator that is known.

    Raises:
        ValueError: no tag.
    """
    pattern = tag_pattern(text)
    profile = deidentifier.profile
    if pattern.private:
        rows = [
            row
            for row in (*_private_rows(profile), *_csa_rows(profile))
            if tag_pattern(row.tag).value & 0xFFFF00FF == pattern.value & 0xFFFF00FF
        ]
        other = Row(str(pattern), "any other creator", "X", meaning("X"), "private attribute")
        own = [rule for rule in profile.own.rules if fits_tag(rule.pattern_of_tag, pattern.value | 0x1000)]
        return [
            *(_rule_row(rule) for rule in own),
            *rows,
            other,
        ]
    tag = pattern.value
    place = Place(tag, dictionary_vr(tag) or NEWER_VRS.get(tag, "UN"))
    code, step = profile.action(tag), profile.step(place)
    combined = code if "/" in code and step.reason.startswith(f"table E.1-1: {code}") else ""
    rows = [_row(place, step, _name(tag), combined)]
    if tag in deidentifier.assigned_tags() | METHOD_TAGS:
        rows.insert(
            0, Row(name_of(tag), _name(tag), "D", ASSIGNED, "at the top level; nested ones see below")
        )
    return rows


def _csa_rows(profile: Profile) -> Iterator[Row]:
    from fiona_dagster.deid.siemens import HEADERS

    for tag, creator in HEADERS:
        place = Place(tag | 0x1000, "OB", creator=creator)
        if profile.siemens_csa:
            row = _row(place, profile.step(place), creator)
            yield Row(str(TagPattern(0xFFFF00FF, tag)), creator, row.action, row.meaning, row.reason)


def explain_files(
    deidentifier: Deidentifier,
    paths: Iterable[Path],
    text: str = "",
    failed: Callable[[Path, FionaError], None] | None = None,
) -> list[Row]:
    """What is done with every element of files (or those of one attribute), counted by place, action, reason.

    What stands inside a sequence that goes is not listed: it goes with it.

    Args:
        deidentifier: rules; its key is not used.
        paths: the files.
        text: tag or keyword; "": every element.
        failed: told of each file that has no copy, and why; else the first of them ends the work.

    Raises:
        UnreadableDicom, RefusedDicom: a file can't be read.
        OriginalUnavailable: the disk does not give one.
        ValueError: ``text`` is no tag.
    """
    wanted = tag_pattern(text) if text else None
    counted: Counter[Row] = Counter()
    for path in paths:
        try:
            with opened(path, deidentifier.engine.opaque) as understood:
                deidentifier.engine.require_uids(understood)
            data_set, found = read_original(path)
        except (UnreadableDicom, RefusedDicom, OriginalUnavailable) as error:
            if failed is None:
                raise
            failed(path, error)
            continue
        iod = iod_of(raw_value(data_set, 0x00080016))
        for e, place, step in _steps(deidentifier, found, iod):
            if wanted is None or fits_tag(wanted, e.tag):
                counted[_file_row(deidentifier, place, step, e)] += 1
    return [
        Row(row.tag, row.name, row.action, row.meaning, row.reason, count)
        for row, count in sorted(counted.items(), key=lambda item: (item[0].tag, item[0].action))
    ]


def _steps(
    deidentifier: Deidentifier, found: list[Found], iod: int | None
) -> Iterator[tuple[Found, Place, Step]]:
    gone: tuple[int, ...] | None = None
    for e in found:
        if gone is not None and e.path[: len(gone)] == gone:
            continue
        gone = None
        if e.tag >> 16 & 1 and 0x10 <= e.tag & 0xFFFF <= 0xFF:
            continue  # a private creator follows its block
        place = Place(e.tag, e.vr, e.path, iod, e.creator)
        step = deidentifier.engine.step(place)
        if e.items >= 0 and step.action not in ("sequence", "clean", "D", "U*"):
            gone = (*e.path, e.tag)
        yield e, place, step


def _file_row(deidentifier: Deidentifier, place: Place, step: Step, e: Found) -> Row:
    if not e.path and e.tag in deidentifier.assigned_tags() | METHOD_TAGS:
        return Row(name_of(e.tag), _name(e.tag), "D", ASSIGNED, "project tags")
    known = e.creator in deidentifier.engine.creators  # another may say anything, a name above all
    return _row(place, step, e.creator if known else UNKNOWN if e.creator else _name(e.tag))


def _name(tag: int) -> str:
    try:
        return keyword_for_tag(tag) or dictionary_description(tag)
    except KeyError:
        return ""
