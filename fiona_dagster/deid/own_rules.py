"""A project's own rules (``config.deid.OwnRule``) as steps of the plan.

Belongs here: which rule fits a place, and what it does to a value. Stays out: reading the file (config), the
profile and its options (``profile``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fiona_dagster.config.deid import IMPORT_FILTER, OwnRule, TagPattern, compiled
from fiona_dagster.deid.descriptors import CLEANABLE, cleaner
from fiona_dagster.deid.elements import TEXT, Element
from fiona_dagster.deid.folding import decode, encode
from fiona_dagster.deid.plan import Context, Place, Step, Work
from fiona_dagster.dicom.dictionary import dictionary_vr

_LONGEST = {
    "AE": 16,
    "AS": 4,
    "CS": 16,
    "DA": 8,
    "DS": 16,
    "DT": 26,
    "IS": 12,
    "LO": 64,
    "PN": 64,
    "SH": 16,
    "TM": 16,
    "UI": 64,
}
"""Characters of one value (PS3.5 table 6.2-1); longer ones are cut, as the original does."""
_HASHED = {"SH": 16, "LO": 16, "ST": 16, "LT": 16, "UT": 16, "UC": 16, "PN": 16, "CS": 16, "AE": 16}

_PLAIN = {"remove": "X", "empty": "Z", "uid": "U", "shift": "C"}
"""Actions that the engine carries out itself."""


@dataclass(frozen=True)
class _Entry:
    rule: OwnRule
    target: TagPattern
    path: tuple[TagPattern, ...] | None

    def fits(self, place: Place) -> bool:
        if not fits_tag(self.target, place.tag) or self.rule.creator.strip() != place.creator:
            return False
        if self.path is None:
            return True
        return len(self.path) == len(place.within) and all(
            part.matches(tag) for part, tag in zip(self.path, place.within, strict=True)
        )


def fits_tag(pattern: TagPattern, tag: int) -> bool:
    """Whether a tag fits; of a private one only group and the low byte count, wherever its block stands."""
    if pattern.private:
        return tag & 0xFFFF00FF == pattern.value & 0xFFFF00FF and bool(tag & 0xFF00)
    if pattern.mask >> 16 != 0xFFFF and tag >> 16 & 1:
        return False
    return pattern.matches(tag)


class OwnRules:
    """The rules of one project, with the values that a request assigns.

    Args:
        rules: as in the project's file; the first that fits holds.
        names: values of {project}, {participant}, {event}, {site}.
        keep_dates: the project keeps full dates, also in text.
    """

    def __init__(
        self, rules: Sequence[OwnRule], names: Mapping[str, str] | None = None, *, keep_dates: bool = False
    ) -> None:
        self.rules = tuple(rules)
        self.names = dict(names or {})
        self._entries = [_Entry(rule, rule.pattern_of_tag, rule.path) for rule in rules]
        # the import filter is no rule of the file, which people count from 1
        self._first = 0 if self.rules and self.rules[0].reason == IMPORT_FILTER else 1
        self._clean = cleaner(keep_dates=keep_dates)
        self.shifts = any(rule.action == "shift" for rule in rules)

    def step(self, place: Place) -> Step | None:
        """What the first fitting rule says; ``None``: none fits."""
        for number, entry in enumerate(self._entries, self._first):
            if entry.fits(place):
                return self._step(entry.rule, place, f"project's rule {number}" if number else "project")
        return None

    def touches(self, tag: int) -> bool:
        """Whether a rule may let an attribute of this tag stay, so that it must be looked into."""
        return any(fits_tag(entry.target, tag) and entry.rule.action != "remove" for entry in self._entries)

    def created(self) -> list[tuple[int, str, str]]:
        """Tag, VR and value of what is written also where it is missing."""
        made = []
        for entry in self._entries:
            if entry.rule.create:
                tag = entry.target.value
                vr = dictionary_vr(tag) or "LO"
                made.append((tag, vr, self._filled(entry.rule, vr)))
        return made

    def _filled(self, rule: OwnRule, vr: str) -> str:
        value = rule.value or ""
        for name in ("project", "participant", "event", "site"):
            value = value.replace("{" + name + "}", self.names.get(name, ""))
        return value[: _LONGEST.get(vr, 10240)]

    def _step(self, rule: OwnRule, place: Place, name: str) -> Step:
        which = "project_import_rule_1_regexp" if rule.reason == IMPORT_FILTER else f"{name}: pattern"
        where = f"project {self.names.get('project', '')}: {which}"
        reason = f"{name}: {rule.action}" + (f" ({rule.reason})" if rule.reason else "")
        if rule.action == "keep":
            return kept(place, reason)
        if rule.action == "clean":
            return clean_step(place, reason, self._clean)
        if rule.action == "uid" and place.vr not in ("UI", "UN", ""):
            return Step("X", f"{reason}: holds no UIDs")
        if rule.action in _PLAIN:
            return Step(_PLAIN[rule.action], reason)
        if rule.action == "exchange":
            return clean_step(place, reason, _exchange(rule, where, self._clean))
        works = {"hash": _hash, "regex": _extract(rule.pattern, where) if rule.pattern else None}
        return Step(rule.action, reason, work=works.get(rule.action) or self._replace(rule))

    def _replace(self, rule: OwnRule) -> Work:
        def work(element: Element, context: Context) -> Element | None:
            vr = "LO" if element.vr == "UN" else element.vr
            if element.items is not None or vr not in TEXT:
                return None
            made = encode(self._filled(rule, vr), context.charset)
            return None if made is None else Element(element.tag, vr, made)

        return work


def kept(place: Place, reason: str, vr: str = "") -> Step:
    """Keeps a value as it is, a sequence with its items treated one by one."""
    known = dictionary_vr(place.tag) or vr
    if known == "SQ" or (not known and place.vr == "SQ"):
        return Step("sequence", reason)
    if place.tag >> 16 & 1 or dictionary_vr(place.tag):
        return Step("keep", reason, vr=vr)
    return Step("keep", reason, vr=vr, work=_as_it_is)


def clean_step(place: Place, reason: str, work: Work, vr: str = "") -> Step:
    """Cleans text; a sequence is kept and its items are treated one by one."""
    known = vr or place.vr
    if known == "SQ":
        return Step("sequence", reason)
    return Step("clean", reason, vr=vr, work=work)


def _as_it_is(element: Element, context: Context) -> Element | None:
    """Of attributes that the dictionary does not know."""
    return None if element.items is not None else element


def _hash(element: Element, context: Context) -> Element | None:
    """A keyed pseudonym of the value: the same for the same value all over the project."""
    value = bytes(element.value).strip(b" \0")
    if element.items is not None:
        return None
    if not value:
        return Element(element.tag, element.vr)
    number = int.from_bytes(context.identities.pseudonym(value), "big")
    if element.vr in _HASHED:
        return Element(element.tag, element.vr, f"{number:032X}"[: _HASHED[element.vr]].encode())
    if element.vr in ("IS", "DS"):
        return Element(element.tag, element.vr, str(number % 1_000_000_000).encode())
    return None


def _exchange(rule: OwnRule, where: str, clean: Work) -> Work:
    """Cleans a text, then writes ``value`` wherever ``pattern`` is found."""
    wanted, value = compiled(rule.pattern, where, groups=False), rule.value or ""

    def work(element: Element, context: Context) -> Element | None:
        cleaned = clean(element, context)
        if cleaned is None or cleaned.items is not None or cleaned.vr not in CLEANABLE:
            return None
        text = decode(bytes(cleaned.value), context.charset, cleaned.vr).rstrip(" \0")
        made = wanted.sub(lambda _: value, text)[: _LONGEST.get(cleaned.vr, 10240)]
        return Element(cleaned.tag, cleaned.vr, encode(made, context.charset) or b"")

    return work


def _extract(pattern: str, where: str) -> Work:
    """What the groups of an expression find, joined by blanks; nothing where it finds nothing."""
    wanted = compiled(pattern, where)

    def work(element: Element, context: Context) -> Element | None:
        if element.items is not None or (element.vr not in CLEANABLE and element.vr != "PN"):
            return None
        found = wanted.search(decode(bytes(element.value), context.charset, element.vr))
        if found is None:
            return Element(element.tag, element.vr)
        groups = found.groupdict().values() if wanted.groupindex else found.groups()
        text = " ".join(group.strip() for group in groups if group and group.strip())
        made = encode(text[: _LONGEST.get(element.vr, 10240)], context.charset)
        return Element(element.tag, element.vr, made or b"")

    return work
