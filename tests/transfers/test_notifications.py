"""Digests: to a real mail server, a webhook and Apprise; once, naming nobody, and holding nothing up."""

from __future__ import annotations

import contextlib
import email
import hashlib
import hmac
import json
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from fiona_dagster.config import check
from fiona_dagster.config.notifications import EmailChannel, WebhookChannel
from fiona_dagster.errors import ConfigurationError, PeerUnavailable
from fiona_dagster.transfers import channels, delivery, notifications, outreach
from tests.peers_fixtures import free_port
from tests.receiver.certificates import Authority
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site


class Mails:
    """Keeps what a mail server was given."""

    def __init__(self) -> None:
        self.mails: list[email.message.Message] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        if not session.ssl:
            return "554 in the clear"
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@contextlib.contextmanager
def mail_server(folder: Path) -> Iterator[tuple[Mails, dict[str, Any]]]:
    authority = Authority(folder)
    pair = authority.issue("mail")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    kept = Mails()

    def login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"fiona", b"s3cret"))

    controller = Controller(
        kept,
        hostname="127.0.0.1",
        port=free_port(),
        tls_context=context,
        require_starttls=True,
        authenticator=login,
        auth_required=True,
    )
    controller.start()
    try:
        yield (
            kept,
            {
                "kind": "email",
                "host": "127.0.0.1",
                "port": controller.port,
                "ca_file": str(authority.file),
                "username": "fiona",
                "password_file": "secrets/mail",
                "sender": "fiona@example.org",
                "recipients": ["people@example.org"],
            },
        )
    finally:
        controller.stop()


@contextlib.contextmanager
def web_server() -> Iterator[tuple[list[tuple[dict[str, str], bytes]], int, list[int]]]:
    got: list[tuple[dict[str, str], bytes]] = []
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((dict(self.headers), body))
            self.send_response(status[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield got, http.server_port, status
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(notifications, "FIRST_PAUSE_SECONDS", 0.0)


def tell(site: Site, channel: str) -> int:
    with site.open() as gateway:
        return outreach.rounds(gateway)[f"notifications {channel}"](gateway)


def configure(site: Site, **channels: Any) -> None:
    for name in ("mail", "hook"):
        (site.root.secrets / name).write_text("s3cret\n")
    site.configure(notifications=channels)
    site.project(notify=sorted(channels))


@pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")  # imported by apprise
def test_a_digest_goes_out_once_on_every_channel_and_names_nobody(site: Site, tmp_path: Path) -> None:
    with mail_server(tmp_path) as (kept, mail), web_server() as (got, port, _):
        (site.root.secrets / "urls").write_text(f"# one a line\njson://127.0.0.1:{port}/apprise\n")
        configure(
            site,
            mail=mail,
            hook={"kind": "webhook", "url": f"http://127.0.0.1:{port}/hook", "secret_file": "secrets/hook"},
            chat={"kind": "apprise", "urls_file": "secrets/urls"},
        )
        assert check(site.root) == []
        channels = ("mail", "hook", "chat")
        assert [tell(site, channel) for channel in channels] == [0, 0, 0]  # what was before counts not
        transfer, _ = site.packaged()
        with site.open() as gateway:
            delivery.deliver(gateway, transfer, "archive")
            assert gateway.settings.has_outreach
        assert [tell(site, channel) for channel in channels] == [1, 1, 1]
        assert [tell(site, channel) for channel in channels] == [0, 0, 0]

    (message,) = kept.mails
    assert message["Subject"] == f"FIONA {PROJECT}: 1 delivered"
    (hook_headers, hook), (_, chat) = got
    document = json.loads(hook)
    assert (document["project"], document["counts"]["delivered"]) == (PROJECT, 1)
    signed = f"{hook_headers['X-FIONA-Timestamp']}.".encode() + hook
    expected = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert hook_headers["X-FIONA-Signature"] == f"sha256={expected}"
    said = str(message.get_payload()) + str(message.items()) + hook.decode() + chat.decode()
    assert "1 delivered" in chat.decode()
    for word in (*PLANTED, PARTICIPANT, EVENT, STUDY, site.transfer().mapped_uid):
        assert word not in said


def test_one_that_is_not_taken_comes_later_with_the_same_id_and_holds_nothing_up(site: Site) -> None:
    with web_server() as (got, port, status):
        configure(
            site,
            hook={
                "kind": "webhook",
                "url": f"http://127.0.0.1:{port}/hook",
                "secret_file": "secrets/hook",
                "only": "failures",
            },
        )
        tell(site, "hook")
        transfer, _ = site.packaged()
        with site.open() as gateway:
            delivery.failed(gateway, transfer, "archive", "host key changed", permanent=True)
        status[0] = 503
        assert [tell(site, "hook"), tell(site, "hook")] == [0, 0]
        with site.open() as gateway:
            delivery.deliver(gateway, site.transfer(), "archive")  # nothing waits for a notification
        assert site.transfer().state == "delivered"
        assert tell(site, "hook") == 0  # what failed is mended: nothing is left to tell
        assert len({headers["X-FIONA-Id"] for headers, _ in got}) == 1
        assert {json.loads(body)["counts"]["failed"] for _, body in got} == {1}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (
            EmailChannel,
            {"host": "mail.example.org", "security": "none", "username": "u", "password_file": "p"},
        ),
        (EmailChannel, {"host": "mail.example.org", "username": "u"}),
        (WebhookChannel, {"url": "ftp://example.org", "secret_file": "s"}),
    ],
)
def test_settings_that_can_not_be_meant(kind: Any, wrong: dict[str, Any]) -> None:
    people = {"sender": "a@example.org", "recipients": ["b@example.org"]} if kind is EmailChannel else {}
    with pytest.raises(ValueError, match=r"security|username|url"):
        kind(kind="email" if kind is EmailChannel else "webhook", **people, **wrong)


def test_a_channel_that_is_not_there_is_named(site: Site) -> None:
    site.project(notify=["nowhere"])
    assert ["notify" in problem for problem in check(site.root)] == [True]


def test_a_dead_mailbox_keeps_no_news_from_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Server:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def starttls(self, **_: Any) -> None:
            pass

        def send_message(self, message: Any) -> dict[str, Any]:
            return {"gone@example.org": (550, b"no such user")}

    monkeypatch.setattr(smtplib, "SMTP", Server)
    mail = EmailChannel(
        kind="email", host="mail", sender="a@example.org", recipients=["b@example.org", "gone@example.org"]
    )
    channels.send(mail, site.root, channels.Message("id", "title", "text", {}))
    assert "refused 1 of 2 recipients" in caplog.text
    assert "gone@" not in caplog.text


def test_a_missing_file_of_certificates_is_an_error_of_the_configuration(site: Site) -> None:
    (site.root.secrets / "hook").write_text("s3cret")
    hook = WebhookChannel(
        kind="webhook", url="https://127.0.0.1:9/", secret_file="secrets/hook", ca_file="secrets/none"
    )
    message = channels.Message("id", "title", "text", {})
    with pytest.raises(ConfigurationError, match="ca_file"):
        channels.send(hook, site.root, message)
    (site.root.secrets / "hook").write_text("\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        channels.send(hook, site.root, message)


def test_a_proxy_of_the_environment_is_used_and_nothing_of_netrc(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.root.secrets / "hook").write_text("s3cret")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    message = channels.Message("id", "title", "text", {})
    with socket.create_server(("127.0.0.1", 0)) as proxy, web_server() as (got, port, _):
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        here = WebhookChannel(kind="webhook", url=f"http://127.0.0.1:{port}/hook", secret_file="secrets/hook")
        channels.send(here, site.root, message)
        assert "Authorization" not in got[0][0]

        asked: list[bytes] = []

        def serve() -> None:
            connection, _ = proxy.accept()
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        out = WebhookChannel(kind="webhook", url="https://hooks.example.org/x", secret_file="secrets/hook")
        with pytest.raises(PeerUnavailable):
            channels.send(out, site.root, message)
        thread.join()
        assert asked[0].startswith(b"CONNECT hooks.example.org:443 ")
