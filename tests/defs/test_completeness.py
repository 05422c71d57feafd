"""What people see of a study's completeness, late images above all: metadata, history, REDCap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fiona_dagster import landing
from fiona_dagster.defs.intake import _study_files
from fiona_dagster.landing import PerformedStep
from fiona_dagster.ledger import Package, Transfer
from fiona_dagster.operations.overview import overview, study_detail
from fiona_dagster.redcap import RedcapClient
from tests.site import PLANTED, STUDY, Site, running_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        yield running


def seen(site: Site) -> dict[str, object]:
    """Metadata of study_files, as plain values."""
    with site.open() as gateway:
        metadata = _study_files(gateway, STUDY).metadata
    return {key: getattr(value, "value", value) for key, value in metadata.items()}


def in_redcap(site: Site) -> list[dict[str, str]]:
    client = RedcapClient(site.redcap.url, site.redcap.tokens["Incoming"], timeout=10)
    return [row for row in client.export_records() if not row["redcap_repeat_instrument"]]


def ask_and_package(site: Site) -> tuple[Transfer, Package]:
    site.ask()
    assert len(site.poll().accepted) == 1
    return site.make_package()


def performed(site: Site, *instances: str) -> None:
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    step = PerformedStep(time, "1.9", "COMPLETED", (STUDY,), {f"{STUDY}.3": instances}, "CT1", "127.0.0.1")
    landing.append_evidence(site.root, step)


def test_late_images_are_a_new_revision_of_the_same_study_and_everybody_sees_it(site: Site) -> None:
    site.receive(1, 2)
    first = seen(site)
    assert (first["revision"], first["instances"], first["instances_added"]) == (1, 2, 2)
    assert first["completeness"] == "complete"
    before, _ = ask_and_package(site)

    site.receive(3)
    second = seen(site)
    assert (second["revision"], second["instances"], second["instances_added"]) == (2, 3, 1)
    (study,) = overview(site.root)["studies"]
    assert (study["study"], study["revision"], study["registered"]) == (STUDY, 2, 2)
    assert "complete, revision 2: 1 instances added" in [
        what for _, what in study_detail(site.root, STUDY)["history"]
    ]
    assert [row["study_instance_uid"] for row in in_redcap(site)] == [STUDY]

    # The transfer starts again for the new revision, with the same identities.
    again = site.transfer()
    assert (again.id, again.revision, again.state) == (before.id, 2, "accepted")
    assert (again.participant, again.generation) == (before.participant, before.generation)


def test_an_incomplete_study_says_so_everywhere_and_can_be_assigned(site: Site) -> None:
    site.arrive(1, 2)
    performed(site, *(f"{STUDY}.3.{number}" for number in (1, 2, 3, 4)))
    site.receive()

    said = seen(site)
    assert said["completeness"] == "incomplete: 2 of 4 instances"
    assert (said["instances_expected"], said["instances_missing"]) == (4, 2)
    assert said["completeness_reasons"] == "- MPPS: 2 of 4 referenced instances are missing"
    assert [row["study_completeness"] for row in in_redcap(site)] == ["incomplete: 2 of 4 instances"]
    detail = study_detail(site.root, STUDY)
    assert detail["completion"]["outcome"] == "incomplete"
    assert detail["state"] == "held"
    text = json.dumps([said, detail["completion"], detail["history"]], default=str)
    assert not [planted for planted in PLANTED if planted in text]

    transfer, package = ask_and_package(site)
    assert (transfer.state, package.instances) == ("packaged", 2)

    # The rest arrives after all.
    site.receive(3, 4)
    assert seen(site)["completeness"] == "complete"
    assert [row["study_completeness"] for row in in_redcap(site)] == ["complete"]
