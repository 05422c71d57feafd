from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from fiona_dagster.operations.location import LOADING, ask_location
from fiona_dagster.operations.services import free_port


@contextmanager
def _webserver(answer: bytes, seen: list[Any]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _entry(inner: dict[str, Any]) -> bytes:
    return json.dumps({"data": {"answer": inner}}).encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            _entry(
                {
                    "__typename": "WorkspaceLocationEntry",
                    "loadStatus": "LOADED",
                    "locationOrLoadError": {"__typename": "RepositoryLocation"},
                }
            ),
            None,
        ),
        (
            _entry(
                {
                    "__typename": "WorkspaceLocationEntry",
                    "loadStatus": "LOADING",
                    "locationOrLoadError": None,
                }
            ),
            LOADING,
        ),
        (
            _entry(
                {
                    "__typename": "WorkspaceLocationEntry",
                    "loadStatus": "LOADED",
                    "locationOrLoadError": {
                        "__typename": "PythonError",
                        "message": "Error while loading\nexecutable_path=/x",
                        "causes": [{"message": "fiona_dagster.errors.ConfigurationError: a.json: line 2\n"}],
                    },
                }
            ),
            "ConfigurationError: a.json: line 2",
        ),
        (
            _entry(
                {
                    "__typename": "WorkspaceLocationEntry",
                    "locationOrLoadError": {
                        "__typename": "PythonError",
                        "message": "trace\nValueError: no\n",
                    },
                }
            ),
            "ValueError: no",
        ),
        (_entry({"__typename": "ReloadNotSupported", "message": "can't"}), "can't"),
        (_entry({"__typename": "UnauthorizedError"}), "UnauthorizedError"),
        (b'{"errors": [{"message": "x"}]}', "the webserver did not understand the request"),
        (b"<html>", "the webserver gave no answer (JSONDecodeError)"),
    ],
)
@pytest.mark.parametrize("reload", [True, False])
def test_the_answer_says_whether_it_is_loaded(answer: bytes, expected: str | None, reload: bool) -> None:
    seen: list[Any] = []
    with _webserver(answer, seen) as url:
        assert ask_location(url, "fiona_dagster", reload=reload, timeout=5) == expected
    assert ("reloadRepositoryLocation" in seen[0]["query"]) == reload
    assert seen[0]["variables"] == {"name": "fiona_dagster"}


def test_no_webserver_is_one_line() -> None:
    problem = ask_location(f"http://127.0.0.1:{free_port()}", "x", timeout=5)

    assert problem is not None
    assert "\n" not in problem
