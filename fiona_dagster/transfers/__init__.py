"""Transfers: from a held study and a request to deliveries that are proven, and back to REDCap.

Belongs here: registration, requests, de-identified working copies, the gate's use, packages, targets.
Stays out: de-identification itself (deid), the records of what happened (ledger), Dagster (defs).
"""
