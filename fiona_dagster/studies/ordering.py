"""In which order rulesets can be judged.

A ruleset that tests ``[ClassifyType]`` needs the final types of the series first, so it is judged after
every ruleset that can give a type which it tests. A cycle, there or among references, is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from fiona_dagster.errors import ConfigurationError
from fiona_dagster.studies.model import CLASSIFY_TYPE, RuleCall, Ruleset, references
from fiona_dagster.studies.predicates import Predicate, Reference, same
from fiona_dagster.studies.values import printed

MAX_REFERENCES = 50
"""References in references."""
_ById = Mapping[str, tuple[Ruleset, ...]]


def order_rulesets(
    rulesets: tuple[Ruleset, ...], by_id: _ById, name: str, warnings: list[str]
) -> tuple[Ruleset, ...]:
    """The active rulesets in the order in which they can be judged; file order where it doesn't matter.

    Args:
        rulesets: in file order.
        by_id: those that have an id; several with the same id are alternatives.
        name: what messages call the file.
        warnings: gets a line for everything that a person should look at.

    Raises:
        ConfigurationError: a cycle through references or through ``[ClassifyType]``.
    """
    calls = {
        ruleset: [entry for entry in ruleset.entries if isinstance(entry, RuleCall)] for ruleset in rulesets
    }
    graph = {
        ruleset: [target for call in found for target in by_id.get(call.id, ())]
        for ruleset, found in calls.items()
    }
    inside_out = _sort(graph, name, "references")
    _check_depth(inside_out, graph, name)
    inactive = _inactive(inside_out, calls, by_id, name, warnings)
    _warn_duplicates(calls, by_id, name, warnings)
    active = [ruleset for ruleset in rulesets if ruleset not in inactive]
    tested: dict[Ruleset, list[Predicate]] = {}
    for ruleset in inside_out:
        own = [entry for entry in ruleset.entries if isinstance(entry, Predicate)]
        tested[ruleset] = [entry for entry in own if _looks_at_types(entry)]
        tested[ruleset] += [each for target in graph[ruleset] for each in tested[target]]
    types = tuple(dict.fromkeys(ruleset.type for ruleset in active))
    needs = {}
    for ruleset in active:
        rests = {
            type_ for predicate in tested[ruleset] for type_ in _may_depend(predicate, ruleset.type, types)
        }
        needs[ruleset] = [other for other in active if other.type in rests]
    for ruleset in active:
        _warn_unknown_types(ruleset, tested[ruleset], types, name, warnings)
    return tuple(_sort(needs, name, "[ClassifyType]"))


def _sort(graph: Mapping[Ruleset, list[Ruleset]], name: str, through: str) -> list[Ruleset]:
    sorter: TopologicalSorter[Ruleset] = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle: list[Ruleset] = error.args[1]
        first = min(cycle, key=lambda ruleset: ruleset.index)
        path = " -> ".join(ruleset.label for ruleset in reversed(cycle))
        raise ConfigurationError(
            f"{name}: line {first.line}: {first.label}: a cycle through {through}: {path}; break it up"
        ) from None
    found: list[Ruleset] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda ruleset: ruleset.index)
        found.extend(ready)
        sorter.done(*ready)
    return found


def _check_depth(inside_out: list[Ruleset], graph: Mapping[Ruleset, list[Ruleset]], name: str) -> None:
    depth: dict[Ruleset, int] = {}
    for ruleset in inside_out:
        depth[ruleset] = 1 + max((depth[target] for target in graph[ruleset]), default=0)
        if depth[ruleset] > MAX_REFERENCES:
            raise ConfigurationError(
                f"{name}: line {ruleset.line}: {ruleset.label}: references go deeper than {MAX_REFERENCES}"
            )


def _inactive(
    inside_out: list[Ruleset],
    calls: Mapping[Ruleset, list[RuleCall]],
    by_id: _ById,
    name: str,
    warnings: list[str],
) -> set[Ruleset]:
    inactive: set[Ruleset] = set()
    for ruleset in inside_out:
        for call in calls[ruleset]:
            targets = by_id.get(call.id, ())
            if targets and not inactive.issuperset(targets):
                continue
            why = "is inactive itself" if targets else "doesn't exist"
            warnings.append(
                f"{name}: line {call.line}: {ruleset.label}: inactive, since ruleset id {call.id!r} {why}"
            )
            inactive.add(ruleset)
            break
    return inactive


def _warn_duplicates(
    calls: Mapping[Ruleset, list[RuleCall]], by_id: _ById, name: str, warnings: list[str]
) -> None:
    for call in (call for found in calls.values() for call in found):
        if len(by_id.get(call.id, ())) > 1:
            warnings.append(
                f"{name}: line {call.line}: ruleset id {call.id!r} exists several times; any of them counts"
            )


def _looks_at_types(predicate: Predicate) -> bool:
    return any(reference.name == CLASSIFY_TYPE for reference in references(predicate))


def _may_depend(predicate: Predicate, own: str, types: tuple[str, ...]) -> set[str]:
    """Types on which the verdict of a condition on ``[ClassifyType]`` rests.

    A condition on the whole list rests on every type but the ruleset's own; one that names types rests on
    these, even on the own one, which then is a cycle.
    """
    wanted = predicate.value
    if predicate.operator in ("exist", "notexist"):
        return set()  # a series always has the key
    if predicate.operator == "contains" and not isinstance(wanted, Reference):
        parts = wanted if isinstance(wanted, tuple) else (wanted,)
        return {type_ for type_ in types if any(same(part, type_) for part in parts)}
    if predicate.pattern is not None:
        single = {type_ for type_ in types if predicate.pattern.search(type_)}
        if single or not predicate.pattern.search(printed(types)):
            return single
    return set(types) - {own}


def _warn_unknown_types(
    ruleset: Ruleset, tested: list[Predicate], types: tuple[str, ...], name: str, warnings: list[str]
) -> None:
    for predicate in tested:
        if predicate.operator == "contains" and not isinstance(predicate.value, Reference):
            wanted = predicate.value if isinstance(predicate.value, tuple) else (predicate.value,)
            for part in wanted:
                if not any(same(part, type_) for type_ in types):
                    warnings.append(
                        f"{name}: line {predicate.line}: {ruleset.label}: no ruleset gives type {part!r}"
                    )
