"""The switch file of three digits."""

from __future__ import annotations

import pytest

from fiona_dagster.config import (
    DataRoot,
    Switches,
    pulling_enabled,
    read_switches,
    receiver_enabled,
    require_sending,
    sending_enabled,
)
from fiona_dagster.errors import ConfigurationError, SendingHeld


def test_a_missing_file_means_on(root: DataRoot) -> None:
    assert read_switches(root) == Switches(receiver=True, pulling=True, sending=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (True, True, True)),
        ("111\n", (True, True, True)),
        ("0", (False, True, True)),
        ("101", (True, False, True)),
        ("110\n", (True, True, False)),
        ("000 and more", (False, False, False)),
        ("\n010", (False, True, False)),
        ("ON!", (True, True, True)),
    ],
)
def test_a_zero_switches_off_and_nothing_else_does(
    root: DataRoot, text: str, expected: tuple[bool, bool, bool]
) -> None:
    root.enabled_file.write_text(text)
    assert (receiver_enabled(root), pulling_enabled(root), sending_enabled(root)) == expected


def test_a_file_that_cannot_be_read_is_an_error_not_a_yes(root: DataRoot) -> None:
    root.enabled_file.mkdir()
    with pytest.raises(ConfigurationError, match="enabled"):
        require_sending(root)


def test_held_sending_names_the_file(root: DataRoot) -> None:
    root.enabled_file.write_text("110")
    with pytest.raises(SendingHeld, match=r"third digit of .*enabled is 0"):
        require_sending(root)
    root.enabled_file.write_text("111")
    require_sending(root)
