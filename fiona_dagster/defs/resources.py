"""Resources: settings for Dagster, a plain domain object for the assets.

Belongs here: adapters. Stays out: everything that they open.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from fiona_dagster.config import DataRoot
from fiona_dagster.transfers.context import Gateway


class GatewayResource(dg.ConfigurableResource[Gateway]):
    """Opens the gateway of one data root."""

    data_root: str

    @property
    def root(self) -> DataRoot:
        """The data root."""
        return DataRoot(Path(self.data_root))

    def open(self) -> Gateway:
        """A new connection to ledger and settings in force; use it as a context manager."""
        return Gateway(self.root)
