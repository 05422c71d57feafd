"""A client of S3, and what its errors mean; boto3 is an extra and imported when it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fiona_dagster.config import DataRoot, S3Target, resolve
from fiona_dagster.errors import (
    ConfigurationError,
    DeliveryRefused,
    FionaError,
    PeerUnavailable,
    StorageFull,
)

_FULL = ("507", "QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "StorageFull")
_MAY_PASS = ("RequestTimeout", "SlowDown", "ConditionalRequestConflict", "BadDigest", "NoSuchUpload")


@contextlib.contextmanager
def opened(target: S3Target, root: DataRoot, name: str) -> Iterator[Any]:
    """A client for one target, closed at the end.

    Raises:
        ConfigurationError: boto3 is not installed, or the secret can't be read.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigurationError(f"target {name}: S3 needs boto3; install fiona-dagster[s3]") from None
    keys = {}
    if target.access_key_id:
        path = resolve(root, target.secret_key_file)
        try:
            secret = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError(f"target {name}: {path} can't be read (secret_key_file)") from None
        keys = {"aws_access_key_id": target.access_key_id, "aws_secret_access_key": secret}
    with errors(name, "connecting"):
        client = boto3.session.Session().client(
            "s3",
            region_name=target.region,
            endpoint_url=target.endpoint or None,
            verify=str(resolve(root, target.ca_file)) if target.ca_file else True,
            config=Config(
                connect_timeout=target.timeout_seconds,
                read_timeout=target.timeout_seconds,
                retries={"mode": "standard", "max_attempts": 2},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path" if target.path_style else "auto"},
            ),
            **keys,
        )
    try:
        yield client
    finally:
        client.close()


def code_of(error: BaseException) -> str:
    """The code of S3's answer, such as ``NoSuchKey``; empty for every other error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextlib.contextmanager
def errors(name: str, doing: str) -> Iterator[None]:
    """Turns boto's errors into ours; their texts stay behind, they quote names of objects."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, SSLError

    try:
        yield
    except FionaError:
        raise
    except ClientError as error:
        raise _answered(name, doing, error) from None
    except NoCredentialsError:
        raise ConfigurationError(
            f"target {name}: there are no credentials; set access_key_id and secret_key_file"
        ) from None
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise DeliveryRefused(
                f"target {name}: the server's certificate can't be verified; nothing was sent. If it is from "
                "an authority of your own, name it (ca_file)"
            ) from None
        raise PeerUnavailable(f"target {name}: no TLS connection") from None
    except (BotoCoreError, OSError) as error:
        raise PeerUnavailable(f"target {name}: failed while {doing} ({type(error).__name__})") from None


def _answered(name: str, doing: str, error: Any) -> FionaError:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _FULL or status == 507:
        return StorageFull(f"target {name}: the server has no room ({code}); free space there")
    if status >= 500 or status in (408, 429) or code in _MAY_PASS:
        return PeerUnavailable(f"target {name}: failed while {doing} ({code or status})")
    if status in (401, 403):
        return DeliveryRefused(
            f"target {name}: not permitted while {doing} ({code or status}); look at the keys, and at what "
            "they may do with the bucket"
        )
    return DeliveryRefused(
        f"target {name}: refused while {doing} ({code or status}); ask who runs the bucket"
    )
