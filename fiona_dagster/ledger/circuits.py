"""Which targets don't answer: after several failures in a row one delivery at a time tries such a target.

One study that always fails opens nothing: only failures of several studies say that the target is at fault.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace

from fiona_dagster.ledger.store import Store, is_to_come, utc_after, utc_now

FAILURES = 3
"""Failures in a row, of at least two studies, that open a circuit."""
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0

_PREFIX = "circuit:"


@dataclass(frozen=True)
class Circuit:
    """What is known of a target that failed.

    Attributes:
        target: its name.
        failures: in a row.
        studies: whose deliveries failed; two are enough to know.
        since: when the first of them failed.
        probe_at: when the next delivery may try it.
        probe: the work that may (empty: none was chosen yet).
        distrusted: it shows another host key or certificate than it should.
    """

    target: str
    failures: int = 0
    studies: tuple[str, ...] = ()
    since: str = ""
    probe_at: str = ""
    probe: str = ""
    distrusted: bool = False

    @property
    def open(self) -> bool:
        """Whether the target is left alone but for one delivery at a time."""
        return self.distrusted or (self.failures >= FAILURES and len(self.studies) > 1)


class Circuits:
    """Remembered failures of targets."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, target: str) -> Circuit:
        """What is known of one target."""
        text = self._store.fact(f"{_PREFIX}{target}")
        if not text:
            return Circuit(target)
        known = json.loads(text)
        return Circuit(**{**known, "studies": tuple(known["studies"])})

    def opened(self) -> list[Circuit]:
        """Targets that are left alone."""
        names = self._store.rows("SELECT name FROM facts WHERE name LIKE 'circuit:%' ORDER BY name")
        found = [self.of(str(row["name"]).removeprefix(_PREFIX)) for row in names]
        return [circuit for circuit in found if circuit.open]

    def failed(self, target: str, study: str) -> Circuit:
        """A target did not answer a delivery; it is tried again later and later, with jitter."""
        with self._store.writing():
            known = self.of(target)
            failures = known.failures + 1
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(max(failures - FAILURES, 0), 8))
            pause *= random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            circuit = replace(
                known,
                failures=failures,
                studies=tuple(sorted({*known.studies, study})[:2]),
                since=known.since or utc_now(),
                probe_at=utc_after(pause),
                probe="",
            )
            self._write(circuit)
            return circuit

    def distrusted(self, target: str, study: str) -> bool:
        """A target is not who it should be: left alone at once, by all studies.

        Returns:
            Whether that was known before.
        """
        with self._store.writing():
            known = self.of(target).distrusted
            self._write(replace(self.failed(target, study), distrusted=True))
        return known

    def trust_again(self) -> None:
        """What a target should show was corrected, maybe: all that waits may try it at once."""
        for circuit in self.opened():
            if circuit.distrusted:
                self.succeeded(circuit.target)

    def succeeded(self, target: str) -> None:
        """A delivery got through: everything that waits for this target is due at once.

        Where it was not who it should be, also the deliveries that failed and told of that: it is again.
        """
        known = self.of(target)
        if not known.failures:
            return
        with self._store.writing() as db:
            if known.distrusted:
                db.execute(
                    "UPDATE work SET blocked = 0, requested = NULL "
                    "WHERE kind = 'deliver' AND target = ? AND blocked = 1",
                    (target,),
                )
            db.execute("DELETE FROM facts WHERE name = ?", (f"{_PREFIX}{target}",))
            db.execute(
                "UPDATE work SET not_before = '' WHERE kind = 'deliver' AND target = ? AND blocked = 0",
                (target,),
            )

    def forget_idle(self) -> None:
        """Forgets targets that no delivery waits for any more: taken out, or everything was withdrawn."""
        waited = {
            f"{_PREFIX}{row['target']}"
            for row in self._store.rows("SELECT DISTINCT target FROM work WHERE kind = 'deliver'")
        }
        for row in self._store.rows("SELECT name FROM facts WHERE name LIKE 'circuit:%'"):
            if row["name"] not in waited:
                with self._store.writing() as db:
                    db.execute("DELETE FROM facts WHERE name = ?", (row["name"],))

    def may_probe(self, circuit: Circuit) -> bool:
        """Whether it is time for one delivery to try."""
        return not is_to_come(circuit.probe_at, LONGEST_PAUSE_SECONDS * 1.2)

    def probing(self, target: str, work: str) -> None:
        """This work tries; if nothing is heard of it, another one does later."""
        with self._store.writing():
            self._write(replace(self.of(target), probe=work, probe_at=utc_after(LONGEST_PAUSE_SECONDS)))

    def _write(self, circuit: Circuit) -> None:
        self._store.remember(f"{_PREFIX}{circuit.target}", json.dumps(asdict(circuit)))
