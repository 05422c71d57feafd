"""Which condition decided about each type of a series, with the value found.

Values that may identify a person are masked: what is shown may be pasted into a message to a colleague. So is
any other value in which a name or number of the patient stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fiona_dagster.studies.attributes import IDENTIFYING_KEYS
from fiona_dagster.studies.classify import InstanceView, judged_views, satisfies
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.model import RuleCall, RuleSet, Ruleset
from fiona_dagster.studies.predicates import Predicate, Reference
from fiona_dagster.studies.values import EMPTY, Value, printed, vr_of

MISSING, NO_VALUE = "missing", "present, without a value"
_SHOWN_UIDS = frozenset((0x00080016,))
_MASKED_VRS = frozenset(("PN", "DA", "TM", "DT", "AS", "UI", "LT", "ST", "UT"))
_MASKED_GROUPS = frozenset((0x0010, 0x0012, 0x0016, 0x0032, 0x0038, 0x0040, 0x4008))
_MASKED = frozenset(
    (
        *(0x00080050, 0x00080054, 0x00080055, 0x00080080, 0x00080081, 0x00080094, 0x00081000, 0x00081010),
        *(0x00081030, 0x00081040, 0x00081080, 0x00181000, 0x00181004, 0x00181005, 0x00181007, 0x00181008),
        *(0x00181010, 0x00181011, 0x0018700A, 0x00189367, 0x00189371, 0x00200010, 0x00203401, 0x0050001B),
        *(0x04000563, 0x04000564, 0x30080105, 0x300A00B2, 0x3010001B),
    )
)
"""Accession, institution, telephone, application titles, station, StudyDescription, department, diagnoses;
numbers of devices and specimens; StudyID (PS3.15 table E.1-1)."""
_PERSON = (0x00100010, 0x00100020, 0x00100030, 0x00080050, 0x00200010)
"""Name, id and birth date of the patient, accession number, study id: masked wherever they stand."""
_SHORTEST = 3
_WORDS = re.compile(r"[^\W_]+")
_LONGEST = 120


@dataclass(frozen=True)
class Decided:
    """What decided about one ruleset of one series.

    Attributes:
        type: what the ruleset gives.
        line: of the rule file.
        gave: whether the series satisfies the ruleset.
        instance: number of the instance (in the series' order, from 1) at which it was decided.
        frame: number of its frame; 0 where its frames are alike.
        conditions: (condition, value found, whether it held): all where the ruleset holds, else the one
            that failed.
    """

    type: str
    line: int
    gave: bool
    instance: int
    conditions: tuple[tuple[str, str, bool], ...]
    frame: int = 0


def explain(
    instances: Sequence[InstanceHeader], rules: RuleSet, series: Mapping[str, Value] | None = None
) -> list[Decided]:
    """What decided about every active ruleset, in the order of the file.

    A ruleset that several instances satisfy shows the first of them; one that none satisfies shows the
    instance that came furthest. With SeriesLevel the first instance that fails decides.

    Args:
        instances: distinct instances of one series.
        rules: checked rules.
        series: see :func:`~fiona_dagster.studies.classify.classify`.
    """
    views = judged_views(instances, rules, series)
    active = set(rules.order)
    return [_decided(ruleset, views, rules) for ruleset in rules.rulesets if ruleset in active and views]


def _decided(ruleset: Ruleset, views: Sequence[InstanceView], rules: RuleSet) -> Decided:
    verdicts = [satisfies(view, ruleset, rules) for view in views]
    gave = all(verdicts) if ruleset.series_level else any(verdicts)
    if gave:
        chosen = verdicts.index(True)
        shown = [_condition(entry, views[chosen], rules) for entry in ruleset.entries]
    else:
        failed = [number for number, verdict in enumerate(verdicts) if not verdict]
        reached = {number: _first_failure(ruleset, views[number], rules) for number in failed}
        chosen = (
            failed[0] if ruleset.series_level else max(failed, key=lambda number: (reached[number], -number))
        )
        shown = [_condition(ruleset.entries[reached[chosen]], views[chosen], rules)]
    view = views[chosen]
    return Decided(ruleset.type, ruleset.line, gave, view.instance, tuple(shown), view.frame)


def _first_failure(ruleset: Ruleset, view: InstanceView, rules: RuleSet) -> int:
    return next(place for place, entry in enumerate(ruleset.entries) if not _holds(entry, view, rules))


def _holds(entry: Predicate | RuleCall, view: InstanceView, rules: RuleSet) -> bool:
    if isinstance(entry, Predicate):
        return entry.holds(view)
    return any(satisfies(view, target, rules) for target in rules.by_id.get(entry.id, ())) is not entry.negate


def _condition(entry: Predicate | RuleCall, view: InstanceView, rules: RuleSet) -> tuple[str, str, bool]:
    held = _holds(entry, view, rules)
    if isinstance(entry, Predicate):
        return _text(entry), shown_value(entry.tag, view.resolve(entry.tag), _identities(view)), held
    target = "holds" if held is not entry.negate else _why(entry, view, rules)
    return f"{'notrule' if entry.negate else 'rule'} {entry.id}", target, held


def _why(call: RuleCall, view: InstanceView, rules: RuleSet) -> str:
    """The condition at the bottom of a reference that failed."""
    target = rules.by_id[call.id][0]
    text, found, _ = _condition(target.entries[_first_failure(target, view, rules)], view, rules)
    return f"fails at: {text}; found {found}"


def _text(predicate: Predicate) -> str:
    value = predicate.value
    if predicate.operator in ("exist", "notexist"):
        wanted = ""
    elif isinstance(value, Reference):
        wanted = f" [{value.text}]"
    else:
        wanted = f" {printed(value)}"
    return f"{'not ' if predicate.negate else ''}{predicate.tag.text} {predicate.operator}{wanted}"


def _identities(view: InstanceView) -> frozenset[str]:
    """Words of the instance that identify the person, in small letters."""
    texts = [printed(value) for tag in _PERSON if (value := view.resolve(Reference("", tag))) is not None]
    words = {word.casefold() for text in texts for word in _WORDS.findall(text)}
    return frozenset(word for word in words if len(word) >= _SHORTEST)


def shown_value(reference: Reference, value: Value | None, identities: Collection[str] = ()) -> str:
    """A value as a person may see it: masked where it may identify somebody.

    Args:
        reference: where it comes from.
        value: what was found.
        identities: words in small letters that are not shown wherever they stand.
    """
    if value is None:
        return MISSING
    if value == EMPTY and reference.name != "ClassifyType":
        return NO_VALUE
    text = printed(value) or "none"
    small = [word.casefold() for word in _WORDS.findall(text)]
    if is_identifying(reference) or any(word in identities for word in small):
        return f"masked ({len(text)} characters)"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def is_identifying(reference: Reference) -> bool:
    """Whether the values of a tag may identify a person, a visit or a place."""
    tag = reference.tag
    if tag is None:
        return reference.name in (*IDENTIFYING_KEYS, "IncomingConnection", "siemensUUID")
    if tag in _SHOWN_UIDS:
        return False
    return tag in _MASKED or tag >> 16 in _MASKED_GROUPS or vr_of(tag, "") in _MASKED_VRS
