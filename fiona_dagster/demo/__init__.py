"""The demo: phantoms, embedded peers, and the script that runs the very ``fiona up`` against them.

Belongs here: what stands in for a hospital on loopback. Stays out: anything that the service itself needs.
"""
