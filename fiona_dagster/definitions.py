"""The one Definitions object that Dagster loads (workspace.yaml, `dg`, `fiona up`)."""

from fiona_dagster.defs.build import build_defs

defs = build_defs()
