"""What a research PACS has under our UIDs is retrieved and compared: C-GET and C-MOVE, Orthanc and DCMTK."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset

from fiona_dagster.config import DataRoot, DicomTarget
from fiona_dagster.dicom.instances import read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.retrieving import Getter
from fiona_dagster.dicom.sameness import same_data_set
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.errors import Busy, ConfigurationError, ContentUnproven, NotVerified, PeerUnavailable
from fiona_dagster.transfers.targets import InstancesMissing, InstancesRefused, Proof
from fiona_dagster.transfers.targets.dicom import deliver_dicom
from tests.peers.test_pacs_delivery import CT, EXPLICIT, IMPLICIT, MR, as_file, digests, make_file
from tests.peers_fixtures import CuttingProxy, Orthanc, free_port, running_dcmqrscp, running_orthanc
from tests.receiver.certificates import Authority
from tests.sending import Recorder

pytestmark = pytest.mark.peers

RLE = "1.2.840.10008.1.2.5"
ROOT = DataRoot(Path("/nowhere"))


@dataclass
class Pacs:
    """A PACS that gives back what it has, and how it is asked."""

    port: int
    title: str
    more: dict[str, Any]

    def target(self, **more: Any) -> DicomTarget:
        values: dict[str, Any] = {"kind": "dicom", "host": "127.0.0.1", "port": self.port}
        return DicomTarget(
            **values | {"called_ae_title": self.title, "timeout_seconds": 10} | self.more | more
        )

    def receive(self, files: list[Path]) -> None:
        """Somebody else sends."""
        peer = Peer("127.0.0.1", self.port, self.title, "OTHER", timeout=10)
        assert all(result.stored for result in store_files(peer, [read_instance(path) for path in files]))


@pytest.fixture(params=["orthanc get", "orthanc move", "dcmqrscp get", "dcmqrscp move"])
def pacs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pacs]:
    name, way = request.param.split()
    port = free_port()
    more = {"retrieve": "move", "move_ae_title": "CHECK", "move_port": port, "move_host": "127.0.0.1"}
    known = {"CHECK": port}
    if name == "orthanc":
        allowed: dict[str, Any] = {"DicomModalities": {ae: [ae, "127.0.0.1", p] for ae, p in known.items()}}
        allowed |= {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
        with running_orthanc(tmp_path / "orthanc", **allowed) as running:
            yield Pacs(running.dicom_port, running.ae_title, more if way == "move" else {})
    else:
        with running_dcmqrscp(tmp_path / "qr", known) as running_port:
            yield Pacs(running_port, "QRSCP", more if way == "move" else {})


def nested(path: Path, number: int, syntax: str = EXPLICIT) -> Path:
    """An image with sequences of undefined length, a private one, an empty one, and values of odd length."""
    image = pydicom.dcmread(
        make_file(path, number, transfer_syntax=IMPLICIT if syntax == IMPLICIT else EXPLICIT)
    )
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "121", "DCM", "odd"
    inner = Dataset()
    inner.PurposeOfReferenceCodeSequence = [item, item]
    image.SourceImageSequence, image.ReferencedStudySequence = [inner], []
    image["SourceImageSequence"].is_undefined_length = True
    block = image.private_block(0x0011, "FIONA TEST", create=True)
    block.add_new(1, "SQ", [item])
    block.add_new(2, "OB", b"\0\1\2\3")
    if syntax == RLE:
        image.compress(RLE, generate_instance_uid=False)
    path.write_bytes(as_file(image))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "copy"
    folder.mkdir()
    plain = [make_file(folder / "1.dcm", 1, MR), make_file(folder / "2.dcm", 2, CT, IMPLICIT)]
    return [*plain, nested(folder / "3.dcm", 3), nested(folder / "4.dcm", 4, RLE)]


def deliver(
    pacs: Pacs, files: list[Path], ledger: str = "ledger", *, transcode: bool = False, **more: Any
) -> Proof:
    recorder = Recorder(files[0].parent.parent / ledger)
    target, expected = pacs.target(**more), digests(files)
    proof = deliver_dicom(target, ROOT, files, expected, begin=recorder, name="pacs", transcode=transcode)
    recorder.prove()
    return proof


def test_what_is_there_and_the_same_is_proven_and_what_differs_is_not(pacs: Pacs, files: list[Path]) -> None:
    if pacs.title == "QRSCP":
        files = files[:3]  # it takes no RLE
    pacs.receive(files)

    proof = deliver(pacs, files)
    assert proof.kind == "dicom-find"
    counts = (proof.counts["sent"], proof.counts["there_before"])
    assert counts == (0, len(files)), "all were known after comparing"

    every = deliver(pacs, files, "another", compare="all")
    assert (every.kind, every.counts["compared"]) == ("dicom-compare", len(files))
    assert "2.25." not in str(every.to_json())

    with pytest.raises(ContentUnproven, match="was not compared") as caught:
        deliver(pacs, files, "third", compare="none")
    assert len(caught.value.instances) == len(files)


def test_what_the_pacs_keeps_of_older_bytes_is_named(tmp_path: Path, files: list[Path]) -> None:
    """Orthanc as it is installed keeps what it has."""
    with running_orthanc(tmp_path / "orthanc", DicomAlwaysAllowGet=True) as orthanc:
        pacs = Pacs(orthanc.dicom_port, orthanc.ae_title, {})
        deliver(pacs, files)
        make_file(files[0], 1, MR, fill=200)
        with pytest.raises(ContentUnproven, match="1 were retrieved and are something else") as caught:
            deliver(pacs, files)
        assert caught.value.instances == {"2.25.77.1"}
        assert "2.25." not in str(caught.value)

        orthanc.delete("2.25.77.1")
        assert deliver(pacs, files, compare="all").counts["compared"] == 4


def test_a_pacs_that_gives_nothing_back_proves_nothing(orthanc: Orthanc, files: list[Path]) -> None:
    pacs = Pacs(orthanc.dicom_port, orthanc.ae_title, {})
    pacs.receive(files)
    with pytest.raises(ContentUnproven, match="gives nothing back to compare"):
        deliver(pacs, files)


def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path: Path, files: list[Path]) -> None:
    big = files[0].with_name("9.dcm")
    image = pydicom.dcmread(make_file(big, 9))
    image.Rows = image.Columns = 1800
    image.PixelData = bytes(1800 * 1800)
    big.write_bytes(as_file(image))
    with running_orthanc(tmp_path / "orthanc", DicomAlwaysAllowGet=True) as orthanc:
        Pacs(orthanc.dicom_port, orthanc.ae_title, {}).receive([big])
        out = (tmp_path / "out").open("w+b")
        instance = read_instance(big)
        with out, CuttingProxy(orthanc.dicom_port, 500, cuts=99) as proxy:
            peer = Peer("127.0.0.1", proxy.port, orthanc.ae_title, timeout=5)
            with Getter(peer) as getter, pytest.raises(PeerUnavailable):
                getter.fetch(instance, out, 10_000_000)
        with (tmp_path / "out").open("w+b") as out:
            peer = Peer("127.0.0.1", orthanc.dicom_port, orthanc.ae_title, timeout=10)
            with Getter(peer) as getter:
                assert not getter.fetch(instance, out, 1_000_000), "more comes than there can be"
                assert getter.fetch(instance, out, 10_000_000)
                with big.open("rb") as ours:
                    assert same_data_set(ours, instance.data_set_offset, out, 0, EXPLICIT)
                gone = read_instance(make_file(tmp_path / "10.dcm", 10))
                assert not getter.fetch(gone, out, 10_000_000)
                assert out.tell() == 0


def test_the_port_for_what_comes_back(tmp_path: Path, files: list[Path], dcmtk: Callable[[str], str]) -> None:
    dcmtk("dcmqrscp")
    taken = free_port()
    with running_dcmqrscp(tmp_path / "qr", {"CHECK": taken}) as port:
        pacs = Pacs(port, "QRSCP", {"retrieve": "move", "move_ae_title": "CHECK", "move_host": "127.0.0.1"})
        del files[3]
        pacs.receive(files)
        with pytest.raises(Busy, match="move_port"):
            deliver(pacs, files, move_port=port, timeout_seconds=0.5)  # somebody has it
        with pytest.raises(ConfigurationError, match="move_host"):
            deliver(pacs, files, move_port=taken, move_host="192.0.2.1")
        with pytest.raises(InstancesMissing, match=r"A702.*check that the PACS knows it"):
            deliver(pacs, files, move_port=free_port(), timeout_seconds=2)  # not the port that it knows


@pytest.mark.parametrize("name", ["orthanc", "dcmqrscp"])
def test_a_way_back_that_breaks_is_tried_again(tmp_path: Path, files: list[Path], name: str) -> None:
    """A PACS says then that it failed, as it does where it does not have an instance."""
    files = files[:3]
    port = free_port()
    more = {"retrieve": "move", "move_ae_title": "CHECK", "move_port": port, "move_host": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(CuttingProxy(port, 500))
        if name == "orthanc":
            known = {"DicomModalities": {"CHECK": ["CHECK", "127.0.0.1", proxy.port]}}
            running = stack.enter_context(
                running_orthanc(tmp_path / "orthanc", DicomAlwaysAllowMove=True, **known)
            )
            pacs = Pacs(running.dicom_port, running.ae_title, more)
        else:
            qr = stack.enter_context(running_dcmqrscp(tmp_path / "qr", {"CHECK": proxy.port}))
            pacs = Pacs(qr, "QRSCP", more)
        with pytest.raises((InstancesMissing, PeerUnavailable), match="C-MOVE"):
            deliver(pacs, files, compare="all")
        proof = deliver(pacs, files, compare="all")
        assert (proof.kind, proof.counts["sent"]) == ("dicom-compare", 0)

        if name == "orthanc":  # it keeps what it has, and does not have this
            nested(files[0], 1, RLE)
            with pytest.raises(ContentUnproven, match="not given back by C-MOVE"):
                deliver(pacs, files)


def test_what_comes_back_comes_over_tls(tmp_path: Path, files: list[Path]) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("pacs"), authority.issue("fiona")
    port = free_port()
    secured = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(server.certificate),
        "DicomTlsPrivateKey": str(server.key),
        "DicomTlsTrustedCertificates": str(authority.file),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {
            "CHECK": {"AET": "CHECK", "Host": "127.0.0.1", "Port": port, "UseDicomTls": True}
        },
        "DicomAlwaysAllowMove": True,
    }
    ours = {"ca_file": str(authority.file), "certificate": str(client.certificate), "key": str(client.key)}
    more = {"retrieve": "move", "move_ae_title": "CHECK", "move_port": port, "move_host": "127.0.0.1"}
    with running_orthanc(tmp_path / "orthanc", **secured) as orthanc:
        pacs = Pacs(orthanc.dicom_port, orthanc.ae_title, {**more, "tls": ours})
        assert deliver(pacs, files, compare="all").counts["compared"] == 4


def test_settings_for_comparing() -> None:
    target = {"kind": "dicom", "host": "h", "called_ae_title": "A"}
    for wrong in (
        {"retrieve": "move"},
        {"move_port": 104},
        {"retrieve": "move", "move_ae_title": "X"},
        {"retrieve": "move", "move_ae_title": "X", "move_port": 1, "tls": {}},
    ):
        with pytest.raises(ValidationError, match="retrieve"):
            DicomTarget.model_validate(target | wrong)


_VALUES = st.recursive(
    st.binary(max_size=9),
    lambda inner: st.lists(st.dictionaries(st.integers(1, 5), inner, max_size=3), max_size=3),
    max_leaves=8,
)


def _write(values: dict[int, Any], undefined: Iterator[bool], group: int) -> bytes:
    out = b""
    for number, value in sorted(values.items()):
        head = group.to_bytes(2, "little") + number.to_bytes(2, "little")
        if isinstance(value, bytes):
            out += head + b"UT\0\0" + len(value).to_bytes(4, "little") + value
            continue
        items = b""
        for item in value:
            body = _write(item, undefined, group)
            if next(undefined):
                items += b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + body + b"\xfe\xff\x0d\xe0\0\0\0\0"
            else:
                items += b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body
        if next(undefined):
            out += head + b"SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            out += head + b"SQ\0\0" + len(items).to_bytes(4, "little") + items
    return out


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_only_how_lengths_are_written_may_differ(data: st.DataObject) -> None:
    values = data.draw(st.dictionaries(st.integers(1, 5), _VALUES, min_size=1, max_size=4))
    other = data.draw(st.one_of(st.just(values), st.dictionaries(st.integers(1, 5), _VALUES, max_size=4)))

    def write(what: dict[int, Any]) -> io.BytesIO:
        coins = iter(lambda: data.draw(st.booleans()), None)
        groups = b"\x08\0\0\0UL\4\0\0\0\0\0" if data.draw(st.booleans()) else b""
        return io.BytesIO(groups + _write(what, coins, 0x0008))

    assert same_data_set(write(values), 0, write(other), 0, EXPLICIT) == (values == other)


# -- what a PACS does not take as it is stored ----------------------------------------------------


def rle(files: list[Path]) -> list[Path]:
    """RLE beside plain files; DCMTK's archive takes no RLE."""
    return [files[0], files[3]]


def test_what_is_refused_goes_decompressed_where_the_project_allows_it(
    tmp_path: Path, files: list[Path]
) -> None:
    files = rle(files)
    with running_dcmqrscp(tmp_path / "qr") as port:
        pacs = Pacs(port, "QRSCP", {})
        with pytest.raises(InstancesRefused, match="not accepted"):
            deliver(pacs, files)

        proof = deliver(pacs, files, transcode=True)
        assert (proof.kind, proof.counts["transcoded"], proof.counts["found"]) == ("dicom-find", 1, 2)
        assert proof.private["transcoded"] == {"2.25.77.4": EXPLICIT}
        assert "2.25." not in str(proof.to_json())
        assert deliver(pacs, files, transcode=True).counts["sent"] == 0
        kept = next(
            one
            for one in map(pydicom.dcmread, (tmp_path / "qr" / "db").glob("MR*"))
            if one.SOPInstanceUID == "2.25.77.4"
        )
        assert kept.file_meta.TransferSyntaxUID == EXPLICIT
        assert kept.PixelData == bytes([4]) * 256

        again = deliver(pacs, files, "another", transcode=True, compare="all")
        assert (again.kind, again.counts["compared"], again.counts["sent"]) == ("dicom-compare", 2, 0)

        nested(files[1], 4, RLE)
        image = pydicom.dcmread(files[1])
        image.decompress(generate_instance_uid=False)
        image.PixelData = bytes(256)
        image.compress(RLE, generate_instance_uid=False)
        files[1].write_bytes(as_file(image))
        proof = deliver(pacs, files, transcode=True, compare="all")
        assert proof.counts["compared"] == 2, "the archive takes what comes last"
        assert proof.counts["sent"] == 1
    assert sorted(path.name for path in tmp_path.glob(".*")) == [], "nothing of the copies stays"


def test_what_can_not_be_transcoded_is_named(tmp_path: Path, files: list[Path]) -> None:
    broken = files[3]
    image = pydicom.dcmread(broken)
    image.NumberOfFrames = 3
    broken.write_bytes(as_file(image))
    with running_dcmqrscp(tmp_path / "qr") as port:
        with pytest.raises(InstancesRefused, match="another number of frames") as caught:
            deliver(Pacs(port, "QRSCP", {}), files, transcode=True)
        assert set(caught.value.instances) == {"2.25.77.4"}
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_a_copy_in_another_transfer_syntax_is_made_of_verified_bytes_alone(
    tmp_path: Path, files: list[Path]
) -> None:
    files = rle(files)
    expected = digests(files)
    recorder = Recorder(tmp_path / "ledger")

    def changed_meanwhile(*arguments: Any) -> frozenset[str]:
        image = pydicom.dcmread(files[1])
        image.PatientName = "Wagner^Eva"
        image.save_as(files[1], enforce_file_format=True)
        return recorder(*arguments)

    with running_dcmqrscp(tmp_path / "qr") as port:
        target = Pacs(port, "QRSCP", {}).target()
        with pytest.raises(NotVerified, match="differs from its verification record"):
            deliver_dicom(target, ROOT, files, expected, begin=changed_meanwhile, name="pacs", transcode=True)
        kept = [pydicom.dcmread(path) for path in (tmp_path / "qr").rglob("MR*")]
    assert [str(image.PatientName) for image in kept if image.PatientName == "Wagner^Eva"] == []
    assert not list(tmp_path.rglob("*.verified"))
