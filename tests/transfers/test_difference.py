"""What other rules would change, without reading a file where the ledger knows enough."""

from __future__ import annotations

import json
import shutil
import zlib
from typing import Any

import pytest

from fiona_dagster.studies import parse_rules
from fiona_dagster.transfers import difference as module
from fiona_dagster.transfers import intake
from fiona_dagster.transfers.difference import difference
from tests.running import fiona
from tests.site import PLANTED, STUDY, Site


def asked(*entries: dict[str, Any]) -> Any:
    return parse_rules(json.dumps([{"type": "hit", "rules": list(entries)}]), "rules")


def test_series_that_would_change_are_listed_from_the_ledger_alone(site: Site) -> None:
    site.receive(1, 2)
    shutil.move(site.root.archive, site.folder / "elsewhere")
    with site.open() as gateway:
        same = difference(gateway, parse_rules(site.root.rules_file.read_text(), "rules"))
        other = difference(gateway, asked({"tag": ["Modality"], "value": "."}))

    assert (same.series, same.changes, same.read) == (1, [], [])
    (change,) = other.changes
    assert (change.study, change.after) == (STUDY, ("hit",))
    assert "CT" in change.before


def test_what_the_ledger_does_not_keep_is_read(site: Site) -> None:
    site.receive(1)
    rules = asked({"tag": ["PatientID"], "value": PLANTED[1]})
    with site.open() as gateway:
        found = difference(gateway, rules)
        assert (found.read, found.changes[0].after) == ([STUDY], ("hit",))
        shutil.move(site.root.archive / f"scp_{STUDY}", site.folder / "elsewhere")
        gone = difference(gateway, rules)

    assert (gone.unreadable, gone.series) == ([STUDY], 0)


@pytest.mark.parametrize(("tag", "value"), [(["NumFiles"], "^2$"), (["IncomingConnection"], "AETitleCaller")])
def test_values_of_the_series_count(site: Site, tag: list[str], value: str) -> None:
    site.receive(1, 2)
    with site.open() as gateway:
        found = difference(gateway, asked({"tag": tag, "value": value}))

    assert [change.after for change in found.changes] == [("hit",)]


def test_several_processes_say_the_same(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.receive(1, 2)
    rules = asked({"tag": ["Modality"], "value": "."})
    with site.open() as gateway:
        alone = difference(gateway, rules)
        monkeypatch.setattr(module, "ALONE", 0)
        together = difference(gateway, rules, workers=2)

    assert together == alone


def test_the_ledger_s_headers_follow_the_study(site: Site) -> None:
    site.receive(1)
    site.receive(2)
    with site.open() as gateway:
        intake.register(gateway, STUDY)
        (series,) = gateway.ledger.variants.all()

    assert series.instances == 2
    content = zlib.decompress(series.variants)
    assert not [word for word in PLANTED if word.encode() in content]


def test_the_command(site: Site) -> None:
    site.receive(1)
    new = site.folder / "new.json"
    new.write_text(json.dumps([{"type": "hit", "rules": [{"tag": ["Modality"], "value": "."}]}]))
    table = fiona("classify", "--diff", str(new), data=site.root.path)
    document = json.loads(fiona("classify", "--diff", str(new), "--json", data=site.root.path).stdout)

    assert table.returncode == 0
    assert "1 of 1 series would get other types" in table.stdout
    assert [change["after"] for change in document["changes"]] == [["hit"]]
    assert fiona("classify", "--diff", str(new), "--lint", data=site.root.path).returncode == 2
    assert fiona("classify", "--diff", str(new), data=site.folder / "none").returncode == 2
    new.write_text("[{]")
    assert fiona("classify", "--diff", str(new), data=site.root.path).returncode == 2
