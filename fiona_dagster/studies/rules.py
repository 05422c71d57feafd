"""The rule language of ``classifyRules.json``: reading, checking, and what is in force.

The grammar is the original's (behaviour reference, section 1.1); a file that breaks it is refused with line,
ruleset and reason. What can be meant but looks wrong becomes a warning.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.config.json_text import NotJson, parse_json
from fiona_dagster.config.patterns import NO_PATTERN, Pattern, site_pattern
from fiona_dagster.errors import ConfigurationError, PatternTooSlow
from fiona_dagster.studies import json_lines
from fiona_dagster.studies.attributes import CSA_KEYS, SERIES_KEYS, tag_of_name
from fiona_dagster.studies.model import RuleCall, RuleSet, Ruleset
from fiona_dagster.studies.ordering import order_rulesets
from fiona_dagster.studies.predicates import ALIASES, DEFAULT_TOLERANCE, OPERATORS, Predicate, Reference
from fiona_dagster.studies.values import Value, number

MEANING = 2  # 2: frames count as instances
"""Version of the meaning of the language; part of the digest, so that a changed meaning shows as stale."""
_HEX = re.compile(r"0[xX][0-9a-fA-F]{1,4}")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,4}|\d{1,5}")
_INDEX = re.compile(r"\d{1,5}|0[xX][0-9a-fA-F]{1,4}")
_RULESET_KEYS = frozenset({"type", "id", "description", "check", "rules"})
_PREDICATE_KEYS = frozenset({"tag", "value", "operator", "negate", "approxLevel", "description"})


def load_rules(path: Path) -> RuleSet:
    """Reads and checks a rule file.

    Raises:
        ConfigurationError: it can't be read or is wrong; names file, line, ruleset and reason.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return parse_rules(text, str(path))


def default_rules_text() -> str:
    """Our own rule file, which ``fiona init`` copies and which counts where a site has none."""
    return resources.files("fiona_dagster.studies").joinpath("data/classifyRules.json").read_text("utf-8")


def default_rules() -> RuleSet:
    """Our own rules."""
    return parse_rules(default_rules_text(), "default classifyRules.json")


def load_rules_in_force(root: DataRoot) -> tuple[RuleSet, str | None]:
    """What is in force, and why the newest file is not (``None`` when it is).

    Without ``config/classifyRules.json`` our own rules count; a broken file leaves the last good one.

    Raises:
        ConfigurationError: the file is wrong and there never was a good one.
    """
    path = root.rules_file
    if not path.exists():
        return default_rules(), None
    keep = root.last_good / path.name
    try:
        rules = load_rules(path)
    except ConfigurationError as error:
        if not keep.is_file():
            raise
        return load_rules(keep), str(error)
    content = path.read_bytes()
    if not keep.is_file() or keep.read_bytes() != content:
        keep.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = keep.with_name(f".{keep.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # what is in force after a power loss must not be half of it
        part.replace(keep)
    return rules, None


def parse_rules(text: str, name: str) -> RuleSet:
    """Checks the text of a rule file.

    Args:
        text: JSON.
        name: what messages call the file.

    Raises:
        ConfigurationError: see :func:`load_rules`.
    """
    try:
        document = parse_json(text)
    except NotJson as error:
        raise ConfigurationError(f"{name}: line {error.line}: {error}") from None
    if not isinstance(document, list):
        raise ConfigurationError(f"{name}: line 1: expected a list of rulesets [...]")
    return _Parser(text, name).parse()


class _Parser:
    """Turns one file into rulesets; knows where it is for its messages."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._where = ""
        self._warnings: list[str] = []

    def parse(self) -> RuleSet:
        located = json_lines.items(self._text)
        rulesets = tuple(self._ruleset(index, each) for index, each in enumerate(located))
        by_id: dict[str, tuple[Ruleset, ...]] = {}
        for ruleset in rulesets:
            if ruleset.id:
                by_id[ruleset.id] = (*by_id.get(ruleset.id, ()), ruleset)
        try:
            order = order_rulesets(rulesets, by_id, self._name, self._warnings)
        except PatternTooSlow as error:  # for a type that the file itself gives
            raise ConfigurationError(str(error)) from None
        active = frozenset(order)  # what is inactive can't be an alternative of a reference either
        by_id = {name: tuple(each for each in found if each in active) for name, found in by_id.items()}
        essence = json.dumps([MEANING, [_essence(each.value) for each in located]], sort_keys=True)
        digest = hashlib.sha256(essence.encode()).hexdigest()
        return RuleSet(rulesets, order, digest, tuple(self._warnings), by_id)

    def _wrong(self, line: int, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self._name}: line {line}: {self._where}: {reason}")

    def _warn(self, line: int, reason: str) -> None:
        self._warnings.append(f"{self._name}: line {line}: {self._where}: {reason}")

    def _ruleset(self, index: int, located: json_lines.Located) -> Ruleset:
        self._where = f"ruleset {index + 1}"
        value, line = located.value, located.line
        if not isinstance(value, dict):
            raise self._wrong(line, "expected an object {...}")
        if not isinstance(value.get("type"), str) or not value["type"]:
            raise self._wrong(line, '"type" is missing or no text')
        self._where = f"ruleset {index + 1} (type {value['type']!r})"
        for key in ("id", "description"):
            if not isinstance(value.get(key, ""), str):
                raise self._wrong(line, f"{key!r} must be text")
        if value.get("check", "SeriesLevel") != "SeriesLevel":
            raise self._wrong(line, '"check" can only be "SeriesLevel"')
        rules = json_lines.member(self._text, located.start, "rules")
        if rules is None or not isinstance(rules.value, list):
            raise self._wrong(line, '"rules" is missing or no list')
        if not rules.value:
            self._warn(rules.line, "has no conditions, so every series gets this type")
        self._unknown_keys(value, _RULESET_KEYS, line)
        entries = tuple(self._entry(each) for each in json_lines.items(self._text, rules.start))
        return Ruleset(value["type"], entries, index, line, value.get("id", ""), "check" in value)

    def _unknown_keys(self, value: Mapping[str, Any], known: frozenset[str], line: int) -> None:
        for key in sorted(set(value) - known):
            close = difflib.get_close_matches(key, sorted(known), n=1)
            self._warn(line, f"unknown key {key!r} is ignored" + (f"; meant {close[0]!r}?" if close else ""))

    def _entry(self, located: json_lines.Located) -> Predicate | RuleCall:
        value, line = located.value, located.line
        if not isinstance(value, dict):
            raise self._wrong(line, "a rule must be an object {...}")
        if len({"rule", "notrule", "tag"} & set(value)) != 1:
            raise self._wrong(line, 'a rule needs exactly one of "tag", "rule" and "notrule"')
        negate = self._negate(value, line)
        for key in ("rule", "notrule"):
            if key in value:
                if not isinstance(value[key], str):
                    raise self._wrong(line, f"{key!r} must be the id of a ruleset")
                self._unknown_keys(value, frozenset({key, "negate", "description"}), line)
                described = bool(value.get("description"))
                return RuleCall(value[key], (key == "notrule") is not negate, line, negate, described)
        return self._predicate(value, line, negate=negate)

    def _negate(self, value: Mapping[str, Any], line: int) -> bool:
        said = value.get("negate", "no")
        if said not in ("yes", "no"):
            raise self._wrong(line, '"negate" must be the text "yes"')
        return bool(said == "yes")

    def _predicate(self, value: Mapping[str, Any], line: int, *, negate: bool) -> Predicate:
        self._unknown_keys(value, _PREDICATE_KEYS, line)
        operator = self._operator(value.get("operator", "regexp"), line)
        tag = self._tag(value["tag"], line)
        if "value" not in value and operator not in ("exist", "notexist"):
            raise self._wrong(line, '"value" is missing')
        wanted = self._value(value.get("value", ""), line)
        pattern = self._pattern(wanted, line) if operator == "regexp" else None
        tolerance = number(value.get("approxLevel", DEFAULT_TOLERANCE))
        if tolerance is None or tolerance < 0 or isinstance(value.get("approxLevel"), bool):
            raise self._wrong(line, '"approxLevel" must be a number that is not negative')
        self._check_numeric(operator, wanted, line)
        return Predicate(tag, operator, wanted, negate, tolerance, pattern, line)

    def _operator(self, operator: object, line: int) -> str:
        name = ALIASES.get(operator, operator) if isinstance(operator, str) else ""
        if name not in OPERATORS:
            close = difflib.get_close_matches(str(operator), sorted(OPERATORS), n=1)
            hint = f"; meant {close[0]!r}?" if close else f" (known: {', '.join(sorted(OPERATORS))})"
            raise self._wrong(line, f"unknown operator {operator!r}{hint}")
        return str(name)

    def _check_numeric(self, operator: str, wanted: Value | Reference, line: int) -> None:
        if operator not in ("<", ">", "<=", ">=", "approx") or isinstance(wanted, Reference):
            return
        parts = wanted if isinstance(wanted, tuple) else (wanted,)
        if not parts or any(number(part) is None for part in parts):
            self._warn(line, f"operator {operator!r} needs numbers; this condition never holds")

    def _pattern(self, wanted: Value | Reference, line: int) -> Pattern | None:
        if isinstance(wanted, Reference):
            return None
        if isinstance(wanted, tuple):
            raise self._wrong(line, '"regexp" needs a text as value')
        try:
            return site_pattern(str(wanted), f"{self._name}: line {line}: {self._where}")
        except NO_PATTERN as error:
            raise self._wrong(line, f"not a regular expression: {error}") from None

    def _tag(self, spec: object, line: int) -> Reference:
        if not isinstance(spec, list) or not 1 <= len(spec) <= 3 or not all(isinstance(p, str) for p in spec):
            raise self._wrong(line, '"tag" must be [name], ["0xgggg", "0xeeee"] or these two and an index')
        if len(spec) == 1:
            return self._named(spec[0], line)
        if not all(_NUMBER.fullmatch(part.strip()) for part in spec[:2]):
            raise self._wrong(line, '"tag": group and element must be numbers like "0x0018"')
        return self._numbered(spec, line)

    def _named(self, name: str, line: int) -> Reference:
        if name in SERIES_KEYS or name in CSA_KEYS or name == "OSLevel":
            return Reference(name, None, name)
        tag = tag_of_name(name)
        if tag is None:
            self._warn(line, f"nothing is called {name!r}; it counts as missing")
        return Reference(name, tag, name)

    def _numbered(self, spec: list[str], line: int) -> Reference:
        group, element = (int(part, 16 if part.strip()[1:2] in ("x", "X") else 10) for part in spec[:2])
        if max(group, element) > 0xFFFF:
            raise self._wrong(line, '"tag": group and element are at most 0xFFFF')
        index = None
        if len(spec) == 3:
            try:
                index = int(spec[2], 0)
            except ValueError:
                raise self._wrong(line, '"tag": the third part must be an index like "0"') from None
        text = f"({group:04X},{element:04X})" + ("" if index is None else f"[{index}]")
        return Reference(text, group << 16 | element, "", index)

    def _value(self, value: object, line: int) -> Value | Reference:
        if isinstance(value, list):
            if len(value) == 1 and isinstance(value[0], str):
                return self._named(value[0], line)
            if self._is_numbered(value):
                return self._numbered(value, line)
            return tuple(self._scalar(part, line) for part in value)
        return self._scalar(value, line)

    def _is_numbered(self, value: list[Any]) -> bool:
        return (
            2 <= len(value) <= 3
            and all(isinstance(part, str) for part in value)
            and all(_HEX.fullmatch(part.strip()) for part in value[:2])
            and all(_INDEX.fullmatch(part.strip()) for part in value[2:])
        )

    def _scalar(self, value: object, line: int) -> str | int | float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._wrong(line, '"value" must be text, a number, or a list of these')
        return value


def _essence(value: object) -> object:
    """A ruleset without what has no meaning."""
    if isinstance(value, dict):
        return {key: _essence(each) for key, each in value.items() if key != "description"}
    if isinstance(value, list):
        return [_essence(each) for each in value]
    return value
