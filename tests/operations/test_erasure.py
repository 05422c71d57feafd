"""Erasing the link leaves counts and nothing else: every file is searched, free pages included."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from fiona_dagster import landing
from fiona_dagster.errors import ErasureUnfinished, RedcapRejected, RedcapUnavailable, UsageError
from fiona_dagster.landing import Commitment, PerformedStep
from fiona_dagster.landing.asked import AskedCommitment, all_asked, keep_asked
from fiona_dagster.landing.commitment import keep_request, pending_requests
from fiona_dagster.ledger import Transfer, utc_now
from fiona_dagster.ledger.records import keep_aside
from fiona_dagster.operations import erasure
from fiona_dagster.operations.lock import hold_root
from fiona_dagster.operations.rebuild import rebuild
from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.transfers import assignment, delivery, outcome, projects
from fiona_dagster.transfers.erased import may_be_of_erased
from tests.accounting import assert_all_accounted
from tests.running import fiona
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site, running_site
from tests.tables import own_redcap, read, use_tables

OTHER = "1.2.3.4.5.6.7"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        yield running


def delivered(site: Site) -> str:
    """Delivered, told, with traces wherever traces can be; returns the mapped StudyInstanceUID."""
    transfer, _ = site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        steps = {f"{STUDY}.9": (f"{STUDY}.3.1",), f"{OTHER}.9": (f"{OTHER}.9.1",)}
        landing.append_evidence(
            site.root,
            PerformedStep(utc_now(), "1.2.77", "COMPLETED", (STUDY, OTHER), steps, "CT1", "127.0.0.1"),
        )
        committed = {f"{STUDY}.3.1": STUDY, f"{OTHER}.9.1": OTHER}
        landing.append_evidence(site.root, Commitment(utc_now(), "1.2.78", committed, "CT1"))
        _asked_for(site, f"{STUDY}.3.1", transfer)
        landing.write_step(site.root, "1.2.77", b"the patient " + PLANTED[0].encode())
        gateway.ledger.evidence.read_journals()
    keep_aside(site.root, STUDY)
    (site.root.logs / "daemon.log").write_text(f"Added partition keys ['{STUDY}']\nanother line\n")
    return transfer.mapped_uid


def _asked_for(site: Site, original: str, transfer: Transfer) -> None:
    """Storage commitment: one sender waits for our answer, we wait for a PACS's."""
    pairs = (("1.2.840.10008.5.1.4.1.1.4", original), ("1.2.840.10008.5.1.4.1.1.4", f"{OTHER}.9.1"))
    keep_request(site.root, "1.2.79", pairs, calling_ae="CT1", called_ae="FIONA")
    with site.open() as gateway:
        sent = gateway.ledger.transfers.sendings.at(STUDY, PROJECT)[-1]
        uids = tuple(sent.instances) or (transfer.mapped_uid,)
    keep_asked(site.root, AskedCommitment(utc_now(), "2.25.80", "pacs", "PACS", "x", uids))
    keep_asked(site.root, AskedCommitment(utc_now(), "2.25.81", "pacs", "PACS", "y", (f"{OTHER}.9.1",)))


def traces(root: Path, *words: str) -> list[str]:
    """Files, or names of files, in which any of these words is left."""
    found = []
    for path in sorted(root.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if path.is_symlink():
            content = str(path.readlink()).encode()
        if any(word.encode() in content or word in path.name for word in words):
            found.append(str(path.relative_to(root)))
    return found


def erase(site: Site) -> erasure.Erased:
    return erasure.erase(site.root, PROJECT, PARTICIPANT)


def test_nothing_is_left_but_counts_and_the_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = delivered(site)
    key = site.root.secrets / f"{PROJECT}.key"
    assert key.is_file()
    before = key.read_bytes()
    words = (STUDY, mapped, PARTICIPANT, *PLANTED)
    assert len(traces(site.root.path, *words)) > 8

    planned = erasure.plan(site.root, PROJECT, PARTICIPANT)
    assert (planned.places, planned.committed) == ({"archive": 1}, 1)
    assert PARTICIPANT not in " ".join(erasure.describe(planned))
    flushed: list[Path] = []
    monkeypatch.setattr(
        erasure, "sync_directory", lambda path: flushed.append(path) if path.is_dir() else pytest.fail(path)
    )
    removed = {path.parent for path in (*site.root.daic.rglob("*.zip*"), *site.root.raw.glob(STUDY))}
    removed |= {site.root.site / ".ledger", site.root.locks}
    done = erase(site)
    assert removed <= set(flushed), "also after a power loss"
    assert flushed[-1] == site.root.erasure_file.parent, "and the order goes last"
    assert done.counts == {"studies": 1, "instances": 2, "transfers": 1, "packages": 1, "deliveries": 1}
    assert not any("still" in problem for problem in done.problems)
    logged = "".join(line.details for line in site.redcap.store.log("Incoming"))
    assert not any(word in logged for word in (mapped, PARTICIPANT, *PLANTED))

    assert traces(site.root.path, *words) == []
    ((_, pending),) = pending_requests(site.root)
    assert [uid for _, uid in pending.references] == [f"{OTHER}.9.1"], "of others nothing goes"
    assert [asked.transaction for asked in all_asked(site.root)] == ["2.25.81"]
    assert key.read_bytes() == before
    with site.open() as gateway:
        assert gateway.ledger.key_fingerprint(PROJECT)
        assert gateway.incoming().client.export_records(fields=["study_instance_uid"]) == []
        row = gateway.ledger.store.row("SELECT * FROM erasures")
        assert row is not None
        assert (row["project"], row["studies"], row["instances"]) == (PROJECT, 1, 2)
    assert (site.root.logs / "daemon.log").read_text() == "another line\n"


def test_everything_else_is_accounted_for_and_can_be_rebuilt(site: Site) -> None:
    delivered(site)
    site.arrive(1, StudyInstanceUID=OTHER)
    site.complete()
    erase(site)
    assert_all_accounted(site.root)
    assert rebuild(site.root).problems == []
    assert_all_accounted(site.root)
    with site.open() as gateway:
        assert [study.study for study in gateway.ledger.receipts.studies()] == [OTHER]
        assert gateway.ledger.evidence.committed(OTHER) == {f"{OTHER}.9.1"}
        gateway.ledger.evidence.read_journals()
        steps = gateway.ledger.evidence.steps(OTHER)
        assert steps is not None
        assert steps.completed == 1
    assert traces(site.root.path, STUDY, PARTICIPANT) == []


def test_the_same_images_may_come_again_as_if_they_had_never_been_here(site: Site) -> None:
    delivered(site)
    erase(site)
    site.receive(1, 2)
    site.ask(participant="H002")
    assert len(site.poll().accepted) == 1
    assert site.make_package()[0].participant == "H002"


def test_what_was_made_of_erased_copies_waits_for_a_person_when_it_comes_back(site: Site) -> None:
    """It bears the copies' UID, which nobody here knows any more, and a participant as its patient."""
    mapped = delivered(site)
    erase(site)
    rows = {"SeriesInstanceUID": "1.9.8.7", "PatientName": PARTICIPANT, "PatientID": PARTICIPANT}
    site.arrive(1, StudyInstanceUID=mapped, **rows)
    site.complete()
    assert rebuild(site.root).problems == [], "a rebuilt ledger knows it, too"
    site.register(mapped)
    with site.open() as gateway:
        assert gateway.ledger.receipts.study(mapped).flags == ("maybe_erased",)
        assert assignment.assign_held(gateway).asked == 0
    site.ask(study=mapped)
    (refused,) = site.poll().refused
    assert "maybe_erased" in refused.reason

    accepted = fiona("flags", "accept", mapped, "maybe_erased", "--reason", "a phantom", data=site.root.path)
    assert accepted.returncode == 0, accepted.stderr
    site.register(mapped)
    with site.open() as gateway:
        assert gateway.ledger.receipts.study(mapped).flags == ()
        assert gateway.ledger.derived.of_erased("1.2.3") == []
        assert not may_be_of_erased(gateway, mapped, ["19530704-1234"]), "no participant id of the project"


@pytest.mark.parametrize("loses_its_ledger", [False, True])
def test_cut_short_it_is_finished_before_anything_else_starts(
    site: Site, monkeypatch: pytest.MonkeyPatch, loses_its_ledger: bool
) -> None:
    """Cut short again and again, each time a stage further; rows are counted once."""
    mapped = delivered(site)

    def die(*_arguments: object) -> None:
        raise KeyboardInterrupt

    for stage in (
        "erase_in_redcap",
        "_on_disk",
        "erase_landed",
        "scrub_dagster",
        "scrub_logs",
        "_remove_order",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(erasure, stage, die)
            with pytest.raises(KeyboardInterrupt):
                erasure.resume(site.root) if site.root.erasure_file.exists() else erase(site)
        with pytest.raises(ErasureUnfinished, match="fiona erase --resume"), hold_root(site.root):
            pass
        with pytest.raises(ErasureUnfinished), site.open():
            pass
        with pytest.raises(UsageError, match="resume"):
            erase(site)
        if loses_its_ledger:
            for path in site.root.ledger_file.parent.glob("ledger.sqlite*"):
                path.unlink()
            with pytest.raises(ErasureUnfinished, match="fiona erase --resume"):
                rebuild(site.root)
    done = erasure.resume(site.root)
    assert done.counts["studies"] == 1
    assert traces(site.root.path, STUDY, mapped, PARTICIPANT, *PLANTED) == []
    with site.open() as gateway:
        assert len(gateway.ledger.store.rows("SELECT * FROM erasures")) == 1
        assert gateway.ledger.store.rows("SELECT next FROM erased_generations")[0]["next"] == 1
    with hold_root(site.root), pytest.raises(UsageError):
        erasure.plan(site.root, PROJECT, PARTICIPANT)
    assert_all_accounted(site.root)


def test_what_redcap_does_not_say_or_take_erases_nothing_and_stops_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(site)

    def refuse(*_arguments: object, **_more: object) -> int:
        raise RedcapRejected("You do not have Delete Record privileges", 403)

    def refused() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(RedcapClient, "delete_records", refuse)
            with pytest.raises(RedcapRejected, match="nothing was erased here"):
                erase(site)

    def unreachable() -> None:
        token = {"token_file": "secrets/redcap-token", "timeout_seconds": 1}
        site.configure(redcap={"url": "http://127.0.0.1:9/api/", **token})
        with pytest.raises(RedcapUnavailable, match="nothing was erased here"):
            erase(site)

    for attempt in (refused, unreachable):
        attempt()
        assert not site.root.erasure_file.exists()
        assert len(list(site.root.archive.glob("scp_*/*"))) == 2
        with site.open() as gateway:
            assert gateway.ledger.receipts.study(STUDY).instances == 2

    site.configure(redcap={})  # nobody can be asked: the originals stay, the link goes
    done = erase(site)
    assert any("their originals stay" in problem for problem in done.problems)
    assert len(list(site.root.archive.glob("scp_*/*"))) == 2
    assert traces(site.root.path, PARTICIPANT) == []


@pytest.mark.parametrize("polled", [True, False])
def test_a_study_that_another_project_needs_stays_there(site: Site, polled: bool) -> None:
    """Also where its request stands in REDCap and was not seen here yet."""
    mapped = delivered(site)
    site.project("LUNG")
    site.ask(participant="H777", project="LUNG")
    if polled:
        assert len(site.poll().accepted) == 1
    assert erasure.plan(site.root, PROJECT, PARTICIPANT).link.shared == (STUDY,)
    done = erase(site)
    assert any("log of Incoming still tells" in problem for problem in done.problems), (
        "of parts REDCap keeps it"
    )
    assert len(list(site.root.archive.glob("scp_*/*"))) == 2
    assert traces(site.root.path, mapped, PARTICIPANT) == []
    if not polled:
        assert len(site.poll().accepted) == 1
    with site.open() as gateway:
        (left,) = gateway.ledger.transfers.all(STUDY)
        assert (left.project, left.participant, left.event) == ("LUNG", "H777", EVENT)
        (request,) = gateway.incoming().requests_of(STUDY)
        assert request.project == "LUNG"
    assert rebuild(site.root).problems == []


def test_the_projects_own_redcap_loses_our_entry_and_the_command_says_what_its_log_keeps(site: Site) -> None:
    """REDCap takes nothing out of its log for a part of a record, and never the names of records."""
    use_tables(site)
    own_redcap(site, events=(EVENT,))
    with site.open() as gateway:
        projects.refresh(gateway)
    mapped = delivered(site)
    assert mapped in str(read(site.redcap, PROJECT))
    said = " ".join(erasure.describe(erasure.plan(site.root, PROJECT, PARTICIPANT)))
    assert "log keeps the names of records" in said
    assert "only REDCap's administrator" in said

    done = erase(site)

    assert mapped not in str(read(site.redcap, PROJECT))
    (problem,) = done.problems
    assert "log of project HEART still tells what stood in its entries" in problem
    assert "nothing can take it out over the API" in problem
    names = {line.record for line in site.redcap.log("Incoming")}
    assert STUDY in names, "if a server took them out, too, the docs would be wrong"


def test_who_waited_for_the_removal_of_a_copy_gets_uids_of_its_own(site: Site) -> None:
    """The copy of who is erased may lie there for ever; nobody can tell any more."""
    mapped = delivered(site)
    site.ask("H002")
    assert not site.poll().accepted
    planned = erasure.plan(site.root, PROJECT, PARTICIPANT)
    assert (planned.link.shared, planned.awaiting) == ((STUDY,), 1)
    assert "they wait no longer" in " ".join(erasure.describe(planned))
    erase(site)
    assert traces(site.root.path, mapped, PARTICIPANT) == []
    assert len(site.poll().accepted) == 1
    site.complete()
    transfer, package = site.make_package()
    assert (transfer.participant, transfer.generation) == ("H002", 1)
    assert transfer.mapped_uid != mapped
    assert package.path.endswith("_g1_r1.zip")
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
        assert gateway.ledger.transfers.deliveries(transfer)


def test_dagsters_own_storage_keeps_no_trace(site: Site) -> None:
    delivered(site)
    with dg.instance_for_test(temp_dir=str(site.root.dagster_home)) as instance:
        instance.add_dynamic_partitions("studies", [STUDY, OTHER])

        @dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="studies"))
        def study_files() -> dg.MaterializeResult:  # type: ignore[type-arg]
            return dg.MaterializeResult(metadata={"instances": 2})

        for study in (STUDY, OTHER):
            assert dg.materialize([study_files], instance=instance, partition_key=study).success
    assert traces(site.root.dagster_home, STUDY)
    erase(site)
    assert traces(site.root.dagster_home, STUDY) == []
    assert traces(site.root.dagster_home, OTHER)
    for path in site.root.dagster_home.rglob("*.db"):
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_the_command_says_what_it_would_do_and_does_it_only_when_told(site: Site) -> None:
    delivered(site)
    options = ("--project", PROJECT, "--participant", PARTICIPANT)
    asked = fiona("erase", *options, data=site.root.path)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "nothing was erased" in asked.stdout
    assert traces(site.root.path, PARTICIPANT)
    done = fiona("erase", *options, "--yes", "--json", data=site.root.path)
    document = json.loads(done.stdout)
    assert document["counts"]["studies"] == 1
    assert done.returncode == (1 if document["problems"] else 0)
    assert traces(site.root.path, STUDY, PARTICIPANT) == []
    again = fiona("erase", *options, "--yes", data=site.root.path)
    assert again.returncode == 2
