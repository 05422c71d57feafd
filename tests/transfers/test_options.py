"""Projects with options and own rules take the whole way: copy, search, package, delivery."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from typing import Any

import pydicom
import pytest

from fiona_dagster.transfers import delivery, execution, packing
from fiona_dagster.transfers.verify import verify_package
from tests.site import STUDY, Site

OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"options": ["retain_uids", "retain_long_full_dates"]}, STUDY),
    ({"options": ["clean_descriptors"], "compatibility": {"project": "MMIV"}}, "1.3.6.1.4.1.45037."),
    (
        {
            "options": ["retain_long_modified_dates"],
            "rules": [{"tag": "SeriesDescription", "action": "keep"}],
        },
        "2.25.",
    ),
]


@pytest.mark.parametrize(("project", "uid"), OPTIONS)
def test_a_package_is_made_and_delivered(site: Site, project: dict[str, Any], uid: str) -> None:
    site.project(**project)
    site.arrive(1, 2, SeriesDescription="Hand axial")
    site.receive()
    site.ask()
    assert len(site.poll().accepted) == 1
    with site.open() as gateway:
        execution.deidentify(gateway, site.transfer())
        execution.verify(gateway, site.transfer())
        packing.make_package(gateway, site.transfer())
        delivery.deliver(gateway, site.transfer(), "archive")
        package = gateway.ledger.transfers.package(site.transfer())
    assert package is not None
    path = site.root.path / package.path

    assert "derived" not in path.name, "nothing came back, also where UIDs stay"
    assert verify_package(path) == []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read(next(name for name in names if name.endswith("manifest.json"))))
        copies = [pydicom.dcmread(BytesIO(archive.read(name))) for name in names if name.endswith(".dcm")]
    assert len(copies) == 2
    assert {copy.StudyInstanceUID for copy in copies} == {manifest["StudyInstanceUID"]}
    assert manifest["StudyInstanceUID"].startswith(uid)
    kept = "rules" in project or "clean_descriptors" in project["options"]
    assert all(copy.get("SeriesDescription") == ("Hand axial" if kept else None) for copy in copies)
