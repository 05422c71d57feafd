"""What of a study is not sent: kinds that are held back, and instances that can't be processed.

Belongs here: taking them out of a working copy, and naming them. Stays out: which kinds are allowed (the
project's settings), telling a kind (``deid.kinds``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fiona_dagster.ledger import LEFT_OUT

if TYPE_CHECKING:
    from fiona_dagster import deid
    from fiona_dagster.config.deid import Deidentification

NAMED_INSTANCES = 5


def hold_back(report: deid.StudyReport, folder: Path, project: Deidentification) -> list[str]:
    """Removes copies of kinds that don't pass; for each file of the report why, or ``""``.

    What the project drops is named ``<kind>, dropped``, so that nobody waits for a decision on it.
    """
    kinds = []
    for file in report.files:
        kind = file.held.lower().replace(" ", "_").replace("-", "_")
        if kind in project.passing_kinds:
            kind = ""
        if kind:
            (folder / file.name).unlink()
        kinds.append(f"{kind}, dropped" if kind in project.dropped_kinds else kind)
    return kinds


def named(failures: Sequence[deid.Failure], originals: Sequence[str]) -> str:
    """Instances that can't be processed, and why.

    Args:
        failures: see ``deid.StudyReport``.
        originals: SOP Instance UIDs as received, of everything that went in, in order.
    """
    shown = [f"{originals[f.number - 1]} ({f.reason})" for f in failures[:NAMED_INSTANCES]]
    more = len(failures) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def not_sent(
    failures: Sequence[deid.Failure], kinds: Sequence[str], originals: Sequence[str]
) -> dict[str, str]:
    """SOP Instance UID as received -> why it is not among the copies.

    Args:
        failures: those that have no copy.
        kinds: for each of the others, in order, the kind that it is held back for, or ``""``.
        originals: see :func:`named`.
    """
    failed = {failure.number for failure in failures}
    others = [uid for number, uid in enumerate(originals, 1) if number not in failed]
    found = {uid: kind for uid, kind in zip(others, kinds, strict=True) if kind}
    return found | {originals[number - 1]: LEFT_OUT for number in failed}
