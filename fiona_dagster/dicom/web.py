"""Client of a DICOMweb server: STOW-RS, QIDO-RS, WADO-RS (PS3.18 sections 10.4 to 10.6).

Memory stays bounded whatever the size of an instance. What the server or a library says in words is not
passed on: it quotes attributes and addresses.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import requests
import urllib3

from fiona_dagster.dicom.conversation import SLOWEST_BYTES_PER_SECOND
from fiona_dagster.dicom.instances import Instance, StoreResult
from fiona_dagster.dicom.multipart import CHUNK, Body, only_part
from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE
from fiona_dagster.errors import DeliveryRefused, PeerNotTrusted, PeerUnavailable, StorageFull

BATCH_BYTES = 64 << 20
"""Instances of one request: so many bytes, or one instance that is larger."""
BATCH_INSTANCES = 100
PAGE = 1000
"""Instances that are asked for at a time."""
MAX_LISTED = 1_000_000
"""Instances of a study that are believed; a server that lists more has no end."""
MAX_ANSWER = 16 << 20
"""Bytes of an answer in JSON that are read: a page of instances, or what became of a batch, takes less."""
NOT_MENTIONED = "not mentioned in the answer"
SYNTAX_NOT_SUPPORTED = 0xC122
"""The server does not take the transfer syntax of an instance (PS3.18 table I.2-2)."""

_REFERENCED, _FAILED, _UID = "00081199", "00081198", "00081155"
_WARNING, _REASON = "00081196", "00081197"


@dataclass(frozen=True)
class WebPeer:
    """A DICOMweb server.

    Attributes:
        name: how messages call it.
        url: of its services, without a slash at the end.
        timeout: seconds that any single wait may take.
        ca_file: certificates to trust in place of the system's; None: the system's.
        certificate: our own certificate and its key, or None.
        headers: sent with every request (Authorization).
        login: user and password of HTTP basic, or None.
    """

    name: str
    url: str
    timeout: float = 60.0
    ca_file: Path | None = None
    certificate: tuple[Path, Path] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)


class _Session(requests.Session):
    """Leaves redirections alone: requests' own look at one reads its whole body."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class WebClient:
    """A connection to a DICOMweb server, to be used as a context manager.

    Args:
        peer: which.
    """

    def __init__(self, peer: WebPeer) -> None:
        self._peer = peer
        self._session = _Session()
        self._session.trust_env = False  # neither ~/.netrc nor a proxy may get what is meant for the peer
        self._session.verify = str(peer.ca_file) if peer.ca_file else True
        self._session.auth = peer.login
        self._session.headers.update(peer.headers)
        if peer.certificate:
            self._session.cert = (str(peer.certificate[0]), str(peer.certificate[1]))

    @property
    def name(self) -> str:
        """How messages call the server."""
        return self._peer.name

    def __enter__(self) -> WebClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    # -- QIDO-RS ------------------------------------------------------------------------------------

    def list_instances(self, study: str) -> frozenset[str]:
        """SOP Instance UIDs that the server has of a study (PS3.18 section 10.6), page by page.

        Raises:
            DeliveryRefused: it does not answer such a question, or not us.
            PeerUnavailable: no answer.
        """
        found: set[str] = set()
        while True:
            query = {"limit": str(PAGE), "offset": str(len(found))}
            with self._ask(
                "GET",
                f"/studies/{study}/instances",
                params=query,
                headers={"Accept": "application/dicom+json"},
            ) as answer:
                if answer.status_code == 404:
                    self._require_service(study)
                if answer.status_code in (204, 404):
                    return frozenset(found)
                self._require_ok(answer, "listing instances (QIDO-RS)")
                rows = self._json(self._content(answer, 65536))
            if not isinstance(rows, list):
                raise self._refused("listing instances (QIDO-RS): the answer is no list in JSON")
            page = {uid for row in rows if (uid := _value(row, "00080018"))} - found
            if not page:  # the end, or a server that does not know offsets
                return frozenset(found)
            found |= page
            if len(found) > MAX_LISTED:
                raise PeerUnavailable(f"{self._peer.name}: lists more than {MAX_LISTED} instances")

    def _require_service(self, study: str) -> None:
        """Makes sure that "not found" is about the study, and not a gateway before a server that restarts.

        Raises:
            DeliveryRefused: whoever answers does not answer QIDO-RS.
            PeerUnavailable: no answer, or one that contradicts the other.
        """
        headers = {"Accept": "application/dicom+json"}
        with self._ask("GET", "/studies", params={"StudyInstanceUID": study}, headers=headers) as answer:
            self._require_ok(answer, "listing studies (QIDO-RS)")
            if answer.status_code == 204 or self._json(self._content(answer, 65536)) == []:
                return
        raise PeerUnavailable(f"{self._peer.name}: lists the study, and says that it has no instances of it")

    # -- STOW-RS ------------------------------------------------------------------------------------

    def store(
        self,
        instances: Sequence[Instance],
        digests: Mapping[str, str],
        before: Callable[[], None] = lambda: None,
    ) -> list[StoreResult]:
        """Sends instances (PS3.18 section 10.5), some at a time.

        Args:
            instances: of one study.
            digests: SHA-256 of each file by ``str(path)``; other bytes are not sent.
            before: called before each instance; what it raises breaks the request off.

        Returns:
            What the server said of each. One that it does not mention has the reason
            :data:`NOT_MENTIONED`; where it takes no request with such content (HTTP 415), the transfer syntax
            is what it does not support.

        Raises:
            NotVerified: a file has other bytes.
            CopyUnavailable: the disk does not give one.
            DeliveryRefused: the server does not take such a request, or not from us.
            StorageFull: it has no room.
            PeerUnavailable: no answer; what it has stored is found by listing.
        """
        results: list[StoreResult] = []
        for batch in _batches(sorted(instances, key=lambda each: each.transfer_syntax)):
            body = Body(batch, digests, before)
            with self._ask(
                "POST",
                f"/studies/{batch[0].study}",
                data=body,
                headers={
                    "Content-Type": f'multipart/related; type="application/dicom"; boundary={body.boundary}',
                    "Accept": "application/dicom+json",
                },
            ) as answer:
                said = self._json(self._chunks(answer, 65536))
                if not (isinstance(said, dict) and (_FAILED in said or _REFERENCED in said)):
                    if answer.status_code == 415 and batch[0].transfer_syntax != EXPLICIT_LITTLE:
                        results += [StoreResult(each, SYNTAX_NOT_SUPPORTED) for each in batch]
                        continue
                    self._require_ok(answer, "storing (STOW-RS)")
                    said = {}
            results += _outcome(batch, said)
        return results

    # -- WADO-RS ------------------------------------------------------------------------------------

    def retrieve(self, instance: Instance, out: IO[bytes], limit: int) -> bool | None:
        """Writes an instance as the server has it, in the transfer syntax that it keeps, to ``out``.

        Args:
            instance: which (PS3.18 section 10.4).
            out: gets a DICOM file.
            limit: bytes after which it can't be the same any more.

        Returns:
            Whether it came whole and within the limit; None: the server says that it does not have it.

        Raises:
            DeliveryRefused: the server does not give it.
            PeerUnavailable: no answer, or it broke off.
        """
        path = f"/studies/{instance.study}/series/{instance.series}/instances/{instance.sop_instance}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._ask("GET", path, headers={"Accept": accept}) as answer:
            if answer.status_code == 404:
                return None
            self._require_ok(answer, "retrieving (WADO-RS)")
            kind = answer.headers.get("Content-Type", "")
            chunks = self._content(answer, CHUNK)
            if kind.lower().startswith("multipart/related"):
                found = re.search(r'boundary="?([^";]+)"?', kind, re.IGNORECASE)
                if found is None:
                    return False
                chunks = only_part(chunks, found[1].encode("latin-1"))
            written = 0
            for chunk in chunks:
                written += len(chunk)
                if written > limit:
                    return False
                out.write(chunk)
        return written > 0

    # -- one request --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _ask(self, method: str, path: str, **more: Any) -> Iterator[requests.Response]:
        """One request and the reading of its answer; every error is one of ours."""
        name = self._peer.name
        try:
            with self._session.request(
                method,
                f"{self._peer.url}{path}",
                timeout=self._peer.timeout,
                stream=True,  # how much of an answer is read is decided here
                allow_redirects=False,  # what was de-identified goes where it was told to, and nowhere else
                **more,
            ) as answer:
                yield answer
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise PeerNotTrusted(
                    f"{name}: the server's certificate can't be verified; nothing was sent. If it is from "
                    "an authority of your own, name it (ca_file)"
                ) from None
            raise PeerUnavailable(f"{name}: no TLS connection") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise PeerUnavailable(f"{name}: no answer ({type(error).__name__})") from None

    def _chunks(self, answer: requests.Response, size: int) -> Iterator[bytes]:
        """The answer in pieces; one that trickles holds nobody for ever."""
        begin, read = time.monotonic(), 0
        # Whatever is there is taken at once: waiting for a buffer to fill would not end.
        while chunk := answer.raw.read1(size, decode_content=True):
            read += len(chunk)
            yield chunk
            if time.monotonic() - begin > self._peer.timeout + read / SLOWEST_BYTES_PER_SECOND:
                raise PeerUnavailable(f"{self._peer.name}: answers too slowly")

    def _content(self, answer: requests.Response, size: int) -> Iterator[bytes]:
        """The same of an answer that says something; an empty one is what is left of one that was cut."""
        empty = True
        for chunk in self._chunks(answer, size):
            empty = False
            yield chunk
        if empty:
            raise PeerUnavailable(f"{self._peer.name}: an answer without content")

    def _json(self, chunks: Iterable[bytes]) -> Any:
        """An answer as JSON; None for anything else, also for one that is longer than any should be."""
        read = bytearray()
        for chunk in chunks:
            read += chunk
            if len(read) > MAX_ANSWER:
                return None
        try:
            return json.loads(read)
        except (ValueError, RecursionError):  # also bytes that are no text, or nested without an end
            return None

    def _require_ok(self, answer: requests.Response, doing: str) -> None:
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status == 507:
            raise StorageFull(f"{self._peer.name}: the server has no room (HTTP 507); free space there")
        if status in (408, 425, 429) or status >= 500:
            raise PeerUnavailable(f"{self._peer.name}: {doing}: HTTP {status}")
        if status in (401, 403):
            raise self._refused(f"{doing}: the server does not let us in (HTTP {status}); look at the login")
        if 300 <= status < 400:
            raise self._refused(f"{doing}: the server points elsewhere (HTTP {status}); correct `url`")
        raise self._refused(f"{doing}: HTTP {status}; look at `url`, or ask the server's operator")

    def _refused(self, message: str) -> DeliveryRefused:
        return DeliveryRefused(f"{self._peer.name}: {message}")


def _batches(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    batch: list[Instance] = []
    total = 0
    for instance in instances:
        with from_copy():
            size = instance.path.stat().st_size
        full = total + size > BATCH_BYTES or len(batch) == BATCH_INSTANCES
        if batch and (full or instance.transfer_syntax != batch[0].transfer_syntax):
            yield batch
            batch, total = [], 0
        batch.append(instance)
        total += size
    if batch:
        yield batch


def _outcome(batch: Sequence[Instance], said: Mapping[str, Any]) -> list[StoreResult]:
    stored = {_value(item, _UID): _code(_value(item, _WARNING)) for item in _items(said, _REFERENCED)}
    failed = {_value(item, _UID): _code(_value(item, _REASON)) for item in _items(said, _FAILED)}
    results = []
    for instance in batch:
        uid = instance.sop_instance
        if uid in failed:
            reason = failed[uid]  # one that reads like success or a warning makes it no success
            results.append(StoreResult(instance, reason if reason and reason >> 12 != 0xB else 0xC000))
        elif uid in stored:
            warning = stored[uid]
            results.append(StoreResult(instance, warning if warning >> 12 == 0xB else 0))
        else:
            results.append(StoreResult(instance, None, NOT_MENTIONED))
    return results


def _code(text: str) -> int:
    """A reason as the number that it is; 0 for none, and for one that is no number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _items(dataset: Mapping[str, Any], tag: str) -> list[Any]:
    element = dataset.get(tag)
    items = element.get("Value") if isinstance(element, dict) else None
    return items if isinstance(items, list) else []


def _value(dataset: Any, tag: str) -> str:
    """First value of an element in the DICOM JSON model (PS3.18 annex F); empty when there is none."""
    values = _items(dataset, tag) if isinstance(dataset, dict) else []
    return str(values[0]) if values and isinstance(values[0], str | int) else ""
