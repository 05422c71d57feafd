"""Packages that were finished and never booked: their step was killed in between.

A step that is repeated replaces them. Where nobody asks for the transfer any more, nobody repeats it, and
they would lie in the outbox for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fiona_dagster import landing
from fiona_dagster.errors import Busy
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.beside import remove_package
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.packing import package_base

OVER = ("withdrawn", "superseded", "stopped", "refused")
"""States of transfers that no step works on."""


def remove_unbooked(gateway: Gateway) -> int:
    """Removes packages from the outbox that nobody has booked and nobody will make again; idempotent.

    A study that somebody works on at this moment is left for the next call.

    Returns:
        How many packages went.
    """
    removed = 0
    for transfer, path in _unbooked(gateway):
        with contextlib.suppress(Busy), landing.study_lock(gateway.root, transfer.study, blocking=False):
            if _relative(gateway, path) not in gateway.ledger.transfers.package_paths():
                remove_package(path)
                removed += 1
    return removed


def owner(name: str, transfers: Iterable[Transfer]) -> Transfer | None:
    """The newest transfer that a package can be of, by its name; None if there is none."""
    found = [each for each in transfers if name.startswith(f"{package_base(each)}_")]
    return max(found, key=lambda each: each.id, default=None)


def _unbooked(gateway: Gateway) -> Iterator[tuple[Transfer, Path]]:
    known = gateway.ledger.transfers.package_paths()
    unknown = [
        path
        for path in sorted(gateway.root.outbox.glob("*/[!.]*.zip"))
        if _relative(gateway, path) not in known
    ]
    every = gateway.ledger.transfers.all() if unknown else []
    for path in unknown:
        transfer = owner(path.name, (each for each in every if each.project == path.parent.name))
        if transfer is not None and transfer.state in OVER:
            yield transfer, path


def _relative(gateway: Gateway, path: Path) -> str:
    return path.relative_to(gateway.root.path).as_posix()
