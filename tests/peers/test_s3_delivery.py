"""Deliveries to a bucket: moto's server over HTTP, through boto3 as sites use it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from fiona_dagster.config import DataRoot, S3Target
from fiona_dagster.errors import ConfigurationError, DeliveryRefused, NotVerified, PeerUnavailable, Superseded
from fiona_dagster.transfers import delivery
from fiona_dagster.transfers.targets import Proof, s3
from fiona_dagster.transfers.targets.buckets import opened
from fiona_dagster.transfers.targets.packages import deliver_package
from tests.peers_fixtures import CuttingProxy, free_port
from tests.sending import unrecorded
from tests.site import Site, running_site

pytestmark = pytest.mark.peers

NAME = "DEMO_P001_baseline_1.zip"
KEY = f"study/{NAME}"
SMALL = bytes(range(256)) * 4000
MIB = 1 << 20
LARGE = bytes(range(256)) * (10 * MIB // 256) + b"end"
"""Three parts of at most 5 MiB."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    chosen = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=chosen, verbose=False)
    server.start()
    yield chosen
    server.stop()


@pytest.fixture
def bucket(port: int) -> Iterator[Any]:
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="fiona",
        aws_secret_access_key="s3cret",
    )
    client.create_bucket(Bucket="research")
    yield client
    for key in keys(client):
        client.delete_object(Bucket="research", Key=key)
    for upload in client.list_multipart_uploads(Bucket="research").get("Uploads", ()):
        client.abort_multipart_upload(Bucket="research", Key=upload["Key"], UploadId=upload["UploadId"])
    client.close()


def keys(client: Any) -> list[str]:
    return sorted(each["Key"] for each in client.list_objects_v2(Bucket="research").get("Contents", ()))


def read(client: Any, key: str) -> bytes:
    answer = client.get_object(Bucket="research", Key=key)
    data: bytes = answer["Body"].read()
    answer["Body"].close()
    return data


@pytest.fixture
def bring(root: DataRoot, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Proof]:
    monkeypatch.setattr(s3, "PART", 5 * MIB)
    (root.secrets / "s3").write_text("s3cret\n")

    def call(content: bytes, **more: Any) -> Proof:
        package = tmp_path / "package.zip"
        package.write_bytes(content)
        digest = more.pop("digest", hashlib.sha256(content).hexdigest())
        go_on = more.pop("may_go_on", lambda: None)
        target = S3Target.model_validate(described(more.pop("port", port)) | more)
        return deliver_package(
            target,
            root,
            package,
            digest,
            remote_name=NAME,
            begin=unrecorded,
            name="cloud",
            may_go_on=go_on,
        )

    return call


def described(port: int) -> dict[str, Any]:
    return {
        "kind": "s3",
        "bucket": "research",
        "prefix": "study/",
        "endpoint": f"http://127.0.0.1:{port}",
        "path_style": True,
        "access_key_id": "fiona",
        "secret_key_file": "secrets/s3",
        "timeout_seconds": 10,
    }


@pytest.mark.parametrize("content", [SMALL, LARGE, b"x"])
@pytest.mark.parametrize("proofs", [["checksum"], ["readback"]])
def test_a_package_arrives_with_proof_and_is_not_sent_twice(
    bucket: Any, bring: Callable[..., Proof], content: bytes, proofs: list[str]
) -> None:
    proof = bring(content, proofs=proofs)
    assert (proof.kind, proof.counts["sent"]) == (f"s3-{proofs[0]}", 1)
    assert proof.digests["sha256"] == hashlib.sha256(content).hexdigest()
    assert keys(bucket) == [KEY, f"{KEY}.md5", f"{KEY}.sha256"]
    assert read(bucket, KEY) == content
    assert read(bucket, f"{KEY}.sha256").decode() == f"{proof.digests['sha256']}  {NAME}\n"
    assert "P001" not in repr(proof)
    assert "P001" not in str(proof.to_json())
    assert bring(content, proofs=proofs).counts["sent"] == 0


@pytest.mark.parametrize("other", [b"other", LARGE[:-1] + b"?"])
@pytest.mark.parametrize("checksum", [True, False])
def test_other_content_is_never_overwritten(
    bucket: Any, bring: Callable[..., Proof], other: bytes, checksum: bool
) -> None:
    said = {"ChecksumSHA256": base64.b64encode(hashlib.sha256(other).digest()).decode()} if checksum else {}
    bucket.put_object(Bucket="research", Key=KEY, Body=other, **said)
    with pytest.raises(DeliveryRefused, match="never overwritten") as caught:
        bring(LARGE)
    assert read(bucket, KEY) == other
    assert "P001" not in str(caught.value)


def lied_about(client: Any, content: bytes, altered: bytes) -> None:
    """An object whose checksums were told by who sent it, and never compared with its bytes."""

    def said(of: bytes) -> dict[str, Any]:
        digest = base64.b64encode(hashlib.sha256(of).digest()).decode()
        return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": digest}

    where = {"Bucket": "research", "Key": KEY}
    if len(content) < 5 * MIB:
        client.put_object(**where, Body=altered, **said(content))
        return
    upload = client.create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]
    parts = []
    for number, at in enumerate(range(0, len(content), 5 * MIB), 1):
        checksum = said(content[at : at + 5 * MIB])
        tag = client.upload_part(
            **where, UploadId=upload, PartNumber=number, Body=altered[at : at + 5 * MIB], **checksum
        )["ETag"]
        parts.append({"PartNumber": number, "ETag": tag, "ChecksumSHA256": checksum["ChecksumSHA256"]})
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_checksum_that_contradicts_the_etag_proves_nothing(
    bucket: Any, bring: Callable[..., Proof], content: bytes
) -> None:
    altered = content[:-1] + b"?"
    lied_about(bucket, content, altered)
    with pytest.raises(DeliveryRefused, match="none of the proofs"):
        bring(content, proofs=["checksum"])
    with pytest.raises(DeliveryRefused, match="never overwritten"):
        bring(content)
    lied_about(bucket, content, content)
    assert bring(content, proofs=["checksum"]).counts["sent"] == 0


def test_a_server_that_does_not_say_how_large_an_object_is(
    bucket: Any, bring: Callable[..., Proof], monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(SMALL)
    assert keys(bucket)
    head = s3._Delivery._head

    def call(self: s3._Delivery, key: str) -> Any:
        real = self._client.head_object
        self._client.head_object = lambda **more: {
            name: value for name, value in real(**more).items() if name != "ContentLength"
        }
        return head(self, key)

    monkeypatch.setattr(s3._Delivery, "_head", call)
    with pytest.raises(PeerUnavailable, match="how large"):
        bring(SMALL)


def test_what_is_read_back_and_ends_too_early_says_nothing(
    bucket: Any, bring: Callable[..., Proof], monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(SMALL)

    @contextlib.contextmanager
    def cutting(*arguments: Any) -> Iterator[Any]:
        with opened(*arguments) as client:
            monkeypatch.setattr(client, "get_object", lambda **_: {"Body": io.BytesIO(SMALL[:5000])})
            yield client

    with monkeypatch.context() as broken:
        broken.setattr(s3, "opened", cutting)
        with pytest.raises(PeerUnavailable, match="broke off"):
            bring(SMALL, proofs=["readback"])
    assert bring(SMALL, proofs=["readback"]).counts["sent"] == 0
    assert read(bucket, KEY) == SMALL


def test_what_comes_in_between_is_not_overwritten(
    bucket: Any, bring: Callable[..., Proof], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = s3._Delivery._put

    def late(self: s3._Delivery, key: str) -> bool:
        bucket.put_object(Bucket="research", Key=KEY, Body=b"somebody else's")
        return put(self, key)

    monkeypatch.setattr(s3._Delivery, "_put", late)
    with pytest.raises(DeliveryRefused, match="never overwritten"):
        bring(SMALL)
    assert read(bucket, KEY) == b"somebody else's"


def test_an_identical_object_of_others_counts_once_it_was_compared(
    bucket: Any, bring: Callable[..., Proof]
) -> None:
    bucket.put_object(Bucket="research", Key=KEY, Body=LARGE)
    with pytest.raises(DeliveryRefused, match="none of the proofs"):
        bring(LARGE, proofs=["checksum"])
    proof = bring(LARGE)
    assert (proof.kind, proof.counts["sent"]) == ("s3-readback", 0)


def test_what_broke_off_goes_on_with_the_parts_that_are_missing(
    bucket: Any, bring: Callable[..., Proof], port: int
) -> None:
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 3:
            raise PeerUnavailable("the machine went down")

    with pytest.raises(PeerUnavailable):
        bring(LARGE, may_go_on=stop)
    assert keys(bucket) == []
    with CuttingProxy(port, 2 * MIB) as proxy:  # boto3 sends a part again by itself
        proof = bring(LARGE, port=proxy.port)
    assert (proof.kind, proof.counts["resumed"]) == ("s3-checksum", 10 * MIB)
    assert read(bucket, KEY) == LARGE


def test_other_bytes_than_the_ledgers_are_not_sent(
    bucket: Any, bring: Callable[..., Proof], tmp_path: Path
) -> None:
    with pytest.raises(NotVerified):
        bring(SMALL, digest="0" * 64)
    calls = iter(range(100))

    def swap() -> None:
        if next(calls) == 2:  # the second part was read
            with (tmp_path / "package.zip").open("r+b") as file:
                file.seek(10 * MIB + 1)
                file.write(b"!")

    with pytest.raises(NotVerified):
        bring(LARGE, may_go_on=swap)

    more = iter(range(100))

    def stop() -> None:
        if next(more) == 3:
            raise Superseded("replaced")

    with pytest.raises(Superseded):
        bring(LARGE, may_go_on=stop)
    assert keys(bucket) == []
    assert "Uploads" not in bucket.list_multipart_uploads(Bucket="research")


def test_what_is_missing_or_wrong_is_named(bucket: Any, bring: Callable[..., Proof], root: DataRoot) -> None:
    with pytest.raises(DeliveryRefused, match="cloud"):
        bring(SMALL, bucket="nowhere")
    with pytest.raises(ConfigurationError, match="secret_key_file"):
        bring(SMALL, secret_key_file="secrets/none")
    with pytest.raises(PeerUnavailable):
        bring(SMALL, port=free_port(), timeout_seconds=1)
    for wrong in ({"endpoint": "http://s3.example.org"}, {"access_key_id": ""}, {"kms_key": "k"}):
        with pytest.raises(ValueError, match=r"endpoint|access_key_id|kms_key"):
            S3Target.model_validate(described(1) | wrong)


def test_a_large_package_has_few_parts() -> None:
    assert s3.part_size(1) == s3.PART
    for size in (10**12, 5 * 10**12):
        step = s3.part_size(size)
        assert -(-size // step) <= s3.MOST_PARTS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        yield running


def test_a_transfer_is_delivered_to_a_bucket(site: Site, bucket: Any, port: int) -> None:
    (site.root.secrets / "s3").write_text("s3cret")
    site.configure(targets={"cloud": described(port)})
    site.project(targets=["cloud"])
    transfer, package = site.packaged()
    with site.open() as gateway:
        proof, _ = delivery.deliver(gateway, transfer, "cloud")
    assert proof is not None
    assert proof.digests["sha256"] == package.sha256
    assert site.transfer().state == "delivered"
