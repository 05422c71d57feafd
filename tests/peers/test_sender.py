"""Our sender with real peers: dcmtk's storescp, Orthanc and pynetdicom take what it sends, bit by bit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fiona_dagster.dicom import read_file_meta
from fiona_dagster.dicom.instances import read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.errors import NotVerified
from tests.making import data_set, part10
from tests.peers_fixtures import Orthanc, _wait_for, free_port

pytestmark = pytest.mark.peers

MANY = 20_000 if os.environ.get("FIONA_TEST_FULL") else 200


@contextlib.contextmanager
def storescp(program: str, folder: Path, *options: str) -> Iterator[int]:
    """dcmtk's receiver, which stores data sets as they come; gives its port."""
    folder.mkdir()
    port = free_port()
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "+B", "-od", str(folder), *options, str(port)], stdout=output, stderr=output
        )
    try:
        _wait_for(port, process, log)
        yield port
    finally:
        process.terminate()
        process.wait()


def make(folder: Path, count: int, pixels: int = 2000, first: int = 0) -> list[Path]:
    folder.mkdir(exist_ok=True)
    made = []
    for number in range(first, first + count):
        uid = f"1.2.826.0.1.{number}"
        path = folder / f"{number}.dcm"
        path.write_bytes(part10(data_set(uid, pixels=number.to_bytes(4, "big") * (pixels // 4)), uid))
        made.append(path)
    return made


def data_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(read_file_meta(file).data_set_offset)
        return file.read()


@pytest.mark.parametrize("associations", [1, 4])
def test_no_answer_is_lost_and_every_byte_arrives(
    tmp_path: Path, dcmtk: Callable[[str], str], associations: int
) -> None:
    files = make(tmp_path / "files", MANY)
    files += make(tmp_path / "files", 1, 20_000_000, first=MANY)
    with storescp(dcmtk("storescp"), tmp_path / "store", "--fork", "--max-pdu", "131072") as port:
        peer = Peer("127.0.0.1", port, "ANY")
        results = store_files(peer, [read_instance(path) for path in files], associations=associations)
    assert Counter(result.status for result in results) == {0: len(files)}
    stored = {}
    for path in (tmp_path / "store").iterdir():
        with path.open("rb") as file:
            stored[read_file_meta(file).sop_instance] = path
    assert len(stored) == len(files)
    for path in files[-20:]:
        assert data_of(stored[read_instance(path).sop_instance]) == data_of(path)


def test_no_peer_keeps_a_large_object_that_is_not_the_one(
    tmp_path: Path, dcmtk: Callable[[str], str], orthanc: Orthanc
) -> None:
    """All but its last part arrives; what a peer had of it goes with the association."""
    [good, bad] = make(tmp_path / "files", 2, 20_000_000)
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (good, bad)}
    bad.write_bytes(bad.read_bytes()[:-1] + b"!")
    files = [read_instance(path) for path in (good, bad)]
    with storescp(dcmtk("storescp"), tmp_path / "store", "--max-pdu", "131072") as port:
        with pytest.raises(NotVerified):
            store_files(Peer("127.0.0.1", port, "ANY"), files, digests=digests)
        deadline = time.monotonic() + 20  # it removes what it had when it sees the end
        while len(stored := list((tmp_path / "store").iterdir())) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
    [only] = stored
    assert data_of(only) == data_of(good)

    with pytest.raises(NotVerified):
        store_files(Peer("127.0.0.1", orthanc.dicom_port, orthanc.ae_title), files, digests=digests)
    assert orthanc.sop_instance_uids() == {files[0].sop_instance}
