"""An erasure has the data root to itself, and nobody gets in before one that was cut short is finished."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy, ErasureUnfinished
from fiona_dagster.landing import FlagDecision, Landing, Use, alone
from fiona_dagster.ledger import Ledger
from tests.running import fiona

EVIDENCE = FlagDecision("2026-11-25T10:00:00.000000Z", "1.2", "two_patients", "digest", "Jo", "looked")
WRITERS: dict[str, Callable[[DataRoot], object]] = {
    "archive": Landing,
    "import": lambda root: landing.import_paths(root, [root.path]),
    "ledger": Ledger,
    "evidence": lambda root: landing.append_evidence(root, EVIDENCE),
    "MPPS": lambda root: landing.write_step(root, "1.2.3", b"step"),
    "quarantine": lambda root: landing.discard(root, []),
    "adoption": landing.adopt_orphans,
    "decisions": landing.finish_decisions,
}


def content(root: DataRoot) -> set[str]:
    return {path.relative_to(root.path).as_posix() for path in root.path.rglob("*")}


@pytest.mark.parametrize("writer", WRITERS)
def test_nobody_gets_in_before_an_erasure_is_finished(root: DataRoot, writer: str) -> None:
    root.make()
    with Use(root):
        root.erasure_file.write_text("{}")
    before = content(root)
    with pytest.raises(ErasureUnfinished, match="fiona erase --resume"):
        WRITERS[writer](root)
    assert content(root) == before
    with alone(root):  # who finishes it
        WRITERS[writer](root)


def test_an_erasure_begins_only_where_nobody_writes(root: DataRoot) -> None:
    for open_ in (Landing, Ledger, Use):
        with open_(root), pytest.raises(Busy, match="stop it first"), alone(root, wait_seconds=0):
            pass
    with alone(root):
        pass


def test_nobody_gets_in_while_one_is_at_work(root: DataRoot) -> None:
    with alone(root):
        elsewhere = DataRoot(root.path / "." / ".." / root.path.name)  # as another process sees it
        assert elsewhere.path != root.path
        with pytest.raises(Busy, match="try again"):
            Use(elsewhere)
    Use(root).close()


def test_every_command_that_writes_says_what_to_do_first(root: DataRoot) -> None:
    root.make()
    root.config_file.write_text("{}")
    root.erasure_file.write_text("{}")
    for command in (("receive",), ("status",), ("import", root.path)):
        done = fiona(*command, data=root.path)
        assert done.returncode in (1, 2), command
        assert "fiona erase --resume" in done.stderr, command
