"""A REDCap server for demo and tests: several projects, classic and longitudinal, on SQLite, on loopback.

Belongs here: what ``redcap-api.md`` says a server does, and misbehaviour on demand. Stays out: anything
that the gateway itself needs to talk to a real server.
"""

from fiona_dagster.redcap.sandbox.server import Sandbox, running_sandbox, serve

__all__ = ["Sandbox", "running_sandbox", "serve"]
