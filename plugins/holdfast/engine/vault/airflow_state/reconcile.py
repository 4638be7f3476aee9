"""What has to happen to a restored metadata database before a scheduler looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.vault.airflow_state.holding import release, writable
from holdfast.engine.vault.airflow_state.inventory import ACTIVE
from holdfast.engine.vault.airflow_state.programs import find_programs
from holdfast.engine.vault.airflow_state.sessions import Session, count_rows, open_session
from holdfast.engine.vault.airflow_state.urls import PostgresUrl, parse_url

#: What a scheduler or triggerer would act on although every DAG is paused: it would send what was sent long ago.
_PENDING = ("deadline", "callback", "connection_test_request")


@dataclass(frozen=True)
class Reconciled:
    """What was changed.

    Args:
        paused: DAGs that were not.
        rescheduled: task instances that were queued or running when the backup was taken, and have no worker here.
        silenced: pending callbacks and the like that were removed.
    """

    paused: int
    rescheduled: int
    silenced: int = 0


def reconcile_airflow_database(
    url: str, *, postgres_programs: Path | None = None, timeout_seconds: float = 600.0
) -> Reconciled:
    """Make a restored database fit for a scheduler: after a restore, before Airflow is started.

    Every DAG is paused. Task instances that were queued or running are to be scheduled again, without that counting as
    a retry, once their DAG is unpaused: what they were doing in the Airflow that was lost is not known here. So unpause
    a DAG only when that one can do no more. A PostgreSQL database that a restore left held is released at the end.

    Raises:
        ConfigError, CommandFailed: the database cannot be reached.
    """
    parsed, programs = parse_url(url), find_programs(postgres_programs)
    if not isinstance(parsed, PostgresUrl):
        with open_session(parsed, programs, timeout_seconds=timeout_seconds) as session:
            return reconcile(session)
    with open_session(writable(parsed), programs, timeout_seconds=timeout_seconds) as session:
        done = reconcile(session)
        release(session)
        return done


def reconcile(session: Session, *, silence: bool = False) -> Reconciled:
    """The same on an open session.

    Args:
        silence: also remove what would send messages; for a drill's copy only.
    """
    active = f"state IN ({', '.join(repr(state) for state in ACTIVE)})"
    asked = session.ask(
        "SELECT (SELECT count(*) FROM dag WHERE NOT is_paused) AS paused,"  # noqa: S608 - constants
        f" (SELECT count(*) FROM task_instance WHERE {active}) AS rescheduled"
    )[0]
    session.change("UPDATE dag SET is_paused = TRUE WHERE NOT is_paused")
    session.change(
        "UPDATE task_instance SET state = NULL, queued_by_job_id = NULL, external_executor_id = NULL, pid = NULL"  # noqa: S608
        f" WHERE {active}"
    )
    silenced = 0
    if silence:
        pending = count_rows(session, [name for name in _PENDING if name in session.tables()])
        for name in pending:
            session.change(f"DELETE FROM {name}")  # noqa: S608
        silenced = sum(pending.values())
    return Reconciled(int(asked["paused"]), int(asked["rescheduled"]), silenced)
