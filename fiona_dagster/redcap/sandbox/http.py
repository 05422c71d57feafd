"""The sandbox on a loopback port: what HTTP there is around the API and the page."""

from __future__ import annotations

import email
import email.policy
import socket
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from fiona_dagster.redcap.sandbox import page
from fiona_dagster.redcap.sandbox.formats import Answer
from fiona_dagster.redcap.sandbox.store import Store

HOST = "127.0.0.1"
API_PATH = "/api/"
MAX_BODY = 256 * 1024 * 1024
"""Bytes of a call; more is refused with 413."""

_PAGE = b"<!DOCTYPE html>\n<html><head><title>%s</title></head><body><h1>%s</h1></body></html>\n"


class Owner(Protocol):
    """What a connection needs of the sandbox."""

    store: Store

    @property
    def port(self) -> int:
        """Port that it serves on."""

    def answer(
        self, form: Mapping[str, str], files: Mapping[str, tuple[str, bytes]] | None = None
    ) -> Answer | None:
        """Answers one call; None means: cut the connection."""


class Server(ThreadingHTTPServer):
    """Serves in threads until it is told to end."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    _ending = False

    def run(self) -> None:
        """Serves until :meth:`end`; sleeps in between, where ``serve_forever`` would poll."""
        while not self._ending:
            self.handle_request()

    def end(self) -> None:
        """Makes :meth:`run` return: a connection of our own wakes it."""
        self._ending = True
        with socket.create_connection((HOST, self.server_port), timeout=5):
            pass

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that went away is no news; the call's own errors are answered."""


class Handler(BaseHTTPRequestHandler):
    """One connection: calls of the API are answered by the owner, everything else is the page."""

    protocol_version = "HTTP/1.1"
    server_version = "redcap-sandbox"
    sys_version = ""
    timeout = 60
    wbufsize = -1
    """Head and body leave in one piece: as two, each answer would wait 40 ms for a delayed ACK."""
    disable_nagle_algorithm = True
    owner: Owner

    def do_POST(self) -> None:
        """The API."""
        path = urlsplit(self.path).path
        length = self.headers.get("Content-Length", "")
        if path == API_PATH.rstrip("/"):
            self.close_connection = True
            self._send(web_page(HTTPStatus.MOVED_PERMANENTLY), {"Location": API_PATH})
        elif path.startswith(API_PATH) and path != API_PATH:
            self.close_connection = True
            self._send(web_page(HTTPStatus.NOT_FOUND))
        elif path != API_PATH and not self._from_here():
            self.close_connection = True
            self._send(web_page(HTTPStatus.FORBIDDEN))
        elif not length.isdecimal():
            self.close_connection = True
            self._send(web_page(HTTPStatus.LENGTH_REQUIRED))
        elif int(length) > MAX_BODY:
            self.close_connection = True
            self._send(web_page(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        elif path != API_PATH:
            form, _ = read_form("", self.rfile.read(int(length)))
            self._send(page.save(self.owner.store, path, form))
        else:
            self._call(self.rfile.read(int(length)))

    def do_GET(self) -> None:
        """The page to look at records; the API is never read by GET."""
        path = urlsplit(self.path).path
        if path.startswith(API_PATH.rstrip("/")):
            known = path.rstrip("/") == API_PATH.rstrip("/")
            self._send(web_page(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND))
        elif not self._from_here():
            self._send(web_page(HTTPStatus.FORBIDDEN))
        else:
            self._send(page.show(self.owner.store, path))

    def do_PUT(self) -> None:
        """Neither the API nor the page knows other methods."""
        known = urlsplit(self.path).path.rstrip("/") == API_PATH.rstrip("/")
        self.close_connection = True
        self._send(web_page(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND))

    do_DELETE = do_PATCH = do_PUT  # noqa: N815 - names that http.server looks for

    def _from_here(self) -> bool:
        """Whether a browser came from the page itself: not by another site's script, form or name."""
        port = self.owner.port
        hosts = {f"{host}:{port}" for host in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host", "") in hosts and (
            origin is None or origin.removeprefix("http://") in hosts
        )

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the access log would name callers and nobody reads it."""

    def _call(self, body: bytes) -> None:
        try:
            form, files = read_form(self.headers.get("Content-Type", ""), body)
            answer = self.owner.answer(form, files)
        except Exception:
            self.close_connection = True
            self._send(web_page(HTTPStatus.INTERNAL_SERVER_ERROR))
            raise
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    def _send(self, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(answer.status)
        for name, value in {
            "Content-Type": answer.content_type,
            **dict(answer.headers),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()


def read_form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    """Form fields and files of a body, url-encoded or multipart."""
    if not content_type.lower().startswith("multipart/form-data"):
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)), {}
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, bytes]] = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", "", header="content-disposition"))
        content = part.get_payload(decode=True)
        content = content if isinstance(content, bytes) else b""
        if (file_name := part.get_filename()) is not None:
            files[name] = (file_name, content)
        else:
            fields[name] = content.decode("utf-8", "replace")
    return fields, files


def web_page(status: HTTPStatus, words: bytes = b"", retry: float = 0.0) -> Answer:
    """A page as web servers send it, in place of what REDCap would say."""
    title = words or f"{status.value} {status.phrase}".encode()
    headers = (("Retry-After", str(max(1, round(retry)))),) if retry else ()
    return Answer(status.value, "text/html; charset=utf-8", _PAGE % (title, title), headers)
