"""Examinations that are registered beforehand: a table is checked whole and written once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.cli import fiona
from fiona_dagster.errors import UsageError
from fiona_dagster.transfers import assignment, coupling, delivery, outcome, resending
from fiona_dagster.transfers.coupling import read_table
from tests.site import EVENT, PROJECT, STUDY, Site
from tests.tables import couple, read, use_tables

GOOD = "AccessionNumber,Project,Participant,Event\nACC4455667,HEART,H001,Baseline\nB2,HEART,H002,Year 1\n"


@pytest.fixture
def coupled(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    use_tables(site)
    monkeypatch.setenv("FIONA_DATA", str(site.root.path))
    return site


def run(site: Site, *arguments: str, text: str = "") -> tuple[int, str]:
    file = site.folder / "table.csv"
    file.write_text(text)
    more = [str(file)] if text else []
    result = CliRunner().invoke(fiona, [*arguments, *more], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return int(result.return_value or result.exit_code or 0), result.output


def entries(site: Site) -> list[tuple[str, str, str, str]]:
    return [
        (row["record_id"], row["cl_accessionnumber"], row["cl_subjectid"], row["cl_eventname"])
        for row in read(site.redcap, "CouplingList")
    ]


def test_a_table_is_written_once_and_its_studies_are_assigned(coupled: Site) -> None:
    old = (datetime.now(UTC) - timedelta(days=30)).strftime("%Y-%m-%d %H:%M")
    couple(coupled, 7, "B2", participant="H009", date=old)  # expired
    coupled.receive(1)
    coupled.poll()

    run(coupled, "couple", text=GOOD)
    _, said = run(coupled, "couple", "--json", text=GOOD)

    assert json.loads(said) == {"added": 0, "there": 2, "problems": []}
    assert entries(coupled) == [
        ("7", "B2", "H009", "Baseline"),
        ("8", "ACC4455667", "H001", "Baseline"),
        ("9", "B2", "H002", "Year 1"),
    ]
    with coupled.open() as gateway:
        assert assignment.assign_held(gateway).asked == 1


def test_two_tables_at_once_are_both_there(coupled: Site) -> None:
    tables = []
    for number in range(3):
        file = coupled.folder / f"{number}.csv"
        file.write_text(f"AccessionNumber,Project,Participant,Event\nA{number},HEART,H00{number},Baseline\n")
        tables.append(file)

    def add(file: Path) -> int:
        with coupled.open() as gateway:
            return coupling.couple(gateway, file).added

    coupled.redcap.faults.delay(0.2, calls=20)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(add, tables)) == [1, 1, 1]
    coupled.redcap.faults.clear()
    assert sorted(entry[1] for entry in entries(coupled)) == ["A0", "A1", "A2"]


def test_one_wrong_line_stops_all_and_no_value_is_repeated(coupled: Site) -> None:
    couple(coupled, 0, "C3", participant="H005", date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"))
    lines = [
        "A1;HEART;H001;Baseline",
        "A1;HEART;H002;Baseline",
        "A2;HEART;WRONG;Baseline",
        "A3;HEART;H001;Year 9",
        "A4;KIDNEY;H001;Baseline",
        f"{'9' * 17};HEART;H001;Baseline",
        "C3;HEART;H001;Baseline",
    ]
    table = "Accession Number;project;Subject ID;event name\n" + "\n".join(lines) + "\n"

    code, said = run(coupled, "couple", text=table)

    assert code == 1
    for number, words in {
        3: "line 2 sends the same accession number elsewhere",
        4: "does not match the pattern",
        5: "no such event",
        6: "not known here",
        7: "1 to 16 printable characters",
        8: "the coupling list sends this accession number elsewhere",
    }.items():
        (line,) = (line for line in said.splitlines() if line.startswith(f"line {number}:"))
        assert words in line
    assert not any(word in said for word in ("WRONG", "H002", "C3"))
    assert len(entries(coupled)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AccessionNumber,Project,Participant\nA,B,C\n", "no column event"),
        ("AccessionNumber,Project,Participant,Event\n,,,\n", "holds no line"),
        ("\0", "no column"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_table(file)


@given(st.text(max_size=60))
def test_any_text_is_a_table_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any-table.csv"
    file.write_text(f"AccessionNumber,Project,Participant,Event\n{text}", encoding="utf-8")
    try:
        lines = read_table(file)
    except UsageError:
        return
    assert all(line.number >= 2 for line in lines)


def test_sent_again_with_the_assignment_that_it_has(coupled: Site) -> None:
    coupled.packaged()
    with coupled.open() as gateway:
        delivery.deliver(gateway, coupled.transfer(), "archive")
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    first = coupled.transfer()

    assert "1 transfers would be sent again" in run(coupled, "resend", PROJECT, "--dry-run")[1]
    assert coupled.transfer().id == first.id
    assert "1 transfers are sent again" in run(coupled, "resend", STUDY)[1]

    again = coupled.transfer()
    assert (again.state, again.participant, again.event) == ("accepted", first.participant, EVENT)
    assert again.id != first.id
    coupled.make_package()
    with coupled.open() as gateway:
        proof, _ = delivery.deliver(gateway, coupled.transfer(), "archive")
        assert proof is not None
        assert coupled.transfer().state == "delivered"
        assert coupled.transfer().mapped_uid == first.mapped_uid
        with pytest.raises(UsageError, match="project alone"):
            resending.to_resend(gateway, PROJECT, PROJECT)
    assert coupled.poll().accepted == (), "the request in REDCap is the one that it was"


def test_the_command_reports_and_adopts(coupled: Site) -> None:
    coupled.fill(
        1,
        transfer_requested_date="2025-03-01 10:00",
        transfer_project_name=PROJECT,
        transfer_name="H001",
        transfer_event_name=EVENT,
        transfer_date="2025-03-01 10:07",
    )
    assert "HEART: 1 finished by another system" in run(coupled, "adopt", "--report")[1]
    _, said = run(coupled, "adopt", "--json")
    assert json.loads(said) == {"finished": {PROJECT: 1}, "unfinished": {}, "adopted": 1}
