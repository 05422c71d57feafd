"""The entry of a delivered copy in the project's own REDCap: of the copy, and once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from fiona_dagster.errors import RedcapRejected
from fiona_dagster.ledger import Request, Transfer
from fiona_dagster.redcap import (
    ImagingEntry,
    RedcapClient,
    ResearchProject,
    TransferRequest,
    shipped_projects,
)
from fiona_dagster.transfers import delivery, execution, imaging, outcome, projects
from tests.site import PARTICIPANT, PROJECT, STUDY, Site
from tests.tables import own_redcap, read, use_tables, write


def entries(site: Site) -> list[dict[str, str]]:
    return [row for row in read(site.redcap, PROJECT) if row["imaging_study_uid"]]


def deliver_and_tell(site: Site) -> TransferRequest:
    site.make_package()
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), "archive")
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        (request,) = gateway.incoming().requests_of(STUDY)
        return request


@pytest.fixture
def asked(site: Site) -> Site:
    use_tables(site)
    site.project(events=["Event 1", "Event 2", "Event 9"])
    own_redcap(site)
    with site.open() as gateway:
        projects.refresh(gateway)
    site.receive(1, 2)
    site.ask(event="Event 2")
    assert len(site.poll().accepted) == 1
    return site


def test_a_delivered_copy_has_its_entry_once_also_after_late_images(asked: Site) -> None:
    request = deliver_and_tell(asked)

    (entry,) = entries(asked)
    assert (entry["record_id"], entry["redcap_event_name"]) == (PARTICIPANT, "event_2_arm_1")
    assert (entry["redcap_repeat_instrument"], str(entry["redcap_repeat_instance"])) == ("imaging", "1")
    assert entry["imaging_study_uid"] == request.mapped_uid
    assert entry["imaging_event_name"] == "Event 2"
    with asked.open() as gateway:
        original = gateway.incoming().client.export_records(records=[STUDY], fields=["study_date"])[0]
    plain = entry["imaging_study_date"].replace("-", "")
    assert len(plain) == 8
    assert plain != original["study_date"], "the shifted date, not the real one"
    assert STUDY not in str(read(asked.redcap, PROJECT))

    written = len(asked.redcap.log(PROJECT))
    with asked.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    assert len(asked.redcap.log(PROJECT)) == written, "a repeat writes nothing"

    asked.receive(3)  # late images
    assert asked.transfer().revision == 2
    deliver_and_tell(asked)
    assert len(entries(asked)) == 1


def test_another_study_of_the_participant_gets_the_next_instance(asked: Site) -> None:
    write(
        asked.redcap,
        PROJECT,
        {
            "record_id": PARTICIPANT,
            "redcap_event_name": "event_2_arm_1",
            "redcap_repeat_instrument": "imaging",
            "redcap_repeat_instance": "4",
            "imaging_study_uid": "1.2.3",
        },
    )
    deliver_and_tell(asked)
    assert [str(row["redcap_repeat_instance"]) for row in entries(asked)] == ["4", "5"]


def test_the_entry_goes_into_the_arm_of_the_participant(site: Site) -> None:
    """Events of the same name stand in several arms; an entry in another one would put the record there."""
    shipped = next(each for each in shipped_projects() if each.name == "ResearchProject")
    token = site.redcap.add_project(replace(shipped, name=PROJECT, events=("Visit 1", "Visit 2")))
    names = [f"visit_{number}_arm_{arm}" for arm in (1, 2) for number in (1, 2)]
    site.redcap.change_setup(
        PROJECT,
        arms=((1, "Drug"), (2, "Placebo")),
        events=(("Visit 1", 1), ("Visit 2", 1), ("Visit 1", 2), ("Visit 2", 2)),
        mapping=tuple((name, form) for name in names for form in ("basic_demography", "imaging")),
        repeats=tuple((name, "imaging") for name in names),
    )
    research = ResearchProject(RedcapClient(site.redcap.url, token))

    def placed(participant: str, event: str) -> str:
        research.write_imaging(ImagingEntry(participant, event, f"2.25.{participant[1:]}", "", ""))
        (row,) = [row for row in entries(site) if row["record_id"] == participant]
        return row["redcap_event_name"]

    for participant, arm in (("P1", 1), ("P2", 2), ("P3", 2)):
        event = f"visit_1_arm_{arm}"
        write(
            site.redcap, PROJECT, {"record_id": participant, "redcap_event_name": event, "demo_subject": "x"}
        )
    assert placed("P1", "Visit 2") == "visit_2_arm_1"
    assert placed("P2", "Visit 2") == "visit_2_arm_2"
    assert placed("P3", "no such visit") == "visit_1_arm_2"
    assert placed("P4", "visit_2_arm_2") == "visit_2_arm_2", "a unique name says which"
    assert placed("P5", "Visit 2") == "visit_2_arm_1", "who is in no arm yet goes into the first"


def test_studies_of_one_participant_that_end_at_once_have_an_entry_each(asked: Site) -> None:
    """Each reads which instance is free; without turns they would all write into the same one."""
    transfers = []
    with asked.open() as gateway:
        for number in range(4):
            request = Request(f"1.2.{number}", PROJECT, 1, "2026-11-25 10:00", PARTICIPANT, "Event 2")
            transfer = replace(gateway.ledger.transfers.accept(request, 1), mapped_uid=f"2.25.{number}")
            gateway.ledger.assignments.record_imaging(transfer.id, transfer.revision, "2026-11-25", "x")
            transfers.append(transfer)

    def tell(transfer: Transfer) -> None:
        with asked.open() as gateway:
            assert imaging.write_entry(gateway, transfer)

    asked.redcap.faults.delay(0.2, calls=12)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tell, transfers))
    asked.redcap.faults.clear()

    assert sorted(entry["imaging_study_uid"] for entry in entries(asked)) == [f"2.25.{n}" for n in range(4)]


def test_a_redcap_without_the_instrument_is_said_after_incoming_was_told(asked: Site) -> None:
    asked.redcap.change_setup(PROJECT, mapping=(("event_1_arm_1", "basic_demography"),))
    asked.make_package()
    with asked.open() as gateway:
        delivery.deliver(gateway, asked.transfer(), "archive")
        with pytest.raises(RedcapRejected, match="no event with the instrument imaging"):
            outcome.write_outcomes(gateway, STUDY, PROJECT)
        (request,) = gateway.incoming().requests_of(STUDY)
        assert request.transfer_date
        assert gateway.ledger.work.get(f"status:{STUDY}:{PROJECT}") is not None
        assert execution.transfer_of(gateway, STUDY, PROJECT).state == "delivered"
