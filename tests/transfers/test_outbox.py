"""Write-backs: the ledger's state and its row of work are the outbox. Once as seen in REDCap, whatever dies.

The outbox holds no messages: it says that REDCap has to be told how a study's transfers stand, and what is
told is read from the ledger at that moment (docs/adr/0027).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fiona_dagster.errors import RedcapUnavailable
from fiona_dagster.redcap.transport import Transport
from fiona_dagster.transfers import delivery, outcome
from tests.site import PROJECT, STUDY, Site

KEY = f"status:{STUDY}:{PROJECT}"


class Killed(BaseException):
    """The process ends here; nothing of it runs on."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, call: int, *, effect: bool) -> Iterator[list[int]]:
    """Kills at the n-th call to REDCap, before it is sent or after it took effect."""
    done: list[int] = []
    post = Transport.post

    def deadly(self: Transport, *arguments: Any, **more: Any) -> object:
        done.append(1)
        if len(done) == call and not effect:
            raise Killed
        reply = post(self, *arguments, **more)
        if len(done) == call:
            raise Killed
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(Transport, "post", deadly)
        yield done


def tell(site: Site) -> None:
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)


def due(site: Site) -> bool:
    with site.open() as gateway:
        return gateway.ledger.work.get(KEY) is not None


def written(site: Site) -> list[str]:
    """Every write of an outcome, as REDCap's log has it, oldest first."""
    log = reversed(site.redcap.log("Incoming"))
    return [
        entry.details
        for entry in log
        if "transfer_error" in entry.details or "transfer_date" in entry.details
    ]


@pytest.fixture
def refused(site: Site) -> Site:
    """A request that is refused: REDCap is to be told."""
    site.receive(1)
    site.ask(participant="X1")
    assert len(site.poll().refused) == 1
    return site


@pytest.fixture
def delivered(site: Site) -> Site:
    site.receive(1)
    site.ask()
    site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), "archive")
        delivery.finish(gateway, site.transfer())
    assert site.transfer().state == "delivered"
    return site


@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
def test_killed_at_every_call_it_is_written_once(
    refused: Site, monkeypatch: pytest.MonkeyPatch, effect: bool
) -> None:
    """Kills at the first call, then at the second of the next try, and so on until nothing is left."""
    for call in range(1, 30):
        with killed_at(monkeypatch, call, effect=effect) as done:
            try:
                tell(refused)
                break
            except Killed:
                assert due(refused)
    assert call > 2
    assert len(done) < call
    assert len(written(refused)) == 1
    assert not due(refused)


def test_killed_between_redcap_and_the_ledger(refused: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from fiona_dagster.ledger.work import WorkList

    def die(*_arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(WorkList, "done", die)
        with pytest.raises(Killed):
            tell(refused)
    assert due(refused)
    tell(refused)
    assert (len(written(refused)), due(refused)) == (1, False)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda site: site.redcap.faults.duplicate(3),
        lambda site: site.redcap.faults.cut_after_import(2),
        lambda site: site.redcap.faults.ignored(),
        lambda site: site.redcap.faults.count_zero(),
    ],
    ids=["duplicated", "answer lost", "ignored", "count 0"],
)
def test_what_happens_on_the_way_does_not_show(refused: Site, arrange: Callable[[Site], None]) -> None:
    arrange(refused)
    tell(refused)
    assert (len(written(refused)), due(refused)) == (1, False)


def test_days_without_redcap_lose_nothing(refused: Site) -> None:
    refused.redcap.faults.ban(60.0)
    for _ in range(3):  # nobody calls during a ban
        with pytest.raises(RedcapUnavailable):
            tell(refused)
        assert due(refused)
    refused.root.redcap_calls_file.unlink()  # a later day
    tell(refused)
    assert (len(written(refused)), due(refused)) == (1, False)


def test_two_requests_of_a_record_are_told_in_order(refused: Site) -> None:
    refused.fill(1, transfer_event_name="Year 9", transfer_name="H001")
    assert len(refused.poll().refused) == 1
    tell(refused)
    (told,) = written(refused)
    assert "has no such event" in told  # the newest state, not one that has passed


def test_a_restored_backup_is_told_again(delivered: Site) -> None:
    backup = delivered.redcap.backup()
    tell(delivered)
    delivered.poll()
    assert not due(delivered)
    first = written(delivered)
    delivered.redcap.restore(backup)
    assert written(delivered) == []
    poll = delivered.poll()
    assert (poll.accepted, due(delivered)) == ((), True)  # told again, not sent again
    tell(delivered)
    assert written(delivered) == first
    delivered.poll()
    assert not due(delivered)


def test_what_is_being_told_keeps_its_place(refused: Site) -> None:
    """The poll does not renew a row that waits: its attempts and times would begin anew."""
    with refused.open() as gateway:
        before = gateway.ledger.work.get(KEY)
        assert before is not None
        gateway.ledger.work.failed(KEY, "down", permanent=False)
        waiting = gateway.ledger.work.get(KEY)
    refused.poll()
    with refused.open() as gateway:
        assert gateway.ledger.work.get(KEY) == waiting
