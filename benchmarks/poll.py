"""Polling 10,000 open requests: the list of all of them, and a look at what changed since.

The sandbox serves them over HTTP from a process of its own; each poll runs in a fresh process, so that the
memory is that of polling. What is measured of the list includes the sandbox's own work.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Ledger, utc_now
from fiona_dagster.operations import initialise
from fiona_dagster.redcap.sandbox.records import Place
from fiona_dagster.redcap.sandbox.server import Sandbox
from fiona_dagster.transfers import requests
from fiona_dagster.transfers.context import Gateway

DOCUMENT = Path(__file__).parents[1] / "docs" / "developers" / "performance.md"
_BEGIN, _END = "<!-- poll -->", "<!-- /poll -->"
PROJECT = "BENCH"
SECONDS, MEGABYTES = 5.0, 200.0


def study(number: int) -> str:
    """StudyInstanceUID of a request."""
    return f"1.2.826.0.1.3680043.10.998.{number}"


def fill(root: DataRoot, data: Path, count: int, *, known: bool) -> dict[str, str]:
    """``count`` requests in REDCap, changed long ago; the sandbox's tokens.

    ``known``: the ledger took them up; otherwise they wait for images that have not come.
    """
    sandbox = Sandbox(data)
    with sandbox.store.transaction():
        for number in range(count):
            place = Place(study(number), "", "transfers", 1)
            values = {
                "transfer_requested_date": "2026-01-02 10:00",
                "transfer_project_name": PROJECT,
                "transfer_name": f"H{number}",
                "transfer_event_name": "Baseline",
            }
            sandbox.store.put("Incoming", place, values)
            sandbox.store.touch("Incoming", study(number))
        sandbox.store._db.execute("UPDATE record SET modified = '2026-01-02 10:00:00'")
    tokens = sandbox.tokens
    sandbox.store.close()
    if not known:
        return tokens
    now = utc_now()
    with Ledger(root) as ledger, ledger.store.restoring() as db:
        db.executemany(
            "INSERT INTO studies (study, first_arrival, last_arrival, calling_ae, called_ae, caller_ip, "
            "revision, open, registered) VALUES (?, ?, ?, 'CT', 'FIONA', '', 1, 0, 1)",
            [(study(number), now, now) for number in range(count)],
        )
        db.executemany(
            "INSERT INTO transfers (study, project, request, requested_date, participant, event, revision, "
            "state, created, changed) "
            "VALUES (?, ?, 1, '2026-01-02 10:00', ?, 'Baseline', 1, 'accepted', ?, ?)",
            [(study(number), PROJECT, f"H{number}", now, now) for number in range(count)],
        )
    return tokens


def poll(root: DataRoot, *, complete: bool) -> dict[str, float]:
    """One poll in this process."""
    with Gateway(root) as gateway:
        if complete:
            gateway.ledger.store.remember(requests.LISTED, "")
        begin = time.monotonic()
        found = requests.poll_requests(gateway)
        seconds = time.monotonic() - begin
    if found.complete != complete:
        raise RuntimeError("the poll was of the other kind")
    return {
        "requests": found.open,
        "taken_up": len(found.accepted) + len(found.refused),
        "seconds": round(seconds, 2),
        "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def measure(count: int, names: Sequence[str], *, known: bool) -> dict[str, dict[str, float]]:
    """Polls of some kinds, one after the other, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fiona-poll-") as folder:
        root = DataRoot(Path(folder) / "data")
        initialise(root)
        tokens = fill(root, Path(folder) / "redcap", count, known=known)
        command = [sys.executable, "-m", "fiona_dagster.cli", "redcap-sandbox", "--data", f"{folder}/redcap"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = json.loads(server.stdout.readline() if server.stdout else "")["url"]
                (root.secrets / "redcap-token").write_text(tokens["Incoming"])
                settings = {"redcap": {"url": url, "token_file": "secrets/redcap-token"}}
                root.config_file.write_text(json.dumps(settings))
                with Ledger(root) as ledger:  # as of a site that was adopted, or is new
                    ledger.store.remember("adopted", (datetime.now(UTC) - timedelta(days=1)).isoformat())
                found = {}
                for name in names:
                    child = [sys.executable, "-m", "benchmarks.poll", "--child", name, str(root.path)]
                    done = subprocess.run(child, check=True, capture_output=True, text=True)
                    found[name] = json.loads(done.stdout)
                return found
            finally:
                server.terminate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and writes the table into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "ROOT"))
    parser.add_argument("--write", action="store_true", help="write the table into the document")
    options = parser.parse_args(arguments)
    if options.child:
        what, path = options.child
        sys.stdout.write(json.dumps(poll(DataRoot(Path(path)), complete=what != "changes")))
        return 0
    found = measure(options.requests, ("waiting",), known=False)
    found |= measure(options.requests, ("list", "changes"), known=True)
    lines = ["| poll | requests read | seconds | peak MB |", "| --- | --- | --- | --- |"]
    names = {
        "waiting": "list of all, no images yet",
        "list": "list of all, taken up",
        "changes": "look at changes",
    }
    lines += [
        f"| {names[name]} | {row['requests']:.0f} | {row['seconds']} | {row['megabytes']} |"
        for name, row in found.items()
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.write:
        text = DOCUMENT.read_text("utf-8")
        head, _, rest = text.partition(_BEGIN)
        tail = rest.partition(_END)[2]
        table = "\n".join(lines)
        DOCUMENT.write_text(f"{head}{_BEGIN}\n{table}\n{_END}{tail}", encoding="utf-8")
    missed = [name for name, row in found.items() if row["seconds"] > SECONDS or row["megabytes"] > MEGABYTES]
    if missed:
        sys.stderr.write(f"missed {SECONDS:g} s or {MEGABYTES:g} MB: {', '.join(missed)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
