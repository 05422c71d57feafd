"""Studies: what arrived, which types its series have, and how it is laid out for people.

Belongs here: the rule language, the series record, the ``site/raw`` tree, completion.
Stays out: reception and journals (landing), REDCap itself (redcap), who asks when (transfers, defs).
"""

from fiona_dagster.studies.attributes import needed_tags
from fiona_dagster.studies.classify import classify
from fiona_dagster.studies.coherence import PROBLEMS, series_problems
from fiona_dagster.studies.completion import (
    Decision,
    Evidence,
    Limits,
    PerformedSteps,
    SourceCount,
    decide,
    settled_after,
)
from fiona_dagster.studies.contents import (
    PERSON_TAGS,
    StudyContents,
    flags,
    has_conflicts,
    person_values,
    scan_study,
)
from fiona_dagster.studies.explain import Decided, explain
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.lint import Finding, lint
from fiona_dagster.studies.model import RuleSet, named_values
from fiona_dagster.studies.names import safe_name
from fiona_dagster.studies.paths import Classified, classify_paths
from fiona_dagster.studies.reader import read_instance
from fiona_dagster.studies.record import (
    build_series_records,
    clean_connection,
    incoming_fields,
    shown_modality,
    shown_number,
)
from fiona_dagster.studies.rules import (
    default_rules,
    default_rules_text,
    load_rules,
    load_rules_in_force,
    parse_rules,
)
from fiona_dagster.studies.tree import write_raw_tree
from fiona_dagster.studies.variants import cover_of, headers_of, is_covered, useful_tags, variants_of

__all__ = [
    "PERSON_TAGS",
    "PROBLEMS",
    "Classified",
    "Decided",
    "Decision",
    "Evidence",
    "Finding",
    "InstanceHeader",
    "Limits",
    "PerformedSteps",
    "RuleSet",
    "SourceCount",
    "StudyContents",
    "build_series_records",
    "classify",
    "classify_paths",
    "clean_connection",
    "cover_of",
    "decide",
    "default_rules",
    "default_rules_text",
    "explain",
    "flags",
    "has_conflicts",
    "headers_of",
    "incoming_fields",
    "is_covered",
    "lint",
    "load_rules",
    "load_rules_in_force",
    "named_values",
    "needed_tags",
    "parse_rules",
    "person_values",
    "read_instance",
    "safe_name",
    "scan_study",
    "series_problems",
    "settled_after",
    "shown_modality",
    "shown_number",
    "useful_tags",
    "variants_of",
    "write_raw_tree",
]
