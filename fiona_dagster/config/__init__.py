"""Configuration as plain typed models; the only reader of configuration files.

Belongs here: config.json, config/projects/, the layout of the data root, secrets by name.
Stays out: what the settings are used for, and classifyRules.json's meaning (studies).

Models and readers are imported when they are first used: the receiver needs the layout of the data root at
once, but never pydantic, which is most of what its processes would weigh (see :mod:`.apart`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fiona_dagster.config.names import PROJECT_NAME
from fiona_dagster.config.root import UMASK, DataRoot
from fiona_dagster.config.switches import (
    Switches,
    pulling_enabled,
    read_switches,
    receiver_enabled,
    require_sending,
    sending_enabled,
)

if TYPE_CHECKING:
    from fiona_dagster.config.access import AllowedCaller, TlsSettings
    from fiona_dagster.config.apart import load_settings_apart
    from fiona_dagster.config.load import (
        check,
        configuration_digest,
        has_project,
        json_schema,
        load_project,
        load_project_in_force,
        load_settings,
        load_settings_in_force,
        project_names,
        redcap_token,
        resolve,
        token_of,
    )
    from fiona_dagster.config.packaging import PackageSettings
    from fiona_dagster.config.project import ProjectSettings, TokenSource
    from fiona_dagster.config.settings import (
        CommitmentPeer,
        CompletionSettings,
        Durability,
        OptOutSettings,
        ReceiverSettings,
        RedcapSettings,
        Settings,
        SiteSettings,
        Source,
    )
    from fiona_dagster.config.targets import (
        DicomTarget,
        FolderTarget,
        InstanceTarget,
        PackageTarget,
        PeerTlsSettings,
        S3Target,
        SftpTarget,
        StowTarget,
        Target,
    )

__all__ = [
    "PROJECT_NAME",
    "UMASK",
    "AllowedCaller",
    "CommitmentPeer",
    "CompletionSettings",
    "DataRoot",
    "DicomTarget",
    "Durability",
    "FolderTarget",
    "InstanceTarget",
    "OptOutSettings",
    "PackageSettings",
    "PackageTarget",
    "PeerTlsSettings",
    "ProjectSettings",
    "ReceiverSettings",
    "RedcapSettings",
    "S3Target",
    "Settings",
    "SftpTarget",
    "SiteSettings",
    "Source",
    "StowTarget",
    "Switches",
    "Target",
    "TlsSettings",
    "TokenSource",
    "check",
    "configuration_digest",
    "has_project",
    "json_schema",
    "load_project",
    "load_project_in_force",
    "load_settings",
    "load_settings_apart",
    "load_settings_in_force",
    "project_names",
    "pulling_enabled",
    "read_switches",
    "receiver_enabled",
    "redcap_token",
    "require_sending",
    "resolve",
    "sending_enabled",
    "token_of",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "settings" if name[0].isupper() else "load"
    module = "access" if name in {"AllowedCaller", "TlsSettings"} else module
    module = "project" if name in {"ProjectSettings", "TokenSource"} else module
    module = "packaging" if name == "PackageSettings" else module
    module = "targets" if name == "PeerTlsSettings" or name.endswith("Target") else module
    module = "apart" if name == "load_settings_apart" else module
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
