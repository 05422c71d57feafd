"""What keeps a target from being used, found without sending anything: for ``fiona config check``."""

from __future__ import annotations

import os
from pathlib import Path

from fiona_dagster.config import DataRoot, FolderTarget, load_settings
from fiona_dagster.errors import ConfigurationError, FionaError
from fiona_dagster.transfers.targets.folder import require_mounted
from fiona_dagster.transfers.targets.patience import Patience


def unusable_targets(root: DataRoot) -> list[str]:
    """One line for every target that could not be delivered to now; a broken config.json is not repeated."""
    try:
        settings = load_settings(root)
    except ConfigurationError:
        return []
    problems = []
    for name, target in settings.targets.items():
        if isinstance(target, FolderTarget):
            problems += [f"{root.config_file}: {problem}" for problem in _folder(name, target)]
    return problems


def _folder(name: str, target: FolderTarget) -> list[str]:
    with Patience(name, target.timeout_seconds) as ask:
        try:
            require_mounted(ask, target, name)
            if not ask(os.access, Path(target.directory), os.W_OK | os.X_OK):
                return [f"target {name}: directory: we may not write there"]
        except FionaError as error:
            return [str(error)]
    return []
