"""A small site on disk with real peers in this process: REDCap sandbox, SFTP servers, a research PACS.

Everything goes through the code that the gateway itself calls; nothing is imitated. Only Dagster is
absent, so that a test may call the steps one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests as http

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.demo.peers import ResearchPacs, SftpServer
from fiona_dagster.ledger import Package, Transfer
from fiona_dagster.operations import initialise
from fiona_dagster.redcap.sandbox import Sandbox, running_sandbox
from fiona_dagster.transfers import completion, execution, intake, packing, requests
from fiona_dagster.transfers.context import Gateway
from tests.deid import phantoms

PROJECT = "HEART"
PARTICIPANT, EVENT = "H001", "Baseline"
STUDY = phantoms.STUDY
PLANTED = ("Quisling", "ZX83015577", "19530704", "ACC4455667")


class Site:
    """One data root and the peers that its configuration names.

    Attributes:
        root: the data root.
        redcap: the REDCap sandbox.
        sftp: SFTP servers by the name of the target that they are.
        pacs: the research PACS, target ``pacs``.
    """

    def __init__(
        self, folder: Path, redcap: Sandbox, sftp: dict[str, SftpServer], pacs: ResearchPacs
    ) -> None:
        self.root = DataRoot(folder / "data")
        self.folder = folder
        self._sent = 0
        self.redcap, self.sftp, self.pacs = redcap, sftp, pacs
        initialise(self.root)
        (self.root.secrets / "redcap-token").write_text(redcap.tokens["Incoming"])
        self.configure()
        self.project()

    def configure(self, **changes: Any) -> None:
        """Writes ``config.json``; ``changes`` replace its sections."""
        targets: dict[str, dict[str, Any]] = {}
        for name, server in self.sftp.items():
            described = server.describe()
            keys = ("host", "port", "username", "private_key_file", "host_key")
            targets[name] = {"kind": "sftp", "timeout_seconds": 10, **{key: described[key] for key in keys}}
        described = self.pacs.describe()
        targets["pacs"] = {
            "kind": "dicom",
            "host": described["host"],
            "port": described["port"],
            "called_ae_title": described["ae_title"],
            "timeout_seconds": 10,
        }
        document = {
            "receiver": {"reserve_mb": 0},
            "redcap": {
                "url": self.redcap.url,
                "token_file": "secrets/redcap-token",
                "calls_per_minute": 6000,
                "timeout_seconds": 10,
            },
            "targets": targets,
            **changes,
        }
        self.root.config_file.write_text(json.dumps(document))

    def settings(self) -> dict[str, Any]:
        """What ``config.json`` says."""
        document: dict[str, Any] = json.loads(self.root.config_file.read_text())
        return document

    def project(self, name: str = PROJECT, **changes: Any) -> None:
        """Writes a project file; it delivers to ``archive`` unless told otherwise."""
        document = {
            "name": name,
            "participant_pattern": "H[0-9]{3}",
            "events": [EVENT, "Year 1"],
            "options": ["retain_long_modified_dates"],
            "targets": ["archive"],
            **changes,
        }
        (self.root.project_files / f"{name}.json").write_text(json.dumps(document))

    @contextmanager
    def open(self) -> Iterator[Gateway]:
        """The gateway as a step opens it."""
        with Gateway(self.root) as gateway:
            yield gateway

    def complete(self) -> list[str]:
        """Time passes; the studies that are complete then."""
        with self.open() as gateway:
            return completion.find_complete_studies(gateway, datetime.now(UTC) + timedelta(hours=1))

    def receive(self, *numbers: int) -> None:
        """Images of the study arrive (or have arrived), it becomes complete, is processed and registered."""
        if numbers:
            self.arrive(*numbers)
        assert self.complete() == [STUDY]
        self.register(STUDY)

    def register(self, study: str) -> None:
        """A complete study is processed and registered."""
        with self.open() as gateway:
            done = intake.register(gateway, study)
            landing_tree(gateway, done)
            gateway.ledger.work.done(f"process:{study}", done.study.revision)

    def arrive(self, *numbers: int, **attributes: Any) -> None:
        """Images arrive in the landing zone, and nothing else happens.

        Args:
            numbers: instance numbers; default 1 and 2.
            attributes: DICOM keywords that get another value.
        """
        self._sent += 1
        folder = self.folder / f"sent-{self._sent}"
        folder.mkdir()
        for number in numbers or (1, 2):
            image = phantoms.image(number)
            for keyword, value in attributes.items():
                setattr(image, keyword, value)
            image.SOPInstanceUID = f"{image.StudyInstanceUID}.3.{number}"
            phantoms.write(image, folder / f"{number}.dcm")
        report = landing.import_paths(self.root, [folder])
        assert report.quarantined == report.failed == 0

    def ask(
        self,
        participant: str = PARTICIPANT,
        event: str = EVENT,
        project: str = PROJECT,
        study: str = STUDY,
    ) -> int:
        """A person fills in a transfer request in REDCap, unchecked; returns its instance."""
        with self.open() as gateway:
            return gateway.incoming().write_request(
                study, project, participant, event, datetime.now(UTC), zone="UTC"
            )

    def fill(self, instance: int, study: str = STUDY, **fields: str) -> None:
        """Somebody edits a transfer request in REDCap, field by field."""
        row = {
            "study_instance_uid": study,
            "redcap_repeat_instrument": "transfers",
            "redcap_repeat_instance": instance,
            **fields,
        }
        form = {
            "token": self.redcap.tokens["Incoming"],
            "content": "record",
            "format": "json",
            "type": "flat",
            "overwriteBehavior": "normal",
            "data": json.dumps([row]),
        }
        answer = http.post(self.redcap.url, data=form, timeout=120)
        assert answer.status_code == 200, answer.text

    def poll(self) -> requests.Poll:
        """What the sensor does when it is time to ask REDCap."""
        with self.open() as gateway:
            return requests.poll_requests(gateway)

    def make_package(self, project: str = PROJECT, study: str = STUDY) -> tuple[Transfer, Package]:
        """De-identifies, verifies and packages what was requested."""
        with self.open() as gateway:
            transfer = execution.transfer_of(gateway, study, project)
            execution.deidentify(gateway, transfer)
            execution.verify(gateway, transfer)
            package = packing.make_package(gateway, transfer)
            return execution.transfer_of(gateway, study, project), package

    def packaged(self) -> tuple[Transfer, Package]:
        """Everything up to a package that waits for its deliveries."""
        self.receive(1, 2)
        self.ask()
        assert len(self.poll().accepted) == 1
        return self.make_package()

    def transfer(self) -> Transfer:
        """The transfer that counts."""
        with self.open() as gateway:
            return execution.transfer_of(gateway, STUDY, PROJECT)

    def waiting_targets(self) -> list[str]:
        """Targets that work of delivery is noted for."""
        with self.open() as gateway:
            return [work.target for work in gateway.ledger.work.open(STUDY) if work.kind == "deliver"]


def landing_tree(gateway: Gateway, done: intake.Processed) -> None:
    """The raw/ tree, as ``study_record`` writes it."""
    from fiona_dagster import studies

    studies.write_raw_tree(gateway.root, done.contents, done.records)


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """A site whose peers run in this process until the end of the block."""
    with ExitStack() as stack:
        redcap = stack.enter_context(running_sandbox(folder / "redcap"))
        sftp = {
            name: stack.enter_context(SftpServer(folder / f"sftp-{name}")) for name in ("archive", "second")
        }
        pacs = stack.enter_context(ResearchPacs(folder / "pacs"))
        yield Site(folder, redcap, sftp, pacs)
