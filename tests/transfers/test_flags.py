"""A person settles a flag, for the instances that the study has then."""

from __future__ import annotations

import json

import pytest

from fiona_dagster.errors import UsageError
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations.rebuild import rebuild
from fiona_dagster.transfers.intake import accept_flag, register
from tests.running import fiona
from tests.site import STUDY, Site


def flags(site: Site) -> tuple[str, ...]:
    with site.open() as gateway:
        return gateway.ledger.receipts.study(STUDY).flags


def process(site: Site) -> None:
    with site.open() as gateway:
        gateway.ledger.receipts.read_journals()
        gateway.ledger.evidence.read_journals()
        if not gateway.ledger.receipts.study(STUDY).revision:
            gateway.ledger.receipts.close_revision(STUDY)
        register(gateway, STUDY)


def accept(site: Site, flag: str = "two_patients") -> None:
    with site.open() as gateway:
        accept_flag(gateway, STUDY, flag, by="operator", reason="one person, married name")


def test_an_accepted_flag_is_gone_and_the_study_can_be_assigned(site: Site) -> None:
    site.arrive(2, PatientID="OTHER", PatientName="Other^Person")
    site.receive(1)
    assert flags(site) == ("two_patients",)
    accept(site)
    with site.open() as gateway:
        assert [work.kind for work in gateway.ledger.work.due("process")] == ["process"]
    process(site)

    assert flags(site) == ()
    site.ask()
    assert len(site.poll().accepted) == 1
    with Ledger(site.root) as ledger:
        assert any("accepted by operator" in what for _, what in ledger.store.history(STUDY))


def test_other_instances_are_flagged_anew(site: Site) -> None:
    site.arrive(2, PatientID="OTHER", PatientName="Other^Person")
    site.receive(1)
    accept(site)
    process(site)
    site.receive(3)

    assert flags(site) == ("two_patients",)


def test_only_a_flag_that_is_there_and_can_be_accepted_is(site: Site) -> None:
    site.receive(1)
    with pytest.raises(UsageError, match="has no flag"):
        accept(site)

    with Ledger(site.root) as ledger:
        ledger.receipts.registered(STUDY, 1, ["conflicts"], {})
    with pytest.raises(UsageError, match="fiona conflicts"):
        accept(site, "conflicts")


def test_a_ledger_built_anew_knows_the_decision(site: Site) -> None:
    site.arrive(2, PatientID="OTHER", PatientName="Other^Person")
    site.receive(1)
    accept(site)
    for path in site.root.ledger_file.parent.glob("ledger.sqlite*"):
        path.unlink()
    rebuild(site.root)
    process(site)

    assert flags(site) == ()


def test_the_command_line_lists_and_accepts(site: Site) -> None:
    site.arrive(2, PatientID="OTHER", PatientName="Other^Person")
    site.receive(1)
    listed = fiona("flags", "list", "--json", data=site.root.path)
    assert listed.returncode == 1
    assert [entry["flag"] for entry in json.loads(listed.stdout)["flags"]] == ["two_patients"]
    assert fiona("flags", "accept", STUDY, "two_patients", data=site.root.path).returncode == 2
    reason = ("--reason", "same person", "--json")
    done = fiona("flags", "accept", STUDY, "two_patients", *reason, data=site.root.path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"study": STUDY, "flag": "two_patients"}
    process(site)

    assert fiona("flags", "list", data=site.root.path).returncode == 0
