"""DCMTK's own senders against our receiver, as a process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import MEDIA_DIRECTORY, read_file_meta
from fiona_dagster.landing import import_paths, read_journals
from tests.making import STUDY, write_object
from tests.receiver.certificates import Authority
from tests.receiver.conftest import Process, process

__all__ = ["process"]

pytestmark = pytest.mark.peers

UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}

Dcmtk = Callable[[str], str]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def data_sets(folder: Path) -> dict[str, bytes]:
    """Data set bytes by SOP Instance UID, of all DICOM files below a folder."""
    found: dict[str, bytes] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            meta = read_file_meta(file)
            file.seek(meta.data_set_offset)
            found[meta.sop_instance] = file.read()
    return found


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        write_object(folder, f"1.2.3.{number}", pixels=bytes([number]) * 50_000)
    return folder


def test_echoscu(process: Process, dcmtk: Dcmtk) -> None:
    host, port = process.start()
    assert run(dcmtk("echoscu"), "-aec", "ANYTHING", host, str(port)).returncode == 0
    assert process.terminate() == 0


def test_unknown_callers_are_told_so(process: Process, dcmtk: Dcmtk, phantoms: Path) -> None:
    host, port = process.start(accept_unknown=False, allowed_callers=["FRIEND"])
    refused = run(dcmtk("echoscu"), host, str(port))
    assert refused.returncode != 0
    assert "Calling AE Title Not Recognized" in refused.stderr
    assert run(dcmtk("echoscu"), "-aet", "FRIEND", host, str(port)).returncode == 0


@pytest.mark.parametrize("program", ["dcmsend", "storescu"])
@pytest.mark.parametrize("pdu", ["4096", "16384", "131072"])
def test_senders_deliver_every_byte(
    process: Process, dcmtk: Dcmtk, phantoms: Path, program: str, pdu: str
) -> None:
    host, port = process.start()
    done = run(dcmtk(program), "+sd", "-pdu", pdu, host, str(port), str(phantoms))
    assert done.returncode == 0, done.stderr
    assert process.terminate() == 0
    root = process.root
    assert data_sets(root.archive) == data_sets(phantoms)
    receipts = [r for _, _, r in read_journals(root, {})]
    assert {r.kind for r in receipts} == {"stored"}
    assert len(receipts) == 20
    assert {r.calling_ae for r in receipts} == {program.upper()}


def test_four_senders_at_once(process: Process, dcmtk: Dcmtk, tmp_path: Path) -> None:
    host, port = process.start()
    senders = []
    for sender in range(4):
        folder = tmp_path / f"in{sender}"
        folder.mkdir()
        for number in range(25):
            write_object(folder, f"1.2.{sender}.{number}", pixels=bytes([sender]) * 20_000)
        command = [dcmtk("dcmsend"), "-aet", f"S{sender}", "+sd", host, str(port), str(folder)]
        senders.append(subprocess.Popen(command, env=dict(os.environ)))
    assert [sender.wait(60) for sender in senders] == [0] * 4
    assert process.terminate() == 0
    assert len(list((process.root.archive / f"scp_{STUDY}").iterdir())) == 100


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["mr_siemens_fmap", "mr_ge_fmri", "ct_philips_axial", "mr_siemens_enhanced", "mr_ge_genesis_implicit"],
)
def test_real_series_arrive_whole(process: Process, dcmtk: Dcmtk, shared: Path, name: str) -> None:
    host, port = process.start()
    files = dicom_files(shared / "data" / "visible" / name)
    done = run(dcmtk("dcmsend"), host, str(port), *map(str, files.values()))
    assert done.returncode == 0, done.stderr
    assert process.terminate() == 0
    kept = dicom_files(process.root.archive)
    assert kept.keys() == files.keys()
    for instance, path in files.items():
        assert_same_object(path, kept[instance])


def dicom_files(folder: Path) -> dict[str, Path]:
    """Files by SOP Instance UID; the media directory is left out."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            meta = read_file_meta(file)
        if meta.sop_class != MEDIA_DIRECTORY:
            found[meta.sop_instance] = path
    return found


def assert_same_object(sent: Path, kept: Path) -> None:
    """Every element that dcmtk sent is there; it drops group lengths and may convert what is uncompressed."""
    one, other = pydicom.dcmread(sent, force=True), pydicom.dcmread(kept)
    converted = one.file_meta.TransferSyntaxUID != other.file_meta.TransferSyntaxUID
    for element in one:
        standard = element.tag.element and element.tag.group % 2 == 0
        if standard and not (converted and element.tag == 0x7FE00010):
            assert other[element.tag].value == element.value, element.tag
    assert not converted or not one.file_meta.TransferSyntaxUID.is_compressed


@pytest.mark.shared
def test_every_transfer_syntax_stays_what_it_is(process: Process, dcmtk: Dcmtk, shared: Path) -> None:
    host, port = process.start()
    arrived: set[str] = set()
    for path in sorted((shared / "data" / "visible" / "transfer_syntaxes_ct").iterdir()):
        with path.open("rb") as file:
            syntax = read_file_meta(file).transfer_syntax
        if syntax in UNCOMPRESSED or run(dcmtk("dcmsend"), "-dn", host, str(port), str(path)).returncode:
            continue  # converted at will, or not known to this dcmtk
        arrived.add(syntax)
        (*_, (_, _, receipt)) = read_journals(process.root, {})
        assert receipt.transfer_syntax == syntax
        assert_same_object(path, process.root.path / receipt.path)
    assert len(arrived) >= 6
    assert process.terminate() == 0


def test_the_network_and_an_import_agree(process: Process, dcmtk: Dcmtk, phantoms: Path) -> None:
    """An import beside the running receiver finds every object as a repeat."""
    host, port = process.start()
    assert run(dcmtk("dcmsend"), "+sd", host, str(port), str(phantoms)).returncode == 0
    report = import_paths(DataRoot(process.root.path), [phantoms])
    assert (report.stored, report.repeats, report.conflicts) == (0, 20, 0)
    assert process.terminate() == 0


@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_senders_deliver_over_tls(
    process: Process, dcmtk: Dcmtk, phantoms: Path, tmp_path: Path, profile: str
) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("fiona"), authority.issue("ct1.example")
    stranger = Authority(tmp_path, "Other CA").issue("stranger")
    tls = {"port": 0, "certificate": str(server.certificate), "key": str(server.key)}
    host, _ = process.start(tls={**tls, "ca_file": str(authority.file)})
    assert process.process is not None
    assert process.process.stdout is not None
    port = process.process.stdout.readline().split()[2].rpartition(":")[2]

    def send(program: str, key: Path, certificate: Path, *more: str) -> subprocess.CompletedProcess[str]:
        options = ("+tls", str(key), str(certificate), "+cf", str(authority.file), profile)
        return run(dcmtk(program), *options, *more)

    assert send("echoscu", client.key, client.certificate, host, port).returncode == 0
    done = send("storescu", client.key, client.certificate, "+sd", host, port, str(phantoms))
    assert done.returncode == 0, done.stderr
    assert send("echoscu", stranger.key, stranger.certificate, host, port).returncode != 0
    assert process.terminate() == 0
    assert len({r.SOPInstanceUID for _, _, r in read_journals(process.root, {})}) == 20
