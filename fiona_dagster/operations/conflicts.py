"""Conflicts as an operator sees them, and decisions with everything that follows in the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError
from fiona_dagster.landing import OpenConflict
from fiona_dagster.landing.decisions import Decision
from fiona_dagster.ledger import Ledger

LOCK_SECONDS = 60.0


def list_conflicts(root: DataRoot, study: str | None = None) -> list[dict[str, Any]]:
    """What waits for a decision: when it came, from whom, and in what it differs. Nothing identifying."""
    found = []
    for tree, conflict in _open(root, study):
        archived = landing.archived_of(tree, conflict.study, conflict.path)
        reason = conflict.reason
        found.append(
            {
                "id": conflict.id,
                "study": conflict.study,
                "site": tree.site_name,
                "SOPInstanceUID": conflict.sop_instance,
                "SeriesInstanceUID": str(reason.get("SeriesInstanceUID", "")),
                "time": str(reason.get("time", "")),
                "calling_ae": str(reason.get("calling_ae", "")),
                "called_ae": str(reason.get("called_ae", "")),
                "caller_ip": str(reason.get("caller_ip", "")),
                "size": conflict.path.stat().st_size,
                "archived": archived.relative_to(root.path).as_posix(),
                "archived_size": archived.stat().st_size if archived.is_file() else 0,
                "differs": _differs(archived, conflict.path),
            }
        )
    return found


def _open(root: DataRoot, study: str | None) -> list[tuple[DataRoot, OpenConflict]]:
    """What waits at every site."""
    return [(tree, found) for tree in root.site_trees() for found in landing.open_conflicts(tree, study)]


def _differs(archived: Path, kept: Path) -> str:
    """In which top-level elements two data sets differ: tags, no values."""
    if not archived.is_file():
        return "the archived file is missing"
    return ", ".join(landing.differing_tags(archived, kept)) or "the bytes, not the elements"


def decide_conflicts(
    root: DataRoot, ids: Iterable[str], study: str | None, decision: Decision, *, reason: str = ""
) -> list[OpenConflict]:
    """Carries out a decision about conflicts and takes it over into the ledger.

    Args:
        root: the data root.
        ids: as :func:`list_conflicts` shows them; empty with ``study``.
        study: all conflicts of this study.
        decision: ``accepted`` or ``rejected``.
        reason: why; nothing identifying.

    Raises:
        UsageError: an id does not wait for a decision, or two conflicts of one instance are to be accepted;
            nothing was changed.
        Busy: somebody works on the study.
    """
    chosen = _chosen(root, list(ids), study)
    if decision == "accepted":
        instances = [(tree.site_name, each.study, each.sop_instance) for tree, each in chosen]
        twice = next((each for each in instances if instances.count(each) > 1), None)
        if twice:
            raise UsageError(f"instance {twice[2]} has several conflicts; accept one, by its id")
    by = landing.operator()
    for tree, each in chosen:
        with landing.study_lock(root, each.study, timeout=LOCK_SECONDS):
            landing.finish_decisions(tree, each.study)
            landing.decide(tree, each, decision, by=by, reason=reason)
        with Ledger(root) as ledger:
            ledger.receipts.read_journals()
            ledger.store.note(each.study, f"conflict of instance {each.sop_instance} {decision}")
    return [each for _, each in chosen]


def _chosen(root: DataRoot, ids: list[str], study: str | None) -> list[tuple[DataRoot, OpenConflict]]:
    waiting = _open(root, study)
    if study is not None:
        if not waiting:
            raise UsageError(f"study {study[:64]} has no open conflict; `fiona conflicts list` shows all")
        return waiting
    by_id: dict[str, list[tuple[DataRoot, OpenConflict]]] = {}
    for tree, conflict in waiting:
        by_id.setdefault(conflict.id, []).append((tree, conflict))
    for name in ids:
        if len(by_id.get(name, [])) != 1:
            shown = "".join(c if c.isprintable() else "?" for c in name)[:100]
            why = (
                "is open in several studies or sites; give --study"
                if name in by_id
                else "does not wait for a decision"
            )
            raise UsageError(f"{shown}: {why}; `fiona conflicts list` shows what does")
    return [by_id[name][0] for name in dict.fromkeys(ids)]
