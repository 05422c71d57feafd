"""The distinct rule-relevant headers of every series: a copy of what the archive holds, asked fast.

Not part of the records from which a lost ledger is rebuilt: a series without a row is read from its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fiona_dagster.ledger.store import Store


@dataclass(frozen=True)
class SeriesVariants:
    """One series.

    Attributes:
        types: what the last classification gave.
        cover: what the variants hold.
        variants: packed headers.
    """

    study: str
    series: str
    instances: int
    types: tuple[str, ...]
    cover: tuple[str, ...]
    variants: bytes


class VariantBook:
    """The table of variants."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def replace(
        self, study: str, cover: Sequence[str], series: Sequence[tuple[str, int, list[str], bytes]]
    ) -> None:
        """Replaces what is known of a study.

        Args:
            study: StudyInstanceUID.
            cover: what the variants hold.
            series: SeriesInstanceUID, distinct instances, types, packed variants.
        """
        document = json.dumps(list(cover))
        digest = hashlib.sha256(document.encode()).hexdigest()[:16]
        with self._store.writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO variant_covers (cover, document) VALUES (?, ?)", (digest, document)
            )
            db.execute("DELETE FROM header_variants WHERE study = ?", (study,))
            db.executemany(
                """INSERT INTO header_variants (study, series, instances, types, cover, variants)
                   VALUES (?, ?, ?, ?, ?, ?)""",
                [
                    (study, uid, count, json.dumps(types), digest, packed)
                    for uid, count, types, packed in series
                ],
            )

    def all(self) -> Iterator[SeriesVariants]:
        """Every series that has variants, study by study."""
        covers = {
            row["cover"]: tuple(json.loads(row["document"]))
            for row in self._store.rows("SELECT cover, document FROM variant_covers")
        }
        for row in self._store.each("SELECT * FROM header_variants ORDER BY study, series"):
            yield SeriesVariants(
                row["study"],
                row["series"],
                row["instances"],
                tuple(json.loads(row["types"])),
                covers[row["cover"]],
                row["variants"],
            )
