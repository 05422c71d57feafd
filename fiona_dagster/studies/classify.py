"""Which types a series has: rulesets judged over all of its instances."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from fiona_dagster.studies.attributes import CSA_KEYS, series_value
from fiona_dagster.studies.header import PIXEL_REPRESENTATION, SPECIFIC_CHARACTER_SET, InstanceHeader
from fiona_dagster.studies.model import CLASSIFY_TYPE, RuleCall, RuleSet, Ruleset, named_values
from fiona_dagster.studies.predicates import Reference
from fiona_dagster.studies.values import Value


class InstanceView:
    """One instance in its series (or frames of one kind of it), as predicates see it.

    Args:
        header: the instance.
        series: values that belong to the series as a whole, ``ClassifyType`` among them; may grow.
        instance: its number in the series, from 1.
        frame: number of the first frame that this stands for, 0 for all of them.

    Attributes:
        verdicts: index of a ruleset -> whether this instance satisfies it. Once judged it stays so, since
            everything that a ruleset rests on is judged before it.
    """

    def __init__(
        self, header: InstanceHeader, series: Mapping[str, Value], instance: int = 1, frame: int = 0
    ) -> None:
        self.instance = instance
        self.frame = frame
        self._header = header
        self._series = series
        self.verdicts: dict[int, bool] = {}

    def resolve(self, reference: Reference) -> Value | None:
        """See :class:`~fiona_dagster.studies.predicates.View`."""
        if reference.name in self._series:
            return self._series[reference.name]
        if reference.tag is None:
            return series_value(self._header, reference.name)
        value = self._header.value(reference.tag)
        if value is None or reference.index is None:
            return value
        parts = value if isinstance(value, tuple) else (value,)
        return parts[reference.index] if 0 <= reference.index < len(parts) else None


def classify(
    instances: Sequence[InstanceHeader], rules: RuleSet, series: Mapping[str, Value] | None = None
) -> list[str]:
    """The types of a series, in the order of the rule file.

    A ruleset gives its type if any instance satisfies it; with ``check: SeriesLevel`` if every instance does.
    Every frame of a multi-frame object counts as an instance.

    Args:
        instances: the distinct instances of one series, in any order.
        rules: checked rules.
        series: values of the series that rules can name (``NumFiles``, ``IncomingConnection``).
    """
    return _judge_series(instances, rules, series)[0]


def judged_views(
    instances: Sequence[InstanceHeader], rules: RuleSet, series: Mapping[str, Value] | None = None
) -> list[InstanceView]:
    """The instances after the series was classified, with its final types; see :func:`classify`.

    Of instances that rules can't tell apart only the first.
    """
    return _judge_series(instances, rules, series)[1]


def _judge_series(
    instances: Sequence[InstanceHeader], rules: RuleSet, series: Mapping[str, Value] | None
) -> tuple[list[str], list[InstanceView]]:
    found: set[str] = set()
    in_file_order = tuple(dict.fromkeys(ruleset.type for ruleset in rules.rulesets))
    shared: dict[str, Value] = {"NumFiles": str(len(instances)), **(series or {}), CLASSIFY_TYPE: ()}
    views: list[InstanceView] = []
    seen: set[Hashable] = set()
    alike = _alike(rules)
    for number, header in enumerate(instances, 1):
        for frame, each in header.frames():
            key = alike(each)
            if key not in seen:
                seen.add(key)
                views.append(InstanceView(each, shared, number, frame))
    for ruleset in rules.order:
        if ruleset.type in found or not views:
            continue
        quantifier = all if ruleset.series_level else any
        if quantifier(satisfies(view, ruleset, rules) for view in views):
            found.add(ruleset.type)
            shared[CLASSIFY_TYPE] = tuple(type_ for type_ in in_file_order if type_ in found)
    return [type_ for type_ in in_file_order if type_ in found], views


def _alike(rules: RuleSet) -> Callable[[InstanceHeader], Hashable]:
    """What rules can see of an instance: those for which it is the same need to be judged once."""
    tags = rules.tags
    creators = {
        tag & 0xFFFF0000 | tag >> 8 & 0xFF for tag in tags if tag >> 16 & 1 and tag & 0xFFFF >= 0x1000
    }
    seen = (*sorted(tags | creators), SPECIFIC_CHARACTER_SET, PIXEL_REPRESENTATION)
    vendor = any(name in CSA_KEYS or name == "OSLevel" for name in named_values(rules))

    def key(header: InstanceHeader) -> Hashable:
        elements = header.elements
        said = tuple(sorted(header.vendor.items())) if vendor else ()
        return tuple([elements.get(tag) for tag in seen]), said, header.big

    return key


def satisfies(view: InstanceView, ruleset: Ruleset, rules: RuleSet) -> bool:
    """Whether an instance satisfies all conditions; references have no cycles and a limited depth."""
    known = view.verdicts.get(ruleset.index)
    if known is None:
        known = view.verdicts[ruleset.index] = _judge(view, ruleset, rules)
    return known


def _judge(view: InstanceView, ruleset: Ruleset, rules: RuleSet) -> bool:
    for entry in ruleset.entries:
        if isinstance(entry, RuleCall):
            targets = rules.by_id.get(entry.id, ())
            if any(satisfies(view, target, rules) for target in targets) is entry.negate:
                return False
        elif not entry.holds(view):
            return False
    return True
