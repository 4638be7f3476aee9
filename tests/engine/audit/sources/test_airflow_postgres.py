"""A real Airflow on PostgreSQL, whose sequence leaves the holes that a walk over the ids has to judge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_server import AirflowServer
from airflow_world import AirflowDatabase, migrated_postgres, needs_postgres, postgres, postgres_database
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import Interval, State
from holdfast.engine.audit.sources.airflow import AirflowEvents
from holdfast.engine.audit.sources.airflow_api import api_of
from holdfast.engine.audit.sources.airflow_position import Position

__all__ = ["migrated_postgres", "postgres", "postgres_database"]

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(900), needs_postgres]

INSERT = "INSERT INTO log (dttm, event, owner) VALUES (now(), 'post_pool', 'boss') RETURNING id"


@pytest.fixture
def server(postgres_database: AirflowDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    made = AirflowServer(tmp_path_factory.mktemp("airflow-server"), postgres_database)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def connect(server: AirflowServer) -> Any:
    import psycopg2

    return closing(psycopg2.connect(server.database.url.replace("postgresql+psycopg2", "postgresql")))


def collect(
    server: AirflowServer, position: Position | None = None, *, later: timedelta = timedelta(hours=1)
) -> tuple[State, set[str], list[str], Position]:
    now = datetime.now(UTC)
    source = AirflowEvents("airflow", api_of(server.connection()), position=position, clock=FakeClock(now + later))
    window = Interval(now - timedelta(hours=1), now + timedelta(minutes=1))
    ids = [one.object_id.rpartition("/")[2] for batch in source.read(window) for one in batch.objects]
    coverage = source.completeness(window)
    codes = {finding.code for finding in coverage.findings} - {"login-not-recorded"}
    return coverage.state, codes, ids, source.position(window)


def make_pool(server: AirflowServer, name: str) -> None:
    assert server.ask("POST", "/api/v2/pools", json={"name": name, "slots": 1}).status_code == 201


def test_what_a_sequence_leaves_is_judged_as_what_it_is(server: AirflowServer):
    *_, position = collect(server)

    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute(INSERT)
        (rolled_back,) = cursor.fetchone()
        connection.rollback()
    make_pool(server, "after-the-rollback")
    state, codes, ids, position = collect(server, position)
    assert (state, codes, ids) == (State.UNKNOWN, {"ids-missing"}, [str(rolled_back + 1)])

    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute(INSERT)
        (in_flight,) = cursor.fetchone()
        make_pool(server, "beside-the-transaction")
        state, codes, ids, position = collect(server, position, later=timedelta())
        assert (state, codes, ids) == (State.LATE, {"ids-not-yet"}, [str(in_flight + 1)])
        connection.commit()
    state, codes, ids, position = collect(server, position)
    assert (state, codes, ids) == (State.COMPLETE, {"came-late"}, [str(in_flight)])

    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM log WHERE id = %s", [position.last_id])
        connection.commit()
    make_pool(server, "after-the-deletion")  # a sequence never gives the id again
    state, codes, ids, _ = collect(server, position)
    assert (state, codes) == (State.GAP, {"rows-removed"})
    assert str(position.last_id + 1) in ids
