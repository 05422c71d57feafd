"""What the tables say of a study: once, twice, not at all. The order, and the reasons for a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from fiona_dagster.errors import PatternTooSlow
from fiona_dagster.ledger import person_of
from fiona_dagster.redcap.tables import CouplingEntry, ProjectEntry, RoutingRule
from fiona_dagster.transfers.placing import Candidate, Placing, Tables, place

NOW = datetime(2026, 11, 25, 12, 0)
STUDY = Candidate(
    study="1.2",
    person=person_of(["H77"], ["Quisling^Q"], ["ACC1"]),
    senders=frozenset({"CT1"}),
    called_ae="HEART_IN",
    trusted=True,
    accepting=frozenset({"HEART", "LUNG"}),
    patterns={"HEART": ("H[0-9]+",), "LUNG": ("L[0-9]+|H[0-9]+",)},
)
ASKED = ("asked", "coupling", "HEART", "H001", "Baseline")


def entry(**changes: str) -> CouplingEntry:
    return replace(CouplingEntry("0", "ACC1", "HEART", "H001", "Baseline", "2026-11-20 08:00"), **changes)


def rule(**changes: str) -> RoutingRule:
    return replace(RoutingRule("HEART", "HEART", "HEART_IN", "", "", "", "Baseline"), **changes)


def automatic(name: str = "HEART", title: str = "HEART_IN") -> ProjectEntry:
    return ProjectEntry(name, active=True, pattern="H[0-9]{3}", starts=None, ends=None, autoid_aetitle=title)


def said(
    *coupling: CouplingEntry,
    rules: tuple[RoutingRule, ...] = (),
    projects: tuple[ProjectEntry, ...] = (),
    **changes: Any,
) -> Placing:
    by_number: dict[str, tuple[CouplingEntry, ...]] = {}
    for each in coupling:
        by_number[each.accession_number] = (*by_number.get(each.accession_number, ()), each)
    return place(replace(STUDY, **changes), Tables(by_number, rules, projects, NOW))


def told(placing: Placing) -> tuple[str, ...]:
    return placing.state, placing.way, placing.project, placing.participant, placing.event


def test_the_order() -> None:
    everything: dict[str, Any] = {"rules": (rule(),), "projects": (automatic(),)}
    assert told(said(entry(), **everything)) == ASKED
    assert told(said(**everything)) == ("asked", "routing", "HEART", "H77", "Baseline")
    assert told(said(projects=(automatic(),))) == ("asked", "autoid", "HEART", "", "")
    assert said(
        entry(), requested=frozenset({"HEART"}), asked_last="2026-11-20 08:00", **everything
    ).state == ("requested")
    nothing = said()
    assert (nothing.state, nothing.reason) == ("waiting", "nothing says where it goes")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry(entered="2026-11-11 11:59")], "expired"),
        ([entry(entered="")], "no date"),
        ([entry(), entry(participant="H002")], "several entries for it (HEART)"),
        ([entry(), entry(project="LUNG")], "several entries for it (HEART, LUNG)"),
        ([entry(), entry(event="Year 1")], "several entries for it (HEART)"),
        ([entry(accession_number="ACC10")], "nothing says"),
    ],
    ids=["expired", "no date", "participants", "projects", "events", "another number"],
)
def test_what_the_coupling_list_does_not_say_once_waits(entries: list[CouplingEntry], reason: str) -> None:
    found = said(*entries)
    assert found.state == "waiting"
    assert reason in found.reason
    assert "ACC1" not in found.reason


def test_an_entry_counts_for_fourteen_days_and_twice_the_same_is_one() -> None:
    assert told(said(entry(entered="2026-11-11 12:00"), entry(record="9"))) == ASKED
    two = person_of(["H77"], [], ["ACC1", "ACC2"])
    assert told(said(entry(), person=two)) == ASKED
    assert said(entry(), entry(accession_number="ACC2", participant="H002"), person=two).state == "waiting"


def test_an_expired_entry_leaves_the_study_to_the_rules() -> None:
    assert said(entry(entered="2026-11-01 12:00"), rules=(rule(),)).way == "routing"


def test_a_later_entry_for_another_project_stands_beside_a_request() -> None:
    requested: dict[str, Any] = {"requested": frozenset({"HEART"}), "asked_last": "2026-11-20 08:00"}
    later = entry(project="LUNG", participant="L1", entered="2026-11-20 08:01")
    assert said(later, **requested).project == "LUNG"
    assert said(replace(later, entered="2026-11-20 08:00"), **requested).state == "requested"
    assert said(entry(participant="H002", entered="2026-11-21 08:00"), **requested).state == "requested"
    assert said(later, replace(later, participant="L2"), **requested).state == "waiting"


@pytest.mark.parametrize(
    ("changes", "study", "reason"),
    [
        ({"called_ae": "HEART"}, {}, "nothing says"),
        ({"called_ae": "", "calling_ae": "CT"}, {}, "nothing says"),
        ({"called_ae": "", "calling_ae": "CT1"}, {"senders": frozenset({"CT1", "CT2"})}, "nothing says"),
        ({"patient_id": "X"}, {}, "nothing says"),
        ({"patient_name": "Doe"}, {}, "nothing says"),
        ({"patient_name": "Q"}, {"person": person_of(["H77"])}, "nothing says"),
        ({"patient_id": "("}, {}, "has a pattern that is no regular expression"),
        ({"project": "KIDNEY"}, {}, "not known here"),
        ({"project": "LUNG"}, {"patterns": {"LUNG": ("H[0-9]+", "L.*")}}, "no participant id of its project"),
        ({}, {"trusted": False}, "not trusted"),
        ({}, {"person": person_of(["H77", "H78"])}, "not exactly one PatientID"),
        ({}, {"person": person_of([])}, "not exactly one PatientID"),
    ],
)
def test_a_rule_that_does_not_fit(changes: dict[str, str], study: dict[str, Any], reason: str) -> None:
    found = said(rules=(rule(**changes),), **study)
    assert found.state == "waiting"
    assert reason in found.reason
    for word in ("H77", "Quisling", "CT1"):
        assert word not in found.reason


def test_either_title_is_enough_and_patterns_match_from_the_beginning() -> None:
    assert said(rules=(rule(called_ae="OTHER", calling_ae="CT1"),)).way == "routing"
    assert said(rules=(rule(patient_id="H7", patient_name="Quis"),)).way == "routing"


def test_two_rules_or_two_automatic_projects_wait_for_a_person() -> None:
    two = said(rules=(rule(), rule(record="LUNG", project="LUNG")))
    assert (two.state, "several routing rules fit (HEART, LUNG)" in two.reason) == ("waiting", True)
    found = said(projects=(automatic(), automatic("LUNG")))
    assert (found.state, "several projects" in found.reason) == ("waiting", True)


def test_automatic_ids_need_one_patient_and_a_known_project() -> None:
    assert "not known here" in said(projects=(automatic("KIDNEY"),)).reason
    assert "PatientID" in said(projects=(automatic(),), person=person_of([])).reason
    assert said(projects=(automatic(title=""),), called_ae="").state == "waiting"


@pytest.mark.parametrize("field", ["patient_id", "patient_name"])
def test_a_pattern_that_takes_too_long_leaves_the_study_to_a_person(field: str) -> None:
    """Nobody knows whether the rule fits; the next one, or an automatic id, might be the wrong place."""
    slow, long = rule(record="7", **{field: "(h|hh)+$"}), person_of(["h" * 60 + "!"], ["h" * 60 + "!"])
    with pytest.raises(PatternTooSlow, match=f"routing rule 7: routing_allowed_{field.replace('_', '')}"):
        said(rules=(slow, rule()), projects=(automatic(),), person=long)
    assert said(rules=(slow, rule()), person=person_of(["H1"], ["Doe"])).way == "routing", "others go on"
