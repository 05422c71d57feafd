"""The demo's script: three studies from C-STORE to proven delivery, with progress and a final table.

A fourth one, of screenshots, shows what is held back; it does not count for success.

What is printed holds nothing identifying, as everywhere: studies are named by what they are.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fiona_dagster.config import DataRoot
from fiona_dagster.demo.phantoms import DemoStudy, make_held_study, make_studies
from fiona_dagster.demo.send import send_study
from fiona_dagster.demo.site import Site
from fiona_dagster.errors import FionaError, TransientError, UnknownStudy
from fiona_dagster.ledger import Study, Transfer
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.requests import assign
from fiona_dagster.transfers.verify import verify_package

DEADLINE_SECONDS = 720.0
HOLD_SECONDS = 30.0
"""How long the demo waits for the fourth study to be held back, after the others are delivered."""
SEED = 2026
PHASES = (
    "received",
    "classified",
    "held",
    "requested",
    "de-identified",
    "packaged",
    "delivered",
    "in REDCap",
)

ASSIGNMENTS = {
    "mr": ("NEURO", "N001", "Baseline"),
    "ct": ("THORAX", "T001", "Event 1"),
    "us": ("THORAX", "T002", "Event 1"),
    "sc": ("NEURO", "N002", "Baseline"),
}
_HELD = "sc"


@dataclass
class Followed:
    """One demo study on its way."""

    study: DemoStudy
    phase: int = -1
    assigned: bool = False
    transfer: Transfer | None = None
    problem: str = ""
    row: dict[str, Any] = field(default_factory=dict)


def run_demo(data: Path | None, *, exit_when_delivered: bool) -> int:
    """Runs the demo.

    Args:
        data: the data root; None: a temporary one that is removed at the end.
        exit_when_delivered: stop when all is proven delivered (or the deadline has passed).

    Returns:
        0 if the three studies that may leave were proven delivered, 1 otherwise.
    """
    folder = data or Path(tempfile.mkdtemp(prefix="fiona-demo-"))
    site = Site(DataRoot(folder.absolute()))
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a table in a log is read in an editor
    try:
        console.print(f"data root {site.root.path}", soft_wrap=True)
        site.start()
        console.print(f"receiver on port {site.receiver_port}, Dagster UI {site.ui}")
        scanner = site.peers / "scanner"
        studies = [*make_studies(scanner, seed=SEED), make_held_study(scanner, seed=SEED)]
        followed = [Followed(study) for study in studies]
        for study in studies:
            send_study(study, "127.0.0.1", site.receiver_port, calling_ae_title="DEMOSCANNER")
        complete = _follow(site, followed, console)
        _print_outcome(site, followed, console)
        if not exit_when_delivered:
            console.print(f"REDCap: {site.redcap_page}")
            console.print(f"Dagster UI: {site.ui}   (Ctrl-C stops everything)")
            while site.alive():
                time.sleep(0.5)
            return 1
    except KeyboardInterrupt:
        complete = True
    finally:
        site.stop()
        if data is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if complete else 1


def _follow(site: Site, followed: list[Followed], console: Console) -> bool:
    """Watches the ledger, assigns what is held, and shows the progress until all is delivered."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    counted = [one for one in followed if one.study.kind != _HELD]
    others = [one for one in followed if one.study.kind == _HELD]
    complete = False
    with Live(_progress(followed), console=console, refresh_per_second=4, transient=True) as live:
        while time.monotonic() < deadline and site.alive():
            with Gateway(site.root) as gateway:
                for one in followed:
                    before = one.phase
                    _look(gateway, one)
                    if one.phase > before and not console.is_terminal:
                        console.print(f"{one.study.title}: {PHASES[one.phase]}")
            live.update(_progress(followed))
            if not complete and all(one.phase == len(PHASES) - 1 for one in counted):
                complete = True
                deadline = min(deadline, time.monotonic() + HOLD_SECONDS)
            if complete and all(one.problem for one in others):
                break
            time.sleep(0.5)
    return complete


def _look(gateway: Gateway, one: Followed) -> None:
    uid = one.study.StudyInstanceUID
    gateway.ledger.receipts.read_journals()
    try:
        study = gateway.ledger.receipts.study(uid)
    except UnknownStudy:
        return
    project, participant, event = ASSIGNMENTS[one.study.kind]
    transfer = gateway.ledger.transfers.current(uid, project)
    if transfer is None and study.state == "held" and not one.assigned:
        try:
            assign(gateway, uid, project, participant, event)
            one.assigned = True
        except TransientError:
            pass  # REDCap was busy; the next look asks again
        except FionaError as error:
            one.problem = str(error)
    one.transfer = transfer
    one.phase = max(one.phase, _phase(gateway, study, transfer))
    if transfer is not None and transfer.reason:
        one.problem = transfer.reason


def _phase(gateway: Gateway, study: Study, transfer: Transfer | None) -> int:
    if transfer is None:
        return {"arriving": 0, "processing": 1}.get(study.state, 2)
    if transfer.state == "delivered":
        written = gateway.ledger.work.get(f"status:{study.study}:{transfer.project}") is None
        return 7 if written else 6
    if transfer.state == "packaged":
        return 5
    return 4 if gateway.ledger.transfers.verification_report(transfer) else 3


def _progress(followed: list[Followed]) -> Table:
    table = Table("study", *PHASES, title="From scanner to proven delivery")
    for one in followed:
        marks = ["[green]done[/]" if number <= one.phase else "" for number in range(len(PHASES))]
        table.add_row(one.study.title, *marks)
    return table


def _print_outcome(site: Site, followed: list[Followed], console: Console) -> None:
    table = Table(title="What became of the studies", show_lines=True)
    for column in ("study", "arrived", "types", "removed", "package", "SHA-256", "proof"):
        table.add_column(column, overflow="fold")
    with Gateway(site.root) as gateway:
        for one in followed:
            table.add_row(one.study.title, *_outcome(gateway, one))
    console.print(table)
    for one in followed:
        if one.problem:
            console.print(f"{one.study.title}: {one.problem}", markup=False)


def _outcome(gateway: Gateway, one: Followed) -> tuple[str, ...]:
    try:
        study = gateway.ledger.receipts.study(one.study.StudyInstanceUID)
    except UnknownStudy:
        return ("nothing", "", "", "", "", "")
    series = study.summary.get("series", [])
    types = sorted({kind for entry in series for kind in entry["ClassifyType"]})
    arrived = f"{len(series)} series, {study.instances} instances"
    transfer = one.transfer
    package = gateway.ledger.transfers.package(transfer) if transfer else None
    if transfer is None or package is None:
        return (arrived, ", ".join(types), "", study.state, "", "")
    report = gateway.ledger.transfers.verification_report(transfer) or {}
    actions = (report.get("deidentification") or {}).get("actions", {})
    path = gateway.root.path / package.path
    sound = "verified" if not verify_package(path) else "DAMAGED"
    proofs = [
        f"{name}: {delivery.proof['kind']}, {delivery.time[11:19]} UTC"
        for name, delivery in sorted(gateway.ledger.transfers.deliveries(transfer).items())
    ]
    return (
        arrived,
        ", ".join(types),
        ", ".join(f"{count} {action}" for action, count in sorted(actions.items())),
        f"{package.path} ({package.size / 1e6:.1f} MB, {sound})",
        package.sha256[:16] + "...",
        "\n".join(proofs) or "none",
    )
