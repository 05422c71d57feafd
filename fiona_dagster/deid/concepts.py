"""Table E.3.4-1 of PS3.15: what is done with content items, by their concept."""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files

CONTENT_SEQUENCE = 0x0040A730


@lru_cache(maxsize=1)
def concepts() -> dict[tuple[str, str, str], tuple[str, dict[str, str]]]:
    """Table E.3.4-1: (code, scheme, value type) -> (basic action, actions of the options)."""
    content = (files(__package__) / "data" / "concepts.csv").read_text("utf-8")
    return {
        (row["code"], row["scheme"], row["value_type"]): (
            row["basic"],
            dict(part.split("=") for part in row["options"].split()),
        )
        for row in csv.DictReader(content.splitlines())
    }
