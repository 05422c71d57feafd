"""The sandbox's page: what it shows, what it writes, and from where."""

from __future__ import annotations

import requests

from fiona_dagster.redcap import IncomingProject, RedcapClient
from fiona_dagster.redcap.sandbox import Sandbox

EVIL = "<script>alert(1)</script>\"'&"


def page(redcap: Sandbox, path: str) -> str:
    return redcap.url.removesuffix("/api/") + path


def test_a_request_is_made_by_hand(redcap: Sandbox, incoming: IncomingProject) -> None:
    incoming.register_study({"study_instance_uid": "1.2.3", "study_description": EVIL})
    assert "/Incoming" in requests.get(page(redcap, "/"), timeout=5).text
    assert "/Incoming/1.2.3" in requests.get(page(redcap, "/Incoming"), timeout=120).text
    shown = requests.get(page(redcap, "/Incoming/1.2.3"), timeout=120)
    assert "transfer_requested_date" in shown.text
    assert "<script" not in shown.text
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
    form = {
        "redcap_repeat_instrument": "transfers",
        "redcap_repeat_instance": "1",
        "field:transfer_requested_date": "2026-03-01 10:00",
        "field:transfer_project_name": "P",
        "boxes": "transfer_error___1 transfer_error___2",
        "field:transfer_error___2": "1",
    }
    saved = requests.post(page(redcap, "/Incoming/1.2.3"), data=form, timeout=120)
    assert (saved.status_code, "problem" in saved.text.partition("<body>")[2]) == (200, False)
    (request,) = incoming.requests()
    assert (request.requested_date, request.project, request.errors) == ("2026-03-01 10:00", "P", (2,))
    del form["field:transfer_error___2"]
    requests.post(page(redcap, "/Incoming/1.2.3"), data=form, timeout=120)
    assert incoming.requests()[0].errors == ()


def test_what_is_refused_is_said_and_nothing_is_stored(redcap: Sandbox, incoming: IncomingProject) -> None:
    incoming.register_study({"study_instance_uid": "1.2.3", "study_description": "x"})
    form = {
        "redcap_repeat_instrument": "transfers",
        "redcap_repeat_instance": "1",
        "field:transfer_requested_date": EVIL,
    }
    told = requests.post(page(redcap, "/Incoming/1.2.3"), data=form, timeout=120).text
    assert "could not be validated" in told
    assert "<script" not in told
    assert incoming.requests() == []


def test_a_record_is_made_with_events_too(redcap: Sandbox) -> None:
    made = requests.post(page(redcap, "/ResearchProject"), data={"record": "P/1 <b>"}, timeout=5)
    assert "P/1 &lt;b&gt;" in made.text
    form = {"redcap_event_name": "event_1_arm_1", "field:demo_subject": "s"}
    requests.post(page(redcap, "/ResearchProject/P%2F1%20%3Cb%3E"), data=form, timeout=120)
    client = RedcapClient(redcap.url, redcap.tokens["ResearchProject"])
    (row,) = client.export_records(fields=["record_id", "demo_subject"])
    assert (row["record_id"], row["demo_subject"]) == ("P/1 <b>", "s")


def test_other_sites_can_not_write_or_read(redcap: Sandbox, incoming: IncomingProject) -> None:
    incoming.register_study({"study_instance_uid": "1.2.3", "study_description": "x"})
    address = page(redcap, "/Incoming/1.2.3")
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        form = {"field:study_description": "evil"}
        assert requests.post(address, data=form, headers=headers, timeout=120).status_code == 403
        assert requests.get(address, headers=headers, timeout=120).status_code == 403
    assert requests.get(page(redcap, "/Nowhere"), timeout=120).status_code == 404
    assert requests.get(page(redcap, "/Incoming/1/2/3"), timeout=120).status_code == 404
    assert [entry.action for entry in redcap.log("Incoming")] == ["Create record (API) 1.2.3"]
