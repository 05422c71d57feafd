"""The receiver as a process: start and drain (tests/crash has it killed)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import pdu
from fiona_dagster.landing import read_journals
from tests.making import CT, data_set
from tests.receiver.conftest import Process
from tests.receiver.raw import Raw, command_set, p_data

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
