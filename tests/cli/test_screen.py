"""Tables and lines of commands: whole, in one line for programs, and as they are."""

from __future__ import annotations

import pytest
from rich.table import Table

from fiona_dagster.cli.screen import Screen

UID = "1.2.826.0.1.3680043.8.498." + "1" * 38


@pytest.mark.parametrize("columns", ["", "40"])
def test_nothing_is_cut_or_taken_for_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    table = Table("id", "from", title="[/red] of senders")
    table.add_row(UID, "[/red]:smile:")
    Screen().print(table)
    Screen().print(f"study {UID} of [/red]:smile:")
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert len(cells) == 1 if not columns else len(cells) > 1
    assert ["".join(parts) for parts in zip(*cells, strict=True)] == [UID, "[/red]:smile:"]
    assert "[/red] of senders" in lines[0]
    if not columns:
        assert lines[-1] == f"study {UID} of [/red]:smile:"
