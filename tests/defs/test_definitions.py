"""What Dagster loads: names are held here, so that none vanishes or changes unnoticed."""

from __future__ import annotations

import json
from typing import get_args

import dagster as dg
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.defs.build import build_defs
from fiona_dagster.defs.intake import _series_table
from fiona_dagster.defs.project import _delivery_metadata
from fiona_dagster.ledger import Package, Transfer
from fiona_dagster.operations import initialise
from fiona_dagster.transfers.targets import Proof, ProofKind


@pytest.fixture
def loaded(root: DataRoot) -> dg.RepositoryDefinition:
    initialise(root)
    targets = {
        "pacs": {"kind": "dicom", "host": "127.0.0.1", "port": 104, "called_ae_title": "R"},
        "vault": {
            "kind": "sftp",
            "host": "127.0.0.1",
            "username": "u",
            "private_key_file": "k",
            "host_key": "ssh-ed25519 AAAA",
        },
    }
    root.config_file.write_text(json.dumps({"targets": targets}))
    (root.project_files / "P.json").write_text(json.dumps({"name": "P", "targets": ["pacs", "vault"]}))
    definitions = build_defs(root)
    dg.Definitions.validate_loadable(definitions)
    return definitions.get_repository_def()


def test_assets_jobs_and_sensors(loaded: dg.RepositoryDefinition) -> None:
    assert sorted(key.to_user_string() for key in loaded.assets_defs_by_key) == [
        "P/deidentified",
        "P/deliveries/pacs",
        "P/deliveries/vault",
        "P/package",
        "P/transfer_status",
        "P/verification",
        "incoming_record",
        "reconciliation",
        "study_classification",
        "study_files",
        "study_record",
    ]
    jobs = {job.name for job in loaded.get_all_jobs()}
    assert {"process_study", "transfer_P", "deliver_P", "maintenance", "reconcile"} <= jobs
    assert {sensor.name for sensor in loaded.sensor_defs} == {
        "completed_studies",
        "transfer_requests",
        "run_failures",
    }
    assert all(s.default_status == dg.DefaultSensorStatus.RUNNING for s in loaded.sensor_defs)
    assert all(s.default_status == dg.DefaultScheduleStatus.RUNNING for s in loaded.schedule_defs)


def test_a_project_has_partitions_of_its_own(loaded: dg.RepositoryDefinition) -> None:
    def partitions(key: dg.AssetKey) -> str | None:
        found = loaded.assets_defs_by_key[key].partitions_def
        assert isinstance(found, dg.DynamicPartitionsDefinition)
        return found.name

    assert partitions(dg.AssetKey("study_files")) == "studies"
    assert partitions(dg.AssetKey(["P", "deidentified"])) == "studies_P"


def test_a_target_shows_its_kind(loaded: dg.RepositoryDefinition) -> None:
    def kinds(target: str) -> set[str]:
        key = dg.AssetKey(["P", "deliveries", target])
        return loaded.assets_defs_by_key[key].specs_by_key[key].kinds

    assert kinds("pacs") == {"dicom"}
    assert kinds("vault") == {"sftp"}


def test_everything_that_people_see_is_explained(loaded: dg.RepositoryDefinition) -> None:
    for key, assets in loaded.assets_defs_by_key.items():
        spec = assets.specs_by_key[key]
        assert spec.description, key
        assert spec.group_name in {"intake", "P", "operations"}
        assert spec.kinds
    jobs = [job for job in loaded.get_all_jobs() if not job.name.startswith("__")]
    seen: list[dg.JobDefinition | dg.SensorDefinition | dg.ScheduleDefinition]
    seen = [*jobs, *loaded.sensor_defs, *loaded.schedule_defs]
    for shown in seen:
        assert shown.description, shown.name


@pytest.mark.parametrize("kind", get_args(ProofKind))
def test_every_kind_of_proof_can_be_shown(kind: ProofKind) -> None:
    """A kind without words made the first run of every delivery to such a target fail."""
    proof = Proof(kind, "vault", "2026-11-25T10:00:00+00:00", {"files": 3, "bytes": 9}, {"sha256": "ab" * 32})
    package = Package("outbox/P/P_1.zip", 9, "md5", "sha256", 1, "")
    transfer = Transfer(
        id=1,
        study="1.2",
        project="P",
        request=1,
        requested_date="",
        participant="P1",
        event="E",
        generation=0,
        revision=1,
        state="packaged",
        mapped_uid="2.25.1",
        reason="",
        created="",
        changed="",
        rules="",
        awaits_removal=False,
    )
    shown = _delivery_metadata(proof, package, transfer)
    assert shown["proof"].startswith(f"{kind}: ")
    assert shown["proven_files"] == 3
    assert shown["proven_digests"] == "sha256 " + "ab" * 32
    assert "P1" not in str(shown)


def test_series_stand_in_the_order_of_their_numbers() -> None:
    def record(number: str, *types: str) -> dict[str, object]:
        return {"SeriesNumber": number, "Modality": "MR", "NumFiles": "3", "ClassifyType": list(types)}

    table = _series_table({"1.1": record("10", "T1"), "1.2": record("9"), "1.3": record("free text")})

    assert [row.data["series"] for row in table.records] == ["9", "10", "-"]
    assert [row.data["types"] for row in table.records] == ["-", "T1", "-"]


def test_a_checkout_without_a_data_root_loads(root: DataRoot) -> None:
    definitions = build_defs(DataRoot(root.path / "nothing"))
    dg.Definitions.validate_loadable(definitions)
    assert definitions.get_repository_def().has_job("process_study")


def test_a_broken_project_is_left_out_and_named(root: DataRoot) -> None:
    initialise(root)
    (root.project_files / "BAD.json").write_text("{")
    with pytest.warns(RuntimeWarning, match="BAD"):
        definitions = build_defs(root)
    assert not definitions.get_repository_def().has_job("transfer_BAD")
