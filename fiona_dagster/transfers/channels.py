"""Ways to tell people: mail, a signed webhook, what Apprise knows. One message each; every error is ours."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import smtplib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from fiona_dagster.config import DataRoot, resolve
from fiona_dagster.config.notifications import AppriseChannel, EmailChannel, Notification, WebhookChannel
from fiona_dagster.config.targets import is_loopback
from fiona_dagster.errors import ConfigurationError, PeerUnavailable

log = logging.getLogger("fiona.notifications")


@dataclass(frozen=True)
class Message:
    """What is said.

    Attributes:
        id: names it; the same when it is sent again.
        title: one line.
        text: for people.
        document: for programs, as JSON.
    """

    id: str
    title: str
    text: str
    document: Mapping[str, Any]


def send(channel: Notification, root: DataRoot, message: Message) -> None:
    """Sends one message.

    Args:
        channel: where to.
        root: secret files lie below its ``config/``.
        message: what is said.

    Raises:
        ConfigurationError: a secret can't be read, or Apprise is not installed.
        PeerUnavailable: it was not taken.
    """
    if isinstance(channel, EmailChannel):
        _mail(channel, root, message)
    elif isinstance(channel, WebhookChannel):
        _post(channel, root, message)
    else:
        _apprise(channel, root, message)


def _secret(root: DataRoot, file: str) -> str:
    path = resolve(root, file)
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{path}: can't be read") from None
    if not secret:
        raise ConfigurationError(f"{path}: is empty")
    return secret


def _mail(channel: EmailChannel, root: DataRoot, said: Message) -> None:
    message = EmailMessage()
    message["From"], message["To"] = channel.sender, ", ".join(channel.recipients)
    message["Subject"], message["Message-ID"] = said.title, f"<{said.id}@{channel.sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answers
    message.set_content(said.text)
    password = _secret(root, channel.password_file) if channel.username else ""
    try:
        context = ssl.create_default_context(
            cafile=str(resolve(root, channel.ca_file)) if channel.ca_file else None
        )
        if channel.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                channel.host, channel.port, timeout=channel.timeout_seconds, context=context
            )
        else:
            server = smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_seconds)
        with server:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.username:
                server.login(channel.username, password)
            refused = server.send_message(message)
    except UnicodeError:
        raise ConfigurationError(f"mail server {channel.host}: user and password must be ASCII") from None
    except (OSError, smtplib.SMTPException) as error:
        code = getattr(error, "smtp_code", "")
        raise PeerUnavailable(
            f"mail server {channel.host}: the mail was not taken ({type(error).__name__} {code})".strip()
        ) from None
    if refused:  # the others have it: sent again, they would get it for as long as one address is dead
        log.error(
            "mail server %s: refused %d of %d recipients", channel.host, len(refused), len(channel.recipients)
        )


def _post(channel: WebhookChannel, root: DataRoot, message: Message) -> None:
    """The signature is HMAC-SHA256 over ``TIMESTAMP.BODY``."""
    import requests

    body = json.dumps(message.document, sort_keys=True).encode()
    stamp = str(int(time.time()))
    secret = _secret(root, channel.secret_file).encode()
    signature = hmac.new(secret, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-FIONA-Id": message.id,
        "X-FIONA-Timestamp": stamp,
        "X-FIONA-Signature": f"sha256={signature}",
    }
    host = urlsplit(channel.url).hostname or ""
    try:
        with requests.Session() as session:
            # A proxy of the environment is used, since services of the internet are behind it in a hospital;
            # nothing of ~/.netrc goes along, and certificates are those of ca_file.
            session.trust_env = False
            proxies = {} if is_loopback(host) else requests.utils.get_environ_proxies(channel.url)
            with session.post(
                channel.url,
                data=body,
                headers=headers,
                timeout=channel.timeout_seconds,
                allow_redirects=False,
                stream=True,  # the body of the answer says nothing to us
                proxies=proxies,
                verify=str(resolve(root, channel.ca_file)) if channel.ca_file else True,
            ) as answer:
                status = answer.status_code
    except requests.RequestException as error:
        raise PeerUnavailable(f"webhook: no answer ({type(error).__name__})") from None
    except OSError as error:  # requests looks for the file of certificates by itself
        raise ConfigurationError(f"webhook: {type(error).__name__}; look at `ca_file`") from None
    if not 200 <= status < 300:
        raise PeerUnavailable(f"webhook: HTTP {status}")


def _apprise(channel: AppriseChannel, root: DataRoot, message: Message) -> None:
    try:
        import apprise
    except ImportError:
        raise ConfigurationError("Apprise is not installed: pip install 'fiona-dagster[apprise]'") from None
    services = []
    for line in _secret(root, channel.urls_file).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        service = apprise.Apprise()
        if not service.add(line.strip()):
            raise ConfigurationError("urls_file: an address is none that Apprise knows")
        services.append(service)
    taken = sum(bool(each.notify(title=message.title, body=message.text)) for each in services)
    if not taken:
        raise PeerUnavailable("Apprise: no service took the message")
    if taken < len(services):
        log.error("Apprise: %d of %d services did not take a message", len(services) - taken, len(services))
