"""Targets that don't answer are left alone, but never for good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Ledger, circuits, utc_after
from fiona_dagster.operations.overview import overview


def test_one_study_that_always_fails_opens_nothing(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        for _ in range(20):
            assert not ledger.circuits.failed("archive", "1.2").open
        assert ledger.circuits.opened() == []


def test_several_studies_open_it_and_one_success_closes_it(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(root) as ledger:
        for study in ("1.2", "1.3", "1.4"):
            ledger.work.need("deliver", study, 1, project="P", target="archive")
            ledger.work.failed(f"deliver:{study}:P:archive", "no answer", permanent=False)
            circuit = ledger.circuits.failed("archive", study)
        assert circuit.open
        assert not ledger.circuits.may_probe(circuit)
        assert ledger.circuits.of("other").open is False
        ahead = replace(circuit, probe_at=utc_after(86400))
        assert ledger.circuits.may_probe(ahead), "the clock was set back since"

        monkeypatch.setattr(circuits, "FIRST_PAUSE_SECONDS", 0.0)
        circuit = ledger.circuits.failed("archive", "1.2")
        assert ledger.circuits.may_probe(circuit)
        ledger.circuits.probing("archive", "deliver:1.2:P:archive")
        (circuit,) = ledger.circuits.opened()
        assert circuit.probe == "deliver:1.2:P:archive"
        assert not ledger.circuits.may_probe(circuit), "one at a time"

        assert ledger.work.due("deliver") == []
        ledger.circuits.succeeded("archive")
        assert ledger.circuits.opened() == []
        assert len(ledger.work.due("deliver")) == 3


def test_a_target_that_is_down_is_shown_by_the_overview(root: DataRoot) -> None:
    root.make()
    with Ledger(root) as ledger:
        for study in ("1.2", "1.3", "1.4"):
            ledger.circuits.failed("archive", study)
    (shown,) = overview(root)["targets_down"]
    assert (shown["target"], shown["failures"]) == ("archive", 3)


def test_a_target_that_nothing_waits_for_is_forgotten(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        for target in ("archive", "removed"):
            for study in ("1.2", "1.3", "1.4"):
                ledger.circuits.failed(target, study)
        ledger.work.need("deliver", "1.2", 1, project="P", target="archive")
        ledger.work.need("deliver", "1.2", 1, project="P", target="removed")
        ledger.circuits.forget_idle()
        assert [circuit.target for circuit in ledger.circuits.opened()] == ["archive", "removed"]
        ledger.work.done("deliver:1.2:P:removed", 1)
        ledger.circuits.forget_idle()
        assert [circuit.target for circuit in ledger.circuits.opened()] == ["archive"]


def test_a_target_that_is_not_who_it_should_be_is_left_alone_at_once(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        for study in ("1.2", "1.3"):
            ledger.work.need("deliver", study, 1, project="P", target="archive")
            ledger.work.failed(f"deliver:{study}:P:archive", "another key", permanent=False)
        assert not ledger.circuits.distrusted("archive", "1.2"), "nobody knew"
        assert ledger.circuits.distrusted("archive", "1.3")
        ledger.circuits.failed("archive", "1.3")  # silence in between changes nothing
        (circuit,) = ledger.circuits.opened()
        assert circuit.distrusted
        for study in ("1.2", "1.3", "1.4"):
            ledger.circuits.failed("down", study)
        ledger.circuits.trust_again()
        assert [circuit.target for circuit in ledger.circuits.opened()] == ["down"]
        assert len(ledger.work.due("deliver")) == 2


def test_who_told_that_a_target_was_not_who_it_should_be_follows_when_it_is_again(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        for target in ("archive", "other"):
            ledger.work.need("deliver", "1.2", 1, project="P", target=target)
            ledger.work.failed(f"deliver:1.2:P:{target}", "refused", permanent=True)
        ledger.work.need("deliver", "1.3", 1, project="P", target="archive")
        ledger.circuits.distrusted("archive", "1.2")
        ledger.circuits.distrusted("archive", "1.3")
        assert {work.study for work in ledger.work.due("deliver")} == {"1.3"}

        ledger.circuits.succeeded("archive")  # the delivery that tried it

        assert {(work.study, work.target) for work in ledger.work.due("deliver")} == {
            ("1.2", "archive"),
            ("1.3", "archive"),
        }
