"""The sandbox: its projects in one file, its calls, and how it misbehaves."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fiona_dagster.errors import ConfigurationError
from fiona_dagster.redcap.dictionary import Dictionary, ShippedProject, shipped_projects
from fiona_dagster.redcap.sandbox import formats
from fiona_dagster.redcap.sandbox.api import handle
from fiona_dagster.redcap.sandbox.faults import Faults
from fiona_dagster.redcap.sandbox.formats import Answer
from fiona_dagster.redcap.sandbox.hostile import Hostile
from fiona_dagster.redcap.sandbox.http import API_PATH, HOST, Handler, Server, web_page
from fiona_dagster.redcap.sandbox.params import Params
from fiona_dagster.redcap.sandbox.store import ALL_RIGHTS, LogEntry, Store


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
        self._server: Server | None = None
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

        class Mine(Handler):
            owner = sandbox

        try:
            self._server = Server((HOST, port), Mine)
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
            answer = web_page(HTTPStatus(int(fault.value)))
        elif kind == "html":
            answer = web_page(HTTPStatus.OK, b"REDCap is undergoing maintenance")
        elif kind == "count_zero":
            answer = formats.count_answer(0, params.return_format)
        elif kind == "cut":
            answer = None
        elif kind == "empty":
            answer = Answer(200, formats.CONTENT_TYPES["json"], b"")
        elif fault and kind == "ban":
            answer = web_page(HTTPStatus.FORBIDDEN, b"Your IP address has been banned", retry=fault.value)
        elif kind == "redirect":
            answer = replace(web_page(HTTPStatus.FOUND), headers=(("Location", API_PATH + "?again"),))
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
