"""A delivered study, all that can be said about it, and its ledger gone."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

from fiona_dagster.operations.overview import overview, study_detail
from fiona_dagster.transfers import completion, delivery, execution, intake, outcome
from fiona_dagster.transfers.digests import take_digests
from tests.site import PROJECT, STUDY, Site


def settle(site: Site) -> None:
    """Everything that is due, as sensors and runs would do it."""
    for _ in range(5):
        with site.open() as gateway:
            completion.find_complete_studies(gateway, datetime.now(UTC) + timedelta(hours=1))
            for work in gateway.ledger.work.open():
                if work.kind == "process":
                    intake.ensure_revision(gateway, STUDY)
                    take_digests(gateway, STUDY)
                    intake.register(gateway, STUDY)
                elif work.kind == "transfer":
                    site.make_package()
                elif work.kind == "deliver":
                    delivery.deliver(gateway, execution.transfer_of(gateway, STUDY, PROJECT), work.target)
                else:
                    outcome.write_outcomes(gateway, STUDY, PROJECT)
        site.poll()
        with site.open() as gateway:
            if not gateway.ledger.work.open() and not gateway.ledger.receipts.study(STUDY).open:
                return
    raise AssertionError("work does not end")


def delivered(site: Site) -> None:
    """A study of two images goes all the way."""
    site.receive(1, 2)
    site.ask()
    site.poll()
    settle(site)
    assert site.transfer().state == "delivered"


def uploads(site: Site) -> dict[str, tuple[int, int]]:
    """What lies at the SFTP server; a file that was sent again is another one."""
    found = site.sftp["archive"].files.glob("*.zip")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def picture(site: Site) -> dict[str, Any]:
    """All that `fiona status` says, without what is about the looking itself."""
    detail = study_detail(site.root, STUDY)
    detail.pop("history")
    for work in detail["work"]:
        work.pop("token"), work.pop("run_key", None)
    return {"study": detail, "all": {**overview(site.root), "work": []}}


def delete_ledger(site: Site) -> None:
    """The whole folder, locks included, as somebody in a hurry would."""
    shutil.rmtree(site.root.ledger_file.parent)
