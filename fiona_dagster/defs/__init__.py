"""Dagster glue and nothing else: partitions, assets, checks, sensors, schedules, jobs, resources.

Belongs here: what Dagster needs to see and to launch. Stays out: what a study is, when it is complete,
how it is de-identified or delivered (the domain packages), and any decision about privacy. Nothing
identifying enters Dagster: no names, ids, dates of birth, accession numbers, participants, events or
mapped UIDs in keys, tags, metadata, logs, exceptions or run config.
"""
