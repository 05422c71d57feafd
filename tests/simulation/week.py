"""A site over some days: people ask in REDCap, it misbehaves, daemon killed; Dagster loses its storage.

Everything is the product's own: definitions, sensors, jobs, Dagster's SQLite storage, the hostile sandbox
behind HTTP, SFTP servers and a research PACS. Only the daemon's loop is played here, so that a kill can
strike between any two of its steps; ``tests/end_to_end`` kills the real processes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from fiona_dagster import landing
from fiona_dagster.defs import housekeeping, sensors
from fiona_dagster.defs.build import build_defs
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.ledger import Transfers, WorkList
from fiona_dagster.redcap.sandbox.hostile import Hostile
from fiona_dagster.redcap.sandbox.page import save
from fiona_dagster.redcap.sandbox.records import Place
from fiona_dagster.redcap.transport import Transport
from fiona_dagster.transfers import requests
from tests.deid import phantoms
from tests.site import Site

EVENT = "Baseline"


class Killed(BaseException):
    """The process ends here; nothing of it runs on."""


@dataclass(frozen=True)
class Wish:
    """What a person wants done with a study.

    Attributes:
        good: whether it can be carried out (else the participant does not match the project's pattern).
        withdrawn: whether the person takes it back some time later.
    """

    study: str
    project: str
    participant: str
    date: str
    good: bool
    withdrawn: bool


class Week:
    """Drives a site until everything that was asked for is settled.

    Args:
        site: the site with its peers.
        seed: the same seed gives the same wishes and the same temper of REDCap.
        studies: how many requests.
        projects: over how many projects.
        kills: how many kills at most.
    """

    def __init__(self, site: Site, seed: int, *, studies: int, projects: int, kills: int) -> None:
        self.site = site
        self.random = random.Random(seed)
        self.projects = [f"P{number}" for number in range(projects)]
        self.kills = kills
        self.killed: Counter[str] = Counter()
        self.lost_storage = 0
        self.calls: list[float] = []
        self.seen: set[str] = set()
        self.uploads: Counter[str] = Counter()
        self.withdrew: set[str] = set()
        self.wishes = [self._wish(number) for number in range(studies)]
        for project in self.projects:
            site.project(project, participant_pattern="H[0-9]{3}", targets=["archive"])
        self._stack = ExitStack()
        self._new_storage()
        site.redcap.hostile = Hostile(seed, share=0.08)
        self._count_calls()

    def _wish(self, number: int) -> Wish:
        good = self.random.random() < 0.85
        return Wish(
            study=f"1.2.826.0.1.3680043.10.999.{number + 1}",
            project=self.random.choice(self.projects),
            participant=f"H{number:03d}" if good else f"wrong{number}",
            date=f"2026-11-{1 + number % 28:02d} 10:{number % 60:02d}",
            good=good,
            withdrawn=good and self.random.random() < 0.1,
        )

    def close(self) -> None:
        """Ends the use of Dagster's storage."""
        self._stack.close()

    # -- people and scanners --------------------------------------------------------------------

    def arrive(self, wishes: list[Wish]) -> None:
        """Scanners send these studies."""
        folder = self.site.folder / f"sent-{time.monotonic_ns()}"
        folder.mkdir()
        for wish in wishes:
            image = phantoms.image(1)
            image.StudyInstanceUID = wish.study
            image.SeriesInstanceUID, image.SOPInstanceUID = f"{wish.study}.1", f"{wish.study}.1.1"
            image.PatientID = f"ZX{abs(hash(wish.study)) % 10**8:08d}"
            phantoms.write(image, folder / f"{wish.study}.dcm")
        report = landing.import_paths(self.site.root, [folder])
        assert report.quarantined == report.failed == 0

    def people_look(self) -> None:
        """Whoever finds no request of theirs in REDCap (any more) writes it in the sandbox's page."""
        store = self.site.redcap.store
        for wish in self.wishes:
            if not store.has_record("Incoming", wish.study):
                continue
            place = Place(wish.study, "", "transfers", 1)
            fields = ("transfer_requested_date", "transfer_withdrawn")
            there = store.values("Incoming", fields, [wish.study]).get(place, {})
            asked = {
                "transfer_requested_date": wish.date,
                "transfer_project_name": wish.project,
                "transfer_name": wish.participant,
                "transfer_event_name": EVENT,
            }
            if not there.get("transfer_requested_date"):
                self._edit(wish.study, asked)
            elif wish.study in self.withdrew and there.get("transfer_withdrawn") != "1":
                self._edit(wish.study, {"transfer_withdrawn": "1"})

    def _edit(self, study: str, fields: dict[str, str]) -> None:
        form = {"redcap_repeat_instrument": "transfers", "redcap_repeat_instance": "1", "boxes": ""}
        form |= {f"field:{name}": value for name, value in fields.items()}
        answer = save(self.site.redcap.store, f"/Incoming/{quote(study)}", form)
        assert answer.status == 200

    # -- the daemon -----------------------------------------------------------------------------

    def _new_storage(self) -> None:
        self._stack.close()
        self.seen.clear()
        folder = self.site.folder / f"dagster-{time.monotonic_ns()}"
        folder.mkdir()
        self.instance = self._stack.enter_context(dg.instance_for_test(temp_dir=str(folder)))
        self.repository = build_defs(self.site.root).get_repository_def()

    def lose_storage(self) -> None:
        """Dagster's storage is gone; the next start makes a new one and gives it back its partitions."""
        self._new_storage()
        self.lost_storage += 1
        self._restart()

    def _restart(self) -> None:
        with self.site.open() as gateway:
            housekeeping.close_ghost_runs(self.instance, self.site.root, at_start=True)
            housekeeping.restore_partitions(self.instance, gateway)
            for work in gateway.ledger.work.open():  # as the sensor run_failures books a killed run
                if work.kind != "status" or not work.blocked:
                    gateway.ledger.work.failed(work.key, "killed", permanent=False, attempt=work.attempt)

    def turn(self) -> None:
        """One turn of the daemon: people look, both sensors tick, their runs are carried out."""
        self.people_look()
        with self.site.open() as gateway:
            gateway.ledger.store.remember(sensors.POLLED, "")
            if self.random.random() < 0.3:
                gateway.ledger.store.remember(requests.LISTED, "")
        for name in ("completed_studies", "transfer_requests"):
            try:
                self._tick(name)
            except Killed:
                self._restart()

    def _tick(self, name: str) -> None:
        sensor = self.repository.get_sensor_def(name)
        with dg.build_sensor_context(instance=self.instance, repository_def=self.repository) as context:
            result = sensor(context, gateway=GatewayResource(data_root=str(self.site.root.path)))
        assert isinstance(result, dg.SensorResult)
        for new in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(str(new.partitions_def_name), list(new.partition_keys))
        self._maybe("between tick and run")
        for request in result.run_requests or ():
            if request.run_key not in self.seen:
                self.seen.add(str(request.run_key))
                self._run(request)

    def _run(self, request: dg.RunRequest) -> None:
        job = self.repository.get_job(str(request.job_name or "process_study"))
        job.execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            asset_selection=list(request.asset_selection) if request.asset_selection else None,
            raise_on_error=False,
        )

    # -- kills ----------------------------------------------------------------------------------

    def _maybe(self, where: str, chance: float = 0.02) -> None:
        if self.kills > self.killed.total() and self.random.random() < chance:
            self.killed[where] += 1
            raise Killed(where)

    @contextmanager
    def deadly(self, patch: Callable[[Any, str, Any], None]) -> Iterator[None]:
        """Kills may strike before and after calls to REDCap, sendings, proofs and ends of work."""

        def around(owner: type, name: str, chance: float) -> None:
            original = getattr(owner, name)

            def struck(*arguments: Any, **more: Any) -> Any:
                self._maybe(f"before {name}", chance)
                done = original(*arguments, **more)
                self._maybe(f"after {name}", chance)
                return done

            patch(owner, name, struck)

        around(Transport, "post", 0.01)
        around(Transfers, "begin_sending", 0.1)
        around(Transfers, "record_delivery", 0.1)
        around(Transfers, "record_package", 0.05)
        around(WorkList, "done", 0.03)
        yield

    def _count_calls(self) -> None:
        answer = self.site.redcap.answer

        def counted(*arguments: Any, **more: Any) -> Any:
            self.calls.append(time.monotonic())
            return answer(*arguments, **more)

        self.site.redcap.answer = counted  # type: ignore[method-assign]

    def most_calls_in_a_minute(self) -> int:
        """The most calls that any 60 seconds had."""
        most, start = 0, 0
        for end, moment in enumerate(self.calls):
            while self.calls[start] < moment - 60.0:
                start += 1
            most = max(most, end - start + 1)
        return most

    # -- the end --------------------------------------------------------------------------------

    def settled(self) -> list[str]:
        """What is not yet as it should be, in words; empty at the end."""
        store, left = self.site.redcap.store, []
        names = [
            "transfer_date",
            "transfer_mapped_uid",
            "transfer_error___1",
            "transfer_error___2",
            "transfer_withdrawn",
            "transfer_error_message",
        ]
        with self.site.open() as gateway:
            for wish in self.wishes:
                place = Place(wish.study, "", "transfers", 1)
                row = store.values("Incoming", names, [wish.study]).get(place, {})
                transfers = gateway.ledger.transfers.all(wish.study)
                newest = transfers[-1] if transfers else None
                state = newest.state if newest else "none"
                if not wish.good:
                    right = state == "refused" and row.get("transfer_error___1") == "1"
                elif wish.study in self.withdrew:
                    right = state == "withdrawn" and row.get("transfer_withdrawn") == "1"
                    right = right and "withdrawn" in row.get("transfer_error_message", "")
                    # Marked before it was ever taken up: there is nothing to stop, and nothing to tell.
                    right = right or (state == "none" and row.get("transfer_withdrawn") == "1")
                else:
                    right = state == "delivered" and newest is not None
                    right = right and row.get("transfer_mapped_uid") == (newest and newest.mapped_uid)
                    right = right and bool(row.get("transfer_date"))
                    right = right and "1" not in (
                        row.get("transfer_error___1"),
                        row.get("transfer_error___2"),
                    )
                if not right:
                    left.append(f"{wish.study} {wish.project} {state} {sorted(row)}")
        return left

    def live(self, days: int, *, turns_a_day: int, patience: int) -> None:
        """Days on which studies come; then turns until everything is settled."""
        batches = [self.wishes[day::days] for day in range(days)]
        for number, batch in enumerate(batches):
            self.arrive(batch)
            time.sleep(1.1)  # the quiet time of a study
            for _ in range(turns_a_day):
                self.turn()
            if number == days // 2:
                self.lose_storage()
            self.withdrew |= {wish.study for wish in batch if wish.withdrawn}
        self.kills = 0
        for _ in range(patience):
            if self.site.redcap.hostile is not None:
                self.site.redcap.hostile.backups = False  # people would write for ever
            self.turn()
            if not self.settled():
                return
            time.sleep(0.3)


def delivered_files(folder: Path) -> list[str]:
    """Names of the packages that a server has."""
    return sorted(path.name for path in folder.glob("*.zip"))


def now() -> datetime:
    """The present time."""
    return datetime.now(UTC)
