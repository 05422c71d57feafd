"""REDCap, where people say what shall go where: client, *Incoming*, dictionaries, and a sandbox server.

Belongs here: REDCap's protocol and the fields of its projects. Stays out: when to ask and what to do
with the answer (transfers), and where tokens come from (config). The sandbox is not imported from here.
"""

from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.dictionary import Dictionary, Field, ShippedProject, shipped_projects
from fiona_dagster.redcap.incoming import IncomingProject, NewRequest, Registration, site_time
from fiona_dagster.redcap.layout import ANONYMIZATION_ERROR, PIXELS_REWRITTEN, SEND_ERROR, TransferRequest
from fiona_dagster.redcap.polling import RequestReader
from fiona_dagster.redcap.registering import StudyEntry
from fiona_dagster.redcap.research import ImagingEntry, ResearchProject

__all__ = [
    "ANONYMIZATION_ERROR",
    "PIXELS_REWRITTEN",
    "SEND_ERROR",
    "Dictionary",
    "Field",
    "ImagingEntry",
    "IncomingProject",
    "NewRequest",
    "RedcapClient",
    "Registration",
    "RequestReader",
    "ResearchProject",
    "ShippedProject",
    "StudyEntry",
    "TransferRequest",
    "shipped_projects",
    "site_time",
]
