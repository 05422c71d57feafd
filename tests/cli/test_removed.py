"""``fiona removed``: a person confirms that copies are gone."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import import_paths
from fiona_dagster.ledger import Content, Ledger, Request
from fiona_dagster.operations import initialise
from tests.making import STUDY, write_object
from tests.peers_fixtures import free_port
from tests.running import fiona


@pytest.fixture
def sent(root: DataRoot, tmp_path: Path) -> DataRoot:
    """A study that was begun to be sent to a server and to a PACS that does not run."""
    initialise(root)
    document = json.loads(root.config_file.read_text())
    document["targets"] = {
        "pacs": {"kind": "dicom", "host": "127.0.0.1", "port": free_port(), "called_ae_title": "PACS"}
    }
    root.config_file.write_text(json.dumps(document))
    (root.project_files / "P.json").write_text(json.dumps({"name": "P", "targets": ["pacs"]}))
    import_paths(root, [write_object(tmp_path, "1.2.3")])
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.receipts.close_revision(STUDY)
        ledger.receipts.registered(STUDY, 1, [], {})
        transfer = ledger.transfers.accept(Request(STUDY, "P", 1, "2026-11-23 10:00", "X1", "E1"), 1)
        ledger.transfers.record_verification(transfer, passed=True, files={}, report={}, mapped_uid="2.25.1")
        for target in ("pacs", "server"):
            ledger.transfers.begin_sending(transfer, target, Content("s"))
    return root


def test_who_confirmed_what_and_when_is_kept(sent: DataRoot) -> None:
    done = fiona("removed", STUDY, "--project", "P", "--target", "server", "--json", data=sent.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"study": STUDY, "project": "P", "targets": ["server"]}

    shown = json.loads(fiona("status", STUDY, "--json", data=sent.path).stdout)["transfers"][0]["sendings"]
    assert [(one["target"], one["state"], bool(one["removed"])) for one in shown] == [
        ("pacs", "begun", False),
        ("server", "begun", True),
    ]
    me = pwd.getpwuid(os.getuid()).pw_name
    assert shown[1]["removed_by"] == me
    text = fiona("status", STUDY, data=sent.path).stdout
    assert "pacs: sending began" in text
    assert f"server: removal confirmed by {me}" in " ".join(text.split())


def test_a_pacs_that_does_not_answer_is_not_believed_gone(sent: DataRoot) -> None:
    asked = fiona("removed", STUDY, "--project", "P", data=sent.path)
    assert asked.returncode == 1
    assert "PACS at 127.0.0.1" in asked.stderr
    with Ledger(sent) as ledger:
        assert [sending.removed for sending in ledger.sendings.of(STUDY, "P")] == ["", ""]

    assert fiona("removed", STUDY, "--project", "P", "--unasked", data=sent.path).returncode == 0
    with Ledger(sent) as ledger:
        assert all(sending.removed for sending in ledger.sendings.of(STUDY, "P"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((STUDY, "--project", "Q"), 2, "nothing was sent to any target"),
        ((STUDY, "--project", "P", "--target", "elsewhere"), 2, "nothing was sent to elsewhere"),
        (("1.2.999", "--project", "P"), 1, "1.2.999"),
    ],
)
def test_what_was_not_sent_can_not_be_removed(
    sent: DataRoot, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = fiona("removed", *arguments, data=sent.path)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_request_is_withdrawn_and_where_copies_lie_is_shown_until_they_are_removed(sent: DataRoot) -> None:
    done = fiona("withdraw", STUDY, "--project", "P", "--json", data=sent.path)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["studies"] == [STUDY]
    assert sorted(place["target"] for place in document["follow_up"]) == ["pacs", "server"]

    waiting = fiona("withdrawals", data=sent.path)
    assert waiting.returncode == 1
    assert waiting.stdout.count("have it removed") == 2
    assert "X1" not in waiting.stdout
    fiona("removed", STUDY, "--project", "P", "--unasked", data=sent.path)
    settled = fiona("withdrawals", "--json", data=sent.path)
    assert settled.returncode == 0
    assert [found["state"] for found in json.loads(settled.stdout)["withdrawals"]] == ["carried"]
    again = fiona("withdraw", STUDY, "--project", "P", data=sent.path)
    assert (again.returncode, "no request" in again.stderr) == (2, True)
