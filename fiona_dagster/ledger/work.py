"""What is to be done, how often it was tried, and when to try again.

Sensors ask :meth:`WorkList.due` and launch a run whose key carries revision and attempt; a run that
succeeds calls :meth:`WorkList.done`, one that fails :meth:`WorkList.failed`. Nothing depends on an event
having been seen: a row stays until its work is done.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from fiona_dagster.ledger.store import Store, utc_after, utc_now

Kind = Literal["process", "transfer", "deliver", "status"]

FIRST_DELAY_SECONDS = 15.0
LONGEST_DELAY_SECONDS = 3600.0
JITTER = 0.2
"""By how much of itself a delay is made shorter or longer, so that many don't come back at once."""
ASK_AGAIN_SECONDS = 120.0
"""A requested piece of work is asked for again after so long: Dagster drops the second request of a
living run by its run key, and a lost one is made good."""


@dataclass(frozen=True)
class Work:
    """One piece of work of one study."""

    key: str
    kind: Kind
    study: str
    project: str
    target: str
    revision: int
    token: str
    attempt: int
    blocked: bool
    error: str
    not_before: str

    @property
    def run_key(self) -> str:
        """The same until this attempt ends; Dagster never launches the same key twice.

        The token tells apart work that was done and is needed anew (another status to write, a ledger
        that was rebuilt), since Dagster remembers keys for ever.
        """
        return f"{self.key}:r{self.revision}:{self.token}:a{self.attempt}"


def work_key(kind: Kind, study: str, project: str = "", target: str = "") -> str:
    """The name of a piece of work."""
    return ":".join(part for part in (kind, study, project, target) if part)


class WorkList:
    """The table of work."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def need(
        self,
        kind: Kind,
        study: str,
        revision: int,
        *,
        project: str = "",
        target: str = "",
        again: bool = False,
    ) -> None:
        """Says that this work is to be done for ``revision``.

        Work that is known already is left as it is, blocks included, unless the revision is newer or
        ``again`` says that the need itself is new.
        """
        key = work_key(kind, study, project, target)
        with self._store.writing() as db:
            db.execute(
                """INSERT INTO work (key, kind, study, project, target, revision, token)
                   VALUES (?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, token = excluded.token,
                       attempt = 1, not_before = '', requested = NULL, blocked = 0, error = ''
                   WHERE excluded.revision > work.revision OR ?""",
                (key, kind, study, project, target, revision, secrets.token_hex(4), int(again)),
            )

    def due(self, kind: Kind, limit: int = 50, can: Callable[[Work], bool] = lambda _: True) -> list[Work]:
        """Work whose time has come, oldest request first.

        A time that no delay reaches is of a clock that was set back since: it holds nothing up.

        Args:
            kind: the kind of work.
            limit: how much at most.
            can: whether the caller can carry it out; what it can't takes no place among the ``limit``.
        """
        now = utc_now()
        found = self._store.rows(
            """SELECT * FROM work WHERE kind = ? AND blocked = 0 AND (not_before <= ? OR not_before > ?)
               AND (requested IS NULL OR requested <= ? OR requested > ?)
               ORDER BY requested, not_before, key""",
            kind,
            now,
            utc_after(LONGEST_DELAY_SECONDS * (1 + JITTER)),
            utc_after(-ASK_AGAIN_SECONDS),
            now,
        )
        return list(islice(filter(can, map(_work, found)), limit))

    def requested(self, key: str) -> None:
        """A run was asked for; the first time of each attempt counts."""
        with self._store.writing() as db:
            db.execute("UPDATE work SET requested = coalesce(requested, ?) WHERE key = ?", (utc_now(), key))

    def done(self, key: str, revision: int, token: str | None = None) -> None:
        """The work is done up to ``revision``; a row for a newer one stays.

        Args:
            key: the piece of work.
            revision: the revision that was worked on.
            token: with it the row goes only if the need has not been renewed since the token was read.
        """
        with self._store.writing() as db:
            db.execute(
                "DELETE FROM work WHERE key = ? AND revision <= ? AND token = coalesce(?, token)",
                (key, revision, token),
            )

    def drop(self, study: str, project: str) -> None:
        """Forgets transfers and deliveries that nobody wants any more."""
        with self._store.writing() as db:
            db.execute(
                "DELETE FROM work WHERE study = ? AND project = ? AND kind IN ('transfer', 'deliver')",
                (study, project),
            )

    def drop_deliveries(self, study: str, project: str, keep: Collection[str]) -> int:
        """Forgets deliveries to targets that are not wanted any more; returns how many.

        Args:
            study: the study.
            project: the project.
            keep: names of the targets that are wanted.
        """
        with self._store.writing() as db:
            gone = [
                (row["key"],)
                for row in db.execute(
                    "SELECT key, target FROM work WHERE study = ? AND project = ? AND kind = 'deliver'",
                    (study, project),
                )
                if row["target"] not in keep
            ]
            db.executemany("DELETE FROM work WHERE key = ?", gone)
        return len(gone)

    def failed(self, key: str, error: str, *, permanent: bool, attempt: int | None = None) -> None:
        """Books a failure: the next attempt waits longer and longer; a permanent one waits for a person.

        Args:
            key: the piece of work; one that is done already is left alone.
            error: what happened; nothing identifying.
            permanent: True stops further attempts until revision, request or a person changes something.
            attempt: book it only if this is still the attempt at hand (None: whatever it is).
        """
        with self._store.writing() as db:
            row = db.execute("SELECT attempt FROM work WHERE key = ?", (key,)).fetchone()
            if row is None or (attempt is not None and row["attempt"] != attempt):
                return
            tries = row["attempt"]
            delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(tries - 1, 12))
            delay *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nothing secret
            db.execute(
                """UPDATE work SET attempt = attempt + 1, requested = NULL, not_before = ?, blocked = ?,
                   error = ? WHERE key = ?""",
                (utc_after(delay), int(permanent), error[:1000], key),
            )

    def unblock(self, study: str | None = None) -> int:
        """Gives blocked work, of one study or of all, a new chance; returns how much there was."""
        with self._store.writing() as db:
            return db.execute(
                """UPDATE work SET blocked = 0, not_before = '', requested = NULL
                   WHERE blocked = 1 AND study = coalesce(?, study)""",
                (study,),
            ).rowcount

    def release(self, study: str, project: str) -> None:
        """What waited for its next attempt is due now; what waits for a person is left alone."""
        with self._store.writing() as db:
            db.execute(
                """UPDATE work SET not_before = '', requested = NULL
                   WHERE study = ? AND project = ? AND blocked = 0""",
                (study, project),
            )

    def due_at_once(self, *kinds: Kind) -> None:
        """What waits for its next attempt is due now: what it waited for is there again."""
        marks = ", ".join("?" for _ in kinds)
        with self._store.writing() as db:
            db.execute(
                f"UPDATE work SET not_before = '' WHERE blocked = 0 AND kind IN ({marks})",  # noqa: S608 - question marks
                kinds,
            )

    def wake(self, key: str) -> bool:
        """What waits for its next attempt is due now.

        Returns:
            False: there is no such work, it is being done at this moment, or it waits for a person.
        """
        with self._store.writing() as db:
            return bool(
                db.execute(
                    "UPDATE work SET not_before = '' WHERE key = ? AND requested IS NULL AND blocked = 0",
                    (key,),
                ).rowcount
            )

    def get(self, key: str) -> Work | None:
        """One piece of work, if it is still to be done."""
        row = self._store.row("SELECT * FROM work WHERE key = ?", key)
        return None if row is None else _work(row)

    def open(self, study: str | None = None) -> list[Work]:
        """Everything that is not done yet, of one study or of all."""
        if study is None:
            return [_work(row) for row in self._store.rows("SELECT * FROM work ORDER BY key")]
        found = self._store.rows("SELECT * FROM work WHERE study = ? ORDER BY key", study)
        return [_work(row) for row in found]

    def in_flight(self, older_than_seconds: float) -> list[Work]:
        """Work that was requested long ago and has not reported since."""
        found = self._store.rows(
            "SELECT * FROM work WHERE requested IS NOT NULL AND requested <= ? AND blocked = 0",
            utc_after(-older_than_seconds),
        )
        return [_work(row) for row in found]


def _work(row: object) -> Work:
    values = dict(row)  # type: ignore[call-overload]
    return Work(
        key=values["key"],
        kind=values["kind"],
        study=values["study"],
        project=values["project"],
        target=values["target"],
        revision=values["revision"],
        token=values["token"],
        attempt=values["attempt"],
        blocked=bool(values["blocked"]),
        error=values["error"],
        not_before=values["not_before"],
    )
