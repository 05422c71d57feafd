"""The landing zone: how arrivals are written, and how others read them back.

Belongs here: the one door into the archive, journals of receipts, conflicts, quarantine, import, adoption
after a crash. Stays out: the network (receiver), what studies mean (studies), where they stand (ledger).
"""

from fiona_dagster.landing.adopt import Adoption, adopt_orphans
from fiona_dagster.landing.door import Landing, Visit
from fiona_dagster.landing.evidence import Commitment, PerformedStep, append_evidence, read_evidence
from fiona_dagster.landing.files import NewFile
from fiona_dagster.landing.imports import Importer, ImportReport, import_paths
from fiona_dagster.landing.journal import (
    JournalDamage,
    journals_of,
    open_associations,
    read_journals,
    study_of,
)
from fiona_dagster.landing.locks import study_lock
from fiona_dagster.landing.quarantine import quarantine_file
from fiona_dagster.landing.receipt import Caller, Receipt
from fiona_dagster.landing.sources import survey

__all__ = [
    "Adoption",
    "Caller",
    "Commitment",
    "ImportReport",
    "Importer",
    "JournalDamage",
    "Landing",
    "NewFile",
    "PerformedStep",
    "Receipt",
    "Visit",
    "adopt_orphans",
    "append_evidence",
    "import_paths",
    "journals_of",
    "open_associations",
    "quarantine_file",
    "read_evidence",
    "read_journals",
    "study_lock",
    "study_of",
    "survey",
]
