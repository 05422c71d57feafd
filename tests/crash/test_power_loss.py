"""Power loss: after every system call of a reception, what was not flushed is dropped.

Killing proves nothing about flushing, since the kernel keeps what a dead process wrote. So a reception is
recorded, and a model of a disk says what may be left after every single call (:mod:`tests.crash.disk`).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from tests.crash.events import Event, read_record
from tests.crash.points import CONFLICT_FOLDER, JOURNAL, QUARANTINE_REASON, STUDY_FOLDER, WORKSHOP
from tests.crash.power import flushes, losses
from tests.crash.traced import Traced, need_tracing
from tests.making import data_set
from tests.receiver.raw import Raw

SEED = int(os.environ.get("FIONA_TEST_SEED", "20261123"))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Adoption says what it does, thousands of times here."""
    caplog.set_level("ERROR", "fiona.landing")


@dataclass
class Reception:
    """A recorded reception."""

    start: Path
    events: list[Event] = field(repr=False)
    sent: dict[str, list[bytes]] = field(default_factory=dict, repr=False)


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder on a file system in memory where there is one: thousands of small trees are made in it."""
    where = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=where if where.is_dir() else None) as folder:
        yield Path(folder)


def send(address: tuple[str, int], number: int, sent: dict[str, list[bytes]]) -> None:
    """Everything that can happen to an object, on one association."""
    with Raw(address) as raw:
        raw.associate(calling=f"SENDER{number}")
        for step in range(3):
            uid = f"1.2.{number}.{step}"
            data = data_set(uid, study=f"1.9.{step % 2}", pixels=uid.encode() * 300)
            sent[uid] = [data]
            assert raw.store(uid, data).status == 0
        again = f"1.2.{number}.0"
        other = data_set(again, study="1.9.0", pixels=b"other" * 100)
        sent[again] += [sent[again][0], other, other]
        for data in sent[again][1:]:
            assert raw.store(again, data).status == 0
        bad = f"1.2.{number}.99"
        sent[bad] = [data_set("1.2.4.5.6", study="1.9.0")]
        assert raw.store(bad, sent[bad][0]).status >> 8 == 0xA9
        raw.release()


def record(folder: Path, associations: int, **settings: object) -> Reception:
    """The very first reception of a data root that nobody has made yet."""
    need_tracing()
    root = DataRoot(folder / "data")
    root.config.mkdir(parents=True)
    root.logs.mkdir()
    (folder / "start").mkdir()
    traced = Traced(root, record=folder / "record", from_start=True)
    traced.start(**settings)
    shutil.copytree(root.config, folder / "start" / "config")
    (folder / "start" / "logs").mkdir()
    (folder / "start" / "logs" / "receiver.log").touch()
    sent: dict[str, list[bytes]] = {}
    senders = [
        threading.Thread(target=send, args=(traced.address, n, sent), daemon=True)
        for n in range(associations)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    assert traced.terminate() == 0, traced.log.read_text()
    assert len(sent) == 4 * associations
    return Reception(folder / "start", read_record(folder / "record"), sent)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Reception:
    return record(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Reception:
    return record(tmp_path_factory.mktemp("four"), 4)


def test_nothing_is_lost_with_one_association(one: Reception, memory: Path) -> None:
    faults = losses(one.start, one.events, one.sent, memory, seed=SEED)
    assert not faults, "\n".join(faults[:5])


def test_with_a_log_not_even_the_line_of_an_unanswered_object_is_too_much(
    one: Reception, memory: Path
) -> None:
    faults = losses(one.start, one.events, one.sent, memory, seed=SEED, log=True)
    assert not faults, "\n".join(faults[:5])


def test_nothing_is_lost_with_four_associations(four: Reception, memory: Path) -> None:
    faults = losses(four.start, four.events, four.sent, memory, seed=SEED)
    assert not faults, "\n".join(faults[:5])


def test_durability_rename_promises_less(tmp_path: Path, memory: Path) -> None:
    """The weaker setting survives a kill, not a power loss."""
    weak = record(tmp_path, 1, durability="rename")
    assert losses(weak.start, weak.events, weak.sent, memory, only_first=True)


CLASSES = {
    "data": WORKSHOP,
    "name in the study's folder": STUDY_FOLDER,
    "journal line": JOURNAL,
    "new study folder": r"site/archive",
    "new journal": r"site/\.arrived",
    "name of a conflict": CONFLICT_FOLDER,
    "new folder of conflicts": r"site/conflicts",
    "name in quarantine": r"quarantine",
    "reason of a refusal": QUARANTINE_REASON,
    "the site's folders": r"site",
    "the data root's folders": r"\.",
}


@pytest.mark.parametrize("missing", CLASSES)
def test_a_record_without_one_of_the_flushes_fails(one: Reception, memory: Path, missing: str) -> None:
    pattern = re.compile(CLASSES[missing])
    assert [event for event in flushes(one.events) if pattern.fullmatch(event.path)]

    def without(event: Event) -> bool:
        return bool(pattern.fullmatch(event.path))

    assert losses(one.start, one.events, one.sent, memory, without=without, only_first=True)


MUTANTS = {
    "folders are never flushed": "if not stat.S_ISDIR(os.fstat(fd).st_mode): fsync(fd)",
    "files are never flushed": "if stat.S_ISDIR(os.fstat(fd).st_mode): fsync(fd)",
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_program_without_flushes_fails(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, stat\nfsync = os.fsync\ndef less(fd):\n    {MUTANTS[mutant]}\nos.fsync = less\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    mutated = record(tmp_path, 1)
    assert losses(mutated.start, mutated.events, mutated.sent, memory, only_first=True)
