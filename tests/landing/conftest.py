"""After every test of an import or the inbox, everything is accounted for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fiona_dagster.config import DataRoot
from tests.accounting import assert_all_accounted

IMPORTS = ("test_imports", "test_archives", "test_media", "test_inbox", "test_retry", "test_decisions")


@pytest.fixture(autouse=True)
def accounted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Looks at the test's data root at its end, if it has one."""
    root: DataRoot | None = None
    if request.module.__name__.rpartition(".")[2] in IMPORTS and "root" in request.fixturenames:
        root = request.getfixturevalue("root")
    yield
    if root is not None:
        assert_all_accounted(root)
