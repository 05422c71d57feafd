"""A simulated day, with ``make test-full`` a week: each study is delivered once, each status is right.

The seed stands in every failure; FIONA_TEST_SEED sets it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiona_dagster.demo import sftp
from fiona_dagster.ledger import work
from fiona_dagster.operations.reconciliation import reconcile
from fiona_dagster.redcap import calls
from tests.accounting import assert_all_accounted
from tests.simulation.week import Week, delivered_files
from tests.site import Site, running_site

FULL = bool(os.environ.get("FIONA_TEST_FULL"))
SEED = int(os.environ.get("FIONA_TEST_SEED") or 20261125)
STUDIES, PROJECTS, DAYS, KILLS = (300, 5, 7, 60) if FULL else (6, 2, 2, 4)
CALLS_PER_MINUTE = 1200


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Waiting is shortened: what is under test is what happens, not how long it takes."""
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(calls, "BAN_SECONDS", 0.5)
    monkeypatch.setattr(work, "FIRST_DELAY_SECONDS", 0.05)
    monkeypatch.setattr(work, "LONGEST_DELAY_SECONDS", 0.5)
    monkeypatch.setattr(work, "ASK_AGAIN_SECONDS", 0.3)
    with running_site(tmp_path) as running:
        running.configure(
            receiver={"reserve_mb": 0, "quiet_seconds": 1},
            redcap={
                "url": running.redcap.url,
                "token_file": "secrets/redcap-token",
                "calls_per_minute": CALLS_PER_MINUTE,
                "timeout_seconds": 10,
            },
        )
        yield running


@pytest.mark.timeout(7200 if FULL else 600)
def test_each_study_is_delivered_once_and_each_status_is_right(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    week = Week(site, SEED, studies=STUDIES, projects=PROJECTS, kills=KILLS)
    uploads: Counter[str] = Counter()
    rename = sftp._Files.rename

    def counted(self: sftp._Files, oldpath: str, newpath: str) -> int:
        done = rename(self, oldpath, newpath)
        uploads[newpath.rpartition("/")[2]] += done == 0
        return done

    monkeypatch.setattr(sftp._Files, "rename", counted)
    try:
        with week.deadly(monkeypatch.setattr):
            week.live(DAYS, turns_a_day=6 if FULL else 3, patience=60 if FULL else 25)
        said = f"seed {SEED}, kills {dict(week.killed)}, calls {len(week.calls)}"
        assert week.settled() == [], said
        there = delivered_files(site.sftp["archive"].files)
        assert Counter(there) == {name: 1 for name in uploads if name.endswith(".zip")}, said
        assert all(count == 1 for name, count in uploads.items() if name.endswith(".zip")), said
        wanted = sum(wish.good and wish.study not in week.withdrew for wish in week.wishes)
        assert wanted <= len(there) <= wanted + len(week.withdrew), said
        assert week.killed.total() >= KILLS // 4, said
        assert week.lost_storage == 1
        assert week.most_calls_in_a_minute() <= CALLS_PER_MINUTE, said
        site.redcap.hostile = None
        with site.open() as gateway:
            codes = {gap.code for gap in reconcile(gateway).gaps}
        assert codes <= {"withdrawn_but_there", "received_not_requested"}, (said, codes)
        assert_all_accounted(site.root)
    finally:
        week.close()
