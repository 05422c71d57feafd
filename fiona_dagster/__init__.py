"""FIONA on Dagster. Imports nothing on purpose: the receiver must start in a fraction of a second."""
