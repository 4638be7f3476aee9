# Rejected: import error
"""It does not import."""

from __future__ import annotations

from airflow.sdk import NoSuchThing  # noqa: F401
