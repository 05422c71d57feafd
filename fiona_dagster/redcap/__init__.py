"""REDCap, where people say what shall go where: client, *Incoming*, dictionaries, and a sandbox server.

Belongs here: REDCap's protocol and the fields of its projects. Stays out: when to ask and what to do
with the answer (transfers), and where tokens come from (config). The sandbox is not imported from here.
"""

from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.dictionary import Dictionary, Field, ShippedProject, shipped_projects
from fiona_dagster.redcap.incoming import IncomingProject, Registration, site_time
from fiona_dagster.redcap.layout import ANONYMIZATION_ERROR, PIXELS_REWRITTEN, SEND_ERROR, TransferRequest
from fiona_dagster.redcap.polling import RequestReader

__all__ = [
    "ANONYMIZATION_ERROR",
    "PIXELS_REWRITTEN",
    "SEND_ERROR",
    "Dictionary",
    "Field",
    "IncomingProject",
    "RedcapClient",
    "Registration",
    "RequestReader",
    "ShippedProject",
    "TransferRequest",
    "shipped_projects",
    "site_time",
]
