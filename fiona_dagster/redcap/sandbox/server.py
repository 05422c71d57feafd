"""The sandbox on a loopback port: HTTP around the API, faults included."""

from __future__ import annotations

import email
import email.policy
import signal
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fiona_dagster.errors import ConfigurationError
from fiona_dagster.redcap.dictionary import ShippedProject, shipped_projects
from fiona_dagster.redcap.sandbox import formats
from fiona_dagster.redcap.sandbox.api import handle
from fiona_dagster.redcap.sandbox.faults import Faults
from fiona_dagster.redcap.sandbox.formats import Answer
from fiona_dagster.redcap.sandbox.params import Params
from fiona_dagster.redcap.sandbox.store import ALL_RIGHTS, LogEntry, Store

HOST = "127.0.0.1"
API_PATH = "/api/"
MAX_BODY = 256 * 1024 * 1024
"""Bytes of a call; more is refused with 413."""

_PAGE = b"<!DOCTYPE html>\n<html><head><title>%s</title></head><body><h1>%s</h1></body></html>\n"


@dataclass(frozen=True)
class Call:
    """One call that was answered, or cut (status 0)."""

    project: str
    content: str
    action: str
    status: int


class Sandbox:
    """A REDCap server for demo and tests. All its state is one file, so a restart keeps everything.

    Args:
        data: folder of that file; made when missing.

    Attributes:
        faults: misbehaviour on demand.
        calls: the last 10,000 calls, oldest first.

    Raises:
        ConfigurationError: the folder holds a file that is no sandbox's.
    """

    def __init__(self, data: Path) -> None:
        try:
            self.store = Store(data / "redcap.sqlite")
            self.store.add_missing(shipped_projects())
        except (sqlite3.DatabaseError, OSError) as error:
            raise ConfigurationError(
                f"{data} can't hold a sandbox ({type(error).__name__}); name another --data"
            ) from None
        self.faults = Faults()
        self.calls: deque[Call] = deque(maxlen=10_000)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def tokens(self) -> dict[str, str]:
        """Token of each project; the same as long as the folder is."""
        return self.store.tokens()

    @property
    def url(self) -> str:
        """Address of the API; only while it serves."""
        if self._server is None:
            raise ConfigurationError("the sandbox does not serve; start it first")
        return f"http://{HOST}:{self._server.server_port}{API_PATH}"

    def log(self, project: str) -> list[LogEntry]:
        """What was written and when, newest first."""
        return self.store.log(project)

    def add_token(self, project: str, rights: tuple[str, ...] = ALL_RIGHTS, dag: str = "") -> str:
        """Another token with fewer rights, or of a user in a data access group."""
        return self.store.add_token(project, "somebody", rights, dag)

    def add_project(self, project: ShippedProject) -> str:
        """One more project; returns its token."""
        self.store.add_missing([project])
        return self.tokens[project.name]

    def change_setup(self, project: str, **changes: Any) -> None:
        """Changes what the dictionary can't say (see :class:`Setup`), as a person would in the browser."""
        now = self.store.project(project)
        self.store.change_project(project, now.dictionary, replace(now.setup, **changes))

    def start(self, port: int = 0) -> str:
        """Serves in a thread until :meth:`stop`.

        Args:
            port: 0 for a free one.

        Returns:
            Address of the API.

        Raises:
            ConfigurationError: the port is taken.
        """
        sandbox = self

        class Handler(_Handler):
            owner = sandbox

        try:
            self._server = _Server((HOST, port), Handler)
        except OSError as error:
            raise ConfigurationError(
                f"port {port} can't be used ({error.strerror}); choose another --port"
            ) from None
        self._thread = threading.Thread(target=self._server.run, name="redcap-sandbox", daemon=True)
        self._thread.start()
        return self.url

    def stop(self) -> None:
        """Ends the service; the file stays."""
        if self._server is not None and self._thread is not None:
            self._server.end()
            self._thread.join()
            self._server.server_close()
            self._server = self._thread = None
        self.store.close()

    def answer(
        self, form: Mapping[str, str], files: Mapping[str, tuple[str, bytes]] | None = None
    ) -> Answer | None:
        """Answers one call, faults included; None means: cut the connection."""
        params = Params(form)
        content = params.get("content")
        action = (
            params.get("action", "import" if params.has("data") else "export") if content == "record" else ""
        )
        fault = self.faults.next(importing=action == "import")
        kind = fault.kind if fault else ""
        answer: Answer | None
        if fault and kind == "status":
            answer = _page(HTTPStatus(int(fault.value)))
        elif kind == "html":
            answer = _page(HTTPStatus.OK, b"REDCap is undergoing maintenance")
        elif kind == "count_zero":
            answer = formats.count_answer(0, params.return_format)
        elif kind == "cut":
            answer = None
        else:
            if fault and kind == "delay":
                time.sleep(fault.value)
            answer = handle(self.store, form, files or {})
            if kind == "cut_after_import":
                answer = None
        access = self.store.access(params.get("token"))
        self.calls.append(
            Call(access.project if access else "", content, action, answer.status if answer else 0)
        )
        return answer


@contextmanager
def running_sandbox(data: Path, port: int = 0) -> Iterator[Sandbox]:
    """A sandbox that serves inside the block.

    Args:
        data: folder of its file.
        port: 0 for a free one.
    """
    sandbox = Sandbox(data)
    try:
        sandbox.start(port)
        yield sandbox
    finally:
        sandbox.stop()


def serve(data: Path, port: int, announce: Callable[[Sandbox], None]) -> None:
    """Serves until SIGTERM or Ctrl-C; main thread only.

    Args:
        data: folder of the sandbox's file.
        port: 0 for a free one.
        announce: called once when it serves.
    """
    ended = threading.Event()
    # before anybody can know that we run: a signal right after the announcement must end us cleanly
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    with running_sandbox(data, port) as sandbox:
        announce(sandbox)
        ended.wait()


class _Server(ThreadingHTTPServer):
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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "redcap-sandbox"
    sys_version = ""
    timeout = 60
    wbufsize = -1
    """Head and body leave in one piece: as two, each answer would wait 40 ms for a delayed ACK."""
    disable_nagle_algorithm = True
    owner: Sandbox

    def do_POST(self) -> None:
        """The API."""
        path = urlsplit(self.path).path
        length = self.headers.get("Content-Length", "")
        if path == API_PATH.rstrip("/"):
            self.close_connection = True
            self._send(_page(HTTPStatus.MOVED_PERMANENTLY), {"Location": API_PATH})
        elif path != API_PATH:
            self.close_connection = True
            self._send(_page(HTTPStatus.NOT_FOUND))
        elif not length.isdecimal():
            self.close_connection = True
            self._send(_page(HTTPStatus.LENGTH_REQUIRED))
        elif int(length) > MAX_BODY:
            self.close_connection = True
            self._send(_page(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        else:
            self._call(self.rfile.read(int(length)))

    def do_GET(self) -> None:
        """Nothing is read by GET."""
        known = urlsplit(self.path).path.rstrip("/") == API_PATH.rstrip("/")
        self._send(_page(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND))

    do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815 - names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the access log would name callers and nobody reads it."""

    def _call(self, body: bytes) -> None:
        try:
            form, files = _form(self.headers.get("Content-Type", ""), body)
            answer = self.owner.answer(form, files)
        except Exception:
            self.close_connection = True
            self._send(_page(HTTPStatus.INTERNAL_SERVER_ERROR))
            raise
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    def _send(self, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Type": answer.content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
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


def _page(status: HTTPStatus, words: bytes = b"") -> Answer:
    title = words or f"{status.value} {status.phrase}".encode()
    return Answer(status.value, "text/html; charset=utf-8", _PAGE % (title, title))
