"""The hospital's own number or name as participant, and what the search was not sure of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from fiona_dagster import deid
from fiona_dagster.errors import ResidualIdentifier
from fiona_dagster.operations.overview import study_detail
from fiona_dagster.transfers import execution
from tests.deid import phantoms
from tests.site import PROJECT, STUDY, Site

ANY = {"participant_pattern": ".+"}


def findings(
    folder: Path, participant: str, *, allowed: bool = False, **attributes: str
) -> list[tuple[str, str]]:
    """What the verification says about copies of one phantom with these attributes."""
    image = phantoms.image(1)
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    (folder / "in").mkdir(parents=True)
    phantoms.write(image, folder / "in" / "a.dcm")
    project = deid.basic_profile_only("P").model_copy(update={"participant_may_be_identifier": allowed})
    deidentifier = deid.Deidentifier(
        project, deid.ProjectKey("P", bytes(32)), deid.Assignment("P", participant, "base")
    )
    sources = [folder / "in" / "a.dcm"]
    assert not deid.deidentify_study(deidentifier, sources, folder / "out").failures
    assert deid.verify_outputs(sources, folder / "out", deidentifier).passed, "it is exempt there"
    return [(finding.tag, finding.rule) for finding in deid.identifiers_used(sources, deidentifier)]


@pytest.mark.parametrize(
    ("keyword", "value", "participant"),
    [
        ("PatientID", "48151623", "48151623"),
        ("PatientID", "0048-151623", "48151623"),
        ("PatientID", "ab12", "AB-12"),
        ("AccessionNumber", "ACC778899", "acc778899"),
        ("PatientName", "Kowalski^Jan", "Kowalski"),
        ("PatientName", "Kowalski^Jan", "jan_kowalski"),
        ("OtherPatientIDs", "X1\\48151623", "48151623"),
    ],
)
def test_an_identifier_of_the_hospital_is_no_participant_id(
    tmp_path: Path, keyword: str, value: str, participant: str
) -> None:
    found = findings(tmp_path / "refused", participant, allowed=False, **{keyword: value})
    assert [rule for _, rule in found] == [deid.assigned.RULE]
    assert participant.lower() not in str(found).lower()
    assert findings(tmp_path / "allowed", participant, allowed=True, **{keyword: value}) == []


@pytest.mark.parametrize("participant", ["N001", "Kowal", "4815", "148151623", "000"])
def test_other_participants_pass(tmp_path: Path, participant: str) -> None:
    assert findings(tmp_path, participant, PatientID="48151623", PatientName="Kowalski^Jan") == []


@pytest.fixture
def mistaken(site: Site) -> Site:
    """Somebody typed the PatientID into the request."""
    site.project(**ANY)
    site.receive(1, 2)
    with site.open() as gateway:
        path = next(gateway.root.path / row["path"] for row in gateway.ledger.receipts.instances(STUDY))
    site.ask(participant=str(pydicom.dcmread(path).PatientID))
    assert len(site.poll().accepted) == 1
    return site


def test_such_a_transfer_is_refused_without_naming_it(mistaken: Site) -> None:
    transfer = mistaken.transfer()
    with mistaken.open() as gateway:
        execution.deidentify(gateway, transfer)
        with pytest.raises(ResidualIdentifier, match="is the assigned participant id") as raised:
            execution.verify(gateway, transfer)
    assert transfer.participant not in str(raised.value)
    assert not execution.working_copy(gateway, transfer).exists()


def test_a_project_may_allow_it(mistaken: Site) -> None:
    """As a routing rule that takes the incoming PatientID needs it."""
    mistaken.project(**ANY, participant_may_be_identifier=True)
    mistaken.make_package()
    assert mistaken.transfer().state == "packaged"


def test_weak_hits_are_shown_by_kind(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = deid.Finding("2.25.1.dcm", "(0008,103E) Series Description", "residual search: name")
    verify = deid.verify_outputs

    def with_weak_hits(*values: Any) -> deid.Verification:
        verified = verify(*values)
        verified.warnings += [weak, weak]
        return verified

    monkeypatch.setattr(deid, "verify_outputs", with_weak_hits)
    site.project(weak_hits="pass")
    site.packaged()
    (shown,) = study_detail(site.root, STUDY)["transfers"]
    assert shown["weak_hits"] == {"residual search: name": 2}
    with site.open() as gateway:
        report = gateway.ledger.transfers.verification_report(site.transfer())
    assert report is not None
    assert len(report["verification"]["warnings"]) == 2
    assert shown["project"] == PROJECT


def test_a_study_from_a_trusted_sender_may_bear_the_participant_id(mistaken: Site) -> None:
    """The scanner registers its volunteers under the research id; nobody else's PatientID is believed."""
    with mistaken.open() as gateway:
        (sender,) = gateway.ledger.evidence.senders(STUDY)
    mistaken.project(**ANY, trusted_senders=["OTHER"])
    with pytest.raises(ResidualIdentifier):
        mistaken.make_package()

    mistaken.project(**ANY, trusted_senders=["OTHER", sender])
    with mistaken.open() as gateway:
        gateway.ledger.work.unblock()

    mistaken.make_package()
    assert mistaken.transfer().state == "packaged"
