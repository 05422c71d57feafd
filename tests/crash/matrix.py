"""SIGKILL at every named point between the connection and the answer.

The receiver is the real one, as a process; the tracer kills its whole tree at the point
(:mod:`tests.crash.points` says what each name means). A point that is not reached fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import import_paths
from tests.accounting import assert_all_accounted
from tests.crash.promises import Promised, age, broken_promises, broken_when_settled, data_set_of
from tests.crash.scripts import COMMAND, DATA, INSTANCE, PIECES, REQUEST
from tests.crash.traced import Traced
from tests.making import data_set, part10
from tests.receiver.conftest import Process
from tests.receiver.raw import Raw

FIRST = "1.2.3.3"
OTHER = data_set(INSTANCE, pixels=b"other" * 20_000)
FOREIGN = data_set("1.2.3.9", pixels=b"\x07\x08" * 30_000)


@dataclass
class Scenario:
    """What is there before, and what is sent until the receiver dies.

    Attributes:
        archived: a data set that is in the archive under the instance's UID, if any.
        first: another object goes before on the same association.
        data: what is sent; None for the scripted bytes.
    """

    archived: bytes = b""
    first: bool = False
    data: bytes = DATA
    promised: Promised = field(default_factory=Promised)

    def prepare(self, root: DataRoot) -> None:
        if self.archived:
            path = root.path.with_name("before.dcm")
            path.write_bytes(part10(self.archived, INSTANCE))
            assert import_paths(root, [path]).stored == 1
            self.promised.began(INSTANCE, self.archived)
            self.promised.acknowledge(INSTANCE, self.archived)

    def send(self, address: tuple[str, int]) -> None:
        """Sends with pauses, so that every piece is read by itself, until the receiver is gone."""
        try:
            with Raw(address) as raw:
                raw.send(REQUEST)
                raw.receive()
                if self.first:
                    data = data_set(FIRST)
                    self.promised.began(FIRST, data)
                    assert raw.store(FIRST, data).status == 0
                    self.promised.acknowledge(FIRST, data)
                self._send_object(raw)
                raw.release()
        except OSError:
            return  # it died, as it should

    def _send_object(self, raw: Raw) -> None:
        self.promised.began(INSTANCE, self.data)
        if self.data is DATA:
            for piece in (COMMAND, *PIECES):
                raw.send(piece)
                time.sleep(0.01)
            status = raw.receive().status
        else:
            status = raw.store(INSTANCE, self.data).status
        self.told(status)

    def told(self, status: int) -> None:
        if self.data is FOREIGN:
            assert status >> 8 == 0xA9
            self.promised.refused.append(self.data)
        else:
            assert status == 0
            self.promised.acknowledge(INSTANCE, self.data)


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "the first object of a study": Scenario,
    "a second object": lambda: Scenario(first=True),
    "a repeat": lambda: Scenario(archived=DATA),
    "a conflict": lambda: Scenario(archived=OTHER),
    "a refusal": lambda: Scenario(data=FOREIGN),
}


def settle(root: DataRoot, promised: Promised) -> list[str]:
    """What is still wrong when the restarted receiver has had its time."""
    deadline = time.monotonic() + 170
    while (faults := broken_when_settled(root, promised)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return faults


def check_death_at(root: DataRoot, scenario: str, point: str) -> None:
    """Sends until the receiver dies at the point (its full name), starts it again, and sends once more."""
    case = SCENARIOS[scenario]()
    case.prepare(root)
    traced = Traced(root, point=point)
    traced.start()
    case.send(traced.address)
    if not traced.died():
        pytest.fail(f"the receiver never came to the point {point!r}")
    assert not broken_promises(root, case.promised)
    age(root)
    again = Process(root)
    again.start()
    try:
        assert not settle(root, case.promised)
        assert_all_accounted(root)
        resend(again.address, case)
        assert not settle(root, case.promised)
        assert once(root, case)
    finally:
        assert again.terminate() == 0
    assert_all_accounted(root)


def resend(address: tuple[str, int], case: Scenario) -> None:
    """The sender kept its copy, and tries again."""
    with Raw(address) as raw:
        raw.associate()
        case.promised.began(INSTANCE, case.data)
        case.told(raw.store(INSTANCE, case.data).status)
        raw.release()


def once(root: DataRoot, case: Scenario) -> bool:
    """Whether the data set that was sent is there exactly once (a refused one at least once)."""
    if case.data is FOREIGN:
        return bool(list(root.quarantine.glob("*.dcm")))
    places: list[Path] = [*root.archive.glob("scp_*/*"), *root.conflicts.glob("*/*.dcm")]
    return [data_set_of(path.read_bytes()) for path in places].count(case.data) == 1
