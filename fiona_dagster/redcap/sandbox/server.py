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
from fiona_dagster.redcap.dictionary import Dictionary, ShippedProject, shipped_projects
from fiona_dagster.redcap.sandbox import formats, page
from fiona_dagster.redcap.sandbox.api import handle
from fiona_dagster.redcap.sandbox.faults import Faults
from fiona_dagster.redcap.sandbox.formats import Answer
from fiona_dagster.redcap.sandbox.hostile import Hostile
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
        hostile: misbehaviour at random, where none is demanded; None: behaves.
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
        self.hostile: Hostile | None = None
        self.calls: deque[Call] = deque(maxlen=10_000)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def tokens(self) -> dict[str, str]:
        """Token of each project; the same as long as the folder is."""
        return self.store.tokens()

    @property
    def port(self) -> int:
        """Port that it serves on; 0 while it does not."""
        return 0 if self._server is None else self._server.server_port

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
        importing = action == "import"
        fault = self.faults.next(importing=importing)
        if fault is None and self.hostile is not None:
            fault = self.hostile.next(self.store, importing=importing)
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
        elif kind == "empty":
            answer = Answer(200, formats.CONTENT_TYPES["json"], b"")
        elif fault and kind == "ban":
            answer = _page(HTTPStatus.FORBIDDEN, b"Your IP address has been banned", retry=fault.value)
        elif kind == "redirect":
            answer = replace(_page(HTTPStatus.FOUND), headers=(("Location", API_PATH + "?again"),))
        elif kind == "ignored":
            answer = self._ignored(form)
        else:
            answer = self._handled(kind, fault.value if fault else 0.0, form, files or {})
        access = self.store.access(params.get("token"))
        self.calls.append(
            Call(access.project if access else "", content, action, answer.status if answer else 0)
        )
        return answer

    def _handled(
        self, kind: str, value: float, form: Mapping[str, str], files: Mapping[str, tuple[str, bytes]]
    ) -> Answer | None:
        if kind == "delay":
            time.sleep(value)
        if kind == "dictionary":
            self._grow_dictionary(form)
        answer = handle(self.store, form, files)
        if kind == "duplicate":
            answer = handle(self.store, form, files)
        if kind == "error_format" and answer.status >= 400:
            answer = formats.in_another_format(
                handle(self.store, {**form, "returnFormat": "json"}, files), value
            )
        return None if kind == "cut_after_import" else answer

    def _ignored(self, form: Mapping[str, str]) -> Answer:
        """What the import would answer, without its effect."""
        backup = self.store.backup()
        try:
            return handle(self.store, form)
        finally:
            self.store.restore(backup)

    def _grow_dictionary(self, form: Mapping[str, str]) -> None:
        access = self.store.access(form.get("token", ""))
        if access is None:
            return
        project = self.store.project(access.project)
        rows = project.dictionary.rows()
        first = {**rows[0], "field_name": f"added_{len(rows)}", "field_label": "Added by somebody"}
        last = max(index for index, row in enumerate(rows) if row["form_name"] == rows[0]["form_name"])
        rows.insert(last + 1, first)
        self.store.change_project(project.name, Dictionary.from_rows(rows), project.setup)

    def backup(self) -> bytes:
        """Everything as it is now."""
        return self.store.backup()

    def restore(self, backup: bytes) -> None:
        """Everything as it was when the backup was made; what was written since is lost."""
        self.store.restore(backup)


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


def serve(data: Path, port: int, announce: Callable[[Sandbox], None], *, hostile: int | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C; main thread only.

    Args:
        data: folder of the sandbox's file.
        port: 0 for a free one.
        announce: called once when it serves.
        hostile: seed of random misbehaviour; None: behaves.
    """
    ended = threading.Event()
    # before anybody can know that we run: a signal right after the announcement must end us cleanly
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    with running_sandbox(data, port) as sandbox:
        sandbox.hostile = None if hostile is None else Hostile(hostile)
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
        elif path.startswith(API_PATH) and path != API_PATH:
            self.close_connection = True
            self._send(_page(HTTPStatus.NOT_FOUND))
        elif path != API_PATH and not self._from_here():
            self.close_connection = True
            self._send(_page(HTTPStatus.FORBIDDEN))
        elif not length.isdecimal():
            self.close_connection = True
            self._send(_page(HTTPStatus.LENGTH_REQUIRED))
        elif int(length) > MAX_BODY:
            self.close_connection = True
            self._send(_page(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        elif path != API_PATH:
            form, _ = _form("", self.rfile.read(int(length)))
            self._send(page.save(self.owner.store, path, form))
        else:
            self._call(self.rfile.read(int(length)))

    def do_GET(self) -> None:
        """The page to look at records; the API is never read by GET."""
        path = urlsplit(self.path).path
        if path.startswith(API_PATH.rstrip("/")):
            known = path.rstrip("/") == API_PATH.rstrip("/")
            self._send(_page(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND))
        elif not self._from_here():
            self._send(_page(HTTPStatus.FORBIDDEN))
        else:
            self._send(page.show(self.owner.store, path))

    def do_PUT(self) -> None:
        """Neither the API nor the page knows other methods."""
        known = urlsplit(self.path).path.rstrip("/") == API_PATH.rstrip("/")
        self.close_connection = True
        self._send(_page(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND))

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


def _page(status: HTTPStatus, words: bytes = b"", retry: float = 0.0) -> Answer:
    title = words or f"{status.value} {status.phrase}".encode()
    headers = (("Retry-After", str(max(1, round(retry)))),) if retry else ()
    return Answer(status.value, "text/html; charset=utf-8", _PAGE % (title, title), headers)
