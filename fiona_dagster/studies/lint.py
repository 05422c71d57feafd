"""Where a rule file relies on how the original engine behaved (behaviour reference, section 1).

A finding is something that holds differently here. What could never apply in the original, or ended its
daemon, is only noted: no file can rely on it, but types may appear that were never seen before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydicom.datadict import dictionary_has_tag, dictionary_is_retired, dictionary_VM

from fiona_dagster.studies.attributes import AS_IS, CSA_KEYS, RENAMED
from fiona_dagster.studies.model import CLASSIFY_TYPE, RuleCall, RuleSet, Ruleset
from fiona_dagster.studies.predicates import Predicate, Reference
from fiona_dagster.studies.private import PLAIN_TAGS
from fiona_dagster.studies.values import number

_NUMERIC = ("==", "!=", "<", ">")
_NEW = ("<=", ">=", "in")
_ALWAYS_THERE = frozenset((0x00200013, 0x00280010, 0x00280011, 0x00280100))
"""InstanceNumber, Rows, Columns, BitsAllocated: no image lacks them."""
_ORIGINAL = frozenset((*AS_IS, *RENAMED))
"""Names that the original's record has."""
_VARYING = frozenset(("ImageType", "InstanceNumber", "SliceLocation", "EchoTime", "SliceThickness"))
"""Names of the record whose value may differ inside a series."""


@dataclass(frozen=True)
class Finding:
    """One place where this engine and the original differ.

    Attributes:
        line: of the rule file.
        ruleset: label of the ruleset.
        trap: short name of the difference, a heading in docs/researchers/classification.md.
        text: what the original did and what holds here.
        changes: False when the original could never apply the rule, so that nothing relied on it.
    """

    line: int
    ruleset: str
    trap: str
    text: str
    changes: bool = True


def lint(rules: RuleSet) -> list[Finding]:
    """Everything that a person should look at before a file of the original is put in force, by line."""
    found: list[Finding] = []
    for ruleset in rules.rulesets:
        for entry in ruleset.entries:
            each = _of_call(entry, rules) if isinstance(entry, RuleCall) else _of_predicate(entry, ruleset)
            found += [replace(finding, line=entry.line, ruleset=ruleset.label) for finding in each]
        found += [
            replace(each, line=ruleset.line, ruleset=ruleset.label) for each in _of_level(ruleset, rules)
        ]
    return sorted(found, key=lambda finding: (finding.line, finding.trap))


def _finding(trap: str, text: str, *, changes: bool = True) -> Finding:
    return Finding(0, "", trap, text, changes)


def _of_call(call: RuleCall, rules: RuleSet) -> Iterator[Finding]:
    targets = rules.by_id.get(call.id, ())
    if call.negated_by_key:
        yield _finding("negate on a reference", "the original ignores negate beside rule and notrule")
    if call.negate and any(not _is_single(target) for target in targets):
        yield _finding(
            "notrule",
            f"the original wants that none of the conditions of {call.id!r} holds; here {call.id!r} as a "
            "whole must not hold. Put a description beside it to say that this is meant",
            changes=not call.described,
        )
    if len(targets) > 1:
        yield _finding("duplicate id", f"the original ends when {call.id!r} is referenced", changes=False)


def _is_single(ruleset: Ruleset) -> bool:
    """With one plain condition "none holds" and "not all hold" are the same."""
    return len(ruleset.entries) == 1 and not ruleset.entries[0].negate


def _of_level(ruleset: Ruleset, rules: RuleSet) -> Iterator[Finding]:
    if not ruleset.series_level:
        return
    if any(other.type == ruleset.type and other is not ruleset for other in rules.rulesets):
        yield _finding(
            "SeriesLevel", "the original takes the type away again, even where another ruleset gave it"
        )
    else:
        yield _finding(
            "SeriesLevel",
            "the original decides by the last file that arrived; here every instance must satisfy it",
            changes=False,
        )


def _of_predicate(predicate: Predicate, ruleset: Ruleset) -> Iterator[Finding]:
    yield from _of_operator(predicate, ruleset)
    yield from _of_tag(predicate)
    yield from _of_value(predicate)


def _of_operator(predicate: Predicate, ruleset: Ruleset) -> Iterator[Finding]:
    operator, tag = predicate.operator, predicate.tag
    if operator in _NUMERIC:
        if not isinstance(predicate.value, Reference) and number(predicate.value) is None:
            yield _finding("text equality", f"the original's {operator} holds always for what is no number")
        elif tag.tag not in _ALWAYS_THERE and not _asks_for(ruleset, tag):
            yield _finding(
                "missing tag",
                f"the original's {operator} holds where {tag.text} is missing or no number; here it fails. "
                f'Put {{"operator": "exist"}} for this tag beside it to say that this is meant',
            )
    elif operator in ("exist", "notexist"):
        yield _finding("exist", f"the original's daemon ends at {operator}", changes=False)
    elif operator in _NEW:
        yield _finding(
            "new operator", f"the original doesn't know {operator}; it fails always", changes=False
        )
    elif operator == "approx":
        yield from _of_approx(predicate)


def _asks_for(ruleset: Ruleset, tag: Reference) -> bool:
    return any(
        isinstance(entry, Predicate) and entry.operator == "exist" and entry.tag == tag and not entry.negate
        for entry in ruleset.entries
    )


def _of_approx(predicate: Predicate) -> Iterator[Finding]:
    listed = isinstance(predicate.value, tuple)
    if predicate.negate:
        yield _finding(
            "negated approx",
            "the original wants every component outside of the tolerance, and fails where the tag is "
            "missing; here one outside is enough, and a missing tag satisfies it",
        )
    length = len(predicate.value) if isinstance(predicate.value, tuple) else 1
    expected = _multiplicity(predicate.tag)
    if listed and expected and expected != length:
        yield _finding(
            "approx of unequal lengths",
            f"{predicate.tag.text} has {expected} components, not {length}: that holds in the original and "
            "never here",
        )
    if listed and predicate.tag.name not in _ORIGINAL:
        yield _finding(
            "approx on a list", "fails always in the original, also where it is near", changes=False
        )


def _multiplicity(tag: Reference) -> int | None:
    if tag.tag is None or tag.index is not None or not dictionary_has_tag(tag.tag):
        return None
    said = dictionary_VM(tag.tag)
    return int(said) if said.isdecimal() else None


def _of_tag(predicate: Predicate) -> Iterator[Finding]:
    name = predicate.tag.name
    if name == CLASSIFY_TYPE:
        yield _finding(
            "ClassifyType",
            "the original sees the types from before this file; here it is the series' final set",
            changes=predicate.negate,
        )
    elif name == "NumFiles":
        yield _finding("NumFiles", "the original's n-th file sees n; here it is the number of instances")
    elif name in CSA_KEYS:
        yield _finding("CSA values", f"{name} is always missing in the original", changes=False)
    elif predicate.tag.tag in PLAIN_TAGS:
        yield _finding(
            "private creator",
            f"the original takes {predicate.tag.text} by its number, whoever wrote it; here it is the "
            "element of its creator, in whatever block",
            changes=False,
        )
    elif name == "SoftwareVersion":
        yield _finding("SoftwareVersion", "is never set in the original", changes=False)
    elif name in _VARYING:
        yield _finding(
            "first file's value", f"[{name}] is the first file's value in the original, here each instance's"
        )
    elif name and name not in _ORIGINAL and predicate.tag.tag is not None:
        yield _finding(
            "keyword",
            f"[{name}] is no key of the record: the original searches the element as it is printed "
            f"with tag and name, or ends; here it is the value",
        )


def _of_value(predicate: Predicate) -> Iterator[Finding]:
    value = predicate.value
    if isinstance(value, str):
        tag = _misread(value)
        if tag is not None:
            yield _finding(
                "literal read as a tag",
                f"the original reads {value!r} as tag ({tag >> 16:04X},{tag & 0xFFFF:04X}) and uses its "
                "value; here it is a text",
            )
    if predicate.operator != "regexp":
        return
    if isinstance(value, Reference):
        yield _finding(
            "pattern from a tag", "is a pattern in the original, here it is searched as plain text"
        )
    if predicate.pattern is None:
        return
    if _is_anchored(predicate.pattern.pattern) and _may_be_list(predicate.tag):
        yield _finding(
            "elements of a list",
            f"the original searches a list as it is printed; here also each element of {predicate.tag.text}",
            changes=predicate.negate,
        )
    if predicate.pattern.search(""):
        yield _finding(
            "pattern that matches nothing",
            "the original finds it where the tag is missing or empty; here it fails",
        )
    if "None" in predicate.pattern.pattern:
        yield _finding("None", "the original prints an empty number as None; here an empty element fails")
    if predicate.pattern.pattern.rstrip("$").endswith(" "):
        yield _finding(
            "padding", "blanks that pad an element are part of the value in the original, not here"
        )


def _is_anchored(pattern: str) -> bool:
    """Whether a pattern can hold for an element but not for the printed list that it stands in."""
    return (pattern.startswith(("^", "(^")) and not pattern.startswith("^\\[")) or pattern.endswith(
        ("$", "$)")
    )


def _may_be_list(tag: Reference) -> bool:
    if tag.tag is None or tag.index is not None or not dictionary_has_tag(tag.tag):
        return False
    return dictionary_VM(tag.tag) != "1"


def _misread(text: str) -> int | None:
    """The tag that the original takes a literal of two or three digits for, if files have it."""
    if len(text) not in (2, 3) or not (text.isascii() and text.isdecimal()):
        return None
    tag = int(text[0]) << 16 | int(text[1])
    return tag if tag >> 16 == 8 and dictionary_has_tag(tag) and not dictionary_is_retired(tag) else None
