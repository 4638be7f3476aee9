"""Airflow's rows under throttling, expired tokens, narrowed permissions, holes and restored databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_stub import PASSWORD, StubAirflow, row
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import Coverage, Interval, SourceUnreadable, State
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.airflow import AirflowEvents
from holdfast.engine.audit.sources.airflow_api import ApiLimits, api_of
from holdfast.engine.audit.sources.airflow_events import normalise
from holdfast.engine.audit.sources.airflow_position import Anchor, Position, Purge
from holdfast.engine.config import Connection
from holdfast.errors import ConfigError
from ocsf_world import assert_valid

NINE = datetime(2026, 11, 29, 9, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
WINDOW = Interval(NINE, NINE + HOUR)


def connection(**more: Any) -> Connection:
    fields = {"host": "airflow.example.com", "schema": "https", "login": "boss", "password": PASSWORD, **more}
    return Connection(conn_id="airflow_api", conn_type="http", **fields)


class Collected:
    def __init__(
        self,
        airflow: StubAirflow,
        position: Position | None = None,
        *,
        window: Interval = WINDOW,
        limits: ApiLimits | None = None,
        clock: FakeClock | None = None,
        **login: Any,
    ) -> None:
        self.clock = clock or FakeClock(NINE + 5 * HOUR)
        api = api_of(connection(**login), clock=self.clock, limits=limits, transport=airflow.transport)
        source = AirflowEvents("airflow", api, position=position, clock=self.clock)
        self.batches = list(source.read(window))
        self.ids = [json.loads(record)["event_log_id"] for batch in self.batches for record in batch.raw.to_pylist()]
        self.coverage: Coverage = source.completeness(window)
        self.documents = list(source.documents(window))
        self.position = Position.from_bytes(self.documents[-1].data)

    @property
    def told(self) -> tuple[State, set[str]]:
        return self.coverage.state, {finding.code for finding in self.coverage.findings} - {"login-not-recorded"}


def airflow_with(count: int) -> StubAirflow:
    airflow = StubAirflow()
    for number in range(count):
        airflow.add(NINE + number * timedelta(seconds=10))
    return airflow


def failing(
    numbers: set[int], answer: Callable[[], httpx.Response]
) -> Callable[[httpx.Request], httpx.Response | None]:
    """Some of the requests, by their number, get this answer instead."""
    count = 0

    def before(_request: httpx.Request) -> httpx.Response | None:
        nonlocal count
        count += 1
        return answer() if count in numbers else None

    return before


def from_the(number: int, answer: Callable[[], httpx.Response]) -> Callable[[httpx.Request], httpx.Response | None]:
    return failing(set(range(number, 100_000)), answer)


# -- the API ---------------------------------------------------------------------------------------------------------


def test_throttled_calls_wait_as_long_as_they_are_told_and_lose_nothing():
    airflow = airflow_with(60)
    airflow.before = failing({3, 10, 11}, lambda: httpx.Response(429, headers={"Retry-After": "7"}))
    found = Collected(airflow)
    assert found.told == (State.COMPLETE, set())
    assert found.ids == list(range(1, 61))
    assert found.clock.now() - (NINE + 5 * HOUR) == timedelta(seconds=21)


def test_what_stays_throttled_is_unknown_and_the_next_walk_goes_on_where_it_ended():
    airflow = airflow_with(100)
    airflow.before = from_the(60, lambda: httpx.Response(429, headers={"Retry-After": "3600"}))
    found = Collected(airflow)
    assert found.told == (State.UNKNOWN, {"throttled"})
    assert found.clock.now() - (NINE + 5 * HOUR) <= timedelta(seconds=300)  # the budget of one source
    assert 0 < len(found.ids) < 100
    airflow.before = lambda _request: None
    rest = Collected(airflow, found.position)
    assert found.ids + rest.ids == list(range(1, 101))
    assert rest.told == (State.COMPLETE, set())


def test_an_expired_token_is_renewed_once_whoever_notices():
    airflow = airflow_with(60)

    def expire(_request: httpx.Request) -> None:
        if len(airflow.calls) == 20:
            airflow.tokens = set()

    airflow.before = expire
    found = Collected(airflow)
    assert (found.told, found.ids, airflow.logins) == ((State.COMPLETE, set()), list(range(1, 61)), 2)


def test_a_login_that_does_not_help_is_not_tried_for_ever():
    airflow = airflow_with(5)
    airflow.before = from_the(3, lambda: httpx.Response(401, json={"detail": "no"}))
    found = Collected(airflow)
    assert found.told == (State.UNKNOWN, {"token-expired"})
    assert airflow.logins == 2
    airflow.before = lambda _request: None
    wrong = Collected(airflow, password="another")
    assert (wrong.told, airflow.calls[-1]) == ((State.UNKNOWN, {"login-refused"}), "POST /auth/token")
    assert airflow.calls.count("POST /auth/token") == 3


def test_a_token_without_a_password_that_expires_is_unknown_and_never_empty():
    airflow = airflow_with(60)
    airflow.before = from_the(40, lambda: httpx.Response(401, json={"detail": "expired"}))
    found = Collected(airflow, login=None, password=None, extra={"token": "given"})
    assert found.told == (State.UNKNOWN, {"token-expired"})
    assert found.position.last_id == len(found.ids) > 0
    airflow.tokens = set()
    nothing = Collected(airflow, login=None, password=None, extra={"token": "given"})
    assert (nothing.told, nothing.ids) == ((State.UNKNOWN, {"token-expired"}), [])


def test_a_permission_narrowed_mid_run_is_unknown_and_keeps_what_was_read():
    airflow = airflow_with(60)
    airflow.before = from_the(30, lambda: httpx.Response(403, json={"detail": "Forbidden"}))
    found = Collected(airflow)
    assert found.told == (State.UNKNOWN, {"permission-refused"})
    assert found.ids == list(range(1, found.position.last_id + 1))
    assert 0 < found.position.last_id < 60


def test_a_list_that_may_not_be_read_leaves_the_rows_and_not_the_certainty():
    airflow = airflow_with(10)
    airflow.before = lambda request: (
        httpx.Response(403, json={})
        if request.url.path == "/api/v2/eventLogs" and request.url.params["limit"] == "100"
        else None
    )
    found = Collected(airflow)
    assert (found.told, len(found.ids)) == ((State.UNKNOWN, {"permission-refused"}), 10)


def test_slow_and_broken_answers_are_asked_for_again():
    airflow = airflow_with(40)

    def slow() -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    airflow.before = failing({2, 9}, slow)
    assert Collected(airflow).told == (State.COMPLETE, set())
    airflow.before = from_the(1, slow)
    found = Collected(airflow)
    assert (found.told, found.position) == ((State.UNKNOWN, {"unreachable"}), Position())


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(200, html="<html>Please log in</html>"),
        lambda: httpx.Response(200, json=[]),
        lambda: httpx.Response(302, headers={"Location": "https://elsewhere.example.com/"}),
        lambda: httpx.Response(200, json=row(999, NINE)),
        lambda: httpx.Response(200, content=b"x" * 5000),
        lambda: httpx.Response(405),
    ],
)
def test_an_answer_of_another_kind_is_no_row(answer: Callable[[], httpx.Response]):
    airflow = airflow_with(40)
    airflow.before = from_the(20, answer)
    found = Collected(airflow, limits=ApiLimits(answer_bytes=4096))
    assert found.told == (State.UNKNOWN, {"unexpected-answer"})
    assert len(found.ids) < 40
    assert not any("elsewhere" in call for call in airflow.calls)


def test_a_server_with_shorter_pages_is_read_to_the_end():
    airflow = airflow_with(30)
    airflow.page_limit = 7
    for number in range(20):
        made = (NINE + (20 - number) * MINUTE - timedelta(hours=number > 15)).isoformat().replace("+00:00", "Z")
        version = {"id": f"00000000-0000-0000-0000-{100 - number:012}", "version_number": 1, "dag_id": "etl"}
        more = {"bundle_name": "b", "bundle_version": None, "dag_display_name": "etl", "bundle_url": None}
        airflow.versions.append({**version, **more, "created_at": made})
    found = Collected(airflow)
    assert found.told == (State.COMPLETE, set())  # nothing is taken for hidden
    assert [one.name for one in found.documents] == [
        *(f"dag-versions/{page:04}.json" for page in range(3)),
        "position.json",
    ]
    kept = [one for document in found.documents[:-1] for one in json.loads(document.data)["dag_versions"]]
    assert kept == airflow.versions
    airflow.before = lambda request: (
        httpx.Response(200, json={"dag_versions": [{"created_at": "soon"}], "total_entries": 1})
        if request.url.path.endswith("dagVersions")
        else None
    )
    assert Collected(airflow).told == (State.UNKNOWN, {"unexpected-answer"})


def test_no_error_and_no_repr_has_the_password_or_the_token():
    airflow = airflow_with(5)
    airflow.before = from_the(2, lambda: httpx.Response(403, json={}))
    for password in (PASSWORD, "a wrong canary"):
        found = Collected(airflow, password=password)
        text = repr(found.coverage) + repr(found.position)
        assert "canary" not in text
        assert "token-" not in text
    assert "canary" not in repr(api_of(connection()).__dict__)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "http://[fe80::1]", "metadata.google.internal.", "ftp://airflow", "", "https://me:it@airflow"],
)
def test_a_host_where_no_airflow_is_is_refused(host: str):
    with pytest.raises(ConfigError, match="airflow_api"):
        api_of(connection(host=host))


def test_a_connection_without_a_login_is_refused():
    with pytest.raises(ConfigError, match="login and password, or `token`"):
        api_of(connection(login=None, password=None))


# -- the walk --------------------------------------------------------------------------------------------------------


def test_rows_that_the_list_hides_are_found_beyond_its_newest():
    airflow = airflow_with(3)
    for number in range(200):
        airflow.add(NINE + 30 * MINUTE + number * timedelta(seconds=1), hide=True, event="delete_dag", dag_id="gone")
    found = Collected(airflow)
    assert found.ids == list(range(1, 204))
    assert found.told == (State.COMPLETE, {"list-hides"})


def test_a_hole_of_a_million_ids_is_told_and_costs_few_requests():
    airflow = airflow_with(3)
    beyond = [1_000_000 + number * 2 for number in range(50)]
    for row_id in beyond:
        airflow.add(NINE + 30 * MINUTE, row_id=row_id)
    found = Collected(airflow)
    assert found.ids == [1, 2, 3, *beyond]
    assert found.told == (State.UNKNOWN, {"ids-missing"})
    assert "4 to 999999" in found.coverage.findings[0].detail
    assert len(airflow.calls) < 1_000


def test_hidden_rows_behind_a_wide_hole_are_read_as_soon_as_a_later_row_is_listed():
    airflow = airflow_with(3)
    beyond = [1_000_000 + number for number in range(50)]
    for row_id in beyond:
        airflow.add(NINE + 30 * MINUTE, row_id=row_id, hide=True)
    first = Collected(airflow)
    assert first.ids == [1, 2, 3]
    airflow.add(NINE + 70 * MINUTE)
    second = Collected(airflow, first.position, window=Interval(NINE + HOUR, NINE + 2 * HOUR))
    assert second.ids == [*beyond, 1_000_050]


def test_each_id_is_in_exactly_one_window_whatever_its_time():
    airflow = StubAirflow()
    times = [5, 30, 61, 59, 20, 62, 63, 64]  # minutes after nine: some after ten, one before it among them
    for minutes in times:
        airflow.add(NINE + minutes * MINUTE)
    first = Collected(airflow)
    assert first.ids == [1, 2, 3, 4, 5]  # up to the last row from before ten
    assert first.told == (State.COMPLETE, {"outside-window"})
    second = Collected(airflow, first.position, window=Interval(NINE + HOUR, NINE + 2 * HOUR))
    assert second.ids == [6, 7, 8]


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 239), st.integers(1, 4), st.booleans()), max_size=40),
    st.integers(1, 4),
)
def test_windows_in_a_row_hold_every_row_once_in_the_order_of_ids(rows: list[tuple[int, int, bool]], windows: int):
    airflow, row_id = StubAirflow(), 0
    for minutes, step, hide in rows:
        row_id += step
        airflow.add(NINE + minutes * MINUTE, row_id=row_id, hide=hide)
    position, ids = None, []
    for number in range(windows):
        window = Interval(NINE + number * HOUR, NINE + (number + 1 if number < windows - 1 else 5) * HOUR)
        found = Collected(airflow, position, window=window)
        assert found.coverage.state in (State.COMPLETE, State.UNKNOWN)
        missing = found.coverage.expected - found.coverage.observed  # type: ignore[operator]
        assert (missing > 0) == (found.coverage.state is State.UNKNOWN)
        ids += found.ids
        position = found.position
    assert ids == sorted(airflow.rows)


def test_the_same_window_again_gives_the_same_records_and_what_came_since():
    airflow = airflow_with(20)
    start = Collected(airflow_with(5)).position
    first, again = Collected(airflow, start), Collected(airflow, start)
    assert [batch.raw for batch in first.batches] == [batch.raw for batch in again.batches]
    assert (first.ids, first.position) == (list(range(6, 21)), again.position)
    airflow.add(NINE + 59 * MINUTE)
    assert Collected(airflow, start).ids == list(range(6, 22))


def test_a_source_that_goes_on_keeps_its_own_position():
    airflow = airflow_with(4)
    api = api_of(connection(), transport=airflow.transport, clock=FakeClock(NINE))
    source = AirflowEvents("airflow", api, clock=FakeClock(NINE + 5 * HOUR))
    counts = []
    for number in range(2):
        window = Interval(NINE + number * HOUR, NINE + (number + 1) * HOUR)
        counts.append([len(batch.raw) for batch in source.read(window)])
        airflow.add(NINE + 90 * MINUTE)
    assert counts == [[4], [1]]
    assert [len(batch.raw) for batch in source.read(WINDOW)] == [4]


def test_a_database_restored_from_a_backup_is_a_gap_and_read_again_from_where_it_parted():
    airflow = airflow_with(100)
    position = Collected(airflow).position
    for lost in range(61, 101):
        del airflow.rows[lost]
    back = Collected(airflow, position)
    assert back.told == (State.GAP, {"ids-went-back"})
    for number in range(61, 131):  # it goes on, past where it was
        airflow.add(NINE + 50 * MINUTE, event="trigger_dag_run", row_id=number)
    replaced = Collected(airflow, position)
    state, codes = replaced.told
    assert (state, "row-changed" in codes) == (State.GAP, True)
    assert set(range(61, 131)) <= set(replaced.ids)
    assert min(replaced.ids) > 30  # not from the beginning: older rows are known to be the same
    assert Collected(airflow, replaced.position).told == (State.COMPLETE, set())


def test_a_changed_row_is_told_also_when_the_walk_is_cut_off():
    airflow = airflow_with(60)
    position = Collected(airflow).position
    airflow.rows[60]["owner"] = "nobody"
    for _ in range(60):
        airflow.add(NINE + 30 * MINUTE)
    asked = len(airflow.calls)
    airflow.before = lambda _request: httpx.Response(403, json={}) if len(airflow.calls) > asked + 40 else None
    state, codes = Collected(airflow, position).told
    assert (state, codes) == (State.GAP, {"row-changed", "permission-refused"})


def test_hidden_rows_behind_a_table_that_was_cleaned_are_found():
    airflow = StubAirflow()
    for number in range(20):
        airflow.add(NINE - 40 * HOUR, row_id=100_000 + number)
    position = Collected(airflow, window=Interval(NINE - 99 * HOUR, NINE)).position
    airflow.rows.clear()
    command = ["airflow", "db", "clean", "--clean-before-timestamp", (NINE - HOUR).isoformat()]
    extra = json.dumps({"full_command": str(command)})
    airflow.add(NINE, row_id=100_020, hide=True, event="cli_cleanup_tables", extra=extra)
    found = Collected(airflow, position)
    assert (found.told, found.ids) == ((State.COMPLETE, {"ids-purged", "list-hides"}), [100_020])


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),  # so many of the newest rows a restored backup does not have
            st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=12),  # then rows: steps of ids, hidden
            st.booleans(),  # then the newest row is changed by hand
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_row_is_lost_and_nothing_changed_is_complete_whatever_is_restored(
    history: list[tuple[int, list[tuple[int, bool]], bool]],
):
    airflow, position, collected, token = StubAirflow(), None, set(), 0
    for restored, added, changed in history:
        sealed = {row_id: one["owner"] for row_id, one in airflow.rows.items()}
        for row_id in sorted(airflow.rows)[len(airflow.rows) - restored :]:
            del airflow.rows[row_id]
            airflow.hidden.discard(row_id)
        for step, hide in added:
            token += 1
            row_id = max(airflow.rows, default=0) + step
            airflow.add(NINE, row_id=row_id, hide=hide, owner=str(token))
        if changed and airflow.rows:
            airflow.rows[max(airflow.rows)]["owner"] = f"changed {token}"
        found = Collected(airflow, position)
        collected |= {
            (one["event_log_id"], one["owner"])
            for batch in found.batches
            for one in map(json.loads, batch.raw.to_pylist())
        }
        assert {(row_id, one["owner"]) for row_id, one in airflow.rows.items()} <= collected
        last = max(sealed, default=None)
        if last is not None and airflow.rows.get(last, {}).get("owner") != sealed[last]:
            assert found.coverage.state is State.GAP
        elif found.coverage.observed < (found.coverage.expected or 0):
            assert found.coverage.state is State.UNKNOWN
        else:
            assert found.coverage.state is State.COMPLETE
        position = found.position


def test_a_display_name_that_changed_is_no_changed_row():
    airflow = airflow_with(5)
    position = Collected(airflow).position
    airflow.rows[5]["dag_display_name"] = "another"
    assert Collected(airflow, position).told == (State.COMPLETE, set())


def test_a_table_that_was_emptied_is_a_gap():
    airflow = airflow_with(5)
    position = Collected(airflow).position
    airflow.rows.clear()
    found = Collected(airflow, position)
    assert (found.told, found.ids) == ((State.GAP, {"ids-went-back"}), [])


def test_a_listed_row_whose_id_answers_that_there_is_none_is_a_gap():
    airflow = airflow_with(10)
    airflow.before = lambda request: httpx.Response(404, json={}) if request.url.path.endswith("/7") else None
    state, codes = Collected(airflow).told
    assert (state, codes) == (State.GAP, {"ids-missing", "listed-not-found"})


@pytest.mark.parametrize(
    ("options", "explains"),
    [
        (["--tables", "log"], True),
        (["-t", "xcom,log"], True),
        ([], True),
        (["--tables", "xcom"], False),
        (["--dry-run"], False),
    ],
)
def test_only_a_cleaning_of_the_log_explains_what_is_gone(options: list[str], explains: bool):
    airflow = airflow_with(10)
    for purged in range(1, 6):
        del airflow.rows[purged]
    command = ["airflow", "db", "clean", f"--clean-before-timestamp={NINE.isoformat()}", *options]
    airflow.add(
        NINE + 10 * MINUTE,
        event="cli_cleanup_tables",
        extra=json.dumps({"host_name": "h", "full_command": str(command)}),
    )
    state, codes = Collected(airflow).told
    assert (state, codes) == ((State.COMPLETE, {"ids-purged"}) if explains else (State.UNKNOWN, {"ids-missing"}))


def test_rows_of_the_window_that_were_cleaned_before_they_were_read_are_a_gap():
    airflow = airflow_with(10)
    for purged in range(1, 6):
        del airflow.rows[purged]
    command = ["airflow", "db", "clean", "--clean-before-timestamp", (NINE + timedelta(seconds=50)).isoformat()]
    airflow.add(NINE + 10 * MINUTE, event="cli_cleanup_tables", extra=json.dumps({"full_command": str(command)}))
    assert Collected(airflow).told == (State.GAP, {"ids-purged"})


def test_a_position_that_is_none_is_refused():
    position = Collected(airflow_with(40)).position
    assert Position.from_bytes(position.to_bytes()) == position
    for data in (b"", b"[]", b'{"format":"holdfast.airflow-position/2"}', position.to_bytes()[:-9]):
        with pytest.raises(SourceUnreadable, match="position"):
            Position.from_bytes(data)


def test_the_position_of_today_is_the_one_of_the_golden_file():
    golden = (Path(__file__).parents[3] / "golden" / "audit" / "airflow-position.json").read_bytes()
    moment = NINE - timedelta(days=1)
    assert Position.from_bytes(golden).to_bytes() == golden
    assert Position(
        last_id=9,
        anchors=(Anchor(9, "ab" * 32, NINE), Anchor(8, "cd" * 32, None)),
        open_ids=(5, 6),
        purges=(Purge(7, NINE, moment),),
    ) == Position.from_bytes(golden)


def test_an_airflow_without_rows_is_complete_and_empty():
    found = Collected(StubAirflow())
    assert (found.told, found.ids, found.coverage.expected) == ((State.COMPLETE, set()), [], 0)


# -- what a row means ------------------------------------------------------------------------------------------------


def events_of(*records: bytes) -> list[dict[str, Any]]:
    events = [as_event(one) for one in normalise(pa.array(records, pa.large_binary())).to_pylist()]
    for event in events:
        assert_valid(event)
    return events


@pytest.mark.parametrize(
    ("event", "extra", "expected"),
    [
        ("patch_dag", {"is_paused": True, "method": "PATCH"}, 600207),
        ("patch_dag", {"is_paused": "False", "method": "PATCH"}, 600206),
        ("patch_dag", {"method": "PATCH"}, 600208),
        ("delete_dag", {"method": "DELETE"}, 600202),
        ("trigger_dag_run", {"method": "POST"}, 600203),
        ("failed", None, 600204),
        ("post_connection", {"connection_id": "w", "method": "POST"}, 300401),
        ("patch_variable", {"key": "k", "val": "***", "method": "PATCH"}, 300403),
        ("bulk_pools", {"method": "PATCH"}, 300499),
        ("cli_connections_add", {"host_name": "h", "full_command": "[]"}, 300401),
        ("cli_variables_delete", None, 300404),
        ("update_hitl_detail", {"method": "PATCH"}, 600303),
        ("generate_token", {"method": "POST"}, 600301),
        ("cli_cleanup_tables", {"host_name": "h"}, 600399),
        ("a plugin's own event", {"method": "GET"}, 600302),
    ],
)
def test_an_event_name_means_the_same_class_and_activity_everywhere(
    event: str, extra: dict[str, Any] | None, expected: int
):
    (found,) = events_of(json.dumps(row(7, NINE, event, dag_id="etl", extra=extra and json.dumps(extra))).encode())
    assert (found["type_uid"], found["metadata"]["uid"]) == (expected, "eventLogs/7")
    assert found["time"] == int(NINE.timestamp() * 1000)


def test_what_is_no_row_becomes_a_base_event_in_its_place():
    good = json.dumps(row(1, NINE)).encode()
    found = events_of(good, b"nonsense", b"[]", b'{"event":[7],"event_log_id":1}', b"", good, b'{"event_log_id":1e400}')
    assert [event["class_uid"] for event in found] == [3004, 0, 0, 0, 0, 3004, 0]


def test_no_record_however_strange_takes_the_others_with_it():
    good = json.dumps(row(1, NINE)).encode()
    strange = [
        json.dumps(row(2, NINE, "half \ud800 of a pair")).encode(),
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps(row(2**70, NINE)).encode(),
        json.dumps(row(-1, NINE)).encode(),
        good[:-1] + b',"event":"another"}',
        b"\xff\xfe",
        b"null",
    ]
    for one in strange:
        found = events_of(good, one, good)
        assert [event["class_uid"] for event in found][::2] == [3004, 3004], one[:60]


def test_a_row_over_several_lines_or_with_a_strange_time_is_understood():
    pretty = json.dumps(row(1, NINE), indent=2).encode()
    impossible = json.dumps(row(2, NINE) | {"when": "2026-02-31T00:00:00Z"}).encode()
    first, second = events_of(pretty, impossible)
    assert first["time"] == int(NINE.timestamp() * 1000)
    assert second["time"] == 0
    assert second["class_uid"] == 3004
