"""Each misbehaviour of a server, and all of them at random: what is written arrives once and whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from fiona_dagster.errors import RedcapRejected, RedcapUnavailable
from fiona_dagster.redcap import IncomingProject, RedcapClient
from fiona_dagster.redcap.sandbox import Sandbox
from fiona_dagster.redcap.sandbox.faults import Faults
from fiona_dagster.redcap.sandbox.hostile import ANY_CALL, IMPORTS, Hostile

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STUDY = {"study_instance_uid": "1.2.3", "study_description": "x"}
SERIES = [{"series_instance_uid": f"1.2.3.{n}", "series_num_files": str(n)} for n in (1, 2)]

WAYS: dict[str, Callable[[Faults], None]] = {
    "status": lambda faults: faults.fail(2, 503),
    "delay": lambda faults: faults.delay(0.05),
    "html": lambda faults: faults.html(2),
    "empty": lambda faults: faults.empty(2),
    "cut": lambda faults: faults.cut(2),
    "redirect": lambda faults: faults.redirect(),
    "error_format": lambda faults: faults.error_format(3, "csv"),
    "dictionary": lambda faults: faults.change_dictionary(2),
    "cut_after_import": lambda faults: faults.cut_after_import(2),
    "count_zero": lambda faults: faults.count_zero(),
    "ignored": lambda faults: faults.ignored(),
    "duplicate": lambda faults: faults.duplicate(2),
}


def life(redcap: Sandbox, arrange: Callable[[], None]) -> None:
    """A study, a request and its outcome; ``arrange`` is called before each step."""
    incoming = IncomingProject(
        RedcapClient(redcap.url, redcap.tokens["Incoming"], timeout=5, sleep=lambda _seconds: None)
    )
    arrange()
    incoming.register_study(STUDY, SERIES)
    arrange()
    assert incoming.write_request("1.2.3", "P", "N1", "E", NOW) == 1
    arrange()
    (request,) = incoming.requests()
    arrange()
    incoming.write_outcome("1.2.3", 1, transfer_date=NOW, mapped_uid="9.8", expected=request)


def check(redcap: Sandbox) -> None:
    redcap.faults.clear()
    client = RedcapClient(redcap.url, redcap.tokens["Incoming"])
    (request,) = IncomingProject(client).requests()
    assert (request.project, request.mapped_uid, request.transfer_date) == ("P", "9.8", "2026-03-01 12:00")
    rows = client.export_records(fields=["series_instance_uid"])
    assert [row["series_instance_uid"] for row in rows if row["series_instance_uid"]] == [
        "1.2.3.1",
        "1.2.3.2",
    ]
    told = [entry for entry in redcap.log("Incoming") if "transfer_mapped_uid = '9.8'" in entry.details]
    assert len(told) == 1  # as seen in REDCap, once


def test_every_way_has_a_test() -> None:
    assert {*WAYS, "ban"} == {*ANY_CALL, *IMPORTS}


@pytest.mark.parametrize("way", WAYS)
def test_the_client_survives(redcap: Sandbox, way: str) -> None:
    def arrange() -> None:
        redcap.faults.clear()
        WAYS[way](redcap.faults)

    life(redcap, arrange)
    check(redcap)


@pytest.mark.parametrize("form", ["xml", "csv", "text"])
def test_a_refusal_is_one_whatever_its_format(
    redcap: Sandbox, client: RedcapClient, form: Literal["xml", "csv", "text"]
) -> None:
    redcap.faults.error_format(form=form)
    with pytest.raises(RedcapRejected, match="are not valid: 'foo'"):
        client.export_records(fields=["foo"])


def test_a_ban_ends_the_call_and_the_next_waits(redcap: Sandbox, client: RedcapClient) -> None:
    redcap.faults.ban()
    with pytest.raises(RedcapUnavailable, match="shut this address out"):
        client.version()
    with pytest.raises(RedcapUnavailable, match="asked for a pause"):
        client.version()
    assert len(redcap.calls) == 1


def test_a_restored_backup_is_seen_and_written_again(redcap: Sandbox, incoming: IncomingProject) -> None:
    incoming.register_study(STUDY, SERIES)
    incoming.write_request("1.2.3", "P", "N1", "E", NOW)
    backup = redcap.backup()
    (request,) = incoming.requests()
    assert incoming.write_outcome("1.2.3", 1, transfer_date=NOW, mapped_uid="9.8", expected=request)
    incoming.register_study({**STUDY, "study_description": "y"}, SERIES)
    redcap.restore(backup)
    assert incoming.requests()[0].transfer_date == ""
    assert incoming.write_outcome("1.2.3", 1, transfer_date=NOW, mapped_uid="9.8", expected=request)
    check(redcap)


@pytest.mark.parametrize("seed", range(5))
def test_at_random(redcap: Sandbox, seed: int) -> None:
    """As the service does it: what can pass is tried again, in order, until it stands there."""
    redcap.hostile = Hostile(seed, share=0.3, backups=False)
    now = datetime.now(UTC)
    for _ in range(40):
        try:
            life(redcap, lambda: None)
            break
        except RedcapUnavailable:
            assert datetime.now(UTC) - now < timedelta(minutes=1)
    redcap.hostile = None
    check(redcap)


def test_the_same_seed_misbehaves_the_same(redcap: Sandbox) -> None:
    def ways(seed: int) -> list[str]:
        hostile = Hostile(seed)
        found = (hostile.next(redcap.store, importing=number % 2 == 0) for number in range(150))
        return [fault.kind if fault else "" for fault in found]

    assert ways(1) == ways(1) != ways(2)
    assert set(ways(1)) > {"", "html", "status"}
