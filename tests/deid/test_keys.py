"""Keys are made once, never replaced, never shown, and never silently another one."""

from __future__ import annotations

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.deid import ProjectKey, project_key
from fiona_dagster.errors import ConfigurationError, KeyMismatch


class Book:
    """Stands for the ledger."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def key(self, root: DataRoot, *, make: bool = True) -> ProjectKey:
        return project_key(root, "P1", self.kept.get, self._record, make=make)

    def _record(self, project: str, fingerprint: str) -> None:
        self.kept.setdefault(project, fingerprint)


def test_the_first_use_makes_and_records_a_key(root: DataRoot) -> None:
    book = Book()

    key = book.key(root)

    path = root.secrets / "P1.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert book.kept == {"P1": key.fingerprint}
    assert book.key(root) == key
    assert key.secret.hex() not in repr(key)
    assert key.secret.hex() not in key.fingerprint
    assert [p.name for p in root.secrets.iterdir()] == ["P1.key"]


def test_a_lost_key_is_never_replaced(root: DataRoot) -> None:
    book = Book()
    book.key(root)
    (root.secrets / "P1.key").unlink()

    with pytest.raises(KeyMismatch, match="restore it from the backup"):
        book.key(root)
    assert not (root.secrets / "P1.key").exists()


def test_another_key_is_refused(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book()
    book.key(root)
    monkeypatch.setenv("FIONA_KEY_P1", "ab" * 32)

    with pytest.raises(KeyMismatch, match="fingerprint") as error:
        book.key(root)
    assert "ab" * 32 not in str(error.value)


def test_a_key_from_the_environment_is_recorded(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIONA_KEY_P1", "ab" * 32)
    book = Book()

    assert book.key(root, make=False).secret == b"\xab" * 32
    assert list(root.secrets.iterdir()) == []


def test_nothing_is_made_unasked(root: DataRoot) -> None:
    with pytest.raises(KeyMismatch, match="none was made"):
        Book().key(root, make=False)


@pytest.mark.parametrize("content", ["", "xyz", "ab" * 31, "gg" * 32])
def test_a_broken_key_file_is_refused_without_its_content(root: DataRoot, content: str) -> None:
    path = root.secrets / "P1.key"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(ConfigurationError, match="64 hexadecimal"):
        Book().key(root)


def test_a_key_that_others_may_read_is_refused(root: DataRoot) -> None:
    path = root.secrets / "P1.key"
    path.write_text("ab" * 32)
    path.chmod(0o644)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        Book().key(root)


def test_a_faster_process_wins(root: DataRoot) -> None:
    first = ProjectKey.make(root, "P1")

    assert ProjectKey.make(root, "P1") == first
