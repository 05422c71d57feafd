"""``fiona classify --diff`` over many series: how long it takes to try other rules on all that is known.

Makes a ledger of its own with N series whose headers all differ (no two are judged as one), replays them by
FIONA's own rules with one change, and prints one line of JSON. Run it as ``python benchmarks/rules_diff.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

from fiona_dagster import studies
from fiona_dagster.config import DataRoot
from fiona_dagster.operations import initialise
from fiona_dagster.studies import InstanceHeader
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.difference import difference


def header(number: int, variant: int) -> InstanceHeader:
    """A header like those of an MR series; ``number`` makes it different from all others."""
    made = InstanceHeader(Path("none"))
    texts = {
        0x00080008: ("CS", "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"),
        0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.4"),
        0x00080060: ("CS", "MR"),
        0x00080070: ("LO", ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips Medical Systems", "UIH")[number % 4]),
        0x0008103E: ("LO", f"{('t1_mprage', 'ep2d_bold', 'ep2d_diff', 't2_tse')[number % 4]}_{number}"),
        0x00081090: ("LO", "Prisma_fit"),
        0x00180015: ("CS", "BRAIN"),
        0x00180020: ("CS", "EP\\GR"),
        0x00180024: ("SH", "*epfid2d1_90"),
        0x00180050: ("DS", "2.4"),
        0x00180080: ("DS", str(800 + number % 3000)),
        0x00180081: ("DS", f"{30 + variant}"),
        0x00181310: ("US", ""),
        0x00200037: ("DS", "1\\0\\0\\0\\0.98\\-0.17"),
        0x00280030: ("DS", "2.4\\2.4"),
    }
    made.elements = {tag: (vr, text.encode()) for tag, (vr, text) in texts.items()}
    made.elements[0x00181310] = ("US", b"\x5a\0\0\0\0\0\x5a\0")
    return made


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--variants", type=int, default=2, help="distinct headers a series")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    rules = studies.default_rules()
    text = json.dumps([*json.loads(studies.default_rules_text()), {"type": "x", "rules": [{"rule": "MR"}]}])
    changed = studies.parse_rules(text, "changed")
    cover = studies.cover_of(rules)
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(folder))
        initialise(root)
        with Gateway(root) as gateway:
            size = 0
            for start in range(0, given.series, 1000):
                rows = []
                for number in range(start, min(start + 1000, given.series)):
                    headers = [header(number, variant) for variant in range(given.variants)]
                    packed = studies.variants_of(headers, cover) or b""
                    size += len(packed)
                    rows.append((f"1.2.{start}.{number}", 60, studies.classify(headers, rules), packed))
                _fill(gateway, f"1.2.{start}", cover, rows)
            began = time.perf_counter()
            found = difference(gateway, changed, given.workers)
            seconds = time.perf_counter() - began
    line = {
        "series": found.series,
        "variants": given.variants,
        "changes": len(found.changes),
        "read": len(found.read),
        "seconds": round(seconds, 1),
        "bytes_a_series": round(size / given.series),
        "workers": given.workers,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(line))  # noqa: T201


def _fill(
    gateway: Gateway, study: str, cover: tuple[str, ...], rows: list[tuple[str, int, list[str], bytes]]
) -> None:
    """A study as the intake leaves it in the ledger."""
    summary = {"series": [{"SeriesInstanceUID": uid, "ClassifyType": types} for uid, _, types, _ in rows]}
    with gateway.ledger.store.writing() as db:
        db.execute(
            """INSERT INTO studies (study, first_arrival, last_arrival, calling_ae, called_ae, caller_ip,
               revision, registered, open, summary) VALUES (?, '', '', 'A', 'B', '127.0.0.1', 1, 1, 0, ?)""",
            (study, json.dumps(summary)),
        )
        gateway.ledger.variants.replace(study, cover, rows)


if __name__ == "__main__":
    main()
