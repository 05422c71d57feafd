"""One POST to a REDCap server: time limits, TLS, redirects, the call budget. Knows no meaning.

The token is a form field (redcap-api.md section 1): it is put into the body here, at the last moment,
and is part of no message, log line or repr.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from fiona_dagster.errors import ConfigurationError, RedcapUnavailable
from fiona_dagster.redcap.budget import CallBudget
from fiona_dagster.redcap.silence import Silence

_LOOPBACK = ("localhost", "::1")
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16


class Secret:
    """Keeps a token out of reprs, logs and pickles."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The token itself, for the body of a call."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a token is not pickled")


@dataclass(frozen=True)
class Reply:
    """Status and body of an answer."""

    status: int
    content: bytes
    content_type: str
    retry_after: float | None

    @property
    def body(self) -> str:
        """The body as text; REDCap writes UTF-8."""
        return self.content.decode("utf-8", "replace")


class _Session(requests.Session):
    """Leaves redirects to us: requests' own resolving reads the body, and stumbles over odd addresses."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class Transport:
    """POSTs form fields to one address.

    Args:
        url: API address; https, or http on loopback. A missing trailing slash after ``api`` is added,
            since servers redirect without it.
        token: 32 hexadecimal characters.
        timeout: seconds for connecting and for each silence; a whole answer may take ten times that.
        ca_file: certificates to trust in place of the system's.
        budget: how often it may call.
        silence_file: what processes know of a server that does not answer; None: this object is alone.

    Raises:
        ConfigurationError: address, token or certificate file can't be right.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float,
        ca_file: Path | str | None,
        budget: CallBudget,
        silence_file: Path | None = None,
    ) -> None:
        self.url = _checked_url(url)
        if not re.fullmatch(r"[0-9A-Fa-f]{32}", token):
            raise ConfigurationError(
                "the REDCap token must be 32 hexadecimal characters; check redcap.token_file"
            )
        if ca_file and not Path(ca_file).is_file():
            raise ConfigurationError(
                f"redcap.ca_file {ca_file} is not there; give a file of PEM certificates"
            )
        self._token = Secret(token)
        self._timeout = timeout
        self._budget = budget
        self._silence = Silence(self.url, silence_file, probe_seconds=2 * timeout)
        self._verify: bool | str = str(ca_file) if ca_file else True
        self._session = _Session()
        # a proxy of the environment has no business on loopback
        self._session.trust_env = not _is_loopback(self.url)

    def post(self, fields: Mapping[str, str], file: tuple[str, bytes] | None = None) -> Reply:
        """One call; a redirect to the same host is posted again, once.

        Args:
            fields: form fields without the token.
            file: name and bytes of a file to send along, as multipart.

        Raises:
            RedcapUnavailable: no connection, no valid certificate, or time is up.
            RedcapSilent: time was up for another call a moment ago.
        """
        response, body = self._send(self.url, fields, file)
        target = self._target(response)
        if target is not None:
            response, body = self._send(target, fields, file)
        headers = response.headers
        return Reply(
            response.status_code, body, headers.get("Content-Type", ""), _seconds(headers.get("Retry-After"))
        )

    def spellings(self) -> set[str]:
        """The token as a server may repeat it in an error, to be taken out there."""
        token = self._token.reveal()
        return {token, token.lower(), token.upper()}

    def pause(self, seconds: float) -> None:
        """Keeps every process here from calling for so long."""
        self._budget.pause(seconds)

    def _send(
        self, url: str, fields: Mapping[str, str], file: tuple[str, bytes] | None
    ) -> tuple[requests.Response, bytes]:
        self._silence.require_heard()
        self._budget.take()
        started = time.monotonic()
        try:
            with self._session.post(
                url,
                data={**fields, "token": self._token.reveal()},
                files={"file": file} if file else None,
                timeout=self._timeout,
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = self._read(response, started)
        except requests.exceptions.SSLError:
            problem = "shows a certificate that can't be verified; check redcap.ca_file"
        except (requests.Timeout, ReadTimeoutError):
            self._silence.unanswered()
            problem = f"did not answer within {self._timeout:g} s"
        except (requests.RequestException, HTTPError) as error:
            # only its kind: its words may quote what we sent
            problem = f"can't be reached or broke off ({type(error).__name__}); check address and network"
        else:
            self._silence.answered()
            return response, body
        raise RedcapUnavailable(f"REDCap at {self._host} {problem}")

    def _read(self, response: requests.Response, started: float) -> bytes:
        """The body; a server that drips is cut off."""
        limit = started + 10 * self._timeout
        parts: list[bytes] = []
        # read1 returns with what is there; iter_content would wait for a full chunk however slowly it comes
        while part := response.raw.read1(_CHUNK, decode_content=True):
            parts.append(part)
            if time.monotonic() > limit:
                raise requests.Timeout
        return b"".join(parts)

    def _target(self, response: requests.Response) -> str | None:
        """Where a redirect leads, if that may have the token: same scheme, host and port."""
        if response.status_code not in _REDIRECTS:
            return None
        try:
            target = urljoin(self.url, response.headers.get("Location", ""))
            same = _place(self.url) == _place(target)
        except ValueError:  # a Location that is no address
            return None
        return target if same and target != self.url else None

    @property
    def _host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]


def _place(url: str) -> tuple[str, str, int | None, str]:
    """What has to be the same where the token goes: scheme, host, port, and nobody's name before the host."""
    parts = urlsplit(url)
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", parts.port or usual, parts.netloc.rpartition("@")[0]


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ConfigurationError("redcap.url must look like https://HOST/api/")
    if parts.scheme == "http" and not _is_loopback(url):
        raise ConfigurationError("redcap.url must be https: the token would travel in the clear")
    return url + "/" if url.endswith("/api") else url


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or host.startswith("127.")


def _seconds(header: str | None) -> float | None:
    return float(header) if header and re.fullmatch(r"\d{1,5}", header) else None
