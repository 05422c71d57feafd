from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.dicom import clean_uid, is_storage_class, is_uid


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "2.25." + "9" * 59, "0.0", "1.02"])
def test_well_formed_uids_are_taken(uid: str) -> None:
    assert is_uid(uid)


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "1.", ".1", "1..2", "../1", "1/2", "1.2\n", "1.2 ", "a", "٣.1", "1" * 65, "1.2\0"]
)
def test_malformed_uids_are_not(uid: str) -> None:
    assert not is_uid(uid)


@given(st.text(alphabet="0123456789./\\ \0\n٣", max_size=70))
def test_whatever_is_a_uid_is_safe_as_a_name(text: str) -> None:
    if is_uid(text):
        assert len(text) <= 64
        assert re.sub(r"[0-9.]", "", text) == ""
        assert ".." not in text
        assert not text.startswith(".")
        assert not text.endswith(".")


@given(st.binary(max_size=80))
def test_cleaning_never_makes_foreign_bytes_a_uid(raw: bytes) -> None:
    text = clean_uid(raw)
    if is_uid(text):
        assert raw.rstrip(b"\0 ") == text.encode()


@pytest.mark.parametrize(
    ("uid", "taken"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True),
        ("1.2.840.10008.5.1.4.1.1.77.1.6", True),
        ("1.2.840.10008.5.1.4.1.1.9999", True),  # not yet invented
        ("1.2.840.10008.5.1.4.34.7", True),  # RT Beams Delivery Instruction Storage
        ("1.3.12.2.1107.5.9.1", True),  # Siemens CSA non-image
        ("1.2.840.113619.4.30", True),
        ("1.2.840.10008.1.1", False),
        ("1.2.840.10008.1.20.1", False),
        ("1.2.840.10008.1.3.10", False),
        ("1.2.840.10008.5.1.4.1.2.2.1", False),
        ("1.2.840.10008.5.1.4.1.1.201.2", False),
        ("1.2.840.10008.3.1.2.3.3", False),
        ("../1", False),
    ],
)
def test_storage_is_everything_that_is_not_known_to_be_something_else(uid: str, taken: bool) -> None:
    assert is_storage_class(uid) is taken
