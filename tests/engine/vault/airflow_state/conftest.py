"""Airflow's databases, and a vault to back them up to."""

from __future__ import annotations

import pytest

from airflow_world import migrated_postgres, migrated_sqlite, postgres, postgres_database, sqlite_database
from holdfast.clock import SystemClock
from holdfast.engine.vault.recipients import AgeRecipient
from vault_world import VaultWorld

__all__ = ["migrated_postgres", "migrated_sqlite", "postgres", "postgres_database", "sqlite_database"]


@pytest.fixture
def world() -> VaultWorld:
    return VaultWorld(clock=SystemClock()).make()


@pytest.fixture
def officer() -> AgeRecipient:
    """Who holds Airflow's keys, and opens no vault."""
    return AgeRecipient.make()
