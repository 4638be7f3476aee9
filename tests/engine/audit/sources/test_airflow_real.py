"""The source against a real Airflow API server: what its audit table is put through, each told as what it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from airflow_server import AirflowServer, airflow_server
from airflow_world import migrated_sqlite
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import Coverage, Document, Finding, Interval, State
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.airflow import AirflowEvents
from holdfast.engine.audit.sources.airflow_api import api_of
from holdfast.engine.audit.sources.airflow_position import Position
from ocsf_world import assert_valid

__all__ = ["airflow_server", "migrated_sqlite"]

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(600)]

HOUR = timedelta(hours=1)


class Collected:
    """One window, read to its end."""

    def __init__(
        self, server: AirflowServer, position: Position | None = None, *, user: str = "boss", later: timedelta = HOUR
    ) -> None:
        now = datetime.now(UTC)
        # An hour later no transaction of the test's is open any more.
        source = AirflowEvents(
            "airflow", api_of(server.connection(user)), position=position, clock=FakeClock(now + later)
        )
        window = Interval(now - HOUR, now + timedelta(minutes=1))
        batches = list(source.read(window))
        self.raw = [record for batch in batches for record in batch.raw.to_pylist()]
        self.rows = [json.loads(record) for record in self.raw]
        self.events = [as_event(row) for batch in batches for row in source.normalise(batch.raw).to_pylist()]
        self.coverage: Coverage = source.completeness(window)
        self.documents: list[Document] = list(source.documents(window))
        self.position = Position.from_bytes(self.documents[-1].data)

    @property
    def state(self) -> State:
        return self.coverage.state

    def finding(self, code: str) -> Finding:
        found = [finding for finding in self.coverage.findings if finding.code == code]
        assert len(found) == 1, self.coverage.findings
        return found[0]

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.coverage.findings} - {"login-not-recorded"}


def newest(server: AirflowServer) -> int:
    return int(server.sql("SELECT max(id) FROM log")[0][0])


def make_pool(server: AirflowServer, name: str) -> int:
    """Something to audit; the id of its row."""
    answer = server.ask("POST", "/api/v2/pools", json={"name": name, "slots": 1})
    assert answer.status_code in (201, 409), answer.text
    return newest(server)


def test_a_deleted_dag_is_hidden_by_the_list_and_found_by_the_walk(airflow_server: AirflowServer):
    before = Collected(airflow_server).position
    airflow_server.ask("PATCH", "/api/v2/dags/train", json={"is_paused": True})
    assert airflow_server.ask("DELETE", "/api/v2/dags/train").status_code == 204
    listed = airflow_server.ask("GET", "/api/v2/eventLogs", params={"dag_id": "train"}).json()
    assert listed["total_entries"] == 0
    found = Collected(airflow_server, before)
    assert [row["event"] for row in found.rows] == ["patch_dag", "delete_dag"]
    assert (found.state, found.codes) == (State.COMPLETE, {"list-hides"})
    for event in found.events:
        assert_valid(event)
    assert [(event["class_uid"], event["activity_id"]) for event in found.events] == [(6002, 7), (6002, 2)]
    assert found.events[1]["actor"]["user"]["name"] == "boss"


def test_rows_of_one_moment_are_all_there(airflow_server: AirflowServer):
    before = Collected(airflow_server).position
    ids = [make_pool(airflow_server, f"moment-{number}") for number in range(3)]
    airflow_server.sql(f"UPDATE log SET dttm = (SELECT dttm FROM log WHERE id = {ids[0]}) WHERE id > {before.last_id}")
    found = Collected(airflow_server, before)
    assert [row["event_log_id"] for row in found.rows] == ids
    assert len({row["when"] for row in found.rows}) == 1
    assert (found.state, found.codes) == (State.COMPLETE, set())


def test_a_row_without_a_time_is_hidden_everywhere_and_told_as_a_hole(airflow_server: AirflowServer):
    before = Collected(airflow_server).position
    hidden = make_pool(airflow_server, "timeless")
    make_pool(airflow_server, "after-timeless")
    airflow_server.sql(f"UPDATE log SET dttm = NULL WHERE id = {hidden}")
    assert airflow_server.ask("GET", f"/api/v2/eventLogs/{hidden}").status_code == 404
    found = Collected(airflow_server, before)
    assert (found.state, found.codes) == (State.UNKNOWN, {"ids-missing"})
    assert found.finding("ids-missing").where == f"eventLogs/{hidden}"
    assert (found.coverage.expected, found.coverage.observed) == (2, 1)
    airflow_server.sql("UPDATE log SET dttm = ? WHERE id = ?", "2026-01-01 00:00:00", hidden)


def test_a_hole_that_a_transaction_may_still_fill_is_late_and_read_when_it_came(airflow_server: AirflowServer):
    before = Collected(airflow_server).position
    make_pool(airflow_server, "early")
    last = newest(airflow_server)
    # As a sequence hands out an id to a transaction that has not committed yet.
    airflow_server.sql("UPDATE log SET id = ? WHERE id = ?", last + 1, last)
    found = Collected(airflow_server, before, later=timedelta())
    assert (found.state, found.codes) == (State.LATE, {"ids-not-yet"})
    assert found.position.open_ids == (last,)
    still = Collected(airflow_server, found.position, later=HOUR)
    assert (still.state, still.codes, still.rows) == (State.UNKNOWN, {"ids-missing"}, [])
    airflow_server.sql(
        "INSERT INTO log (id, dttm, event, extra) SELECT ?, dttm, 'post_pool', extra FROM log WHERE id = ?",
        last, last + 1,
    )  # fmt: skip
    come = Collected(airflow_server, found.position)
    assert [row["event_log_id"] for row in come.rows] == [last]
    assert (come.state, come.codes) == (State.COMPLETE, {"came-late"})


def test_what_db_clean_removed_is_explained_by_its_own_record(airflow_server: AirflowServer):
    make_pool(airflow_server, "old")
    everything = Collected(airflow_server)
    cleaned_up_to = newest(airflow_server)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    airflow_server.sql("UPDATE log SET dttm = ?", long_ago.strftime("%Y-%m-%d %H:%M:%S.%f"))
    dated = Collected(airflow_server).position
    before = (long_ago + timedelta(days=1)).strftime("%Y-%m-%d")
    airflow_server.run("db", "clean", "--clean-before-timestamp", before, "--tables", "log", "--yes", "--skip-archive")
    assert airflow_server.sql("SELECT min(id) FROM log")[0][0] == cleaned_up_to + 1
    found = Collected(airflow_server, dated)
    assert [row["event"] for row in found.rows] == ["cli_cleanup_tables"]
    assert (found.state, found.codes) == (State.COMPLETE, {"ids-purged"})
    first = Collected(airflow_server)  # never collected before: what was removed is from before the window
    assert (first.state, first.codes) == (State.COMPLETE, {"ids-purged"})
    assert first.coverage.expected == first.coverage.observed == 1
    # Remembered rows that were younger than what the cleaning took, and are gone, are not explained by it.
    assert (everything.position.last_id, Collected(airflow_server, everything.position).state) == (
        cleaned_up_to,
        State.GAP,
    )


def test_removed_and_changed_rows_that_were_read_before_are_gaps(airflow_server: AirflowServer):
    for number in range(4):
        make_pool(airflow_server, f"kept-{number}")
    before = Collected(airflow_server).position
    airflow_server.sql("UPDATE log SET owner = 'nobody' WHERE id = ?", before.last_id)
    changed = Collected(airflow_server, before)
    assert (changed.state, changed.codes) == (State.GAP, {"row-changed"})
    assert changed.finding("row-changed").where == f"eventLogs/{before.last_id}"
    assert [row["owner"] for row in changed.rows] == ["nobody"]  # read again, as it is now

    airflow_server.sql("DELETE FROM log WHERE id = ?", before.last_id)
    back = Collected(airflow_server, before)
    assert (back.state, back.codes) == (State.GAP, {"ids-went-back"})

    make_pool(airflow_server, "takes-the-id")  # SQLite gives a deleted newest id again
    again = Collected(airflow_server, before)
    assert newest(airflow_server) == before.last_id
    assert "row-changed" in again.codes
    assert again.state is State.GAP


def test_no_secret_that_was_posted_is_in_what_is_collected(airflow_server: AirflowServer):
    before = Collected(airflow_server).position
    canaries = [f"canary-{number}-4b1d" for number in range(7)]
    posts = [
        ("POST", "/api/v2/connections", {"connection_id": "bank", "conn_type": "http", "password": canaries[0],
         "extra": json.dumps({"harmless_name": canaries[1]})}),
        ("PATCH", "/api/v2/connections/bank", {"connection_id": "bank", "conn_type": "http", "password": canaries[2]}),
        ("POST", "/api/v2/variables", {"key": "harmless", "value": canaries[3]}),
        ("PATCH", "/api/v2/variables", {"actions": [{"action": "create", "entities": [
            {"key": "bulk", "value": canaries[4]}]}]}),
        ("PATCH", "/api/v2/connections", {"actions": [{"action": "create", "entities": [
            {"connection_id": "bulk", "conn_type": "http", "password": canaries[5],
             "extra": json.dumps({"token": canaries[6]})}]}]}),
        ("DELETE", "/api/v2/connections/bank", None),
    ]  # fmt: skip
    for method, path, body in posts:
        assert airflow_server.ask(method, path, json=body).is_success, path
    found = Collected(airflow_server, before)
    assert found.coverage.observed == len(posts)
    everything = b"\n".join([*found.raw, *(document.data for document in found.documents)])
    everything += json.dumps(found.events).encode() + repr(found.coverage).encode()
    assert [canary for canary in canaries if canary.encode() in everything] == []
    assert {event["class_uid"] for event in found.events} == {3004}
    assert [event["entity"]["name"] for event in found.events][:1] == ["bank"]
    for event in found.events:
        assert_valid(event)


def test_a_user_who_may_not_log_in_is_unknown_and_loses_no_position(airflow_server: AirflowServer):
    before = Collected(airflow_server).position
    make_pool(airflow_server, "unseen")
    refused = Collected(airflow_server, before, user="nobody")
    assert (refused.state, refused.codes, refused.rows) == (State.UNKNOWN, {"login-refused"}, [])
    assert refused.position == before
    assert Collected(airflow_server, refused.position).coverage.observed == 1
