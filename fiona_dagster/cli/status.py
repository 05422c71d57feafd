"""``fiona status``: where everything stands, from the ledger, needing no running service."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError, DagsterStorageDamaged, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen
    from fiona_dagster.operations.accounting import Account


@click.command()
@click.argument("study", required=False)
@click.option("--unaccounted", is_flag=True, help="Only what has no known state; exit code 1 if anything.")
@click.option(
    "--verify", is_flag=True, help="With --unaccounted: read every archived byte and every package again."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def status(study: str | None, *, unaccounted: bool, verify: bool, as_json: bool) -> int:
    """Shows all studies, or everything about STUDY (StudyInstanceUID).

    --unaccounted compares journals, archive, conflicts, quarantine, packages, ledger and Dagster.
    """
    from fiona_dagster.operations.overview import overview, study_detail

    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root here; run `fiona init` or set FIONA_DATA")
    if verify and not unaccounted:
        raise UsageError("--verify goes with --unaccounted")
    if unaccounted:
        return _unaccounted(root, study, verify=verify, as_json=as_json)
    document = study_detail(root, study) if study else overview(root)
    unreadable = ""
    if not study:
        try:
            document["dagster"] = _dagster_counts(root)
        except DagsterStorageDamaged as error:
            document["dagster"], unreadable = {}, str(error)
    if as_json:
        click.echo(json.dumps(document, indent=2, sort_keys=True))
    elif study:
        _print_study(document)
    else:
        _print_overview(document)
    if unreadable:
        click.echo(f"fiona: {unreadable}", err=True)
        return 1
    return 0


def _unaccounted(root: DataRoot, study: str | None, *, verify: bool, as_json: bool) -> int:
    from fiona_dagster.operations.accounting import account_for

    account = account_for(root, verify=verify)
    if _dagster_ran(root):
        from fiona_dagster.defs.accounting import account_for_dagster

        account_for_dagster(root, account)
    if study:
        account = account.of_study(study)
    if as_json:
        click.echo(json.dumps(account.to_json(), indent=2))
    else:
        _print_account(account)
    return 1 if account.unaccounted else 0


def _print_account(account: Account) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    console = Screen()
    for title, findings in (
        ("Unaccounted for", account.unaccounted),
        ("Taken care of without anybody's help", account.pending),
    ):
        if not findings:
            continue
        table = Table("what", "study", "where", "message", title=title)
        for finding in sorted(findings):
            by = f" (by {finding.handled})" if finding.handled else ""
            row = (finding.code, finding.study, finding.path, finding.message + by)
            table.add_row(*row)
        console.print(table)
    checked = ", ".join(f"{count} {name}" for name, count in account.checked.items())
    console.print(f"{len(account.unaccounted)} unaccounted for; looked at: {checked}")


def _dagster_counts(root: DataRoot) -> dict[str, int]:
    """Runs by status; a Dagster that never ran counts as empty."""
    if not _dagster_ran(root):
        return {}
    from fiona_dagster.defs.counts import run_counts

    return run_counts(root)


def _dagster_ran(root: DataRoot) -> bool:
    return (root.dagster_home / "dagster.yaml").is_file() and (root.dagster_home / "history").is_dir()


def _print_overview(document: dict[str, Any]) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    table = Table(title=f"{len(document['studies'])} studies")
    for column in ("StudyInstanceUID", "state", "instances", "flags", "transfers"):
        table.add_column(column)
    for entry in document["studies"]:
        transfers = ", ".join(f"{t['project']}: {t['state']}" for t in entry["transfers"])
        table.add_row(
            entry["study"], entry["state"], str(entry["instances"]), ", ".join(entry["flags"]), transfers
        )
    console = Screen()
    console.print(table)
    _print_inbox(console, document["inbox"])
    off = [name for name, on in sorted(document["switches"].items()) if not on]
    if off:
        held = sum(work["held"] for work in document["work"])
        waiting = f"; {held} deliveries are held" if "sending" in off else ""
        console.print(f"switched off in config/enabled: {', '.join(off)}{waiting}")
    for circuit in document["targets_down"]:
        console.print(
            f"target {circuit['target']} "
            f"{'is not who it should be' if circuit['distrusted'] else 'does not answer'} "
            f"since {circuit['since']}; next try {circuit['probe_at']}"
        )
    if down := document["redcap_down"]:
        console.print(
            f"REDCap: no usable answer since {down['since']}: requests, registrations and write-backs wait "
            f"({down['why']})"
        )
    for work in document["work"]:
        if work["error"]:
            console.print(f"{work['key']}: attempt {work['attempt']}: {work['error']}")
    states = ", ".join(f"{count} {state}" for state, count in document["states"].items()) or "none"
    console.print(f"Instances: {states}; {document['quarantine']} objects in quarantine")
    if document["waiting_for_release"]:
        console.print(f"{document['waiting_for_release']} copies wait for a person: `fiona release`")
    if document["to_adopt"]:
        console.print(
            f"REDCap has {document['to_adopt']} finished transfers that this gateway does not know: nothing "
            "is assigned or sent until `fiona adopt` (look first: `fiona adopt --report`)"
        )
    counts = ", ".join(f"{name} {count}" for name, count in sorted(document["dagster"].items())) or "none"
    console.print(f"Dagster runs: {counts}")


def _states_table(document: dict[str, Any]) -> Table:
    from rich.table import Table

    projects = sorted({project for entry in document["instance_states"] for project in entry["projects"]})
    table = Table("state", "instances", *projects, title="States")
    rows: dict[str, Counter[str]] = {state: Counter() for state in document["states"]}
    for entry in document["instance_states"]:
        for project, state in entry["projects"].items():
            rows.setdefault(state, Counter())[project] += 1
    for state, counts in rows.items():
        table.add_row(
            state,
            str(document["states"].get(state, 0)),
            *(str(counts[project] or "") for project in projects),
        )
    return table


def _print_inbox(console: Any, inbox: dict[str, int]) -> None:
    words = {"waiting": "waiting", "left_alone": "hidden or unfinished", "unreadable": "unreadable"}
    parts = [f"{inbox[key]} {word}" for key, word in words.items() if inbox[key]]
    if parts:
        console.print(f"inbox: {', '.join(parts)}")


def _proof(delivery: dict[str, Any]) -> str:
    """All that a target proved."""
    proof = delivery["proof"]
    counts = ", ".join(f"{name} {count}" for name, count in sorted(proof.get("counts", {}).items()))
    digests = ", ".join(f"{name} {digest}" for name, digest in sorted(proof.get("digests", {}).items()))
    said = "; ".join(part for part in (counts, digests) if part)
    return f"{delivery['target']}: {proof.get('kind')} {delivery['time']}" + (f" ({said})" if said else "")


def _sending(sending: dict[str, Any]) -> str:
    if sending["removed"]:
        return f"{sending['target']}: removal confirmed by {sending['removed_by']} {sending['removed']}"
    states = {
        "begun": "sending began",
        "proven": "sent and proven, began",
        "agreed": "sent, unproven by agreement, began",
        "unproven": f"present, content unproven ({len(sending['problems'] or sending['uncertain'])} "
        "instances), began",
    }
    said = f"{sending['target']}: {states[sending['state']]} {sending['began']}"
    reasons = Counter(sending["problems"].values())
    if reasons:
        said += "; at the last attempt " + ", ".join(f"{n} {why}" for why, n in sorted(reasons.items()))
        said += " (--json names them)"
    return said


def _print_transfer(transfer: dict[str, Any], console: Screen) -> None:
    console.print(
        f"{transfer['project']}: {transfer['state']} {transfer['reason']}"
        f" (transfer-{transfer['id']}-r{transfer['revision']})",
    )
    for kind, count in transfer["weak_hits"].items():
        console.print(
            f"  {count} weak hits, {kind}: words that may be a name or an id; the package's report.json "
            "says where"
        )
    for kind, count in sorted(Counter(transfer["not_sent"].values()).items()):
        console.print(f"  {count} instances are not sent: {kind}; --json names them")
    release = transfer["release"]
    if release:
        said = "waits for a person: `fiona release`" if release["waits"] else release["decision"]
        console.print(f"  release: {said or 'not needed any more'}")
    package = transfer["package"]
    if package:
        console.print(f"  {package['path']}  sha256 {package['sha256']}")
    for delivery in transfer["deliveries"]:
        console.print(f"  {_proof(delivery)}")
    for sending in transfer["sendings"]:
        console.print(f"  {_sending(sending)}")


_ASSIGNED = {
    "asked": "assigned to project {project} ({way}): its request is in REDCap",
    "requested": "a request for it is in REDCap",
    "waiting": "held for a person: {reason}",
    "opted_out": "held: {reason}",
}


def _print_study(document: dict[str, Any]) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    console = Screen()
    console.print(
        f"{document['study']}: {document['state']}, {document['instances']} instances, "
        f"revision {document['revision']}, flags: {', '.join(document['flags']) or 'none'}, "
        f"digests of {document['digests']}",
    )
    judged = document["completion"]
    if judged:
        expected = "unknown" if judged["expected"] is None else judged["expected"]
        console.print(
            f"completeness: {judged['outcome']}, {judged['received']} received, {expected} expected, "
            f"{judged['missing']} missing"
        )
        for reason in judged["reasons"]:
            console.print(f"  {reason}")
    assigned = document["assignment"]
    if assigned and not document["transfers"]:
        console.print(_ASSIGNED[assigned["state"]].format(**assigned))
    if document["committed"]:
        console.print(f"{document['committed']} instances are committed to their sender")
    console.print(_states_table(document))
    series = Table("series", "modality", "instances", "types", "problems", title="Series")
    for number, entry in enumerate(document["series"], 1):
        series.add_row(
            str(number),
            entry["Modality"],
            str(entry["NumFiles"]),
            ", ".join(entry["ClassifyType"]),
            ", ".join(entry.get("problems", ())),
        )
    console.print(series)
    for transfer in document["transfers"]:
        _print_transfer(transfer, console)
    for work in document["work"]:
        held = "held, " if work["held"] else ""
        console.print(f"to do: {work['key']} ({held}attempt {work['attempt']}) {work['error']}")
    for time, what in document["history"]:
        console.print(f"{time}  {what}")
