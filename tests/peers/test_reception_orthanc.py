"""Orthanc as a sender to our receiver, as a process."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.landing import read_journals
from tests.accounting import assert_all_accounted
from tests.making import STUDY, write_object
from tests.peers.test_reception_dcmtk import data_sets
from tests.peers_fixtures import Orthanc, running_orthanc
from tests.receiver.conftest import Process, process

__all__ = ["process"]

pytestmark = pytest.mark.peers

INSTANCES = 20


def post(orthanc: Orthanc, path: str, body: bytes) -> Any:
    request = urllib.request.Request(f"{orthanc.url}{path}", data=body, method="POST")  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
        return json.loads(answer.read())


def test_orthanc_sends_every_byte_and_again(process: Process, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(INSTANCES):
        write_object(folder, f"1.2.3.{number}", pixels=bytes([number]) * 50_000)
    _, port = process.start(accept_unknown=False, allowed_callers=["RESEARCH"])
    modalities = {"fiona": ["FIONA", "127.0.0.1", port]}
    with running_orthanc(tmp_path / "orthanc", DicomModalities=modalities) as orthanc:
        assert post(orthanc, "/modalities/fiona/echo", b"{}") == {}
        sent = [post(orthanc, "/instances", path.read_bytes())["ID"] for path in sorted(folder.iterdir())]
        for _ in range(2):
            done = post(orthanc, "/modalities/fiona/store", json.dumps(sent).encode())
            assert (done["InstancesCount"], done["FailedInstancesCount"]) == (INSTANCES, 0)
    assert process.terminate() == 0

    assert data_sets(process.root.archive) == data_sets(folder)
    receipts = [receipt for _, _, receipt in read_journals(process.root, {})]
    assert [receipt.kind for receipt in receipts] == ["stored"] * INSTANCES + ["repeat"] * INSTANCES
    assert {(receipt.calling_ae, receipt.StudyInstanceUID) for receipt in receipts} == {("RESEARCH", STUDY)}
    assert_all_accounted(process.root)
