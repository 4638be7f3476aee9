"""Vaults of a topology: made, written, read, looked after; for the command line, the operators and the DAGs."""
