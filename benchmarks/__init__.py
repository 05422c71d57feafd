"""Benchmarks: reproducible, in the default configuration, each against a named peer in the same run."""
