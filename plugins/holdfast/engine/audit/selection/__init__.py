"""Exports by query: a small folder for an auditor who must not see everything."""
