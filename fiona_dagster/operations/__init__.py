"""Running the gateway: the supervisor of its programs, the data root's beginnings.

Belongs here: starting, watching, restarting, ending; making a data root. Stays out: Dagster itself,
which runs as programs (``python -m dagster ...``) and is never imported here.
"""

from fiona_dagster.operations.initialise import initialise, restore_dagster_home
from fiona_dagster.operations.lock import is_up
from fiona_dagster.operations.runtime import runtime_file
from fiona_dagster.operations.services import Programs, environment
from fiona_dagster.operations.starting import up
from fiona_dagster.operations.supervisor import Supervisor
from fiona_dagster.operations.watch import configuration_problems

__all__ = [
    "Programs",
    "Supervisor",
    "configuration_problems",
    "environment",
    "initialise",
    "is_up",
    "restore_dagster_home",
    "runtime_file",
    "up",
]
