"""A sandbox that serves, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import requests

from fiona_dagster.redcap import IncomingProject, RedcapClient
from fiona_dagster.redcap.sandbox import Sandbox, running_sandbox

Post = Callable[..., requests.Response]


@pytest.fixture
def redcap(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox on a free port with a folder of its own."""
    with running_sandbox(tmp_path / "redcap") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def quiet_redcap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox that the tests of a module share."""
    with running_sandbox(tmp_path_factory.mktemp("redcap")) as sandbox:
        yield sandbox


@pytest.fixture
def waits() -> list[float]:
    """What the client would have slept, seconds."""
    return []


@pytest.fixture
def client(redcap: Sandbox, waits: list[float]) -> RedcapClient:
    """A client of Incoming that does not sleep."""
    return RedcapClient(redcap.url, redcap.tokens["Incoming"], timeout=5, sleep=waits.append)


@pytest.fixture
def incoming(client: RedcapClient) -> IncomingProject:
    return IncomingProject(client)


@pytest.fixture
def post(redcap: Sandbox) -> Post:
    """Posts form fields with the token of a project, as any client would."""
    return poster(redcap)


def poster(sandbox: Sandbox) -> Post:
    def send(
        project: str = "Incoming", fields: Mapping[str, str] | None = None, **more: str
    ) -> requests.Response:
        form = {"token": sandbox.tokens[project], **(fields or {}), **more}
        return requests.post(sandbox.url, data=form, timeout=120, allow_redirects=False)

    return send
