"""The landing zone: how arrivals are written, and how others read them back.

Belongs here: the one door into the archive, journals of receipts, conflicts, quarantine, import, adoption
after a crash. Stays out: the network (receiver), what studies mean (studies), where they stand (ledger).
"""

from fiona_dagster.landing.adopt import Adoption, adopt_orphans
from fiona_dagster.landing.claim import Use, alone, require_no_erasure
from fiona_dagster.landing.compare import digest_of
from fiona_dagster.landing.conflicts import (
    REJECTED,
    SUPERSEDED,
    decision_waits,
    interrupted_decisions,
    is_set_aside,
    place_of,
    waiting_folder,
)
from fiona_dagster.landing.counters import Counters, prepare_counters, read_counters
from fiona_dagster.landing.decisions import (
    OpenConflict,
    archived_of,
    decide,
    finish_decisions,
    open_conflicts,
)
from fiona_dagster.landing.differing import differing_tags
from fiona_dagster.landing.door import Landing, Visit
from fiona_dagster.landing.evidence import (
    Commitment,
    FlagDecision,
    PerformedStep,
    SiteChoice,
    append_evidence,
    evidence_folder,
    read_evidence,
)
from fiona_dagster.landing.imports import Importer, import_paths
from fiona_dagster.landing.journal import (
    JournalDamage,
    Position,
    journals_of,
    open_associations,
    read_journals,
    study_of,
)
from fiona_dagster.landing.locks import study_lock
from fiona_dagster.landing.mpps import remove_old_steps, step_file, write_step
from fiona_dagster.landing.quarantine import quarantine_file
from fiona_dagster.landing.receipt import Caller, Receipt
from fiona_dagster.landing.report import ImportReport
from fiona_dagster.landing.retry import Retried, discard, find_entries, operator, retry
from fiona_dagster.landing.shelf import Quarantined, quarantine_count, quarantined, shelf_names
from fiona_dagster.landing.sources import survey
from fiona_dagster.landing.workshop import NewFile, dead_workshops

__all__ = [
    "REJECTED",
    "SUPERSEDED",
    "Adoption",
    "Caller",
    "Commitment",
    "Counters",
    "FlagDecision",
    "ImportReport",
    "Importer",
    "JournalDamage",
    "Landing",
    "NewFile",
    "OpenConflict",
    "PerformedStep",
    "Position",
    "Quarantined",
    "Receipt",
    "Retried",
    "SiteChoice",
    "Use",
    "Visit",
    "adopt_orphans",
    "alone",
    "append_evidence",
    "archived_of",
    "dead_workshops",
    "decide",
    "decision_waits",
    "differing_tags",
    "digest_of",
    "discard",
    "evidence_folder",
    "find_entries",
    "finish_decisions",
    "import_paths",
    "interrupted_decisions",
    "is_set_aside",
    "journals_of",
    "open_associations",
    "open_conflicts",
    "operator",
    "place_of",
    "prepare_counters",
    "quarantine_count",
    "quarantine_file",
    "quarantined",
    "read_counters",
    "read_evidence",
    "read_journals",
    "remove_old_steps",
    "require_no_erasure",
    "retry",
    "shelf_names",
    "step_file",
    "study_lock",
    "study_of",
    "survey",
    "waiting_folder",
    "write_step",
]
