"""What a checked rule file is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fiona_dagster.studies.predicates import Predicate, Reference

CLASSIFY_TYPE = "ClassifyType"


@dataclass(frozen=True)
class RuleCall:
    """``rule`` or ``notrule``: the conditions of another ruleset, or their negation.

    ``described``: a description stands beside it, so that somebody thought of what it means.
    """

    id: str
    negate: bool
    line: int
    negated_by_key: bool = False
    described: bool = False


@dataclass(frozen=True)
class Ruleset:
    """Conditions that all must hold for a type."""

    type: str
    entries: tuple[Predicate | RuleCall, ...]
    index: int
    line: int
    id: str = ""
    series_level: bool = False

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"ruleset {self.index + 1} (type {self.type!r})"


@dataclass(frozen=True)
class RuleSet:
    """A checked rule file.

    Attributes:
        rulesets: all of them, in file order.
        order: those that are active, in the order in which they can be judged.
        digest: SHA-256 over the content; formatting, descriptions and key order don't count.
        warnings: what a person should look at.
    """

    rulesets: tuple[Ruleset, ...]
    order: tuple[Ruleset, ...]
    digest: str
    warnings: tuple[str, ...] = ()
    by_id: Mapping[str, tuple[Ruleset, ...]] = field(default_factory=dict)

    @property
    def tags(self) -> frozenset[int]:
        """Every tag that a rule looks at."""
        found: set[int] = set()
        for ruleset in self.rulesets:
            for entry in ruleset.entries:
                if isinstance(entry, Predicate):
                    found.update(ref.tag for ref in references(entry) if ref.tag is not None)
        return frozenset(found)


def named_values(rules: RuleSet) -> frozenset[str]:
    """Every name that a rule looks at."""
    found: set[str] = set()
    for ruleset in rules.rulesets:
        for entry in ruleset.entries:
            if isinstance(entry, Predicate):
                found.update(reference.name for reference in references(entry) if reference.name)
    return frozenset(found)


def references(predicate: Predicate) -> Iterable[Reference]:
    """The tag references of a predicate."""
    yield predicate.tag
    if isinstance(predicate.value, Reference):
        yield predicate.value
