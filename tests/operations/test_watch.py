from __future__ import annotations

import errno
import json
import os
import subprocess

import pytest

from fiona_dagster.config import DataRoot, Switches
from fiona_dagster.operations import initialise
from fiona_dagster.operations.watch import Change, CodeLocation, ConfigurationWatch


def test_nothing_changed_is_no_change(root: DataRoot) -> None:
    initialise(root)
    watch = ConfigurationWatch(root, interval=0)

    assert watch.look() is None
    assert not watch.reload_wanted


def test_a_new_project_is_a_sound_change_seen_once(root: DataRoot) -> None:
    initialise(root)
    watch = ConfigurationWatch(root, interval=0)
    (root.project_files / "ABC.json").write_text(json.dumps({"name": "ABC"}))

    assert watch.look() == Change(())
    assert watch.reload_wanted
    assert watch.look() is None


def test_broken_rules_are_named_and_want_no_reload(root: DataRoot) -> None:
    initialise(root)
    watch = ConfigurationWatch(root, interval=0)
    root.rules_file.write_text('[{"type":')

    change = watch.look()

    assert change is not None
    assert "classifyRules.json: line 1: not JSON" in change.problems[0]
    assert not watch.reload_wanted


def test_a_broken_file_names_itself_and_wants_no_reload(root: DataRoot) -> None:
    initialise(root)
    watch = ConfigurationWatch(root, interval=0)
    (root.project_files / "ABC.json").write_text('{"name": "ABC",\n "target": []}')
    change = watch.look()

    assert change is not None
    assert len(change.problems) == 1
    assert "ABC.json: line 2: target: unknown key; did you mean 'targets'?" in change.problems[0]
    assert not watch.reload_wanted


def test_the_switch_file_turns_the_receiver_off(root: DataRoot) -> None:
    initialise(root)
    watch = ConfigurationWatch(root, interval=0)
    assert watch.switches.receiver
    root.enabled_file.write_text("010")
    watch.look()

    assert not watch.switches.receiver


def test_it_looks_only_as_often_as_told(root: DataRoot) -> None:
    initialise(root)
    watch = ConfigurationWatch(root, interval=60)
    watch.look()
    (root.project_files / "ABC.json").write_text(json.dumps({"name": "ABC"}))

    assert watch.look() is None


def test_a_switch_file_that_cannot_be_read_changes_nothing(
    root: DataRoot, caplog: pytest.LogCaptureFixture
) -> None:
    initialise(root)
    root.enabled_file.write_text("100")
    watch = ConfigurationWatch(root, interval=0)
    root.enabled_file.unlink()
    root.enabled_file.mkdir()
    watch.look()
    watch.look()

    assert watch.switches == Switches(receiver=True, pulling=False, sending=False)
    assert caplog.text.count("what it said before stays in force") == 1
    assert "sending is switched off" in caplog.text


def test_who_cannot_ask_for_the_definitions_asks_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_more(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    location = CodeLocation("http://127.0.0.1:1", os.environ)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", none_more)
        assert not location.step(reload=True), "it is not taken up"
        assert not location.step(reload=True)
        before = location.busy
        assert not before
    assert caplog.text.count("nobody can ask for the definitions (") == 1
    monkeypatch.setattr(location, "_next", 0.0)
    assert location.step(reload=True)
    assert location.busy
    location.end()
