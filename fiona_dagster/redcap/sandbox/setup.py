"""What a project's dictionary can't say: arms, events, what repeats, missing-data codes, groups."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from fiona_dagster.redcap.dictionary import ShippedProject


@dataclass(frozen=True)
class Setup:
    """Set-up of one project; without events it is a classic one."""

    arms: tuple[tuple[int, str], ...] = ()
    """Number and name."""
    events: tuple[tuple[str, int], ...] = ()
    """Name as people see it, and arm; in order."""
    mapping: tuple[tuple[str, str], ...] = ()
    """Unique event name and instrument: what stands where."""
    repeats: tuple[tuple[str, str], ...] = ()
    """Unique event name (classic: empty) and instrument (empty: the whole event)."""
    missing_codes: tuple[tuple[str, str], ...] = ()
    """Code and label."""
    dags: tuple[str, ...] = ()
    """Names of the data access groups."""

    @classmethod
    def classic(cls, repeating: Sequence[str]) -> Setup:
        """A project without events in which some instruments repeat."""
        return cls(repeats=tuple(("", form) for form in repeating))

    @classmethod
    def of(cls, project: ShippedProject) -> Setup:
        """The set-up of a shipped project: longitudinal when it names events."""
        if not project.events:
            return cls.classic(project.repeating)
        events = tuple((name, 1) for name in project.events)
        unique = [unique_name(name, 1) for name in project.events]
        return cls(
            arms=((1, "Arm 1"),),
            events=events,
            mapping=tuple((event, form) for event in unique for form in project.dictionary.forms),
            repeats=tuple((event, form) for event in unique for form in project.repeating),
        )

    @classmethod
    def from_json(cls, text: str) -> Setup:
        """Reads what :meth:`to_json` wrote."""
        parts: dict[str, Any] = {key: tuple(map(_frozen, value)) for key, value in json.loads(text).items()}
        return cls(**parts)

    def to_json(self) -> str:
        """For the sandbox's file."""
        return json.dumps(asdict(self))

    @property
    def longitudinal(self) -> bool:
        """Whether rows belong to events."""
        return bool(self.events)

    @cached_property
    def event_names(self) -> tuple[str, ...]:
        """Unique event names, in order."""
        return tuple(unique_name(name, arm) for name, arm in self.events)

    @cached_property
    def repeating_forms(self) -> tuple[str, ...]:
        """Instruments that repeat in any event."""
        return tuple(dict.fromkeys(form for _, form in self.repeats if form))

    def form_repeats(self, event: str, form: str) -> bool:
        """Whether an instrument repeats in an event."""
        return (event, form) in self.repeats

    def event_repeats(self, event: str) -> bool:
        """Whether a whole event repeats."""
        return bool(event) and (event, "") in self.repeats

    def has_form(self, event: str, form: str) -> bool:
        """Whether an instrument stands in an event; in classic projects all do."""
        return not self.longitudinal or (event, form) in self.mapping

    @cached_property
    def codes(self) -> Collection[str]:
        """Missing-data codes."""
        return frozenset(code for code, _ in self.missing_codes)

    @cached_property
    def dag_names(self) -> dict[str, str]:
        """Unique group name -> name."""
        return {dag_name(name): name for name in self.dags}


def unique_name(name: str, arm: int) -> str:
    """REDCap's unique name of an event: ``event_1_arm_1``."""
    return f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}_arm_{arm}"


def dag_name(name: str) -> str:
    """REDCap's unique name of a data access group."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:18]


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
