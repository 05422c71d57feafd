"""Objects made to hurt: bounded memory and time, the right status, quarantine, and everybody else goes on.

They come from a scripted sender, since dcmtk refuses to send them. The receiver is a process of its own.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import pdu
from fiona_dagster.landing import import_paths, read_journals
from tests.accounting import assert_all_accounted
from tests.making import CT, EXPLICIT, IMPLICIT, STUDY, data_set, element, part10
from tests.receiver.conftest import Process
from tests.receiver.raw import VERIFICATION, Raw, associate_request, command_set, p_data

BIG_ENDIAN, DEFLATED, PRIVATE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.3.6.1.4.1.99999.7"
SYNTAXES = [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, PRIVATE]
CONTEXTS = [(2 * n + 1, CT, [syntax]) for n, syntax in enumerate(SYNTAXES)]
ECHO = 2 * len(SYNTAXES) + 1
TINY = 1_000_000 if os.environ.get("FIONA_TEST_FULL") else 60_000
PEAK_MB = 100
SEQUENCE = struct.pack("<HH2sHI", 0x0008, 0x0006, b"SQ", 0, 0xFFFFFFFF)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One receiver for all of them: what one does to it, the next would notice."""
    root = DataRoot(tmp_path_factory.mktemp("hostile") / "data")
    root.make()
    process = Process(root)
    process.start()
    yield process
    assert process.terminate() == 0
    assert_all_accounted(root)
    assert "internal fault" not in process.log.read_text()


def peak_mb(process: Process) -> float:
    """The largest resident size that any process of the receiver ever had."""
    assert process.process is not None
    peaks = []
    for pid in (process.process.pid, *process.workers):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        peaks.append(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024)
    return max(peaks)


def others_go_on(process: Process) -> None:
    with Raw(process.address) as raw:
        raw.associate()
        assert raw.store("1.2.3.1").status == 0
        raw.release()
    assert peak_mb(process) < PEAK_MB
    outside = {path.name for path in process.root.path.parent.iterdir()}
    assert outside == {"data"}


def raw_deflate(data: bytes) -> bytes:
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    return maker.compress(data) + maker.flush()


def bomb() -> bytes:
    """A gigabyte of zeros in front of the UIDs, in a megabyte."""
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = struct.pack("<HH2sHI", 0x0008, 0x0001, b"UN", 0, 2**30)
    parts = [maker.compress(head)]
    parts += [maker.compress(bytes(2**20)) for _ in range(1024)]
    return b"".join(parts) + maker.flush()


@dataclass(frozen=True)
class Hostile:
    """An object, how it is announced, and whether it may be accepted."""

    data: bytes
    syntax: str = EXPLICIT
    instance: str = "1.2.3.9"
    accepted: bool = False


UIDS = {
    "climbs": "../../../../tmp/x",
    "climbs inside": "1.2/../../../x",
    "absolute": "/etc/passwd",
    "hidden": ".1.2.3",
    "empty component": "1..2",
    "only points": "." * 64,
    "ends with a point": "1.2.",
    "too long": "9" * 65,
    "very long": "1." * 2000 + "1",
    "NUL inside": "1.2\0.3",
    "line break": "1.2\n.3",
    "wide digits": "\uff11.\uff12.\uff13",
    "percent": "1.2%2F3",
}
HOSTILE = {
    **{f"study UID {name}": Hostile(data_set("1.2.3.9", study=uid)) for name, uid in UIDS.items()},
    **{f"series UID {name}": Hostile(data_set("1.2.3.9", series=uid)) for name, uid in UIDS.items()},
    **{f"instance UID {name}": Hostile(data_set(uid)) for name, uid in UIDS.items()},
    "explicit under implicit": Hostile(data_set("1.2.3.9"), IMPLICIT),
    "implicit under explicit": Hostile(struct.pack("<HHI", 8, 0x16, 26) + CT.encode() + b"\0"),
    "little under big endian": Hostile(data_set("1.2.3.9"), BIG_ENDIAN),
    "plain under deflated": Hostile(data_set("1.2.3.9"), DEFLATED),
    "noise under a private syntax": Hostile(bytes(range(256)) * 50, PRIVATE),
    "deflated under explicit": Hostile(raw_deflate(data_set("1.2.3.9"))),
    "4 GiB before the UIDs": Hostile(
        struct.pack("<HH2sHI", 8, 1, b"UN", 0, 0xFFFFFFFE) + data_set("1.2.3.9")
    ),
    "4 GiB in implicit": Hostile(struct.pack("<HHI", 8, 1, 0xFFFFFFFE) + bytes(500), IMPLICIT),
    "a sequence that never ends": Hostile(SEQUENCE + ITEM + element(0x00080100, b"SH", "x")),
    "a deflate bomb": Hostile(bomb(), DEFLATED),
    "100,000 levels before the UIDs": Hostile((SEQUENCE + ITEM) * 100_000),
    "100,000 levels behind the UIDs": Hostile(
        data_set("1.2.3.9", pixels=b"") + (SEQUENCE + ITEM) * 100_000, accepted=True
    ),
    "a million empty elements": Hostile(struct.pack("<HH2sH", 8, 8, b"CS", 0) * 1_000_000),
    "an odd end": Hostile(data_set("1.2.3.9")[:61]),
    "nothing": Hostile(b""),
    "zeros": Hostile(bytes(5000)),
    "a file in a data set's place": Hostile(part10(data_set("1.2.3.9"), "1.2.3.9")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_object_is_refused_and_kept(victim: Process, name: str) -> None:
    hostile, root = HOSTILE[name], victim.root
    before = {path.name for path in root.quarantine.glob("*.dcm")}
    with Raw(victim.address, timeout=120) as raw:
        raw.associate([*CONTEXTS, (ECHO, VERIFICATION, [EXPLICIT])])
        context = 2 * SYNTAXES.index(hostile.syntax) + 1
        status = raw.store(hostile.instance, hostile.data, context=context).status
        if hostile.accepted:
            assert status == 0
        else:
            assert status >> 12 == 0xC or status >> 8 == 0xA9
            (new,) = {path.name for path in root.quarantine.glob("*.dcm")} - before
            assert (root.quarantine / new).read_bytes().endswith(hostile.data)
        assert raw.echo(ECHO).status == 0
        raw.release()
    others_go_on(victim)


@pytest.mark.parametrize("uid", UIDS.values(), ids=UIDS)
def test_the_commands_uids_are_no_path_either(victim: Process, uid: str) -> None:
    raw_uid = uid.encode()
    command = command_set(1, 1, CT, "X", data=True)
    value = raw_uid + b"\0" * (len(raw_uid) % 2)
    body = command[12:].removesuffix(struct.pack("<HHI", 0, 0x1000, 2) + b"X\0")
    body += struct.pack("<HHI", 0, 0x1000, len(value)) + value
    command = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    with Raw(victim.address) as raw:
        raw.associate()
        raw.send(p_data(1, command, command=True))
        raw.send(p_data(1, data_set("1.2.3.9"), command=False))
        status = raw.receive().status
        assert status >> 12 == 0xC or status >> 8 == 0xA9
        raw.release()
    others_go_on(victim)


@pytest.mark.parametrize("title", ["../..", "..", ".", "/etc", "A/B", "%2e%2e", "~root", "a b", "-rf", "*"])
def test_titles_are_no_paths(victim: Process, title: str) -> None:
    with Raw(victim.address) as raw:
        if raw.associate(calling=title, called=title).kind == pdu.ASSOCIATE_AC:
            assert raw.store("1.2.3.1").status == 0
            raw.release()
    others_go_on(victim)
    root = victim.root
    assert {path.parent for path in root.arrived.rglob("*") if " scp_" in path.name} == {root.arrived}


def test_tiny_fragments(victim: Process) -> None:
    data = data_set("1.2.3.8", pixels=bytes(TINY))
    with Raw(victim.address, timeout=120) as raw:
        raw.associate()
        raw.send(p_data(1, command_set(1, 1, CT, "1.2.3.8", data=True), command=True))
        empty = p_data(1, b"", command=False, last=False)
        parts = [p_data(1, data[n : n + 1], command=False, last=False) for n in range(len(data))]
        for at in range(0, len(parts), 1000):
            raw.send(empty.join(parts[at : at + 1000]))
        raw.send(p_data(1, b"", command=False))
        assert raw.receive().status == 0
        raw.release()
    assert (victim.root.archive / f"scp_{STUDY}" / "CT.1.2.3.8").read_bytes().endswith(data)
    others_go_on(victim)


def test_one_byte_at_a_time(victim: Process) -> None:
    data = data_set("1.2.3.7")
    with Raw(victim.address) as raw:
        for byte in associate_request():
            raw.send(bytes([byte]))
        assert raw.receive().kind == pdu.ASSOCIATE_AC
        message = p_data(1, command_set(1, 1, CT, "1.2.3.7", data=True), command=True)
        for byte in message + p_data(1, data, command=False):
            raw.send(bytes([byte]))
        assert raw.receive().status == 0
        raw.release()
    assert (victim.root.archive / f"scp_{STUDY}" / "CT.1.2.3.7").read_bytes().endswith(data)


@pytest.mark.parametrize("what", ["another context", "a second command", "a command in pieces of another"])
def test_interleaved_messages_are_aborted(victim: Process, what: str) -> None:
    command = command_set(1, 1, CT, "1.2.3.6", data=True)
    later = {
        "another context": p_data(3, data_set("1.2.3.6"), command=False),
        "a second command": p_data(1, data_set("1.2.3.6")[:50], command=False, last=False)
        + p_data(1, command, command=True),
        "a command in pieces of another": p_data(3, command, command=True, last=False),
    }[what]
    with Raw(victim.address) as raw:
        raw.associate([(1, CT, [EXPLICIT]), (3, CT, [IMPLICIT])])
        raw.send(p_data(1, command, command=True) + later)
        assert raw.receive().kind == pdu.ABORT
    others_go_on(victim)
    assert not [r for _, _, r in read_journals(victim.root, {}) if r.SOPInstanceUID == "1.2.3.6"]


@pytest.mark.parametrize("name", HOSTILE)
def test_the_same_as_files(root: DataRoot, tmp_path: Path, name: str) -> None:
    hostile = HOSTILE[name]
    folder = tmp_path / "in"
    folder.mkdir()
    content = part10(hostile.data, hostile.instance, syntax=hostile.syntax)
    (folder / "hostile.dcm").write_bytes(content)
    report = import_paths(root, [folder])
    assert (report.stored, report.quarantined, report.failed) == (hostile.accepted, not hostile.accepted, 0)
    if not hostile.accepted:
        (kept,) = root.quarantine.glob("*.dcm")
        assert kept.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"data", "in"}
    assert_all_accounted(root)
