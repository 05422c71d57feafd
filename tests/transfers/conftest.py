"""A site with real peers in this process; a gateway on an initialised data root, and arrivals in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import StorageUids
from fiona_dagster.landing import Caller, Landing
from fiona_dagster.operations import initialise
from fiona_dagster.transfers.context import Gateway
from tests.making import CT, EXPLICIT, data_set, part10
from tests.site import Site, running_site

Arrive = Callable[..., None]
Configure = Callable[..., Gateway]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        yield running


def file_instances(
    root: DataRoot, study: str, instances: list[str], *, series: str = "1.2.3", sender: str = "CT1"
) -> None:
    """Files instances as an association would that is over."""
    with Landing(root) as landing, landing.visit(Caller(sender, "FIONA", "127.0.0.1")) as visit:
        for instance in instances:
            new = landing.new_file()
            new.write([part10(data_set(instance, study=study, series=series), instance)])
            new.commit()
            uids = StorageUids(sop_instance=instance, study=study, series=series, sop_class=CT, modality="CT")
            visit.file_object(new.path, uids, EXPLICIT)


@pytest.fixture
def arrive(root: DataRoot) -> Arrive:
    def file(*instances: str, study: str = "1.2", **more: str) -> None:
        file_instances(root, study, list(instances), **more)

    return file


@pytest.fixture
def configure(root: DataRoot) -> Iterator[Configure]:
    """Opens the gateway with these sections of config.json."""
    opened: list[Gateway] = []

    def open_(**sections: Any) -> Gateway:
        initialise(root)
        document = json.loads(root.config_file.read_text())
        for name, section in sections.items():
            merge = isinstance(section, dict)
            document[name] = {**document.get(name, {}), **section} if merge else section
        root.config_file.write_text(json.dumps(document))
        opened.append(Gateway(root))
        return opened[-1]

    yield open_
    for gateway in opened:
        gateway.close()
