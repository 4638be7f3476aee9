"""A PostgreSQL database that was restored and not reconciled yet, kept from whoever starts Airflow on it too early.

The user that restores gets ``default_transaction_read_only`` for this database alone, which every user may set for
itself: a scheduler that logs in as it fails at its first write. The setting is committed before the first row is there,
so it holds wherever a restore breaks off, and it is what tells such a database from one in use.
"""

from __future__ import annotations

import time
from dataclasses import replace

from holdfast.engine.vault.airflow_state.programs import PostgresPrograms
from holdfast.engine.vault.airflow_state.sessions import PostgresSession, Session
from holdfast.engine.vault.airflow_state.urls import PostgresUrl

_SETTING = "default_transaction_read_only"
_RESTORING = "holdfast-restore"
_SECONDS = 60.0


def writable(url: PostgresUrl, *, restoring: bool = False) -> PostgresUrl:
    """The same for a client that writes also while it is held.

    Args:
        restoring: for `pg_restore`; `release_empty` waits for its end.
    """
    options = f"{url.environ.get('PGOPTIONS', '')} -c {_SETTING}=off".strip()
    named = {"PGAPPNAME": _RESTORING} if restoring else {}
    return replace(url, environ={**url.environ, "PGOPTIONS": options, **named})


def hold(url: PostgresUrl, programs: PostgresPrograms) -> None:
    """From now on its user cannot write by default. Raises CommandFailed."""
    with PostgresSession(writable(url), programs, timeout_seconds=_SECONDS) as session:
        _alter(session, f"SET {_SETTING} = on")


def is_held(session: Session) -> bool:
    """Raises CommandFailed."""
    found = session.ask(
        "SELECT 1 AS held FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"  # noqa: S608
        " JOIN pg_roles r ON r.oid = s.setrole WHERE d.datname = current_database() AND r.rolname = session_user"
        f" AND '{_SETTING}=on' = ANY (s.setconfig)"
    )
    return bool(found)


def release(session: Session) -> None:
    """It was reconciled. Raises CommandFailed."""
    if is_held(session):
        _alter(session, f"RESET {_SETTING}")


def release_empty(url: PostgresUrl, programs: PostgresPrograms) -> bool:
    """After a restore that failed: release it where it is empty.

    Returns:
        Whether it is. A restore whose end was not heard of may have been committed, or still be at it.

    Raises:
        CommandFailed: it does not answer.
    """
    deadline = time.monotonic() + _SECONDS / 2
    with PostgresSession(writable(url), programs, timeout_seconds=_SECONDS) as session:
        while _is_restoring(session):
            if time.monotonic() > deadline:
                return False
            session.change("SELECT pg_sleep(0.1)")
        if session.tables():
            return False
        release(session)
        return True


def _is_restoring(session: Session) -> bool:
    return bool(
        session.ask(
            "SELECT pid FROM pg_stat_activity"  # noqa: S608
            f" WHERE datname = current_database() AND application_name = '{_RESTORING}'"
        )
    )


def _alter(session: Session, how: str) -> None:
    session.change(
        f"DO $$ BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE %I {how}', session_user, current_database()); END $$"
    )
