"""Delivery of a package to an S3 bucket, proven by the server's SHA-256 or by reading it back.

An object appears whole or not at all, and only where none of that name is: the write is conditional. What
broke off goes on with the parts that are missing. A part is in memory while it is sent, nothing else is.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fiona_dagster.config import DataRoot, S3Target
from fiona_dagster.errors import (
    DeliveryRefused,
    FionaError,
    PeerUnavailable,
    PermanentError,
    StorageFull,
    Superseded,
)
from fiona_dagster.transfers.targets import Proof, ProofKind, utc_now
from fiona_dagster.transfers.targets.buckets import code_of, errors, opened
from fiona_dagster.transfers.targets.local import (
    CHUNK,
    LocalPackage,
    in_hand,
    not_the_one,
    require_safe_name,
)

PART = 16 << 20
"""Bytes of a part; S3 wants at least 5 MiB, and at most 10,000 parts."""
MOST_PARTS = 9000
_TAKEN = ("PreconditionFailed", "412")
_NO_CONDITIONS = ("NotImplemented", "501", "InvalidArgument")


def deliver_s3(
    target: S3Target,
    root: DataRoot,
    package: Path,
    expected_sha256: str,
    *,
    remote_name: str,
    begin: Callable[[], object],
    name: str = "s3",
    may_go_on: Callable[[], None] = lambda: None,
) -> Proof:
    """Brings one package to a bucket and proves that it is there.

    Args:
        target: where, and what counts as proof (``proofs``).
        root: relative secret files lie below its ``config/``.
        package: the ZIP.
        expected_sha256: the package's digest in the ledger; anything else is not sent.
        remote_name: name below the prefix; ``.md5`` and ``.sha256`` come beside it.
        begin: called before the first byte leaves; writes that down.
        name: the target's name in config.json, for messages and the proof.
        may_go_on: called before every MiB or part; what it raises ends the delivery.

    Returns:
        A proof of kind ``s3-checksum`` or ``s3-readback``. ``counts``: ``sent`` is 0 when the same bytes were
        there before, ``resumed`` the bytes of parts that an earlier attempt had brought.

    Raises:
        NotVerified: the bytes in hand are not those of the ledger.
        ConfigurationError: no credentials, or the extra ``s3`` is not installed.
        DeliveryRefused: no permission, no such bucket, other content under our name, or none of the proofs
            can be had.
        StorageFull: the server has no room.
        PeerUnavailable: no connection, or it broke.
    """
    require_safe_name(remote_name, name)
    local = in_hand(package, expected_sha256, may_go_on)
    with opened(target, root, name) as client:
        delivery = _Delivery(client, target, local, name)
        may_go_on()
        begin()
        key = f"{target.prefix}{remote_name}"
        kind = delivery.bring(key)
        for ending, text in local.side_files(remote_name).items():
            delivery.put_text(f"{key}{ending}", text)
    return Proof(
        kind=kind,
        target=name,
        time=utc_now(),
        counts={"files": 3, "bytes": local.size, "sent": int(delivery.sent), "resumed": delivery.resumed},
        digests={"md5": local.md5, "sha256": local.sha256},
        private={"bucket": target.bucket, "key": key},
    )


def part_size(size: int) -> int:
    """Bytes of each part of an object; the same for every attempt."""
    needed = -(-size // MOST_PARTS)
    return max(PART, -(-needed // CHUNK) * CHUNK)


class _Delivery:
    """One package on its way to one bucket."""

    def __init__(self, client: Any, target: S3Target, local: LocalPackage, name: str) -> None:
        self._client = client
        self._target = target
        self._local = local
        self._name = name
        self._step = part_size(local.size)
        encryption = {"ServerSideEncryption": target.encryption} if target.encryption else {}
        self._options = {**encryption, **({"SSEKMSKeyId": target.kms_key} if target.kms_key else {})}
        self.sent = False
        self.resumed = 0

    def bring(self, key: str) -> ProofKind:
        """Sends what is missing; returns what proves it."""
        kind = self._under_its_name(key)
        if kind is not None:
            return kind
        with self._errors("sending"):
            if not self._put(key):
                self.sent = False
        kind = self._under_its_name(key)
        if kind is None:
            raise DeliveryRefused(
                f"target {self._name}: the server took the package and does not list it; ask its operator"
            )
        return kind

    # -- what is there ------------------------------------------------------------------------------

    def _under_its_name(self, key: str) -> ProofKind | None:
        """What proves the object that has the package's name; None if there is none."""
        with self._errors("looking at the bucket"):
            head = self._head(key)
            if head is None:
                return None
            size = int(head["ContentLength"])
            for proof in self._target.proofs if size == self._local.size else ():
                same = self._by_checksum(head) if proof == "checksum" else self._by_reading(key, size)
                if same:
                    return "s3-checksum" if proof == "checksum" else "s3-readback"
                if same is False:
                    raise self._other_content(size)
        if size != self._local.size:
            raise self._other_content(size)
        raise DeliveryRefused(
            f"target {self._name}: the server can give none of the proofs that are configured "
            f"({', '.join(self._target.proofs)}); allow reading back (proofs), or ask its operator"
        )

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = self._client.head_object(
                Bucket=self._target.bucket, Key=key, ChecksumMode="ENABLED"
            )
        except Exception as error:
            if code_of(error) in ("404", "NoSuchKey", "NotFound"):
                return None
            raise
        if "ContentLength" not in head:
            raise PeerUnavailable(f"target {self._name}: the server does not say how large an object is")
        return head

    def _by_checksum(self, head: dict[str, Any]) -> bool | None:
        """What the server's SHA-256 says; None: none, one of parts of maybe another size, or one in doubt.

        A server that keeps a checksum as it was told, without comparing, shows that by its ETag.
        """
        said = str(head.get("ChecksumSHA256") or "")
        digest, _, parts = said.partition("-")
        if not digest:
            return None
        if not parts and digest == _b64(bytes.fromhex(self._local.sha256)):
            return None if self._is_in_doubt(head, self._local.md5) else True
        if parts in ("", str(self._count())):
            composite, tag = self._composite()
            if digest == composite:
                return None if self._is_in_doubt(head, tag) else True
        return False if head.get("ChecksumType") == "FULL_OBJECT" else None

    def _is_in_doubt(self, head: dict[str, Any], tag: str) -> bool:
        """Whether the ETag, which is made of MD5 where nothing else is said, contradicts the checksum."""
        if head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption", "AES256") != "AES256":
            return False
        said = str(head.get("ETag", "")).strip('"').lower()
        _, _, parts = said.partition("-")
        whole = re.fullmatch(r"[0-9a-f]{32}", said) and self._local.md5 != said
        ours = parts == tag.partition("-")[2] and re.fullmatch(r"[0-9a-f]{32}-[0-9]+", said)
        return bool(whole) or bool(ours and said != tag)

    def _composite(self) -> tuple[str, str]:
        """SHA-256 of the parts' SHA-256, as S3 has it for an object in parts, and the ETag that it has."""
        sha256, md5, count = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        with self._local.open() as stream:
            for part in self._parts(stream):
                sha256.update(hashlib.sha256(part).digest())
                md5.update(hashlib.md5(part, usedforsecurity=False).digest())
                count += 1
        return _b64(sha256.digest()), f"{md5.hexdigest()}-{count}"

    def _by_reading(self, key: str, size: int) -> bool:
        sha256, seen = hashlib.sha256(), 0
        answer = self._client.get_object(Bucket=self._target.bucket, Key=key)
        with contextlib.closing(answer["Body"]) as body:
            while chunk := body.read(CHUNK):
                self._local.may_go_on()
                sha256.update(chunk)
                seen += len(chunk)
        if seen < size:
            raise PeerUnavailable(f"target {self._name}: reading back broke off; trying again may help")
        return seen == size and sha256.hexdigest() == self._local.sha256

    def _other_content(self, size: int) -> DeliveryRefused:
        return DeliveryRefused(
            f"target {self._name}: other content ({size} bytes, ours has {self._local.size}) lies there "
            "under the package's name; it is never overwritten: have it moved away there, then deliver again"
        )

    # -- sending ------------------------------------------------------------------------------------

    def _count(self) -> int:
        return max(-(-self._local.size // self._step), 1)

    def _parts(self, stream: BinaryIO) -> Iterator[bytes]:
        while part := stream.read(self._step):
            self._local.may_go_on()
            yield part

    def _put(self, key: str) -> bool:
        """Whether it was written; False when something of that name came in between."""
        if self._count() > 1:
            return self._put_in_parts(key)
        with self._local.open() as stream:
            body = stream.read()
        if hashlib.sha256(body).hexdigest() != self._local.sha256:
            raise not_the_one()
        self._local.may_go_on()
        self.sent = True
        digest = _b64(bytes.fromhex(self._local.sha256))
        return self._unless_there(
            self._client.put_object, Key=key, Body=body, **_sha256(digest), **self._options
        )

    def _put_in_parts(self, key: str) -> bool:
        upload, there = self._broken_off(key)
        if not upload:
            begun = self._client.create_multipart_upload(
                Bucket=self._target.bucket, Key=key, ChecksumAlgorithm="SHA256", **self._options
            )
            upload = str(begun["UploadId"])
        try:
            parts = self._send_parts(key, upload, there)
            self._local.may_go_on()
            return self._unless_there(
                self._client.complete_multipart_upload,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except (PermanentError, Superseded, StorageFull):
            self._abort(key, upload)
            raise

    def _send_parts(self, key: str, upload: str, there: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        sha256 = hashlib.sha256()
        with self._local.open() as stream:
            for number, part in enumerate(self._parts(stream), 1):
                sha256.update(part)
                digest = _b64(hashlib.sha256(part).digest())
                known = there.get(number, {})
                if _is_there(known, part, digest):
                    tag = known["ETag"]
                    self.resumed += len(part)
                else:
                    tag = self._client.upload_part(
                        Bucket=self._target.bucket,
                        Key=key,
                        UploadId=upload,
                        PartNumber=number,
                        Body=part,
                        **_sha256(digest),
                    )["ETag"]
                    self.sent = True
                parts.append({"PartNumber": number, "ETag": tag, "ChecksumSHA256": digest})
        if sha256.hexdigest() != self._local.sha256:
            raise not_the_one()
        self.sent = True
        return parts

    def _broken_off(self, key: str) -> tuple[str, dict[int, dict[str, Any]]]:
        """The newest upload of this name that was not ended, and its parts; empty where there is none."""
        try:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._target.bucket, Prefix=key
            )
            uploads = [each for page in pages for each in page.get("Uploads", ()) if each["Key"] == key]
            if not uploads:
                return "", {}
            upload = str(max(uploads, key=lambda each: each["Initiated"])["UploadId"])
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._target.bucket, Key=key, UploadId=upload
            )
            return upload, {each["PartNumber"]: each for page in pages for each in page.get("Parts", ())}
        except Exception as error:
            if code_of(error) in ("AccessDenied", "403", "NotImplemented", "NoSuchUpload"):
                return "", {}  # then it is sent anew
            raise

    def _abort(self, key: str, upload: str) -> None:
        with contextlib.suppress(FionaError), self._errors("clearing up"):
            self._client.abort_multipart_upload(Bucket=self._target.bucket, Key=key, UploadId=upload)

    def _unless_there(self, call: Callable[..., Any], **arguments: Any) -> bool:
        """Writes an object where none of its name is; False when there is one.

        A server that does not know conditions is asked without: it was looked at just before.
        """
        try:
            call(Bucket=self._target.bucket, IfNoneMatch="*", **arguments)
        except Exception as error:
            if code_of(error) in _TAKEN:
                return False
            if code_of(error) not in _NO_CONDITIONS or self._head(arguments["Key"]) is not None:
                raise
            call(Bucket=self._target.bucket, **arguments)
        return True

    def put_text(self, key: str, text: bytes) -> None:
        """Writes a checksum object; one that is right already stays, an outdated one is replaced."""
        with self._errors("writing a checksum file"):
            head = self._head(key)
            if head is not None and int(head["ContentLength"]) == len(text):
                answer = self._client.get_object(Bucket=self._target.bucket, Key=key)
                with contextlib.closing(answer["Body"]) as body:
                    if body.read() == text:
                        return
            self._client.put_object(
                Bucket=self._target.bucket,
                Key=key,
                Body=text,
                **_sha256(_b64(hashlib.sha256(text).digest())),
                **self._options,
            )

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return errors(self._name, doing)


def _is_there(known: dict[str, Any], part: bytes, digest: str) -> bool:
    """Whether a part of an earlier attempt is this one; where it has no SHA-256, its ETag is the MD5."""
    if known.get("Size") != len(part):
        return False
    if known.get("ChecksumSHA256"):
        return bool(known["ChecksumSHA256"] == digest)
    md5 = hashlib.md5(part, usedforsecurity=False).hexdigest()
    return str(known.get("ETag", "")).strip('"') == md5


def _b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")


def _sha256(digest: str) -> dict[str, str]:
    """Has the server compare what arrives, and keep the digest."""
    return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": digest}
