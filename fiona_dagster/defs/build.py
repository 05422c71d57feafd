"""Puts the definitions together.

Belongs here: assembly, from a data root's configuration. Stays out: the definitions themselves.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from fiona_dagster.config import (
    DataRoot,
    Settings,
    Target,
    load_project_in_force,
    load_settings_in_force,
    project_names,
)
from fiona_dagster.defs.export import export_defs
from fiona_dagster.defs.housekeeping import maintenance_job
from fiona_dagster.defs.intake import intake_assets, intake_job
from fiona_dagster.defs.project import ProjectFactory
from fiona_dagster.defs.reclassify import reclassify_job
from fiona_dagster.defs.reconciliation import reconciliation_defs
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.sensors import completed_studies, run_failures, transfer_requests_sensor
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.studies import load_rules_in_force


def build_defs(
    root: DataRoot | None = None, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Everything that Dagster loads, from the configuration of one data root.

    Args:
        root: the data root; default: the one that ``FIONA_DATA`` names. It may be empty: then there are
            no projects.
        resource_overrides: resources by name that tests put in the place of ours.

    A project whose file is broken and was never good is left out; `fiona config check` names it.
    """
    root = root or DataRoot.from_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # backfill_policy is marked beta in 1.13
        factories = _factories(root)
        assets = intake_assets(_rules_digest(root))
        process_study = intake_job(assets)
        everything, jobs = list(assets), [process_study]
        for factory in factories:
            transfer, deliver = factory.transfer_assets(), factory.delivery_assets()
            exported, export_jobs = export_defs(factory.project)
            everything += [*transfer, *deliver, *exported]
            jobs += [*factory.jobs(transfer, deliver), *export_jobs]
        targets = {factory.name: factory.project.targets for factory in factories}
        names = list(targets)
        maintenance, hourly = maintenance_job(names)
        reconciliation, reconcile, daily = reconciliation_defs(*_reconciled_at(root))
        return dg.Definitions(
            assets=[*everything, reconciliation],
            jobs=[*jobs, reclassify_job(), maintenance, reconcile],
            schedules=[hourly, daily],
            sensors=[completed_studies, transfer_requests_sensor(targets, jobs), run_failures],
            resources={"gateway": GatewayResource(data_root=str(root.path)), **(resource_overrides or {})},
            executor=dg.in_process_executor,
        )


def _factories(root: DataRoot) -> list[ProjectFactory]:
    found = []
    targets = _targets(root)
    for name in project_names(root):
        try:
            found.append(ProjectFactory(load_project_in_force(root, name)[0], targets))
        except ConfigurationError as error:
            warnings.warn(f"project left out: {error}", RuntimeWarning, stacklevel=2)
    return found


def _targets(root: DataRoot) -> Mapping[str, Target]:
    if not root.config_file.is_file():
        return {}
    try:
        return load_settings_in_force(root)[0].targets
    except ConfigurationError as error:
        warnings.warn(f"kinds of targets are not shown: {error}", RuntimeWarning, stacklevel=2)
        return {}


def _reconciled_at(root: DataRoot) -> tuple[str, str]:
    """Time of day and zone of the nightly comparison; without a usable configuration the defaults."""
    settings = Settings()
    if root.config_file.is_file():
        with contextlib.suppress(ConfigurationError):
            settings = load_settings_in_force(root)[0]
    try:
        ZoneInfo(settings.LOCALTIMEZONE)
    except (KeyError, ValueError, OSError):  # told where times are written; here it must not stop everything
        return settings.reconciliation.at, "UTC"
    return settings.reconciliation.at, settings.LOCALTIMEZONE


def _rules_digest(root: DataRoot) -> str:
    return load_rules_in_force(root)[0].digest
