"""SITES: projects with a port and a tree of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fiona_dagster.config import DataRoot, check, load_settings
from fiona_dagster.errors import ConfigurationError


def write(root: DataRoot, **document: Any) -> None:
    root.config_file.write_text(json.dumps(document))


def test_a_site_takes_what_it_leaves_out_from_the_main_part(root: DataRoot) -> None:
    write(
        root,
        DICOMIP="127.0.0.1",
        DICOMAETITLE="MAIN",
        receiver={"quiet_seconds": 5, "max_pdu": 65536},
        SITES={"HEART": {"DICOMPORT": 11113, "receiver": {"quiet_seconds": 9}}},
    )
    settings = load_settings(root)
    heart = settings.of_site("HEART")

    assert (heart.DICOMIP, heart.DICOMPORT, heart.DICOMAETITLE) == ("127.0.0.1", 11113, "MAIN")
    assert (heart.receiver.quiet_seconds, heart.receiver.max_pdu) == (9, 65536)
    assert settings.receiver.quiet_seconds == 5
    assert settings.of_site("") is settings


def test_defaults_hold_where_nobody_says_anything(root: DataRoot) -> None:
    write(root, SITES={"HEART": {"DICOMPORT": 0}})
    settings = load_settings(root)

    assert settings.of_site("HEART").receiver == settings.receiver
    assert settings.of_site("HEART").DICOMAETITLE == settings.DICOMAETITLE


@pytest.mark.parametrize(
    ("sites", "named"),
    [
        ({"../x": {"DICOMPORT": 1}}, "SITES"),
        ({"": {"DICOMPORT": 1}}, "SITES"),
        ({"A": {"DICOMPORT": 11112}}, "11112"),
        ({"A": {"DICOMPORT": 5}, "B": {"DICOMPORT": 5}}, "5"),
        ({"A": {}}, "DICOMPORT"),
        ({"A": 3}, "SITES.A"),
        ({"A": {"DICOMPORT": 5, "DICOMAETITEL": "X"}}, "DICOMAETITLE"),
        ({"A": {"DICOMPORT": 5, "receiver": 3}}, "receiver"),
        ([], "SITES"),
    ],
)
def test_wrong_sites_are_refused_by_name(root: DataRoot, sites: Any, named: str) -> None:
    write(root, SITES=sites)

    with pytest.raises(ConfigurationError, match=named):
        load_settings(root)


def test_several_sites_may_choose_their_ports_freely(root: DataRoot) -> None:
    write(root, DICOMPORT=0, SITES={"A": {"DICOMPORT": 0}, "B": {"DICOMPORT": 0}})

    assert set(load_settings(root).SITES) == {"A", "B"}


def test_a_site_without_its_project_is_a_problem(root: DataRoot) -> None:
    write(root, SITES={"HEART": {"DICOMPORT": 11113}})
    assert any("SITES.HEART" in problem for problem in check(root))

    (root.project_files / "HEART.json").write_text('{"name": "HEART"}')
    assert check(root) == []


def test_trees_of_sites_lie_apart_and_all_else_is_common(root: DataRoot) -> None:
    heart = root.of_site("HEART")
    heart.make()

    assert heart.archive == root.path / "sites" / "HEART" / "site" / "archive"
    assert heart.archive.is_dir()
    assert (heart.quarantine, heart.ledger_file, heart.locks) == (
        root.quarantine,
        root.ledger_file,
        root.locks,
    )
    assert root.site_trees() == [root, heart]
    assert heart.of_site("") == root


@pytest.mark.parametrize("name", ["..", "a/b", "x" * 21, "a b"])
def test_the_name_of_a_site_never_becomes_a_path(root: DataRoot, name: str) -> None:
    with pytest.raises(ValueError, match="name of a site"):
        root.of_site(name)
