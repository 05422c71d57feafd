"""Reads configuration files; the only reader of configuration.

A file that is broken is refused with file, line, key and what was expected. The last version that was
good stays in force (``config/.last-good``), so that an edit never stops a running gateway.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fiona_dagster.config.described import described
from fiona_dagster.config.json_text import NotJson, parse_json
from fiona_dagster.config.names import PROJECT_NAME
from fiona_dagster.config.project import ProjectSettings, TokenSource
from fiona_dagster.config.root import DataRoot
from fiona_dagster.config.settings import RedcapSettings, Settings
from fiona_dagster.config.targets import FolderTarget
from fiona_dagster.errors import ConfigurationError

Model = TypeVar("Model", bound=BaseModel)


def parse_file(path: Path, model: type[Model], **extra: Any) -> Model:
    """Reads one JSON file into ``model``.

    Args:
        path: the file.
        model: the closed pydantic model.
        extra: values that are added when the file lacks them.

    Raises:
        ConfigurationError: missing, not JSON, or not what the model wants; names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read ({error.strerror}); run `fiona init`") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        document = parse_json(text)
    except NotJson as error:
        raise ConfigurationError(f"{path}: line {error.line}: {error}") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: line 1: expected an object {{...}}")
    document = {key: value for key, value in document.items() if not key.startswith("//")}
    try:
        return model.model_validate({**extra, **document})
    except ValidationError as error:
        raise ConfigurationError(_explain(path, text, model, error)) from None


def _explain(path: Path, text: str, model: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False)
    # a key that is misspelt is missing under its name, too: say what was written
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    keys = [str(part) for part in first["loc"] if isinstance(part, str)]
    # pydantic names its own functions and kinds of unions, too
    where = ".".join(str(part) for part in first["loc"] if re.fullmatch(r"[\w/]+", str(part)))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        place = first["loc"][:-1]
        missing = [one["loc"][-1] for one in errors if one["type"] == "missing" and one["loc"][:-1] == place]
        close = difflib.get_close_matches(keys[-1], sorted(_known_keys(model) - {keys[-1]}), n=1)
        message = "unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
        if missing:  # of all keys of the file another one may be closer by its letters
            message = f"unknown key; required here and missing: {', '.join(map(repr, missing))}"
    return f"{path}: line {_line_of(text, keys)}: {where}{': ' if where else ''}{message}"


def _line_of(text: str, keys: list[str]) -> int:
    position = 0
    for key in keys:
        found = re.compile(re.escape(json.dumps(key)) + r"\s*:").search(text, position)
        if found:
            position = found.start()
    return text.count("\n", 0, position) + 1


def _known_keys(model: type[BaseModel]) -> set[str]:
    names: set[str] = set()

    def collect(schema: Any) -> None:
        if isinstance(schema, dict):
            names.update(schema.get("properties", {}))
            for value in schema.values():
                collect(value)
        elif isinstance(schema, list):
            for value in schema:
                collect(value)

    collect(model.model_json_schema())
    return names


def load_settings(root: DataRoot) -> Settings:
    """``config/config.json`` as it is now.

    Raises:
        ConfigurationError: the file is missing or wrong.
    """
    return parse_file(root.config_file, Settings)


def load_settings_in_force(root: DataRoot) -> tuple[Settings, str | None]:
    """What is in force, and why the newest file is not (``None`` when it is)."""
    return _in_force(root, root.config_file, Settings)


def project_names(root: DataRoot) -> list[str]:
    """Names of all project files, sorted; wrong names are left to :func:`check`."""
    if not root.project_files.is_dir():
        return []
    return sorted(p.stem for p in root.project_files.glob("*.json") if PROJECT_NAME.fullmatch(p.stem))


def load_project(root: DataRoot, name: str) -> ProjectSettings:
    """``config/projects/<name>.json`` as it is now.

    Raises:
        ConfigurationError: no such project, or its file is wrong.
    """
    path = _project_file(root, name)
    return _named(path, parse_file(path, ProjectSettings, name=name), name)


def load_project_in_force(root: DataRoot, name: str) -> tuple[ProjectSettings, str | None]:
    """What is in force of a project, and why the newest file is not (``None`` when it is)."""
    path = _project_file(root, name)
    project, why = _in_force(root, path, ProjectSettings, name=name)
    return _named(path, project, name), why


def has_project(root: DataRoot, name: str) -> bool:
    """Whether a project file of that name exists."""
    return bool(PROJECT_NAME.fullmatch(name)) and (root.project_files / f"{name}.json").is_file()


def _project_file(root: DataRoot, name: str) -> Path:
    if not PROJECT_NAME.fullmatch(name):
        raise ConfigurationError(f"project name {name!r}: must be 1 to 20 letters, digits or _")
    path = root.project_files / f"{name}.json"
    if not path.is_file():
        known = ", ".join(project_names(root)) or "none"
        raise ConfigurationError(f"no project {name!r} in {root.project_files} (there: {known})")
    return path


def _named(path: Path, project: ProjectSettings, name: str) -> ProjectSettings:
    if project.name != name:
        raise ConfigurationError(f"{path}: name: is {project.name!r}, must equal the file's name {name!r}")
    return project


def _in_force(root: DataRoot, path: Path, model: type[Model], **extra: Any) -> tuple[Model, str | None]:
    keep = root.last_good / path.relative_to(root.config)
    try:
        value = parse_file(path, model, **extra)
    except ConfigurationError as error:
        if not keep.is_file():
            raise
        return parse_file(keep, model, **extra), str(error)
    content = path.read_bytes()
    if not keep.is_file() or keep.read_bytes() != content:
        keep.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = keep.with_name(f".{keep.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # what is in force after a power loss must not be half of it
        part.replace(keep)
    return value, None


def redcap_token(root: DataRoot, settings: RedcapSettings) -> str:
    """The API token of *Incoming*, from the environment or the named file.

    Raises:
        ConfigurationError: neither is set, or the file can't be read.
    """
    if settings.token_env and os.environ.get(settings.token_env):
        return os.environ[settings.token_env].strip()
    if settings.token_file:
        path = resolve(root, settings.token_file)
        try:
            return path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError(f"{path}: redcap.token_file can't be read") from None
    raise ConfigurationError(f"{root.config_file}: redcap: set token_env or token_file to give the API token")


def token_of(root: DataRoot, source: TokenSource, where: str) -> str:
    """An API token, from the environment or the named file.

    Args:
        root: the data root.
        source: where it stands.
        where: file and key of ``source``, for messages.

    Raises:
        ConfigurationError: neither is set, or the file can't be read.
    """
    if source.env and os.environ.get(source.env):
        return os.environ[source.env].strip()
    if not source.file:
        raise ConfigurationError(f"{where}: set env or file to give the API token")
    path = resolve(root, source.file)
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{path}: can't be read ({where}.file)") from None


def resolve(root: DataRoot, name: str) -> Path:
    """A path from the configuration; relative ones lie below ``config/``."""
    path = Path(name).expanduser()
    return path if path.is_absolute() else root.config / path


def configuration_digest(root: DataRoot) -> str:
    """SHA-256 over everything that decides what the code server loads; changes when an operator edits."""
    digest = hashlib.sha256()
    files = [root.config_file, root.rules_file, *sorted(root.project_files.glob("*.json"))]
    for path in files:
        digest.update(path.name.encode() + b"\0")
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            digest.update(b"absent")
    return digest.hexdigest()


def check(root: DataRoot) -> list[str]:
    """Everything that is wrong with the configuration; empty when all is well."""
    problems: list[str] = []
    settings: Settings | None = None
    try:
        settings = load_settings(root)
    except ConfigurationError as error:
        problems.append(str(error))
    for path in sorted(root.project_files.glob("*.json")) if root.project_files.is_dir() else []:
        try:
            project = load_project(root, path.stem)
        except ConfigurationError as error:
            problems.append(str(error))
            continue
        for target in project.targets:
            if settings is not None and target not in settings.targets:
                known = ", ".join(sorted(settings.targets)) or "none"
                problems.append(f"{path}: targets: no target {target!r} in config.json (there: {known})")
        for channel in project.notify:
            if settings is not None and channel not in settings.notifications:
                known = ", ".join(sorted(settings.notifications)) or "none"
                problems.append(f"{path}: notify: no {channel!r} in notifications (there: {known})")
    if settings is not None:
        problems.extend(_missing_tls_files(root, settings))
        problems.extend(_target_problems(root, settings))
    for name in settings.SITES if settings is not None else ():
        if not has_project(root, name):
            problems.append(
                f"{root.config_file}: SITES.{name}: no project {name!r} in {root.project_files}; "
                "what arrives there could be assigned to nobody"
            )
    return problems


def _missing_tls_files(root: DataRoot, settings: Settings) -> list[str]:
    problems = []
    for where, section in {
        "receiver": settings.receiver,
        **{f"SITES.{name}.receiver": site.receiver for name, site in settings.SITES.items()},
    }.items():
        for key in ("certificate", "key", "ca_file") if section.tls else ():
            name = getattr(section.tls, key)
            if name and not resolve(root, name).is_file():
                problems.append(f"{root.config_file}: {where}.tls.{key}: no file {resolve(root, name)}")
    return problems


def _target_problems(root: DataRoot, settings: Settings) -> list[str]:
    """What can be seen of targets without asking them: files that are named, folders that can't be right."""
    problems = []
    named = [(f"targets.{name}", target) for name, target in settings.targets.items()]
    for place, target in [
        *named,
        *((f"notifications.{n}", each) for n, each in settings.notifications.items()),
    ]:
        where = f"{root.config_file}: {place}"
        for key in type(target).model_fields:
            value = getattr(target, key)
            if key.endswith("_file") and value and not resolve(root, value).is_file():
                problems.append(f"{where}.{key}: no file {resolve(root, value)}")
        if isinstance(target, FolderTarget) and Path(target.directory).is_relative_to(root.path):
            problems.append(f"{where}.directory: lies in the data root; packages are here already")
    return problems


def json_schema() -> dict[str, Any]:
    """The published JSON schemas, keyed by the file that they describe."""
    return {
        "config.json": described(Settings),
        "projects/<PROJECT>.json": described(ProjectSettings),
    }
