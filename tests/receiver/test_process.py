"""The receiver as a process: start, drain, and kill -9 at any moment."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import pdu
from fiona_dagster.landing import open_associations, read_journals
from tests.making import CT, STUDY, data_set
from tests.receiver.conftest import Process
from tests.receiver.raw import Raw, command_set, p_data
from tests.receiver.test_storage import data_set_of

FIONA = [sys.executable, "-c", "import sys; from fiona_dagster.cli import main; main()", "receive"]


def test_it_starts_light() -> None:
    code = (
        "import sys, receiver.run, fiona_dagster.landing, fiona_dagster.dicom.pdu\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = [
        "pydantic",
        "pydicom",
        "pynetdicom",
        "pandas",
        "numpy",
        "dagster",
        "requests",
        "paramiko",
        "rich",
        "click",
    ]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", [[sys.executable, "-m", "receiver"], FIONA])
def test_sigterm_lets_an_object_finish_and_exits_0(
    root: DataRoot, process: Process, command: list[str]
) -> None:
    process.command = command
    data = data_set("1.2.3")
    with Raw(process.start()) as raw, Raw(process.address) as idle:
        raw.associate()
        idle.associate()
        raw.send(p_data(1, command_set(1, 1, CT, "1.2.3", data=True), command=True))
        raw.send(p_data(1, data[:100], command=False, last=False))
        time.sleep(0.2)
        codes: list[int] = []
        waiter = threading.Thread(target=lambda: codes.append(process.terminate()))
        waiter.start()
        assert idle.receive().kind == pdu.ABORT
        with pytest.raises(ConnectionError), Raw(process.address) as late:
            late.associate()
        raw.send(p_data(1, data[100:], command=False))
        assert raw.receive().status == 0
        raw.release()
        waiter.join(20)
    assert codes == [0]
    assert [r.SOPInstanceUID for _, _, r in read_journals(root, {})] == ["1.2.3"]
    assert not list((root.archive / ".incoming").iterdir())


def test_who_is_still_sending_is_not_cut_off(process: Process) -> None:
    with Raw(process.start(drain_seconds=20)) as raw:
        raw.associate()
        assert raw.store("1.2.3.0").status == 0
        codes: list[int] = []
        waiter = threading.Thread(target=lambda: codes.append(process.terminate()))
        waiter.start()
        begin, count = time.monotonic(), 0
        while time.monotonic() - begin < 2.5:
            count += 1
            assert raw.store(f"1.2.3.{count}").status == 0
            time.sleep(0.1)
        raw.release()
        waiter.join(20)
    assert codes == [0]


def test_the_drain_has_a_limit(process: Process) -> None:
    with Raw(process.start(drain_seconds=1)) as raw:
        raw.associate()
        raw.send(p_data(1, command_set(1, 1, CT, "1.2.3", data=True), command=True))
        time.sleep(0.1)
        assert process.terminate() == 0  # fails after 30 s; silence alone would end it after 120


def test_wrong_configuration_is_one_line_and_exit_2(root: DataRoot) -> None:
    root.config_file.write_text('{"DICOMPROT": 1}')
    for command in ([sys.executable, "-m", "receiver"], FIONA):
        done = subprocess.run(
            command,
            env={"FIONA_DATA": str(root.path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        assert "DICOMPORT" in done.stderr
        assert done.stderr.count("\n") == 1


class Sender(threading.Thread):
    """Sends without pause and remembers what was acknowledged."""

    def __init__(self, address: tuple[str, int], number: int, life: int) -> None:
        super().__init__()
        self.acknowledged: dict[str, bytes] = {}
        self._address, self._number, self._life = address, number, life

    def run(self) -> None:
        try:
            with Raw(self._address) as raw:
                raw.associate(calling=f"SENDER{self._number}")
                for count in range(10_000):
                    uid = f"1.2.{self._life}.{self._number}.{count}"
                    data = data_set(uid, study=f"1.9.{count % 2}", pixels=uid.encode() * 700)
                    if raw.store(uid, data).status == 0:
                        self.acknowledged[uid] = data
        except OSError:
            return  # killed, as planned


def settled(root: DataRoot, wanted: set[str]) -> dict[str, list[str]]:
    """Waits for adoption; journal paths by instance."""
    deadline = time.monotonic() + 20
    while True:
        paths: dict[str, list[str]] = {}
        for _, _, receipt in read_journals(root, {}):
            paths.setdefault(receipt.SOPInstanceUID, []).append(receipt.path)
        files = {p.name.partition(".")[2] for p in root.archive.glob("scp_*/*")}
        left = list((root.archive / ".incoming").rglob("*.part"))
        if (files == set(paths) and wanted <= files and not left) or time.monotonic() > deadline:
            return paths
        time.sleep(0.1)


def test_kill_9_loses_nothing_that_was_acknowledged(root: DataRoot, process: Process) -> None:
    chance = random.Random(20261123)
    acknowledged: dict[str, bytes] = {}
    for life in range(6):
        address = process.start()
        senders = [Sender(address, number, life) for number in range(3)]
        for sender in senders:
            sender.start()
        time.sleep(0.15 + chance.random() * 0.3)
        process.kill()
        for sender in senders:
            sender.join(20)
            acknowledged |= sender.acknowledged
        assert not open_associations(root, "1.9.0")
    assert len(acknowledged) > 50
    process.start()
    paths = settled(root, set(acknowledged))
    assert process.terminate() == 0
    for uid, data in acknowledged.items():
        (path,) = set(paths[uid])
        assert data_set_of(root.path / path) == data
    files = {p.relative_to(root.path).as_posix() for p in root.archive.rglob("*") if p.is_file()}
    assert files == {path for group in paths.values() for path in group}
    assert all(len(group) == 1 for group in paths.values())


@pytest.mark.parametrize(
    "point",
    ["Journal.__init__", "StudyNames.place", "StudyNames.flush", "Journal.append", "NewFile.commit"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_death_at_a_named_point(
    root: DataRoot, process: Process, point: str, when: str, tmp_path: Path
) -> None:
    """The process kills itself at a point between the last byte and the answer."""
    owner, _, name = point.rpartition(".")
    module = {"Journal": "journal", "NewFile": "files", "StudyNames": "names"}[owner]
    victim = tmp_path / "victim.py"
    victim.write_text(
        f"""
import os, signal, sys
import fiona_dagster.landing.{module} as module
owner = getattr(module, {owner!r}, module)
original = getattr(owner, {name!r})
def deadly(*values, **keywords):
    if {when!r} == "after":
        original(*values, **keywords)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, {name!r}, deadly)
from receiver.__main__ import main
sys.exit(main())
"""
    )
    process.command = [sys.executable, str(victim)]
    with Raw(process.start()) as raw:
        raw.associate()
        with pytest.raises(ConnectionError):
            raw.store("1.2.3")
    assert process.process is not None
    process.kill()
    process.command = [sys.executable, "-m", "receiver"]
    with Raw(process.start()) as raw:
        raw.associate()
        assert raw.store("1.2.4").status == 0
        raw.release()
    paths = settled(root, {"1.2.4"})
    with Raw(process.address) as raw:
        raw.associate()
        assert raw.store("1.2.3").status == 0
        raw.release()
    paths = settled(root, {"1.2.3", "1.2.4"})
    assert set(paths) == {"1.2.3", "1.2.4"}
    assert len(list((root.archive / f"scp_{STUDY}").iterdir())) == 2
    assert data_set_of(root.path / paths["1.2.3"][0]) == data_set("1.2.3")
