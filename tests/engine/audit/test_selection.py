"""Exports by query: what is in a selection is proven, and nothing else is in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from audit_world import HOUR, START, AuditWorld, FakeSource, event
from benchmarks import cloud_events, cloudtrail_events
from holdfast.cli.main import app
from holdfast.engine.audit.coverage import CoverageManifest
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import Coverage, Finding, Interval, State
from holdfast.engine.audit.manifest import Window
from holdfast.engine.audit.normalisers import normaliser
from holdfast.engine.audit.ocsf import schema as ocsf
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.selection import select as selecting
from holdfast.engine.audit.selection.check import check_selection
from holdfast.engine.audit.selection.completeness import Part, answers
from holdfast.engine.audit.selection.documents import EVENTS, SELECTION, Selection
from holdfast.engine.audit.selection.query import Query, make_query, matches, undecided
from holdfast.engine.audit.selection.select import select_events
from holdfast.engine.audit.verify import Verified, verify_export
from holdfast.engine.snapshot.documents import canonical
from holdfast.errors import ConfigError, UnknownName

KINDS = ("cloudtrail", "cloud-logging", "azure-monitor", "kubernetes", "airflow", "holdfast")
USER = make_query(users=("user-3",))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    """Two exports: of three hours, the last of them late, then of one more, in which it is complete."""
    late = Finding("hour-open", "more may come", state=State.LATE)
    source = FakeSource(
        [[[event(1000 * h + n) for n in range(40)], [event(1000 * h + 500)]] for h in range(4)], findings={2: (late,)}
    )
    made = AuditWorld(tmp_path_factory.mktemp("world"), source)
    made.export()
    source.findings.clear()
    made.clock.advance(HOUR.total_seconds())
    made.export()
    return made


_VERIFIED: dict[Path, Verified] = {}


def exports(world: AuditWorld, *numbers: int) -> list[Verified]:
    """Verified once: nothing here changes them."""
    folders = [world.folder / f"export-{n}" for n in numbers]
    for folder in folders:
        if folder not in _VERIFIED:
            _VERIFIED[folder] = verify_export(folder, trusted=[world.key])
    return [_VERIFIED[folder] for folder in folders]


def check(world: AuditWorld, folder: Path, **more: Any) -> Answer:
    return check_selection(folder, trusted=[world.key], **more)


def codes(answer: Answer) -> set[str]:
    return {problem.code for problem in answer.problems}


@pytest.fixture
def selected(world: AuditWorld, tmp_path: Path) -> Path:
    select_events(exports(world, 1, 2), USER, tmp_path / "selection")
    return tmp_path / "selection"


def wanted() -> list[int]:
    return [1000 * h + n for h in range(4) for n in (*range(40), 500) if (1000 * h + n) % 7 == 3]


def rewrite(folder: Path, **changes: Any) -> None:
    """Change `selection.json`, canonically."""
    row = json.loads((folder / SELECTION).read_bytes())
    (folder / SELECTION).write_bytes(canonical({**row, **changes}))


def test_what_is_selected_is_proven_and_complete(world: AuditWorld, selected: Path) -> None:
    answer = check(world, selected, against=exports(world, 1, 2))
    assert [str(problem) for problem in answer.problems] == []
    assert answer.signed_by
    assert answer.sources == {"fake": "complete"}
    raw = pq.read_table(selected / EVENTS).column("raw").to_pylist()
    assert raw == [event(n) for n in wanted()]
    said = Selection.model_validate_json((selected / SELECTION).read_bytes())
    assert {one.object_id for one in said.events} == {f"{n // 1000:02d}/{int(n % 1000 == 500)}" for n in wanted()}
    assert check_selection(selected).exit_code == 7


def test_more_keys_than_there_are_is_bad_input_and_no_tampering(world: AuditWorld, selected: Path) -> None:
    with pytest.raises(ConfigError, match="not so many keys"):
        check(world, selected, needed=2)


def test_without_the_export_nothing_shows_that_nothing_was_left_out(world: AuditWorld, selected: Path) -> None:
    assert any("left out" in note for note in check(world, selected).notes)


def test_no_byte_of_what_was_not_selected_is_there(
    world: AuditWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selecting, "events_options", lambda: {"compression": "none"})
    target = tmp_path / "selection"
    select_events(exports(world, 1, 2), USER, target)
    everything = b"\n".join(file.read_bytes() for file in target.rglob("*") if file.is_file())
    chosen = set(wanted())
    for hour in range(4):
        for n in (*range(40), 500):
            number = 1000 * hour + n
            needle = b'"event-%d"' % number
            assert (needle in everything) == (number in chosen), number
    assert b"user-3" in everything
    assert not any(b"user-%d" % n in everything for n in range(7) if n != 3)


def test_of_one_late_hour_it_says_so(world: AuditWorld, tmp_path: Path) -> None:
    said = select_events(exports(world, 1), USER, tmp_path / "late")
    assert [str(one.state) for one in said.sources[0].intervals] == ["complete", "complete", "late"]
    assert check(world, tmp_path / "late").exit_code == 6


def test_a_part_sealed_earlier_and_not_here_is_unknown(world: AuditWorld, tmp_path: Path) -> None:
    said = select_events(exports(world, 2), USER, tmp_path / "later")
    assert {one.start: str(one.state) for one in said.sources[0].intervals}[START + 2 * HOUR] == "unknown"
    assert check(world, tmp_path / "later").exit_code == 7


def test_what_no_export_covers_is_unknown_not_empty(world: AuditWorld, tmp_path: Path) -> None:
    query = make_query(start=START + 30 * HOUR, end=START + 31 * HOUR)
    said = select_events(exports(world, 1, 2), query, tmp_path / "beyond")
    assert said.events == ()
    assert str(said.sources[0].state) == "unknown"
    assert check(world, tmp_path / "beyond").exit_code == 7
    query = make_query(start=START + 3 * HOUR, end=START + 31 * HOUR)
    said = select_events(exports(world, 1, 2), query, tmp_path / "half")
    assert [str(one.state) for one in said.sources[0].intervals] == ["complete", "unknown"]


def _drop_row(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / EVENTS).slice(1), folder / EVENTS)


def _swap_rows(folder: Path) -> None:
    table = pq.read_table(folder / EVENTS)
    pq.write_table(table.take([1, 0, *range(2, table.num_rows)]), folder / EVENTS)


def _change_raw(folder: Path) -> None:
    table = pq.read_table(folder / EVENTS)
    raw = table.column("raw").to_pylist()
    raw[0] = raw[0].replace(b"user-3", b"user-4")
    index = table.schema.get_field_index("raw")
    pq.write_table(
        table.set_column(index, table.schema.field("raw"), pa.array(raw, pa.large_binary())), folder / EVENTS
    )


def _drop_everywhere(folder: Path) -> None:
    row = json.loads((folder / SELECTION).read_bytes())
    gone = row["events"].pop(0)
    (folder / "proofs" / f"{gone['leaf']}.tlog-proof").unlink()
    (folder / SELECTION).write_bytes(canonical(row))
    _drop_row(folder)


def _swap_proofs(folder: Path) -> None:
    first, second, *_ = sorted((folder / "proofs").iterdir())
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def _other_export_s_proof(folder: Path) -> None:
    """The right leaf below the newer checkpoint: true, but not what the selection names."""
    row = json.loads((folder / SELECTION).read_bytes())
    older, newer = (f"proofs/{one['leaf']}.tlog-proof" for one in row["exports"])
    (folder / older).write_bytes((folder / newer).read_bytes())


def _other_seal(folder: Path) -> None:
    row = json.loads((folder / SELECTION).read_bytes())
    row["events"][0]["seal"] = 1
    (folder / SELECTION).write_bytes(canonical(row))


def _other_source(folder: Path) -> None:
    row = json.loads((folder / SELECTION).read_bytes())
    row["events"][0]["source"] = "other"
    (folder / SELECTION).write_bytes(canonical(row))


def _other_query(folder: Path) -> None:
    rewrite(folder, query=json.loads(make_query(users=("user-5",)).to_json()))


def _better_answer(folder: Path) -> None:
    row = json.loads((folder / SELECTION).read_bytes())
    row["sources"][0]["intervals"][0]["why"] = "trust me"
    (folder / SELECTION).write_bytes(canonical(row))


def _forget_coverage(folder: Path) -> None:
    row = json.loads((folder / SELECTION).read_bytes())
    row["exports"][0]["coverage"] = []
    (folder / SELECTION).write_bytes(canonical(row))


def _forge_coverage(folder: Path) -> None:
    file = min((folder / "coverage").iterdir())
    file.write_bytes(file.read_bytes().replace(b"late", b"gap "))


def _forge_manifest(folder: Path) -> None:
    file = min((folder / "manifests").iterdir())
    file.write_bytes(file.read_bytes().replace(b'"sealed_by":"', b'"sealed_by":"x'))


def _add_file(folder: Path) -> None:
    (folder / "proofs" / "readme").write_text("")


def _link(folder: Path) -> None:
    file = min((folder / "proofs").iterdir())
    shutil.move(file, folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def _not_canonical(folder: Path) -> None:
    (folder / SELECTION).write_bytes((folder / SELECTION).read_bytes() + b"\n")


def _event_twice(folder: Path) -> None:
    row = json.loads((folder / SELECTION).read_bytes())
    row["events"].insert(0, row["events"][0])
    (folder / SELECTION).write_bytes(canonical(row))
    table = pq.read_table(folder / EVENTS)
    pq.write_table(pa.concat_tables([table.slice(0, 1), table]), folder / EVENTS)


@pytest.mark.parametrize(
    "change",
    [
        _drop_row, _swap_rows, _change_raw, _swap_proofs, _other_export_s_proof, _other_seal, _other_source,
        _other_query, _better_answer, _forget_coverage, _forge_coverage, _forge_manifest, _add_file, _link,
        _not_canonical, _event_twice,
    ],
)  # fmt: skip
def test_no_change_of_a_selection_is_missed(world: AuditWorld, selected: Path, change: Any) -> None:
    change(selected)
    answer = check(world, selected)
    assert answer.exit_code == 5, [str(problem) for problem in answer.problems]


def test_what_was_left_out_the_exports_show(world: AuditWorld, selected: Path) -> None:
    _drop_everywhere(selected)
    assert check(world, selected).exit_code == 0
    answer = check(world, selected, against=exports(world, 1, 2))
    assert (answer.exit_code, codes(answer)) == (5, {"left-out"})


def test_other_exports_are_no_witness(world: AuditWorld, selected: Path) -> None:
    assert check(world, selected, against=exports(world, 1)).exit_code == 5


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bit_of_what_is_proven_can_change(world: AuditWorld, selected: Path, data: st.DataObject) -> None:
    proven = [file for name in ("proofs", "manifests", "coverage") for file in sorted((selected / name).iterdir())]
    file = data.draw(st.sampled_from(proven))
    original = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(original) - 1)), data.draw(st.integers(0, 7))
    file.write_bytes(original[:at] + bytes([original[at] ^ (1 << bit)]) + original[at + 1 :])
    try:
        assert check(world, selected).exit_code == 5, (file.name, at, bit)
    finally:
        file.write_bytes(original)


def test_what_is_said_and_not_proven_the_exports_show(world: AuditWorld, selected: Path) -> None:
    row = json.loads((selected / SELECTION).read_bytes())
    row["events"][0]["object_id"] = "elsewhere"
    rewrite(selected, events=row["events"])
    assert check(world, selected).exit_code == 0
    assert codes(check(world, selected, against=exports(world, 1, 2))) == {"events-differ"}


def test_nothing_is_selected_of_an_export_that_was_changed(world: AuditWorld, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "export-1", tmp_path / "export")
    (tmp_path / "export" / "coverage" / "fake.json").write_bytes(b"{}")
    with pytest.raises(Tampered, match="nothing of it is selected"):
        select_events([verify_export(tmp_path / "export", trusted=[world.key])], USER, tmp_path / "selection")
    assert not (tmp_path / "selection").exists()


def test_too_many_events_are_refused(world: AuditWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "MOST_EVENTS", 20)
    with pytest.raises(ConfigError, match="at most 20; found 164"):
        select_events(exports(world, 1, 2), Query(), tmp_path / "selection")
    assert not (tmp_path / "selection").exists()


# -- what a query means ---------------------------------------------------------------------------------------------


def table() -> pa.Table:
    return ocsf.build(
        4,
        {
            "class_uid": pa.array([6003, 6003, 3002, 0]),
            "time": pa.array([1000, 2000, 3000, None], pa.int64()),
            "status_id": pa.array([1, 2, 1, None]),
            "actor.user.name": pa.array(["ann", "bob", None, None]),
            "actor.user.uid": pa.array(["a-1", None, None, None]),
            "user.name": pa.array([None, None, "ann", None], pa.string()),
            "api.operation": pa.array(["Get", "Put", None, None]),
            "is_mfa": pa.array([None, None, True, None], pa.bool_()),
            "resources": pa.array(
                [[{"uid": "x"}, {"uid": "y"}], [], None, [{"uid": "y"}]], ocsf.SCHEMA.field("resources").type
            ),
        },
    )


def rows(**query: Any) -> list[int]:
    found = matches(table(), make_query(**query))
    return [n for n, hit in enumerate(found.to_pylist()) if hit]


def at(milliseconds: int) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"users": ("ann",)}, [0, 2]),
        ({"users": ("a-1", "bob")}, [0, 1]),
        ({"operations": ("Put",), "users": ("ann",)}, []),
        ({"classes": ("authentication",)}, [2]),
        ({"classes": ("6003", "0")}, [0, 1, 3]),
        ({"statuses": ("failure",)}, [1]),
        ({"start": at(1000), "end": at(2000)}, [0]),
        ({"start": at(1001)}, [1, 2]),
        ({"where": ("resources.uid=y",)}, [0, 3]),
        ({"where": ("resources.uid=y", "resources.uid=x")}, [0]),
        ({"where": ("is_mfa=true",)}, [2]),
        ({"where": ("api.operation=Get) or (true",)}, []),
        ({"where": ("time=3000",)}, [2]),
        ({"users": ("' OR 1=1 --",)}, []),
    ],
)
def test_a_query_s_fields(query: dict[str, Any], expected: list[int]) -> None:
    assert rows(**query) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"where": ("nothing",)},
        {"where": ("no.such=1",)},
        {"where": ("actor.user=ann",)},
        {"where": ("resources=ann",)},
        {"where": ("actor.user.name.more=ann",)},
        {"where": ("time=soon",)},
        {"where": ("is_mfa=maybe",)},
        {"where": ("__class__.x=1",)},
        {"classes": ("cloud",)},
        {"statuses": ("²",)},
        {"start": at(2), "end": at(2)},
    ],
)
def test_a_query_that_means_nothing_is_one_clear_error(query: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_query(**query)


def test_events_that_cannot_be_decided_are_counted() -> None:
    for query, count in (({"start": at(1)}, 1), ({"users": ("ann",)}, 1), ({"classes": ("6003",)}, 0), ({}, 0)):
        found = make_query(**query)
        assert undecided(table(), matches(table(), found)) == count, query


def test_an_unknown_source_is_an_error_not_an_empty_answer(world: AuditWorld, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no such source"):
        select_events(exports(world, 1), make_query(sources=("fakes",)), tmp_path / "selection")


def test_an_hour_that_ends_after_its_window_is_complete_with_the_export_that_asked_first() -> None:
    """Sources of hourly objects ask for the hours that begin in a window; the last one is asked again."""
    half = timedelta(minutes=30)
    hour = Coverage(Interval(START, START + HOUR), "hours", 1, 1, 1, 1)
    first = _part(0, START - HOUR, START + half, hour)
    second = _part(1, START + half, START + HOUR + half, hour)
    third = _part(2, START + HOUR + half, START + 3 * HOUR)
    query = make_query(start=START, end=START + HOUR)
    for parts, expected in (
        ([first, second], "complete"),
        ([first, second, third], "complete"),
        ([second], "unknown"),
        ([first, third], "unknown"),
    ):
        (said,) = answers(query, parts, {})
        assert [str(one.state) for one in said.intervals] == [expected]
        assert str(said.state) == expected
    (said,) = answers(query, [first, second], {"hourly": 1})
    assert (str(said.state), said.undecided) == ("unknown", 1)


def _part(seal: int, start: datetime, end: datetime, *intervals: Coverage) -> Part:
    source = SimpleNamespace(name="hourly", kind="cloud-logging", window=Window(start=start, end=end))
    manifest: Any = SimpleNamespace(seal=seal, sources=[source])
    return Part(manifest, [CoverageManifest("hourly", "cloud-logging", intervals)])


# -- columns --------------------------------------------------------------------------------------------------------


def _as_real(monkeypatch: pytest.MonkeyPatch, world: AuditWorld) -> None:
    monkeypatch.setattr(selecting, "normaliser", lambda _kind: world.source.normalise)


def test_columns_that_the_raw_bytes_do_not_give_are_tampered(
    world: AuditWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_real(monkeypatch, world)
    folder = tmp_path / "selection"
    assert select_events(exports(world, 1, 2), USER, folder).columns == {"fake": "reproduced"}
    assert check(world, folder).problems == []
    found = pq.read_table(folder / EVENTS)
    index = found.schema.get_field_index("message")
    pq.write_table(
        found.set_column(index, found.schema.field("message"), pa.array(["nice"] * found.num_rows)), folder / EVENTS
    )
    assert codes(check(world, folder)) == {"columns-differ"}
    rewrite(folder, columns={"fake": "other"})
    answer = check(world, folder)
    assert (answer.exit_code, codes(answer)) == (7, {"columns-of-another-version"})


def test_columns_nobody_can_make_again_are_told(world: AuditWorld, selected: Path) -> None:
    assert any("not proven" in note for note in check(world, selected).notes)


REAL = {
    "cloudtrail": cloudtrail_events.events,
    "cloud-logging": cloud_events.gcp,
    "azure-monitor": cloud_events.azure,
}


@pytest.mark.parametrize("kind", REAL)
def test_a_few_events_give_the_columns_they_had_among_all(kind: str) -> None:
    """What is selected is parsed without its neighbours, one of which is no JSON at all."""
    raw = [*REAL[kind](300), b"not json", b"[]", b"{}"]
    normalise = normaliser(kind)
    assert normalise is not None
    everything = [ocsf.as_event(row) for row in normalise(pa.array(raw, pa.large_binary())).to_pylist()]
    for chosen in (range(3, 300, 17), [300], [5, 300, 301, 302]):
        few = normalise(pa.array([raw[n] for n in chosen], pa.large_binary()))
        assert [ocsf.as_event(row) for row in few.to_pylist()] == [everything[n] for n in chosen]


def test_of_these_kinds_columns_can_be_made_again() -> None:
    assert [kind for kind in KINDS if normaliser(kind) is None] == ["kubernetes"]


# -- the command ----------------------------------------------------------------------------------------------------


def run(*words: Iterable[str] | str) -> Any:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def test_the_command(world: AuditWorld, tmp_path: Path) -> None:
    both = [str(world.folder / f"export-{n}") for n in (1, 2)]
    target = str(tmp_path / "selection")
    done = run("select", *both, "--output", target, "--user", "user-3", "--key", str(world.key), "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["events"]) == len(wanted())
    done = run("check-proof", target, "--key", str(world.key), "--export", both[0], "--export", both[1])
    assert done.exit_code == 0, done.output
    assert run("check-proof", target).exit_code == 7
    assert run("select", *both, "--output", target, "--class", "x").exit_code == 2
    assert run("select", *both, "--output", target).exit_code == 2
