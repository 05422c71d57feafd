"""A disk that fails: single calls by the tracer, whole file systems by small mounts (root only)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from tests.accounting import assert_all_accounted
from tests.crash.events import read_record
from tests.crash.matrix import FOREIGN, OTHER, SCENARIOS, once
from tests.crash.power import losses
from tests.crash.promises import Promised, broken_after_restart, broken_promises
from tests.crash.scripts import INSTANCE
from tests.crash.traced import Traced
from tests.disks import small_disk
from tests.making import CT, EXPLICIT, data_set
from tests.receiver.conftest import Process
from tests.receiver.raw import VERIFICATION, Raw
from tests.running import fiona

NEW, REPEAT, CONFLICT, REFUSAL = (
    "the first object of a study",
    "a repeat",
    "a conflict",
    "a refusal",
)
FAULTS = [
    (NEW, "before the new file is opened", "ENOSPC"),
    (NEW, "before the new file is opened", "EROFS"),
    (NEW, "before the new file is opened", "EMFILE"),
    (NEW, "before the first bytes are written", "ENOSPC"),
    (NEW, "before the first bytes are written", "EIO"),
    (NEW, "before the file's flush", "EIO"),
    (NEW, "before the file's flush", "EDQUOT"),
    (NEW, "before the flush of the new journal's name", "EIO"),
    (NEW, "before the study's folder is made", "ENOSPC"),
    (NEW, "before the name is announced", "ENOSPC"),
    (NEW, "before the rename", "ENOSPC"),
    (NEW, "before the rename", "EROFS"),
    (NEW, "before the folder's flush", "EIO"),
    (NEW, "before the journal line is written", "ENOSPC"),
    (NEW, "before the journal line is written", "EIO"),
    (NEW, "before the journal's flush", "EIO"),
    (REPEAT, "before the journal line is written", "ENOSPC"),
    (REPEAT, "before the journal's flush", "EIO"),
    (CONFLICT, "before the folder of conflicts is made", "ENOSPC"),
    (CONFLICT, "before the reason of the conflict is opened", "ENOSPC"),
    (CONFLICT, "before the conflict gets its name", "ENOSPC"),
    (CONFLICT, "before the journal line is written", "ENOSPC"),
    (CONFLICT, "before the journal's flush", "EIO"),
    (REFUSAL, "before the reason of the refusal is opened", "ENOSPC"),
    (REFUSAL, "before the refused bytes get their name", "ENOSPC"),
]  # fmt: skip


@pytest.fixture
def memory() -> Iterator[Path]:
    where = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=where if where.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize(("scenario", "point", "error"), FAULTS, ids=str)
def test_one_call_fails(
    root: DataRoot,
    memory: Path,
    caplog: pytest.LogCaptureFixture,
    scenario: str,
    point: str,
    error: str,
) -> None:
    """A7xx, the association goes on, the next try succeeds, and that Success survives a power loss."""
    caplog.set_level("ERROR", "fiona.landing")
    case = SCENARIOS[scenario]()
    case.prepare(root)
    record = root.path.with_name("record")
    traced = Traced(root, point=f"{scenario}: {point}", error=error, record=record)
    traced.start()
    start = memory / "start"
    shutil.copytree(root.path, start)
    other = data_set("1.2.3.77")
    case.promised.sent |= {INSTANCE: [case.data, case.data, case.data, OTHER], "1.2.3.77": [other]}
    with Raw(traced.address) as raw:
        raw.associate()
        assert raw.store(INSTANCE, case.data).status >> 8 == 0xA7
        assert not broken_promises(root, case.promised)
        assert raw.store("1.2.3.77", other).status == 0
        case.promised.acknowledge("1.2.3.77", other)
        for _ in range(2):
            case.told(raw.store(INSTANCE, case.data).status)
        raw.release()
    assert traced.terminate() == 0
    assert "tracer: " in traced.log.read_text(), "the call was never made"
    assert not broken_after_restart(root, case.promised)
    if case.data is not FOREIGN:
        assert once(root, case)
    assert_all_accounted(root)
    assert not losses(start, read_record(record), case.promised.sent, memory)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[DataRoot]:
    """A data root on a file system of its own: 8 MiB and 300 inodes, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, "size=8m,nr_inodes=300"):
        root = DataRoot(folder / "data")
        root.make()
        yield root


@pytest.fixture
def receiver(mounted: DataRoot) -> Iterator[Process]:
    process = Process(mounted)
    yield process
    if process.process is not None:
        assert process.terminate() == 0


def associate(process: Process) -> Raw:
    raw = Raw(process.address)
    raw.associate([(1, CT, [EXPLICIT]), (3, VERIFICATION, [EXPLICIT])])
    return raw


def fill(raw: Raw, promised: Promised, size: int, *, pause: float = 0.0) -> str:
    """Sends until there is no room; the instance that was refused."""
    for number in range(100):
        time.sleep(pause)
        uid = f"1.2.3.{number}"
        data = data_set(uid, pixels=f"{number:4}".encode() * (size // 4))
        promised.began(uid, data)
        status = raw.store(uid, data).status
        if status:
            assert status >> 8 == 0xA7
            return uid
        promised.acknowledge(uid, data)
    raise AssertionError("there was always room")


def sound(root: DataRoot, promised: Promised) -> None:
    assert not broken_promises(root, promised)
    # An open association has an empty file ready for the next object.
    assert not [path for path in (root.archive / ".incoming").glob("*/*") if path.stat().st_size]


def goes_on(root: DataRoot, raw: Raw, promised: Promised, uid: str) -> None:
    """The same association takes the object once there is room."""
    data = promised.sent[uid][0]
    assert raw.store(uid, data).status == 0
    promised.acknowledge(uid, data)
    raw.release()
    raw.sock.close()
    deadline = time.monotonic() + 170  # the association's end takes its moment
    while (faults := broken_after_restart(root, promised)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not faults
    assert_all_accounted(root)


def test_a_full_disk(mounted: DataRoot, receiver: Process) -> None:
    filler = mounted.path.parent / "filler"
    filler.write_bytes(bytes(3 * 2**20))
    receiver.start()
    promised = Promised()
    raw = associate(receiver)
    uid = fill(raw, promised, 400_000)
    assert raw.echo(3).status == 0
    sound(mounted, promised)
    told = fiona("status", data=mounted.path)
    assert told.returncode == 1
    assert "its disk is full; make room" in told.stderr
    for _ in range(3):
        assert raw.store(uid, promised.sent[uid][0]).status >> 8 == 0xA7
    wrong = data_set("1.2.3.200", pixels=bytes(1_000_000))
    assert raw.store("1.2.3.201", wrong).status >> 8 == 0xA7  # it could not even go to quarantine
    sound(mounted, promised)
    assert promised.success
    filler.unlink()
    goes_on(mounted, raw, promised, uid)


def test_a_reserve_stays_free(mounted: DataRoot, receiver: Process) -> None:
    receiver.start(reserve_mb=3)
    promised = Promised()
    raw = associate(receiver)
    uid = fill(raw, promised, 600_000, pause=0.15)  # the receiver looks at the free space ten times a second
    state = os.statvfs(mounted.path)
    assert 2 * 2**20 < state.f_bavail * state.f_frsize < 4 * 2**20
    sound(mounted, promised)
    subprocess.run(["mount", "-o", "remount,size=16m", str(mounted.path.parent)], check=True)
    goes_on(mounted, raw, promised, uid)


def test_a_disk_without_inodes(mounted: DataRoot, receiver: Process) -> None:
    receiver.start()
    fillers = mounted.path.parent / "fillers"
    fillers.mkdir()
    promised = Promised()
    raw = associate(receiver)
    state = os.statvfs(mounted.path)
    for number in range(state.f_favail - 20):
        (fillers / str(number)).touch()
    uid = fill(raw, promised, 100)
    sound(mounted, promised)
    assert promised.success
    shutil.rmtree(fillers)
    goes_on(mounted, raw, promised, uid)


def test_a_disk_that_can_only_be_read(mounted: DataRoot, receiver: Process, tmp_path: Path) -> None:
    mounted.logs.rmdir()
    mounted.logs.symlink_to(tmp_path)  # the log of the receiver's start is open for writing
    receiver.start()
    remount = ["mount", "-o", "remount,{}", str(mounted.path.parent)]
    promised = Promised()
    raw = associate(receiver)
    for _ in range(100):  # busy as long as somebody writes: the receiver was started just now
        done = subprocess.run([word.format("ro") for word in remount], check=False, capture_output=True)
        if done.returncode == 0:
            break
        time.sleep(0.1)
    assert done.returncode == 0, done.stderr
    try:
        uid = fill(raw, promised, 1000)
        assert not promised.success
        assert raw.echo(3).status == 0
        sound(mounted, promised)
        told = fiona("status", data=mounted.path)
        assert told.returncode == 1
        assert "ead-only" in told.stderr
        assert "; mount it writable" in told.stderr
    finally:
        subprocess.run([word.format("rw") for word in remount], check=True)
    goes_on(mounted, raw, promised, uid)
