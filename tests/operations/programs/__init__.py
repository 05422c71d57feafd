"""Stand-ins for the programs that the supervisor runs."""
