"""Deliveries to a real Orthanc: proven by C-FIND, partial is never success."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import sender
from fiona_dagster.dicom.clients import count_instances, echo, find_instance_uids
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.wire import Broken
from fiona_dagster.errors import (
    ConfigurationError,
    ContentUnproven,
    DeliveryRefused,
    NotVerified,
    PeerUnavailable,
    UnreadableDicom,
)
from fiona_dagster.transfers.targets import InstancesMissing, InstancesRefused, Proof
from fiona_dagster.transfers.targets import dicom as target_module
from fiona_dagster.transfers.targets.dicom import deliver_dicom
from tests.peers_fixtures import CuttingProxy, Orthanc, free_port, running_orthanc
from tests.receiver.certificates import Authority
from tests.sending import Recorder, exchanging

pytestmark = pytest.mark.peers

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def as_file(image: Dataset) -> bytes:
    """The bytes of a file (PS3.10); those of the image may still be read from the one it came from."""
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def make_file(
    path: Path, number: int, sop_class: str = MR, transfer_syntax: str = EXPLICIT, fill: int | None = None
) -> Path:
    """A small image as it comes out of de-identification."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    image.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.77.{number}")
    image.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    image.SOPClassUID, image.SOPInstanceUID = sop_class, f"2.25.77.{number}"
    image.StudyInstanceUID, image.SeriesInstanceUID = "2.25.5", f"2.25.6.{number % 2}"
    image.PatientID, image.PatientName, image.Modality = "P001", "P001", "MR"
    image.Rows = image.Columns = 16
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 7, 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = bytes([number % 256 if fill is None else fill]) * 256
    path.write_bytes(as_file(image))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "copy"
    folder.mkdir()
    made = [make_file(folder / f"{n}.dcm", n) for n in range(1, 6)]
    return [*made, make_file(folder / "6.dcm", 6, CT, IMPLICIT)]


def answered(monkeypatch: pytest.MonkeyPatch, change: Callable[[str, int], int]) -> None:
    """Puts something between the answers of the PACS and the sender: gets UID and status, gives a status."""
    exchanging(monkeypatch, lambda uid, send: change(uid, send()))


def digests(files: list[Path]) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _deliver(orthanc: Orthanc, files: list[Path], **target: object) -> Proof:
    """As a site does it whose ledger lies beside the files."""
    begin = _recorder(files[0].parent / "ledger")
    proof = deliver_dicom(orthanc.target(**target), ROOT, files, digests(files), begin=begin, name="pacs")
    begin.prove()
    return proof


@functools.cache
def _recorder(folder: Path) -> Recorder:
    return Recorder(folder)


ROOT = DataRoot(Path("/nowhere"))
UIDS = {f"2.25.77.{n}" for n in range(1, 7)}


def test_every_instance_arrives_with_proof(orthanc: Orthanc, files: list[Path]) -> None:
    proof = _deliver(orthanc, files)

    assert orthanc.sop_instance_uids() == UIDS
    assert proof.kind == "dicom-find"
    assert proof.counts == {"instances": 6, "sent": 6, "there_before": 0, "warnings": 0, "found": 6}
    assert "2.25." not in str(proof.to_json())
    assert "2.25." not in repr(proof)


def test_what_is_there_is_not_sent_again(orthanc: Orthanc, files: list[Path]) -> None:
    _deliver(orthanc, files)
    orthanc.delete("2.25.77.3")

    proof = _deliver(orthanc, files)

    assert proof.counts == {"instances": 6, "sent": 1, "there_before": 5, "warnings": 0, "found": 6}
    assert orthanc.sop_instance_uids() == UIDS


@pytest.mark.parametrize("damage", ["changed", "vanished"])
def test_nothing_leaves_when_one_file_is_not_what_was_verified(
    orthanc: Orthanc, files: list[Path], damage: str
) -> None:
    expected = digests(files)
    if damage == "changed":
        make_file(files[5], 66)
    else:
        expected[str(files[5])] = "0" * 64

    with pytest.raises(NotVerified):
        deliver_dicom(orthanc.target(), ROOT, files, expected, begin=_recorder(files[0].parent / "ledger"))
    assert orthanc.sop_instance_uids() == set()


def test_a_record_without_its_file_is_not_success(orthanc: Orthanc, files: list[Path]) -> None:
    with pytest.raises(NotVerified):
        deliver_dicom(
            orthanc.target(), ROOT, files[:-1], digests(files), begin=_recorder(files[0].parent / "ledger")
        )
    assert orthanc.sop_instance_uids() == set()


def test_a_file_that_changes_while_others_are_sent(
    orthanc: Orthanc, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: str, status: int) -> int:
        make_file(files[0], 66)
        return status

    answered(monkeypatch, change)
    with pytest.raises(NotVerified):
        _deliver(orthanc, files)


@pytest.mark.parametrize("after", [100, 1000, 4000])
def test_a_cut_association_is_taken_up_again(orthanc: Orthanc, files: list[Path], after: int) -> None:
    with CuttingProxy(orthanc.dicom_port, after, cuts=3) as proxy:
        for _ in range(4):  # as the ledger would try again
            with contextlib.suppress(PeerUnavailable):
                proof = _deliver(orthanc, files, port=proxy.port, timeout_seconds=5)
                break
        assert proxy.connections > 3
    assert orthanc.sop_instance_uids() == UIDS
    assert proof.counts["found"] == 6


def test_a_lost_response_is_unknown_and_sent_again(
    orthanc: Orthanc, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def lose(uid: str, status: int) -> int:
        if not lost:
            lost.append(uid)
            raise Broken("lost on its way")
        return status

    answered(monkeypatch, lose)
    proof = _deliver(orthanc, files)

    assert len(lost) == 1
    assert proof.counts["sent"] == 6
    assert orthanc.sop_instance_uids() == UIDS


def test_instances_without_an_answer_are_named_to_the_ledger_only(
    orthanc: Orthanc, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(uid: str, status: int) -> int:
        if uid == "2.25.77.2":
            raise Broken("lost on its way")
        return status

    answered(monkeypatch, lose)
    with pytest.raises(InstancesMissing) as caught:
        _deliver(orthanc, files)
    assert caught.value.instances == {"2.25.77.2": "no answer"}
    assert "2.25." not in str(caught.value)


@pytest.mark.parametrize(("status", "error"), [(0xA700, InstancesMissing), (0xC000, InstancesRefused)])
def test_refused_instances_are_not_success(
    orthanc: Orthanc,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    error: type[Exception],
) -> None:
    answered(monkeypatch, lambda uid, said: status if uid == "2.25.77.4" else said)
    with pytest.raises(error, match=f"1 of 6 instances .*{status:04X}") as caught:
        _deliver(orthanc, files)
    assert isinstance(caught.value, InstancesMissing | InstancesRefused)
    assert caught.value.instances == {"2.25.77.4": f"{status:04X}"}


def test_acknowledged_but_not_listed_is_not_proven(
    orthanc: Orthanc, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sender.store_files

    def store_and_lose(*arguments: Any, **more: Any) -> object:
        results = store(*arguments, **more)
        orthanc.delete("2.25.77.5")
        return results

    monkeypatch.setattr(target_module, "store_files", store_and_lose)
    monkeypatch.setattr(target_module, "INDEXING_SECONDS", 0.3)
    with pytest.raises(InstancesMissing, match="lists only 5") as caught:
        _deliver(orthanc, files)
    assert set(caught.value.instances) == {"2.25.77.5"}


def test_more_kinds_than_one_association_can_offer(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "MAX_CONTEXTS", 1)
    files = [make_file(tmp_path / f"{n}.dcm", n, *kind) for n, kind in
             enumerate([(MR, EXPLICIT), (CT, EXPLICIT), (CT, IMPLICIT), (MR, IMPLICIT)], 1)]  # fmt: skip
    assert _deliver(orthanc, files).counts["found"] == 4


def test_a_sop_class_that_the_pacs_does_not_take_is_refused(orthanc: Orthanc, files: list[Path]) -> None:
    strange = make_file(files[0].with_name("7.dcm"), 7, "1.2.3.4.5.6.7")
    with pytest.raises(InstancesRefused, match="not accepted") as caught:
        _deliver(orthanc, [*files, strange])
    assert set(caught.value.instances) == {"2.25.77.7"}


def test_wrong_ae_title_needs_a_person(orthanc: Orthanc, files: list[Path]) -> None:
    with pytest.raises(DeliveryRefused, match="AE title"):
        _deliver(orthanc, files, called_ae_title="OTHER")


@pytest.mark.parametrize("after", [0, 400])
def test_a_pacs_that_stalls_is_given_up(orthanc: Orthanc, files: list[Path], after: int) -> None:
    begin = time.monotonic()
    with (
        CuttingProxy(orthanc.dicom_port, after, cuts=99, stall=True) as proxy,
        pytest.raises(PeerUnavailable),
    ):
        _deliver(orthanc, files, port=proxy.port, timeout_seconds=0.7)
    assert time.monotonic() - begin < 15
    assert orthanc.sop_instance_uids() == set()


def test_nobody_listens(orthanc: Orthanc, files: list[Path]) -> None:
    with pytest.raises(PeerUnavailable):
        _deliver(orthanc, files, port=free_port())


def test_what_is_no_dicom_is_refused_before_anything_is_sent(orthanc: Orthanc, files: list[Path]) -> None:
    files[0].write_bytes(b"no DICOM" * 100)
    with pytest.raises(UnreadableDicom):
        _deliver(orthanc, files)
    assert orthanc.sop_instance_uids() == set()


def test_clients_ask_a_real_pacs(orthanc: Orthanc, files: list[Path]) -> None:
    peer = Peer("127.0.0.1", orthanc.dicom_port, orthanc.ae_title, timeout=10)
    echo(peer)
    assert find_instance_uids(peer, "2.25.5", ["2.25.6.0", "2.25.6.1"]) == set()
    _deliver(orthanc, files)

    assert find_instance_uids(peer, "2.25.5", ["2.25.6.0", "2.25.6.1"]) == UIDS
    assert find_instance_uids(peer, "2.25.5", ["2.25.6.1"]) == {f"2.25.77.{n}" for n in (1, 3, 5)}
    assert count_instances(peer, "2.25.5") == 6
    assert count_instances(peer, "2.25.404") == 0


def test_what_somebody_else_sent_is_present_but_not_proven(
    orthanc: Orthanc, files: list[Path], dcmtk: Callable[[str], str]
) -> None:
    import subprocess

    subprocess.run(
        [dcmtk("dcmsend"), "-aec", orthanc.ae_title, "127.0.0.1", str(orthanc.dicom_port), *map(str, files)],
        check=True,
    )
    assert orthanc.sop_instance_uids() == UIDS
    with pytest.raises(ContentUnproven, match="6 of 6 instances are present, content unproven") as caught:
        _deliver(orthanc, files)
    assert caught.value.instances == UIDS
    assert "2.25." not in str(caught.value)


def test_a_pacs_that_may_keep_older_bytes_is_not_believed(orthanc: Orthanc, files: list[Path]) -> None:
    """Rules changed: other bytes under the same UIDs. Orthanc as it is installed keeps what it has."""
    _deliver(orthanc, files)
    older = _pixels(orthanc, "2.25.77.2")
    make_file(files[1], 2, fill=200)

    for _ in range(2):  # trying again does not make it true
        with pytest.raises(ContentUnproven, match="1 of 6"):
            _deliver(orthanc, files)
    assert _pixels(orthanc, "2.25.77.2") == older, "nobody could have known from C-FIND"

    orthanc.delete("2.25.77.2")
    proof = _deliver(orthanc, files)
    assert (proof.counts["sent"], proof.counts["there_before"]) == (1, 5)
    assert _pixels(orthanc, "2.25.77.2") == bytes([200])
    assert _deliver(orthanc, files).counts["sent"] == 0


def _pixels(orthanc: Orthanc, uid: str) -> bytes:
    """One pixel of an instance as Orthanc has it."""
    (found,) = (
        one["ID"] for one in orthanc.get("/instances?expand") if one["MainDicomTags"]["SOPInstanceUID"] == uid
    )
    with urllib.request.urlopen(f"{orthanc.url}/instances/{found}/file") as answer:  # noqa: S310 - loopback
        return bytes(pydicom.dcmread(io.BytesIO(answer.read())).PixelData[:1])


def test_a_ledger_from_an_older_backup_proves_nothing(orthanc: Orthanc, files: list[Path]) -> None:
    """It does not know what was sent since."""
    _deliver(orthanc, files)
    backup = _recorder(files[0].parent / "backup")
    with pytest.raises(ContentUnproven, match="6 of 6"):
        deliver_dicom(orthanc.target(), ROOT, files, digests(files), begin=backup)


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Orthanc, DataRoot, Authority]]:
    """Orthanc that speaks TLS only and wants a client certificate; ours lies below config/."""
    authority = Authority(tmp_path)
    server, client = authority.issue("pacs"), authority.issue("fiona")
    root = DataRoot(tmp_path / "data")
    root.secrets.mkdir(parents=True)
    for name, source in (("ca", authority.file), ("pem", client.certificate), ("key", client.key)):
        (root.secrets / f"pacs.{name}").write_bytes(source.read_bytes())
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(server.certificate),
        "DicomTlsPrivateKey": str(server.key),
        "DicomTlsTrustedCertificates": str(authority.file),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomTlsMinimumProtocolVersion": 4,
    }
    with running_orthanc(tmp_path / "orthanc", **settings) as orthanc:
        yield orthanc, root, authority


OURS = {"ca_file": "secrets/pacs.ca", "certificate": "secrets/pacs.pem", "key": "secrets/pacs.key"}


def test_a_delivery_over_tls_with_certificates_on_both_sides(
    secured: tuple[Orthanc, DataRoot, Authority], files: list[Path]
) -> None:
    orthanc, root, _ = secured
    big = files[0].parent / "big.dcm"
    make_file(big, 7)
    with big.open("ab") as stream:
        stream.write(b"\xfc\xff\xfc\xffOB\0\0" + (20_000_000).to_bytes(4, "little") + bytes(20_000_000))
    begin = _recorder(files[0].parent / "ledger")
    target = orthanc.target(tls=OURS, associations=2)

    proof = deliver_dicom(target, root, [*files, big], digests([*files, big]), begin=begin, name="pacs")

    assert proof.counts["found"] == proof.counts["sent"] == 7
    assert orthanc.sop_instance_uids() == {*UIDS, "2.25.77.7"}


def test_nothing_is_sent_without_the_right_certificates(
    secured: tuple[Orthanc, DataRoot, Authority], files: list[Path], tmp_path: Path
) -> None:
    orthanc, root, _ = secured
    (tmp_path / "other").mkdir()
    (root.secrets / "other.ca").write_bytes(Authority(tmp_path / "other", "Other CA").file.read_bytes())
    (root.secrets / "broken.key").write_bytes(b"no key")

    def deliver(**tls: str) -> None:
        begin = _recorder(files[0].parent / "ledger")
        deliver_dicom(orthanc.target(tls={**OURS, **tls}), root, files, digests(files), begin=begin)

    with pytest.raises(DeliveryRefused, match="certificate is not accepted"):
        deliver(ca_file="secrets/other.ca")
    with pytest.raises(DeliveryRefused, match="certificate is not accepted"):
        deliver(server_name="pacs.example.org")
    with pytest.raises(PeerUnavailable, match=r"certificate required|the connection broke|closed"):
        deliver(certificate="", key="")
    with pytest.raises(ConfigurationError, match=r"TLS to a peer: certificate .* can't be used"):
        deliver(key="secrets/broken.key")
    with pytest.raises(PeerUnavailable):
        _deliver(orthanc, files)
    assert orthanc.sop_instance_uids() == set()
