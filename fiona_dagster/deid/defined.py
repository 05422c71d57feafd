"""Values that the standard itself lists: no name can hide in them.

Only attributes on which reading depends, and the names of the makers of devices; every other value of these
attributes is searched like free text.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files

MODALITY = 0x00080060


@lru_cache(maxsize=1)
def _defined() -> dict[int, frozenset[str]]:
    content = (files(__package__) / "data" / "defined_terms.csv").read_text("utf-8")
    return {
        int(r["tag"], 16): frozenset(r["values"].split("|")) for r in csv.DictReader(content.splitlines())
    }


def is_defined(tag: int, value: bytes) -> bool:
    """Whether every value of the attribute is one of the standard's terms for it."""
    terms = _defined().get(tag)
    if terms is None:
        return False
    parts = (part.strip(" \0") for part in value.decode("latin-1").split("\\"))
    return all(part in terms or not part for part in parts)


def defined_modality(value: str) -> str:
    """A modality of the standard (PS3.3 C.7.3.1.1.1), or ``OT`` in place of anything else."""
    return value if value and is_defined(MODALITY, value.encode("utf-8")) and "\\" not in value else "OT"
