from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot, Settings
from fiona_dagster.errors import Busy, StorageFull
from fiona_dagster.landing import Landing, read_journals
from fiona_dagster.landing.imports import Importer
from fiona_dagster.landing.inbox import TAKEN, Inbox, Stopped, count_waiting, hold_inbox
from fiona_dagster.operations.inbox import empty
from tests.landing.test_archives import dicom, zipped
from tests.landing.test_imports import run_import
from tests.landing.test_media import directory
from tests.making import STUDY, data_set, part10, write_object


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(root: DataRoot, clock: Clock) -> Iterator[Inbox]:
    with Landing(root) as landing:
        yield Inbox(root, landing, settle_seconds=10, clock=clock)


def left(root: DataRoot) -> set[str]:
    """Files in the inbox."""
    return {str(p.relative_to(root.inbox)) for p in root.inbox.rglob("*") if not p.is_dir()}


def stored(root: DataRoot) -> list[str]:
    return sorted(r.SOPInstanceUID for _, _, r in read_journals(root, {}) if r.kind == "stored")


def test_a_file_is_taken_when_it_has_settled(root: DataRoot, inbox: Inbox, clock: Clock) -> None:
    path = write_object(root.inbox, "1.2.1")
    content = path.read_bytes()
    assert (inbox.look().waiting, left(root)) == (1, {"1.2.1.dcm"})
    clock.now = 9
    assert inbox.look().taken == 0
    clock.now = 10
    result = inbox.look()
    assert (result.taken, result.waiting, result.report.stored) == (1, 0, 1)
    assert left(root) == set()
    assert (root.archive / f"scp_{STUDY}" / "CT.1.2.1").read_bytes() == content
    ((_, _, receipt),) = read_journals(root, {})
    assert (receipt.calling_ae, receipt.called_ae, receipt.caller_ip) == ("INBOX", "FIONA", "local")


def test_a_growing_file_waits(root: DataRoot, inbox: Inbox, clock: Clock) -> None:
    content = dicom("1.2.1")
    path = root.inbox / "x"
    for end in range(100, len(content), 100):
        path.write_bytes(content[:end])
        assert inbox.look().taken == 0
        clock.now += 9
    path.write_bytes(content)
    inbox.look()
    clock.now += 10
    assert inbox.look().report.stored == 1
    assert not list(root.quarantine.iterdir())


def test_a_file_that_somebody_writes_to_waits_however_old_it_is(
    root: DataRoot, inbox: Inbox, clock: Clock
) -> None:
    path = write_object(root.inbox, "1.2.1")
    with path.open("ab"):
        inbox.look()
        clock.now = 100
        assert inbox.look().taken == 0
    clock.now = 200
    assert inbox.look().taken == 1


def test_a_file_that_changes_while_it_is_copied_is_not_filed(
    root: DataRoot, inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root.inbox / "x"
    path.write_bytes(dicom("1.2.1")[:-40])
    inbox.look()
    copy = Importer.take_open.__globals__["copy_open"]

    def copy_and_grow(*arguments: object) -> None:
        copy(*arguments)
        path.write_bytes(dicom("1.2.1"))

    monkeypatch.setitem(Importer.take_open.__globals__, "copy_open", copy_and_grow)
    clock.now = 10
    assert inbox.look().taken == 0
    assert stored(root) == []
    monkeypatch.undo()
    clock.now = 30
    inbox.look()
    clock.now = 40
    assert inbox.look().report.stored == 1
    assert (root.archive / f"scp_{STUDY}" / "CT.1.2.1").read_bytes() == dicom("1.2.1")


def test_a_file_that_takes_the_place_of_an_imported_one_survives(
    root: DataRoot, inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_object(root.inbox, "1.2.1").rename(root.inbox / "x")
    inbox.look()
    rename = os.rename

    def replace_first(name: str, *arguments: Any, **keywords: Any) -> None:
        other = root.path / "other"
        other.write_bytes(dicom("1.2.2"))
        rename(other, root.inbox / "x")
        rename(name, *arguments, **keywords)

    monkeypatch.setattr(os, "rename", replace_first)
    clock.now = 10
    inbox.look()
    monkeypatch.undo()
    assert len(left(root)) == 1
    clock.now = 20
    inbox.look()
    clock.now = 30
    inbox.look()
    assert stored(root) == ["1.2.1", "1.2.2"]
    assert left(root) == set()


def test_what_is_not_dicom_goes_to_quarantine_and_leaves(root: DataRoot, inbox: Inbox, clock: Clock) -> None:
    (root.inbox / "DOE^JOHN.txt").write_text("a letter")
    (root.inbox / "empty").touch()
    inbox.look()
    clock.now = 10
    assert inbox.look().report.quarantined == 2
    assert left(root) == set()
    kept = {path.with_suffix(".dcm").read_text(): path.read_text() for path in root.quarantine.glob("*.json")}
    assert set(kept) == {"a letter", ""}
    assert all(json.loads(text)["source"] == "inbox" and "DOE" not in text for text in kept.values())


def test_hidden_and_unfinished_files_are_left_alone(root: DataRoot, inbox: Inbox, clock: Clock) -> None:
    names = (".rsync.x7", "a.part", "b.TMP", "c.filepart", "d~")
    for name in names:
        write_object(root.inbox, "1.2.1").rename(root.inbox / name)
    (root.inbox / ".hidden").mkdir()
    write_object(root.inbox / ".hidden", "1.2.2")
    inbox.look()
    clock.now = 100
    result = inbox.look()
    assert (result.taken, result.waiting, result.left_alone) == (0, 0, 5)
    (root.inbox / "a.part").rename(root.inbox / "a")
    inbox.look()
    clock.now = 200
    assert inbox.look().taken == 1
    assert count_waiting(root) == {"waiting": 0, "left_alone": 4, "unreadable": 0}


def test_links_are_never_followed(root: DataRoot, inbox: Inbox, clock: Clock, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = write_object(outside, "1.2.1")
    (root.inbox / "file").symlink_to(target)
    (root.inbox / "folder").symlink_to(outside)
    os.mkfifo(root.inbox / "pipe")
    inbox.look()
    clock.now = 100
    result = inbox.look()
    assert (result.taken, result.waiting) == (0, 0)
    assert result.left_alone == 2
    assert target.exists()
    assert stored(root) == []


def test_folders_are_emptied_and_old_empty_ones_removed(root: DataRoot, inbox: Inbox, clock: Clock) -> None:
    deep = root.inbox / "case" / "series"
    deep.mkdir(parents=True)
    for number in range(3):
        write_object(deep, f"1.2.{number}")
    inbox.look()
    clock.now = 10
    assert inbox.look().report.stored == 3
    assert deep.is_dir()
    for _ in range(2):
        for folder in (deep, deep.parent):
            if folder.exists():
                os.utime(folder, (1, 1))
        inbox.look()
    assert list(root.inbox.iterdir()) == [root.inbox / TAKEN]


def test_an_archive_leaves_when_everything_in_it_is_kept(root: DataRoot, inbox: Inbox, clock: Clock) -> None:
    (root.inbox / "a.zip").write_bytes(zipped(("a", dicom("1.2.1")), ("readme", b"x")))
    torn = bytearray(zipped(("b", dicom("1.2.2")), ("c", dicom("1.2.3")), method=zipfile.ZIP_STORED))
    torn[torn.index(b"Planted")] = 0x58
    (root.inbox / "b.zip").write_bytes(torn)
    inbox.look()
    clock.now = 10
    result = inbox.look()
    assert (result.taken, result.report.stored, left(root)) == (2, 2, set())
    assert bytes(torn) in {path.read_bytes() for path in root.quarantine.glob("*.dcm")}
    codes = sorted(json.loads(path.read_text())["code"] for path in root.quarantine.glob("*.json"))
    assert codes == ["archive_entry_damaged", "archive_in_part", "unreadable"]


@pytest.mark.parametrize("complete", [True, False])
def test_a_media_directory_is_looked_at_last(
    root: DataRoot, inbox: Inbox, clock: Clock, complete: bool
) -> None:
    (root.inbox / "IMAGES").mkdir()
    write_object(root.inbox / "IMAGES", "1.2.0")
    listed = ("1.2.0",) if complete else ("1.2.0", "1.2.1")
    (root.inbox / "DICOMDIR").write_bytes(directory(*listed))
    for now in (0, 10, 20, 30):
        clock.now = now
        result = inbox.look()
        if now == 10:
            assert (result.taken, left(root)) == (1, {"DICOMDIR"})
    assert left(root) == set()
    assert [json.loads(p.read_text())["code"] for p in root.quarantine.glob("*.json")] == (
        [] if complete else ["media_incomplete"]
    )


def test_a_full_disk_leaves_everything_where_it_is(
    root: DataRoot, inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_object(root.inbox, "1.2.1")
    inbox.look()
    clock.now = 10

    def full(_: object) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(Landing, "check_room", full)
    result = inbox.look()
    assert (result.taken, result.waiting, result.held_up) == (0, 1, True)
    monkeypatch.undo()
    assert inbox.look().taken == 0  # not in a loop
    clock.now = 80
    assert inbox.look().report.stored == 1


def test_a_stop_between_two_files_loses_nothing(root: DataRoot, clock: Clock) -> None:
    for number in range(5):
        write_object(root.inbox, f"1.2.{number}")
    with Landing(root) as landing:
        stops = iter([False] * 6 + [True] * 100)
        inbox = Inbox(root, landing, settle_seconds=0, clock=clock, stop=lambda: next(stops))
        with pytest.raises(Stopped):
            inbox.look()
    done = stored(root)
    assert 0 < len(done) < 5
    assert len(left(root)) in (5 - len(done), 6 - len(done))


def test_only_one_empties_the_inbox(root: DataRoot) -> None:
    with hold_inbox(root), pytest.raises(Busy), hold_inbox(root):
        pass


def test_by_hand(root: DataRoot) -> None:
    root.config_file.write_text('{"imports": {"settle_seconds": 0.2}}')
    write_object(root.inbox, "1.2.1")
    (root.inbox / "y.part").touch()
    done = run_import(root, "--inbox", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["stored"], report["taken"], report["left_alone"]) == (1, 1, 1)
    with hold_inbox(root):
        done = run_import(root, "--inbox")
    assert done.returncode == 1
    assert "already" in done.stderr
    assert run_import(root).returncode == 2
    assert run_import(root, "--inbox", "x").returncode == 2


_AS_NOBODY = """
import os, sys
from pathlib import Path
from fiona_dagster.config import DataRoot
from fiona_dagster.landing import Landing
from fiona_dagster.landing.inbox import Inbox
from fiona_dagster.dicom.uids import is_storage_class
is_storage_class("1.2")  # reads its table while the interpreter's files may still be read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
root = DataRoot(Path(sys.argv[1]))
with Landing(root) as landing:
    inbox = Inbox(root, landing, settle_seconds=0)
    for _ in range(2):
        result = inbox.look()
        print(result.taken, result.unreadable, result.not_removable, result.report.repeats)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make files of another owner")
def test_files_that_may_not_be_read_or_removed_stay_and_are_tried_once(tmp_path: Path) -> None:
    root = DataRoot(tmp_path / "data")
    root.make()
    secret = write_object(root.inbox, "1.2.1")
    kept = root.inbox / "kept"
    kept.mkdir()
    write_object(kept, "1.2.2")
    closed = root.inbox / "closed"
    closed.mkdir()
    for path in (root.path, *root.path.rglob("*")):
        os.chown(path, 65534, 65534)
    for path, mode in ((secret, 0o600), (closed, 0o700), (kept, 0o755)):
        os.chown(path, 0, 0)
        path.chmod(mode)
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-c", _AS_NOBODY, str(root.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines() == ["0 2 1 0", "0 2 1 0"], done.stderr
    assert stored(root) == ["1.2.2"]
    assert left(root) == {"1.2.1.dcm", "kept/1.2.2.dcm"}


def _service(root: DataRoot) -> subprocess.Popen[str]:
    environment = {**os.environ, "FIONA_DATA": str(root.path)}
    command = [sys.executable, "-m", "fiona_dagster.operations.inbox"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _settings(root: DataRoot) -> None:
    quick = {"imports": {"settle_seconds": 0, "poll_seconds": 0.05}, "receiver": {"reserve_mb": 0}}
    root.config_file.write_text(json.dumps(quick))


def test_the_service_ends_in_order_and_logs_counts_only(root: DataRoot) -> None:
    _settings(root)
    service = _service(root)
    try:
        write_object(root.inbox, "1.2.1").rename(root.inbox / "DOE^JOHN.dcm")
        deadline = time.monotonic() + 170
        while left(root) and time.monotonic() < deadline:
            time.sleep(0.05)
        service.send_signal(signal.SIGTERM)
        _, text = service.communicate(timeout=170)
    finally:
        service.kill()
    assert service.returncode == 0
    assert "watching the inbox" in text
    assert "1 files taken: 1 stored" in text
    assert "DOE" not in text


def test_killed_at_any_moment_nothing_is_lost(root: DataRoot) -> None:
    """Whatever is not in the inbox any more is in the archive with its journal line, byte for byte."""
    _settings(root)
    chance = random.Random(3)
    contents: dict[str, bytes] = {}
    for number in range(400):
        uid = f"1.2.{number}"
        contents[uid] = part10(data_set(uid, pixels=bytes([number % 256]) * 2000), uid)
    for number in range(20):
        uids = list(contents)[number * 20 : number * 20 + 20]
        if number % 2:
            (root.inbox / f"{number}.zip").write_bytes(zipped(*((uid, contents[uid]) for uid in uids)))
        else:
            (root.inbox / f"f{number}").mkdir()
            for uid in uids:
                (root.inbox / f"f{number}" / uid).write_bytes(contents[uid])
    for after in sorted(chance.sample(range(len(contents)), 8)):
        service = _service(root)
        try:
            while service.poll() is None and _archived(root) < after:
                time.sleep(chance.uniform(0.0, 0.002))
        finally:
            service.kill()
            service.communicate()
        _nothing_is_lost(root, contents)
    done = empty(root, Settings.model_validate_json(root.config_file.read_text()))
    assert (done.waiting, left(root)) == (0, set())
    _nothing_is_lost(root, contents)
    # Killed between the name and the journal line, the next attempt finds a repeat.
    assert {r.SOPInstanceUID for _, _, r in read_journals(root, {})} == set(contents)
    assert not list(root.quarantine.iterdir())


def _archived(root: DataRoot) -> int:
    folder = root.archive / f"scp_{STUDY}"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _nothing_is_lost(root: DataRoot, contents: dict[str, bytes]) -> None:
    there = {p.read_bytes() for p in root.inbox.rglob("*") if p.is_file() and p.suffix != ".zip"}
    for path in root.inbox.rglob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            there |= {archive.read(name) for name in archive.namelist()}
    for path in (root.inbox / TAKEN).iterdir():
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                there |= {archive.read(name) for name in archive.namelist()}
    filed = {r.SOPInstanceUID: root.path / r.path for _, _, r in read_journals(root, {})}
    for uid, content in contents.items():
        assert content in there or filed[uid].read_bytes() == content
