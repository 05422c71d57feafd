"""From dcmtk's dcmsend to a real OpenSSH server and a real Orthanc, and what surrounds that way."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

from fiona_dagster.redcap import IncomingProject, RedcapClient
from fiona_dagster.transfers.verify import verify_package
from tests.end_to_end.conftest import Site
from tests.end_to_end.service import CHECKOUT, wait_until
from tests.peers_fixtures import program

pytestmark = [pytest.mark.end_to_end, pytest.mark.peers, pytest.mark.shared, pytest.mark.timeout(800)]

SETS = ("mr_siemens_fmap", "mr_ge_fmri", "ct_philips_axial")


def studies_of(folder: Path) -> dict[str, int]:
    """StudyInstanceUID -> number of instances of a folder of DICOM files."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "StudyInstanceUID" in header:
            found.setdefault(header.StudyInstanceUID, set()).add(header.SOPInstanceUID)
    return {study: len(instances) for study, instances in found.items()}


@dataclass(frozen=True)
class Arrived:
    """What was sent and imported, all of it assigned to STUDYA.

    Attributes:
        sent: StudyInstanceUID -> number of instances of the studies that came from dcmsend.
        imported: of the sound study beside the broken files.
        code: what `fiona import` returned.
        report: what it said.
        left: files that it left outside of the data root.
    """

    sent: dict[str, int]
    imported: dict[str, int]
    code: int
    report: dict[str, Any]
    left: set[Path]


@pytest.fixture(scope="module")
def arrived(site: Site, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Arrived:
    """Four studies on their way at once; a test of its own for each would wait four times as long."""
    service, visible = site.service, shared / "data" / "visible"
    sent: dict[str, int] = {}
    for name in SETS:
        sent.update(studies_of(visible / name))
        sender = [program("dcmsend", "dcmtk"), "-aec", "FIONA", "+sd", "+r", "--no-halt", "127.0.0.1"]
        command = [*sender, str(service.dicom_port), str(visible / name)]
        environment = {**os.environ, "TCP_NODELAY": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
    sound = visible / "ct_ge_tilt"
    imported = studies_of(sound)
    base = tmp_path_factory.getbasetemp()
    before = _outside(base)
    done = service.fiona("import", "--json", str(visible / "broken"), str(sound), check=False)
    left = _outside(base) - before
    for number, study in enumerate((*sent, *imported)):
        service.held(study)
        service.fiona(
            *("assign", study, "--project", "STUDYA", "--participant", f"A{number}", "--event", "Baseline")
        )
    return Arrived(sent, imported, done.returncode, json.loads(done.stdout), left)


def _outside(base: Path) -> set[Path]:
    return {path for path in base.rglob("*") if not {"data", "redcap", "orthanc", "sshd"} & set(path.parts)}


def test_three_vendors_arrive_at_openssh_and_orthanc(site: Site, arrived: Arrived) -> None:
    service, wanted = site.service, arrived.sent
    assert len(wanted) == 3

    in_orthanc = {}
    for study, instances in wanted.items():
        transfer = service.delivered(study, "STUDYA")
        assert transfer["package"]["instances"] == instances
        assert {d["target"] for d in transfer["deliveries"]} == {"sftp", "pacs"}
        in_orthanc[transfer["mapped_uid"]] = instances
        _check_package(site, transfer["package"], instances)
        assert not list(service.root.projects.glob(f"*/*transfer-{transfer['id']}-*"))
        _check_redcap(site, study, transfer["mapped_uid"])

    found = {
        study["MainDicomTags"]["StudyInstanceUID"]: len(site.orthanc.get(f"/studies/{study['ID']}/instances"))
        for study in site.orthanc.get("/studies?expand")
    }
    assert {uid: found.get(uid) for uid in in_orthanc} == in_orthanc


def _check_package(site: Site, package: dict[str, str], instances: int) -> None:
    """It stands in DAIC, verifies, and the SFTP server has the very bytes."""
    path = site.service.root.path / package["path"]
    assert path.parent == site.service.root.daic / "STUDYA"
    assert verify_package(path) == []
    received = site.sshd.upload / path.name
    assert hashlib.sha256(received.read_bytes()).hexdigest() == package["sha256"]
    with zipfile.ZipFile(received) as archive:
        assert sum(name.endswith(".dcm") for name in archive.namelist()) == instances


def _check_redcap(site: Site, study: str, mapped_uid: str) -> None:
    incoming = IncomingProject(RedcapClient(site.redcap.url, site.redcap.tokens["Incoming"], timeout=5))
    (request,) = incoming.requests_of(study)
    assert request.transfer_date
    assert request.mapped_uid == mapped_uid
    assert request.errors == ()


def test_broken_files_harm_nothing_and_a_sound_study_goes_on(site: Site, arrived: Arrived) -> None:
    service = site.service
    assert arrived.code == 1, "files went to quarantine"
    assert arrived.report["quarantined"]
    assert arrived.left == set()
    for study, instances in arrived.imported.items():
        assert service.delivered(study, "STUDYA")["package"]["instances"] == instances

    damaged = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
    wait_until("the damaged study is flagged", lambda: service.state(damaged) == "flagged")
    refused = service.fiona(
        *("assign", damaged, "--project", "STUDYA", "--participant", "B2", "--event", "E1"), check=False
    )
    assert refused.returncode == 1
    assert "flagged" in refused.stderr
    assert "two_patients" in refused.stderr
    assert service.study(damaged)["transfers"] == []


def test_a_new_project_has_its_jobs_without_a_restart(site: Site) -> None:
    service = site.service
    before = {name: entry["pid"] for name, entry in service.runtime["services"].items()}
    assert "transfer_LATER" not in service.job_names()
    site.add_project("LATER")

    # Within 30 s on a machine of its own (about 12 s here); other tests run at the same time.
    wait_until("the new jobs", lambda: {"transfer_LATER", "deliver_LATER"} <= service.job_names())
    assert before == {name: entry["pid"] for name, entry in service.runtime["services"].items()}


def test_a_broken_project_file_disturbs_nobody(site: Site) -> None:
    service = site.service
    (service.root.project_files / "BROKEN.json").write_text('{"name": "BROKEN", "optoins": []}')
    checked = service.fiona("config", "check", check=False)
    (service.root.project_files / "BROKEN.json").unlink()

    assert checked.returncode == 1
    assert "optoins" in checked.stdout + checked.stderr
    assert "options" in checked.stdout + checked.stderr
    assert "transfer_STUDYA" in service.job_names()


def test_dagster_job_launch_works_from_the_checkout(site: Site, shared: Path) -> None:
    service = site.service
    (study,) = studies_of(shared / "data" / "visible" / "ct_ge_tilt")
    before = {run["runId"] for run in service.runs("process_study")}
    exported = service.fiona("env").stdout
    assert f"FIONA_DATA={service.root.path}" in exported.replace("'", "").replace('"', "")
    tags = json.dumps({"dagster/partition": study})
    subprocess.run(
        [sys.executable, "-m", "dagster", "job", "launch", "-j", "process_study", "--tags", tags],
        cwd=CHECKOUT,
        env=service.environment,
        check=True,
        capture_output=True,
        timeout=120,
    )

    def finished() -> list[str]:
        new = [run for run in service.runs("process_study") if run["runId"] not in before]
        return [run["status"] for run in new if run["status"] in ("SUCCESS", "FAILURE")]

    assert wait_until("the launched run", finished) == ["SUCCESS"]


def test_fiona_launch_goes_through_the_web_server(site: Site, shared: Path) -> None:
    service = site.service
    study = service.study(_any_held(site))["study"]
    done = json.loads(service.fiona("launch", "--study", study, "--json").stdout)
    assert (done["job"], done["queued"]) == ("process_study", False)

    def finished() -> list[str]:
        found = [run["status"] for run in service.runs("process_study") if run["runId"] == done["run_id"]]
        return found if found and found[0] in ("SUCCESS", "FAILURE", "CANCELED") else []

    assert wait_until("the launched run", finished) == ["SUCCESS"]
    refused = service.fiona("launch", "--study", study, "--project", "NONE", check=False)
    assert refused.returncode == 2
    assert "NONE" in refused.stderr


def test_a_change_of_the_rules_reaches_every_study_in_one_backfill(site: Site) -> None:
    service, root = site.service, site.service.root
    known = [_any_held(site)]
    rules = json.loads(root.rules_file.read_text())
    rules.append({"type": "newly known", "rules": [{"tag": ["Modality"], "value": "."}]})
    root.rules_file.write_text(json.dumps(rules))
    if os.environ.get("FIONA_TEST_FULL"):
        launch = [sys.executable, "-m", "dagster", "job", "launch", "-j", "reclassify_stale"]
        environment = service.environment
        subprocess.run(launch, cwd=CHECKOUT, env=environment, check=True, capture_output=True, timeout=120)
    else:
        said = json.loads(service.fiona("reclassify", "--stale", "--json").stdout)
        assert said["service_running"]
        assert set(known) <= set(said["started"])

    def backfill() -> str:
        query = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { status title } } } }"
        found = service.graphql(query)["partitionBackfillsOrError"]["results"]
        status = next((one["status"] for one in found if one["title"] == "Classify again"), "")
        return status if status not in ("", "REQUESTED", "FAILING") else ""

    assert wait_until("the backfill has ended", backfill, 300) == "COMPLETED_SUCCESS"
    for uid in known:
        detail = service.study(uid)
        assert all("newly known" in series["ClassifyType"] for series in detail["series"])
        assert any(what.startswith("classified again, rules ") for _, what in detail["history"])
        records = [json.loads(path.read_text()) for path in (root.raw / uid).glob("*.json")]
        assert records
        assert all("newly known" in record["ClassifyType"] for record in records)
    assert json.loads(service.fiona("reclassify", "--stale", "--json").stdout)["studies"] == []


def _any_held(site: Site) -> str:
    """A study that is here already; earlier tests of this module sent some."""
    from fiona_dagster.operations.overview import overview

    return next(str(s["study"]) for s in overview(site.service.root)["studies"] if s["registered"])


def test_a_withheld_request_is_answered_in_redcap(site: Site, shared: Path) -> None:
    """A request through the REDCap API whose participant does not match the project's pattern."""
    site.add_project("STRICT", participant_pattern="S[0-9]{3}")
    (study,) = studies_of(shared / "data" / "visible" / "ct_ge_tilt")
    client = RedcapClient(site.redcap.url, site.redcap.tokens["Incoming"], timeout=5)
    client.import_records(
        [
            {
                "study_instance_uid": study,
                "redcap_repeat_instrument": "transfers",
                "redcap_repeat_instance": "7",
                "transfer_requested_date": "2026-11-23 10:00",
                "transfer_project_name": "STRICT",
                "transfer_name": "wrong",
                "transfer_event_name": "E1",
            }
        ]
    )
    incoming = IncomingProject(client)

    def answered() -> bool:
        return any(request.instance == 7 and request.errors for request in incoming.requests_of(study))

    wait_until("the refusal is in REDCap", answered)
    states = {t["project"]: t["state"] for t in site.service.study(study)["transfers"]}
    assert states["STRICT"] == "refused"
