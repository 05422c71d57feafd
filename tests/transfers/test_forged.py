"""Packages that are sealed and signed as they should be, but whose inside is not as it should be."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.transfers import zipformat
from fiona_dagster.transfers.verify import verify_package
from fiona_dagster.transfers.zipformat import SIGNATURE_PREFIX, SIGNED, Entry
from tests.transfers.test_package import HEAD, KEY

GOOD = [("report.json", b"{}\n"), ("P/MR/1/00001.dcm", b"one"), ("P/MR/1/00002.dcm", b"two")]
Content = list[tuple[str, bytes]]


def forge(
    path: Path, content: Content, *, listed: Content | None = None, between: bytes = b"", head: Any = HEAD
) -> Path:
    """Whoever has the key writes a package by hand."""
    files = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in (content if listed is None else listed)
    ]
    document = {"format": "fiona-package-2", "signing_key": KEY.public.hex(), **head, "files": files}
    whole, entries = b"", []
    for name, data in [("manifest.json", json.dumps(document).encode()), *content]:
        entry = Entry(name, len(data), zlib.crc32(data), len(whole))
        entries.append(entry)
        whole += zipformat.local_header(entry) + data + (between if entry.name == content[0][0] else b"")
    start = len(whole)
    whole += b"".join(map(zipformat.directory_header, entries))
    whole += zipformat.end_records(len(entries), start, len(whole) - start) + SIGNED.prefix
    digest = hashlib.sha256(whole).digest()
    path.write_bytes(whole + digest.hex().encode() + SIGNATURE_PREFIX + KEY.sign(digest).hex().encode())
    return path


def test_the_forger_s_hand_is_sound(tmp_path: Path) -> None:
    assert verify_package(forge(tmp_path / "x.zip", GOOD), KEY.public) == []


@pytest.mark.parametrize(
    ("content", "more", "found"),
    [
        ([*GOOD, ("P/MR/1/00002.dcm", b"two")], {"listed": GOOD}, "a name stands there twice"),
        ([*GOOD, ("P/MR/1/00003.DCM", b"x"), ("P/MR/1/00003.dcm", b"y")], {}, "a name stands there twice"),
        ([*GOOD, ("P/MR/1/00003.dcm", b"x")], {"listed": GOOD}, "P/MR/1/00003.dcm: not in the manifest"),
        (GOOD[:2], {"listed": GOOD}, "P/MR/1/00002.dcm: missing"),
        (GOOD[1:], {}, "not in the order of a package"),
        (GOOD[::-1], {}, "not in the order of a package"),
        (GOOD, {"between": b"?"}, "does not lie where it should"),
        (GOOD, {"listed": [*GOOD, GOOD[2]]}, "manifest.json: files: a name stands there twice"),
        (GOOD, {"listed": [*GOOD[:2], (GOOD[2][0], b"owt")]}, "P/MR/1/00002.dcm: changed"),
        (GOOD, {"head": {"format": "fiona-package-1"}}, "manifest.json: format: expected fiona-package-2"),
        (GOOD, {"head": {"signing_key": None}}, "archive comment"),
        (GOOD, {"head": {"signing_key": "00" * 32}}, "signed with another key"),
        ([*GOOD, ("P/MR/../00003.dcm", b"x")], {}, "the name is not one that a package may have"),
    ],
)
def test_it_is_found_and_named(tmp_path: Path, content: Content, more: dict[str, Any], found: str) -> None:
    problems = verify_package(forge(tmp_path / "x.zip", content, **more), KEY.public)
    assert any(found in problem for problem in problems), problems
