"""Configuration as plain typed models; the only reader of configuration files.

Belongs here: config.json, config/projects/, the layout of the data root, secrets by name.
Stays out: what the settings are used for, and classifyRules.json's meaning (studies).
"""

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
    receiver_enabled,
    redcap_token,
    resolve,
)
from fiona_dagster.config.root import UMASK, DataRoot
from fiona_dagster.config.settings import (
    PROJECT_NAME,
    CompletionSettings,
    DicomTarget,
    ProjectSettings,
    ReceiverSettings,
    RedcapSettings,
    Settings,
    SftpTarget,
    Target,
)

__all__ = [
    "PROJECT_NAME",
    "UMASK",
    "CompletionSettings",
    "DataRoot",
    "DicomTarget",
    "ProjectSettings",
    "ReceiverSettings",
    "RedcapSettings",
    "Settings",
    "SftpTarget",
    "Target",
    "check",
    "configuration_digest",
    "has_project",
    "json_schema",
    "load_project",
    "load_project_in_force",
    "load_settings",
    "load_settings_in_force",
    "project_names",
    "receiver_enabled",
    "redcap_token",
    "resolve",
]
