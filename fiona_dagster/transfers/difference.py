"""What other rules would change: every known series is classified by them, from what the ledger keeps of it.

Belongs here: replaying the stored headers, and reading the archive where they don't suffice. Stays out: the
meaning of rules (``studies``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from fiona_dagster import studies
from fiona_dagster.errors import UnknownStudy
from fiona_dagster.ledger import Sender, SeriesVariants, Study
from fiona_dagster.studies import RuleSet
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.intake import connection

ALONE = 4000
"""Up to so many different series one process is faster than several."""
_BATCH = 500
_Key = tuple[bytes, int, str]


@dataclass(frozen=True)
class Change:
    """A series whose types would change."""

    study: str
    series: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass
class Difference:
    """What other rules would change.

    Attributes:
        series: how many series were compared.
        changes: those that would get other types.
        read: studies whose files had to be read, since the ledger doesn't keep what the rules look at.
        unreadable: studies of which nothing can be said: their files are gone.
    """

    series: int = 0
    changes: list[Change] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def note(self, study: str, series: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """Counts a series."""
        self.series += 1
        if before != after:
            self.changes.append(Change(study, series, before, after))


def difference(gateway: Gateway, rules: RuleSet, workers: int | None = None) -> Difference:
    """Compares the types that every registered study has with those that ``rules`` give; writes nothing.

    Args:
        gateway: the open gateway.
        rules: checked rules.
        workers: processes; default: as many as there are processors.
    """
    registered = {study.study: study for study in gateway.ledger.receipts.studies() if study.registered}
    wanted = {
        (uid, each["SeriesInstanceUID"])
        for uid, study in registered.items()
        for each in study.summary.get("series", [])
    }
    found = Difference()
    keys: dict[_Key, list[tuple[str, str, tuple[str, ...]]]] = {}
    names = studies.named_values(rules)
    senders = gateway.ledger.receipts.senders()
    covered: dict[tuple[str, ...], bool] = {}
    for each in gateway.ledger.variants.all():
        study = registered.get(each.study)
        if each.cover not in covered:
            covered[each.cover] = studies.is_covered(rules, each.cover)
        if study is not None and covered[each.cover]:
            key = _key(each, senders.get((each.study, each.series), study), names)
            keys.setdefault(key, []).append((each.study, each.series, each.types))
            wanted.discard((each.study, each.series))
    for key, types in _classified(list(keys), rules, workers or os.cpu_count() or 1):
        for uid, series, before in keys[key]:
            found.note(uid, series, before, types)
    for uid in sorted({uid for uid, _ in wanted}):
        _read(gateway, registered[uid], {series for study, series in wanted if study == uid}, rules, found)
    found.changes.sort(key=lambda change: (change.study, change.series))
    return found


def _key(each: SeriesVariants, sender: Study | Sender, names: frozenset[str]) -> _Key:
    """What the types rest on: series that are alike are classified once."""
    said = str(studies.clean_connection(connection(sender))) if "IncomingConnection" in names else ""
    return each.variants, each.instances if "NumFiles" in names else 0, said


def _classified(keys: list[_Key], rules: RuleSet, workers: int) -> Iterator[tuple[_Key, tuple[str, ...]]]:
    if len(keys) <= ALONE or workers < 2:
        _begin(rules)
        yield from zip(keys, _classify(keys), strict=True)
        return
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, context, _begin, (rules,)) as pool:
        chunks = [keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)]
        for chunk, types in zip(chunks, pool.map(_classify, chunks), strict=True):
            yield from zip(chunk, types, strict=True)


_rules: list[RuleSet] = []


def _begin(rules: RuleSet) -> None:
    _rules[:] = [rules]


def _classify(keys: list[_Key]) -> list[tuple[str, ...]]:
    return [
        tuple(
            studies.classify(
                studies.headers_of(variants),
                _rules[0],
                {"NumFiles": str(count), "IncomingConnection": connection},
            )
        )
        for variants, count, connection in keys
    ]


def _read(gateway: Gateway, study: Study, wanted: set[str], rules: RuleSet, found: Difference) -> None:
    """A study that the ledger doesn't keep enough of: its headers are read."""
    before: Mapping[str, tuple[str, ...]] = {
        each["SeriesInstanceUID"]: tuple(each["ClassifyType"]) for each in study.summary["series"]
    }
    try:
        tree = gateway.root.of_site(study.site)
        contents = studies.scan_study(tree, study.study, studies.needed_tags(rules.tags))
    except UnknownStudy:
        found.unreadable.append(study.study)
        return
    found.read.append(study.study)
    senders = gateway.ledger.receipts.senders(study.study)
    of_series = {series: connection(sender) for (_, series), sender in senders.items()}
    records = studies.build_series_records(contents, rules, connection(study), of_series)
    for series in sorted(wanted & records.keys()):
        found.note(study.study, series, before.get(series, ()), tuple(records[series]["ClassifyType"]))
