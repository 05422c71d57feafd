"""Makes a data root, or adds what an existing one lacks; never changes what is there unasked."""

from __future__ import annotations

import contextlib
import json
import os
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError

SWITCHES = "111"
"""Receiver, pulling and sending are on: the first content of ``enabled``."""


def initialise(root: DataRoot, port: int | None = None, open_: bool = False) -> list[str]:
    """Makes the folders and example files that are missing.

    Args:
        root: where.
        port: DICOMPORT to set, also in a configuration that is there already.
        open_: accept associations from unknown AE titles, likewise.

    Returns:
        Paths of what was added or changed, relative to the data root; empty when all was there.

    Raises:
        ConfigurationError: a key can't be set in the configuration that is there.
    """
    added = [_name(root, folder) for folder in root.directories() if not folder.is_dir()]
    root.make()
    own = resources.files("fiona_dagster.operations") / "data"
    rules = resources.files("fiona_dagster.studies") / "data" / "classifyRules.json"
    files: tuple[tuple[Path, Traversable], ...] = (
        (root.config_file, own / "config.json"),
        (root.project_files / "EXAMPLE.json.example", own / "EXAMPLE.json.example"),
        (root.rules_file, rules),
        (root.dagster_home / "dagster.yaml", own / "dagster.yaml"),
    )
    for path, source in files:
        if not path.exists():
            _write(path, source.read_bytes())
            added.append(_name(root, path))
            if path == root.rules_file:  # in force from now on, also if what replaces it first is broken
                _write(root.last_good / path.name, source.read_bytes())
    if not root.enabled_file.exists():
        _write(root.enabled_file, SWITCHES.encode("ascii"))
        added.append(_name(root, root.enabled_file))
    if _set_keys(root.config_file, port, open_) and _name(root, root.config_file) not in added:
        added.append(_name(root, root.config_file))
    return added


def restore_dagster_home(root: DataRoot) -> bool:
    """Puts ``dagster.yaml`` back where Dagster's home was lost; no transfer depends on what was there.

    Args:
        root: an existing data root.

    Returns:
        Whether it was missing.
    """
    path = root.dagster_home / "dagster.yaml"
    if path.is_file():
        return False
    root.make()
    _write(path, (resources.files("fiona_dagster.operations") / "data" / "dagster.yaml").read_bytes())
    return True


def _name(root: DataRoot, path: Path) -> str:
    return str(path.relative_to(root.path)) if path != root.path else str(path)


def _set_keys(path: Path, port: int | None, open_: bool) -> bool:
    text = before = path.read_text(encoding="utf-8")
    if port is not None:
        text = set_key(text, ("DICOMPORT",), port, str(path))
    if open_:
        text = set_key(text, ("receiver", "accept_unknown"), True, str(path))
    if text != before:
        _write(path, text.encode("utf-8"))
    return text != before


def set_key(text: str, keys: tuple[str, ...], value: int | bool, where: str) -> str:
    """Sets one key of a JSON text and leaves every other character as it is.

    Args:
        text: a JSON object.
        keys: the key, with the section that it stands in before it.
        value: its new value.
        where: name of the file, for messages.

    Raises:
        ConfigurationError: not JSON, or written in a way that we don't dare to edit.
    """
    try:
        before = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{where}: line {error.lineno}: not JSON: {error.msg}") from None
    wanted = _with(before, keys, value)
    if wanted == before:
        return text
    for candidate in _candidates(text, keys, json.dumps(value)):
        try:
            if json.loads(candidate) == wanted:
                return candidate
        except json.JSONDecodeError:
            continue  # this place was no key; the next may be
    raise ConfigurationError(f"{where}: set {'.'.join(keys)} to {json.dumps(value)} by hand")


def _with(document: Any, keys: tuple[str, ...], value: int | bool) -> Any:
    inner = document.get(keys[0], {}) if isinstance(document, dict) else {}
    return {**document, keys[0]: _with(inner, keys[1:], value) if keys[1:] else value}


def _candidates(text: str, keys: tuple[str, ...], value: str) -> list[str]:
    """The text with every place edited that could be meant: replaced where it stands, else added."""
    key = re.escape(json.dumps(keys[-1]))
    found = []
    for match in re.finditer(rf"{key}\s*:\s*", text):
        with contextlib.suppress(json.JSONDecodeError):  # inside a text: no value follows
            _, end = json.JSONDecoder().raw_decode(text, match.end())
            found.append(text[: match.end()] + value + text[end:])
    entry = f"{json.dumps(keys[-1])}: {value}"
    section = rf"{re.escape(json.dumps(keys[0]))}\s*:\s*\{{" if keys[1:] else r"\{"
    for match in re.finditer(section, text):
        for comma in (",", ""):
            found.append(f"{text[: match.end()]}\n    {entry}{comma}{text[match.end() :]}")
    if keys[1:]:
        found.append(text.replace("{", f"{{\n  {json.dumps(keys[0])}: {{{entry}}},", 1))
        found.append(text.replace("{", f"{{\n  {json.dumps(keys[0])}: {{{entry}}}", 1))
    return found


def _write(path: Path, content: bytes) -> None:
    """The file appears complete or not at all, for its owner alone."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
