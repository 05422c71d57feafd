from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy, UsageError
from fiona_dagster.landing import (
    Caller,
    JournalDamage,
    Position,
    Receipt,
    open_associations,
    read_journals,
    study_lock,
)
from fiona_dagster.landing.journal import Journal, journal_name, study_of
from fiona_dagster.landing.receipt import KINDS, decode_line, encode_line
from tests.making import CT, EXPLICIT, SERIES, STUDY

CALLER = Caller("SCANNER", "FIONA", "10.0.0.1")
RECEIPT = Receipt(
    time="2026-11-23T23:40:00.123456Z",
    kind="stored",
    StudyInstanceUID=STUDY,
    SeriesInstanceUID=SERIES,
    SOPInstanceUID="1.2.3",
    SOPClassUID=CT,
    transfer_syntax=EXPLICIT,
    path=f"site/archive/scp_{STUDY}/CT.1.2.3",
    size=1234,
    calling_ae="SCANNER",
    called_ae="FIONA",
    caller_ip="10.0.0.1",
)

texts = st.text(max_size=20)
uid_texts = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}", fullmatch=True)
receipts = st.builds(
    Receipt,
    time=texts,
    kind=st.sampled_from(sorted(KINDS)),
    StudyInstanceUID=uid_texts,
    SeriesInstanceUID=uid_texts,
    SOPInstanceUID=uid_texts,
    SOPClassUID=uid_texts,
    transfer_syntax=texts,
    path=texts,
    size=st.integers(0, 2**53),
    calling_ae=texts,
    called_ae=texts,
    caller_ip=texts,
)


@given(receipts)
def test_a_line_says_again_what_it_was_told(receipt: Receipt) -> None:
    line = encode_line(receipt)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line[:-1]) == receipt


@given(st.data())
def test_a_changed_line_is_never_believed(data: st.DataObject) -> None:
    line = bytearray(encode_line(RECEIPT)[:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    assert decode_line(bytes(line)) is None


@given(st.binary(max_size=100))
def test_garbage_is_never_believed(raw: bytes) -> None:
    assert decode_line(raw) is None


@given(st.text(max_size=16), st.text(max_size=16), uid_texts)
def test_names_are_safe_and_lead_back_to_the_study(calling: str, called: str, study: str) -> None:
    name = journal_name(Caller(calling, called, "fe80::1%eth0"), study)
    assert study_of(name) == study
    assert name.count(" ") == 3
    assert "/" not in name
    assert name.isascii()
    assert name.isprintable()
    assert not name.startswith(".")


def test_a_plain_name_is_the_originals() -> None:
    assert journal_name(CALLER, "1.2") == "SCANNER FIONA 10.0.0.1 scp_1.2"
    assert journal_name(Caller("MY SCAN", "../X", "::1"), "1.2") == "MY%20SCAN %2E.%2FX ::1 scp_1.2"


def write(root: DataRoot, *receipts: Receipt) -> Path:
    journal = Journal(root, CALLER, STUDY)
    for receipt in receipts:
        journal.append(receipt)
    journal.close()
    return journal.path


def test_tailing_goes_on_where_it_stopped(root: DataRoot) -> None:
    two, three = RECEIPT._replace(SOPInstanceUID="1.2.4"), RECEIPT._replace(SOPInstanceUID="1.2.5")
    write(root, RECEIPT, two)
    offsets: dict[str, Position] = {}
    seen = []
    for name, offset, receipt in read_journals(root, offsets):
        seen.append(receipt)
        offsets[name] = offset
        break
    for name, offset, receipt in read_journals(root, offsets):
        seen.append(receipt)
        offsets[name] = offset
    assert seen == [RECEIPT, two]
    assert list(read_journals(root, offsets)) == []
    write(root, three)
    assert [r for _, _, r in read_journals(root, offsets)] == [three]


def test_a_journal_put_back_from_a_backup_is_read_from_its_start(root: DataRoot) -> None:
    many = [RECEIPT._replace(SOPInstanceUID=f"1.2.{number}") for number in range(3, 9)]
    write(root, *many[:2])
    name, position, _ = list(read_journals(root, {}))[-1]
    journal = root.arrived / name
    journal.unlink()
    write(root, many[0], *many[2:])  # the backup lacks the second line, and has grown past the place since

    assert journal.stat().st_size > position.offset
    assert [r for _, _, r in read_journals(root, {name: position})] == [many[0], *many[2:]]


def test_a_line_longer_than_the_mark_is_known_again(root: DataRoot) -> None:
    long = RECEIPT._replace(calling_ae="A" * 600)
    write(root, long)
    name, position, _ = list(read_journals(root, {}))[-1]
    with (root.arrived / name).open("ab") as file:
        file.write(encode_line(RECEIPT))

    assert [r for _, _, r in read_journals(root, {name: position})] == [RECEIPT]


def test_a_torn_last_line_waits_and_the_next_one_stands_alone(root: DataRoot) -> None:
    path = write(root, RECEIPT)
    whole = path.read_bytes()
    path.write_bytes(whole + encode_line(RECEIPT)[:40])
    damage: list[JournalDamage] = []
    assert [r for _, _, r in read_journals(root, {}, on_damage=damage.append)] == [RECEIPT]
    assert damage == []
    other = RECEIPT._replace(SOPInstanceUID="9.9")
    write(root, other)
    assert [r for _, _, r in read_journals(root, {}, on_damage=damage.append)] == [RECEIPT, other]
    assert damage == [JournalDamage(path.name, len(whole), len(whole) + 41)]


def test_a_damaged_line_is_reported_and_the_rest_read(
    root: DataRoot, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(root, RECEIPT, RECEIPT)
    raw = bytearray(path.read_bytes())
    raw[30] ^= 1
    path.write_bytes(raw)
    assert [r for _, _, r in read_journals(root, {})] == [RECEIPT]
    assert "line at byte 0 is damaged" in caplog.text
    assert STUDY in caplog.text


def test_other_files_among_the_journals_are_left_alone(root: DataRoot) -> None:
    write(root, RECEIPT)
    (root.arrived / ".adopted").touch()
    (root.arrived / "notes.txt").write_text("x\n")
    (root.arrived / "A B C scp_../x".replace("/", "_")).write_text("x\n")
    assert len(list(read_journals(root, {}))) == 1


def test_lines_longer_than_a_chunk_are_read(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fiona_dagster.landing.journal._CHUNK", 64)
    write(root, RECEIPT, RECEIPT, RECEIPT)
    found = list(read_journals(root, {}))
    assert [r for _, _, r in found] == [RECEIPT] * 3
    assert found[-1][1].offset == (root.arrived / found[-1][0]).stat().st_size


def test_an_open_association_is_seen_until_it_closes(root: DataRoot) -> None:
    assert not open_associations(root, STUDY)
    journal = Journal(root, CALLER, STUDY)
    assert open_associations(root, STUDY)
    assert not open_associations(root, STUDY + ".1")
    assert not open_associations(root, STUDY[2:])
    journal.append(RECEIPT)
    second = Journal(root, CALLER, STUDY)
    journal.close()
    assert open_associations(root, STUDY)
    second.close()
    assert not open_associations(root, STUDY)


def test_a_killed_process_holds_nothing(root: DataRoot) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom fiona_dagster.config import DataRoot\n"
        "from fiona_dagster.landing import Caller\nfrom fiona_dagster.landing.journal import Journal\n"
        f"j = Journal(DataRoot(Path({str(root.path)!r})), Caller('A', 'B', 'c'), {STUDY!r})\n"
        "print('open', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert open_associations(root, STUDY)
        process.kill()
    assert not open_associations(root, STUDY)


def test_a_checker_never_makes_a_receiver_fail(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(root, RECEIPT)
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    timer = threading.Timer(0.2, os.close, (fd,))
    timer.start()
    journal = Journal(root, CALLER, STUDY)
    timer.join()
    assert open_associations(root, STUDY)
    journal.close()
    stuck = os.open(path, os.O_RDWR)
    fcntl.flock(stuck, fcntl.LOCK_EX)
    monkeypatch.setattr("fiona_dagster.landing.journal._LOCK_TRIES", 2)
    write(root, RECEIPT._replace(SOPInstanceUID="7.7"))
    os.close(stuck)
    assert len(list(read_journals(root, {}))) == 2


def test_a_study_is_locked_once(root: DataRoot) -> None:
    with study_lock(root, STUDY):
        with pytest.raises(Busy), study_lock(root, STUDY, blocking=False):
            pass
        with pytest.raises(Busy), study_lock(root, STUDY, timeout=0.1):
            pass
        with study_lock(root, STUDY + ".1", blocking=False):
            pass
    with study_lock(root, STUDY, timeout=1):
        pass
    with pytest.raises(UsageError), study_lock(root, "../x"):
        pass


def test_a_journal_that_retention_removes_meanwhile_is_made_anew(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Journal._lock
    removed: list[Path] = []

    def slow(journal: Journal) -> None:
        if not removed:
            journal.path.unlink()
            removed.append(journal.path)
        lock(journal)

    monkeypatch.setattr(Journal, "_lock", slow)
    write(root, RECEIPT)
    assert removed
    assert [r for _, _, r in read_journals(root, {})] == [RECEIPT]


def test_a_root_without_journals_is_empty(tmp_path: Path) -> None:
    root = DataRoot(tmp_path / "nothing")
    assert list(read_journals(root, {})) == []
    assert not open_associations(root, STUDY)
