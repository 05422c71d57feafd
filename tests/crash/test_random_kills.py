"""SIGKILL at random moments under load: the main process, or one of its workers while the others go on.

30 kills, 200 with FIONA_TEST_FULL. The seed stands in every failure; FIONA_TEST_SEED sets it.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from tests.accounting import assert_all_accounted
from tests.crash.promises import Promised, age, broken_promises, broken_when_settled, data_set_of
from tests.making import data_set
from tests.receiver.conftest import Process, process
from tests.receiver.raw import Raw

__all__ = ["process"]

SEED = int(os.environ.get("FIONA_TEST_SEED", "20261123"))
ROUNDS, KILLS = (8, 25) if os.environ.get("FIONA_TEST_FULL") else (2, 15)
SENDERS = 4
REFUSED = 0xA9


@dataclass
class Load:
    """What all senders of a round know together."""

    promised: Promised = field(default_factory=Promised)
    unknown: dict[str, bytes] = field(default_factory=dict)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def begins(self, uid: str, data: bytes) -> None:
        with self.mutex:
            self.promised.began(uid, data)

    def ends(self, uid: str, data: bytes, status: int) -> None:
        with self.mutex:
            if status == 0:
                self.promised.acknowledge(uid, data)
            elif status >> 8 == REFUSED:
                self.promised.refused.append(data)
            else:
                raise AssertionError(f"status {status:04X}")


class Sender(threading.Thread):
    """New objects, repeats, conflicts and refusals without pause; connects again when it is cut off."""

    def __init__(self, address: tuple[str, int], load: Load, name: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._address, self._load, self._title, self._chance = address, load, name, chance
        self._sent: list[tuple[str, bytes]] = []
        self._count = 0
        self.over = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self._associate()
            except OSError:
                time.sleep(0.01)  # killed, as planned
            except BaseException as failure:  # noqa: BLE001 - shown by the test
                self.failure = failure
                return

    def _associate(self) -> None:
        with Raw(self._address) as raw:
            raw.associate(calling=self._title)
            for _ in range(self._chance.randint(1, 30)):
                if self.over.is_set():
                    break
                self._store(raw)
            raw.release()

    def _store(self, raw: Raw) -> None:
        kind = self._chance.random()
        self._count += 1
        uid = f"1.2.{self._title}.{self._count}"
        size = self._chance.choice([50, 500, 20_000])
        study = f"1.9.{self._chance.randint(0, 3)}"
        data = data_set(uid, study=study, pixels=f"{uid} ".encode() * (size // 10))
        if kind > 0.95:
            data = data_set(f"{uid}.7", study=study)
        elif kind > 0.8 and self._sent:
            uid, data = self._chance.choice(self._sent)
            if kind > 0.9:
                data += b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0ab"  # Data Set Trailing Padding: another data set
        self._load.begins(uid, data)
        try:
            status = raw.store(uid, data).status
        except OSError:
            with self._load.mutex:
                self._load.unknown[uid] = data
            raise
        self._load.ends(uid, data, status)
        if status == 0 and kind <= 0.8:
            self._sent.append((uid, data))


def kill(process: Process, chance: random.Random) -> bool:
    """Kills the main process or a worker; whether it was the main one."""
    workers = process.workers
    if len(workers) > 1 and chance.random() < 0.4:
        os.kill(chance.choice(workers), signal.SIGKILL)
        return False
    process.kill()
    return True


def settle(root: DataRoot, promised: Promised) -> list[str]:
    deadline = time.monotonic() + 170
    while (faults := broken_when_settled(root, promised)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return faults


@pytest.mark.parametrize("number", range(ROUNDS))
def test_nothing_is_lost(root: DataRoot, process: Process, number: int) -> None:
    seed = SEED + number
    chance = random.Random(seed)
    load = Load()
    kills = 0
    durability = ("full", "rename")[number % 2]  # the page cache outlives a process: both hold against kills
    while kills < KILLS:
        process.start(durability=durability)
        senders = [
            Sender(process.address, load, f"{kills}.{n}", random.Random(f"{seed} {kills} {n}"))
            for n in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        killed = False
        while not killed:
            time.sleep(chance.uniform(0.05, 0.4))
            killed = kill(process, chance)
            kills += 1
        for sender in senders:
            sender.over.set()
            sender.join(30)
            assert sender.failure is None, f"seed {seed}: {sender.failure!r}"
        faults = broken_promises(root, load.promised)
        assert not faults, f"seed {seed}, after kill {kills}: {faults[:5]}"
    assert sum(map(len, load.promised.success.values())) > KILLS
    finish(root, process, load, seed)


def finish(root: DataRoot, process: Process, load: Load, seed: int) -> None:
    """Starts once more, sends again what nobody knows about, and looks at everything."""
    age(root)
    process.start()
    faults = settle(root, load.promised)
    assert not faults, f"seed {seed}: {faults[:5]}"
    with Raw(process.address) as raw:
        raw.associate(calling="AGAIN")
        for uid, data in load.unknown.items():
            load.ends(uid, data, raw.store(uid, data).status)
        raw.release()
    faults = settle(root, load.promised)
    assert process.terminate() == 0
    assert not faults, f"seed {seed}: {faults[:5]}"
    places: list[Path] = [*root.archive.glob("scp_*/*"), *root.conflicts.glob("*/*.dcm")]
    contents = [data_set_of(path.read_bytes()) for path in places]
    assert len(contents) == len(set(contents)), f"seed {seed}: something is there twice"
    assert_all_accounted(root)
