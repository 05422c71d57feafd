"""Several processes on one port: replaced when they die, counted together, gone with their main process."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot, load_settings, load_settings_apart
from fiona_dagster.dicom import pdu
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.landing import read_journals
from receiver.places import Places
from receiver.workers import Server, Workers
from tests.making import CT, data_set
from tests.receiver.conftest import Process
from tests.receiver.raw import Raw, command_set, p_data


def wait_until(condition: Callable[[], bool], seconds: float = 170) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def serving(process: Process) -> dict[int, int]:
    """Connections of each worker, by its process id, from the sockets that it holds."""
    found: dict[int, int] = {}
    for pid in process.workers:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        found[pid] = sum(link.startswith("socket:") for link in links)
    return found


def test_associations_are_spread_over_the_processes(process: Process) -> None:
    process.start(processes=3)
    assert len(process.workers) == 3
    idle = serving(process)
    raws = []
    for _ in range(9):
        raws.append(Raw(process.address))
        assert raws[-1].associate().kind == pdu.ASSOCIATE_AC
    busy = serving(process)
    for raw in raws:
        raw.sock.close()
    shares = [busy[pid] - idle[pid] for pid in idle]
    assert sum(shares) == 9
    assert max(shares) < 9
    assert process.terminate() == 0


def test_a_killed_worker_is_replaced_and_the_others_go_on(root: DataRoot, process: Process) -> None:
    process.start(processes=2)
    first, second = process.workers
    raws: list[Raw] = []
    idle = serving(process)
    while any(serving(process)[pid] == idle[pid] for pid in idle):  # whose turn it is, is a matter of time
        assert len(raws) < 40
        raws.append(Raw(process.address))
        assert raws[-1].associate().kind == pdu.ASSOCIATE_AC
        assert raws[-1].store(f"1.2.3.{len(raws)}").status == 0
    os.kill(first, signal.SIGKILL)
    alive = [raw for raw in raws if not _dead(raw)]
    assert 0 < len(alive) < len(raws)
    for number, raw in enumerate(alive):
        assert raw.store(f"1.2.4.{number}").status == 0
    wait_until(lambda: len(process.workers) == 2 and first not in process.workers)
    for number in range(4):
        with Raw(process.address) as late:
            late.associate()
            assert late.store(f"1.2.5.{number}").status == 0
            late.release()
    assert second in process.workers
    for raw in raws:
        raw.sock.close()
    assert process.terminate() == 0
    assert len({r.SOPInstanceUID for _, _, r in read_journals(root, {})}) == len(raws) + len(alive) + 4
    assert "died; it is replaced" in process.log.read_text()


def _dead(raw: Raw) -> bool:
    raw.sock.settimeout(0.5)
    try:
        return raw.sock.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        raw.sock.settimeout(15)


def test_the_port_is_free_when_the_main_process_was_killed(process: Process) -> None:
    host, port = process.start(processes=2)
    with Raw((host, port)) as raw:
        raw.associate()
        process.kill()  # waits for the workers, which nobody has told anything
        socket.create_server((host, port)).close()


def test_the_limit_holds_over_all_processes(process: Process) -> None:
    process.start(processes=3, max_associations=4)
    raws = [Raw(process.address) for _ in range(8)]
    kinds = [raw.associate().kind for raw in raws]
    assert kinds.count(pdu.ASSOCIATE_AC) == 4
    assert kinds.count(pdu.ASSOCIATE_RJ) == 4
    for raw in raws:
        raw.sock.close()

    def room() -> bool:
        with Raw(process.address) as raw:
            return raw.associate().kind == pdu.ASSOCIATE_AC

    wait_until(room)


def test_a_dead_worker_gives_its_places_back(process: Process) -> None:
    process.start(processes=2, max_associations=2)
    with Raw(process.address) as one, Raw(process.address) as two:
        assert [one.associate().kind, two.associate().kind] == [pdu.ASSOCIATE_AC] * 2
        for pid in process.workers:
            os.kill(pid, signal.SIGKILL)

        def room() -> bool:
            with Raw(process.address) as raw, Raw(process.address) as other:
                return [raw.associate().kind, other.associate().kind] == [pdu.ASSOCIATE_AC] * 2

        wait_until(room)


def test_sigterm_to_the_main_process_drains_all_workers(root: DataRoot, process: Process) -> None:
    process.start(processes=2)
    raws = [Raw(process.address) for _ in range(4)]
    for number, raw in enumerate(raws):
        raw.associate()
        uid = f"1.2.{number}"
        raw.send(p_data(1, command_set(1, 1, CT, uid, data=True), command=True))
        raw.send(p_data(1, data_set(uid)[:80], command=False, last=False))
    time.sleep(0.3)
    assert process.process is not None
    process.process.send_signal(signal.SIGTERM)
    for number, raw in enumerate(raws):
        raw.send(p_data(1, data_set(f"1.2.{number}")[80:], command=False))
        assert raw.receive().status == 0
        raw.release()
        raw.sock.close()
    assert process._reap() == 0
    assert len(list(read_journals(root, {}))) == 4


def test_a_worker_that_cannot_begin_is_a_clear_error_and_leaves_nobody() -> None:
    def make(number: int, adopt: bool) -> Server:
        raise ConfigurationError("no room for number one")

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        workers = Workers(2, make, places=Places(1), drain_seconds=0, close=lambda: None)
        try:
            workers.start()
        except ConfigurationError as error:
            os.write(write, f"{error} {workers.pids}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"no room for number one []"
    os.waitpid(pid, 0)


def test_places_are_counted_per_peer_and_over_processes() -> None:
    places = Places(3)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        places.begin(1)
        places.take("10.0.0.1")
        places.carry(1)
        os.write(write, b"x")
        signal.pause()
    try:
        os.read(read, 1)
        places.begin(0)
        assert places.taken == 1
        assert places.take("10.0.0.1", per_peer=1) is None
        mine = places.take("10.0.0.1", per_peer=2)
        assert mine is not None
        places.carry(2)
        assert places.lighter_elsewhere
        assert places.take("10.0.0.2") is not None
        assert places.take("10.0.0.3") is None
        places.free(mine)
        assert places.taken == 2
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    places.bury(pid)
    assert places.taken == 1
    assert not places.lighter_elsewhere


def test_settings_read_apart_are_the_same_without_pydantic(root: DataRoot) -> None:
    root.config_file.write_text('{"DICOMPORT": 0, "receiver": {"allowed_callers": ["A", "B"]}}')
    plain, problem = load_settings_apart(root)
    whole = load_settings(root)
    assert problem is None
    for name in type(whole.receiver).model_fields:
        assert getattr(plain.receiver, name) == getattr(whole.receiver, name)
    with pytest.raises(AttributeError, match="immutable"):
        plain.DICOMPORT = 1  # type: ignore[misc]
    root.config_file.write_text('{"DICOMPROT": 0}')
    assert "DICOMPORT" in str(load_settings_apart(root)[1])
    (root.last_good / "config.json").unlink()
    with pytest.raises(ConfigurationError, match="did you mean 'DICOMPORT'"):
        load_settings_apart(root)
