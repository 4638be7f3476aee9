"""Holdfast's own events, from what a whole drill, a replication and backups left at three sites."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import Batch, Coverage, Document, Finding, Interval, State
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.holdfast import HoldfastEvents, Vault, open_holdfast
from holdfast.engine.audit.sources.holdfast_events import normalise
from holdfast.engine.authority.register import RankedRegister
from holdfast.engine.compute.interface import JobState, JobStatus
from holdfast.engine.config.audit import HoldfastSource
from holdfast.engine.drill import comparison, run
from holdfast.engine.drill.reference import Reference
from holdfast.engine.drill.run import run_drill
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import PermissionRefused
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.prefixed import PrefixedStore
from holdfast.engine.policy import ResidencyRefused, check_hop, residency_for
from holdfast.engine.policy import log as decision_log
from holdfast.engine.snapshot.digest import digest_of
from ocsf_world import assert_valid
from policy_worlds import runtime_of, with_policy
from vault_world import VaultWorld, some_files, write_tree
from world import AWS, AZURE, GCP, GROUP, RUN, World, make_world

SUBJECTS = {GROUP: ["snapshots/market-data", "snapshots/volatility-model"]}


class Faults:
    """Cuts a site of the world off, as a sandbox's proxy does."""

    description = "the test's switchboard"

    def __init__(self, world: World) -> None:
        self.world = world

    def inject(self, site: str, mode: str, **parameters: float | str) -> None:
        self.world.board.cut.add(site)

    def clear(self, site: str) -> None:
        self.world.board.cut.discard(site)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ObjectStore]:
    """Three sites after a drill that failed over, and two backups into a vault at the third."""
    folder = tmp_path_factory.mktemp("scene")
    with pytest.MonkeyPatch.context() as patch:
        world = make_world()
        world.environ["HOLDFAST_STATE"] = str(folder / "state")
        final = b"model at step 300"
        for module in (run, comparison):
            patch.setattr(
                module,
                "run_references",
                lambda state, given_up=None: {RUN: Reference(digest_of(final), {"model.ubj": final}, 1.0)},
            )
        world.backends[AWS].jobs[f"{RUN}.e1"] = JobStatus(JobState.RUNNING, step=107, total_steps=300)
        journal = run_drill(world, GROUP, "site-outage", Faults(world), folder / "out", senses=world.senses)
        assert journal.green
    stores = {site: world.bare(site) for site in (AWS, GCP, AZURE)}
    register = RankedRegister(stores, holder="host/1/test")
    register.advance(GROUP, expected_epoch=0, active_site=AWS, plan_id="init", reason="first")
    register.advance(GROUP, expected_epoch=1, active_site=GCP, plan_id="drill", reason="drill")
    vault = VaultWorld(
        store=PrefixedStore(stores[AZURE], "vault/main"), witnesses={AWS: stores[AWS], GCP: stores[GCP]}
    ).make()
    for number in (1, 2):
        write_tree(folder / f"tree-{number}", some_files(number, count=3))
        vault.back_up(folder / f"tree-{number}")
    return stores


@pytest.fixture
def sites(scene: dict[str, ObjectStore]) -> dict[str, ObjectStore]:
    """The scene's sites, to be changed."""
    copies: dict[str, ObjectStore] = {site: memory_store(site) for site in scene}
    for site, store in scene.items():
        for info in store.list():
            copies[site].put(info.key, store.get(info.key))
    return copies


class Collected:
    def __init__(
        self,
        sites: Mapping[str, ObjectStore],
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        later: timedelta = timedelta(hours=2),
        **more: Any,
    ) -> None:
        now = datetime.now(UTC)
        vault = Vault({AZURE: PrefixedStore(sites[AZURE], "vault/main")}, {s: sites[s] for s in (AWS, GCP)})
        source = HoldfastEvents(
            "holdfast",
            sites,
            vaults={"main": vault},
            subjects=SUBJECTS,
            clock=FakeClock(now + later),
            **more,
        )
        window = Interval(start or now - timedelta(hours=2), end or now + timedelta(minutes=1))
        self.batches: list[Batch] = list(source.read(window))
        self.objects = {one.object_id: one for batch in self.batches for one in batch.objects}
        self.raw = [record for batch in self.batches for record in batch.raw.to_pylist()]
        self.events = [as_event(row) for batch in self.batches for row in source.normalise(batch.raw).to_pylist()]
        self.coverage: Coverage = source.completeness(window)
        self.documents: dict[str, Document] = {one.name: one for one in source.documents(window)}

    @property
    def told(self) -> tuple[State, set[str]]:
        """The state, and what made it so; the drill's machine that was cut off and went on is in every scene."""
        return self.coverage.state, {finding.code for finding in self.findings}

    @property
    def findings(self) -> list[Finding]:
        return [finding for finding in self.coverage.findings if finding.state is not State.COMPLETE]


def remove(sites: Mapping[str, ObjectStore], key: str, *at: str) -> None:
    for site in at or sites:
        sites[site].delete(key)


def keys(sites: Mapping[str, ObjectStore], prefix: str, *, ending: str = ".json") -> list[str]:
    found = {info.key for store in sites.values() for info in store.list(prefix)}
    return sorted(key for key in found if key.endswith(ending))


def commits(sites: Mapping[str, ObjectStore], dataset: str) -> list[str]:
    return [key for key in keys(sites, f"snapshots/{dataset}/") if key.count("/") == 2]


def test_everything_holdfast_wrote_is_an_event_that_ocsf_knows(sites):
    found = Collected(sites)
    assert found.told == (State.COMPLETE, set())
    assert [finding.code for finding in found.coverage.findings] == ["written-twice"]  # the drill's stale writer
    assert found.coverage.expected == found.coverage.observed == len(found.objects) - 1
    kinds = Counter(one.metadata["kind"] for one in found.objects.values())
    assert {"commit", "fork", "receipt", "checkpoint", "plan", "step", "phase", "drill", "vault"} <= set(kinds)
    assert kinds["vault"] == 3  # init and two backups; their copies are the same entries
    for event in found.events:
        assert_valid(event)
        assert event["class_uid"] in (6002, 6003, 6005)
        assert event["time"] > 0
    drills = [event for event in found.events if event["metadata"]["event_code"] == "holdfast.drill-journal/1"]
    assert [(event["status_id"], event["status_code"]) for event in drills] == [(1, "pass")]


def test_the_raw_bytes_are_those_in_the_bucket_and_give_the_object_again(sites):
    for batch in Collected(sites).batches:
        records = batch.raw.to_pylist()
        for one, count in zip(batch.objects, batch.counts, strict=True):
            mine, records = records[:count], records[count:]
            assert hashlib.sha256(one.content(mine)).hexdigest() == one.sha256
            if one.metadata["kind"] != "vault":
                site = one.metadata["sites"].split(",")[0]
                assert sites[site].get(one.object_id.partition("@")[0]) == one.content(mine)


def test_a_record_at_several_sites_is_one_event_that_names_them(sites):
    found = Collected(sites)
    first = found.objects[commits(sites, "market-data")[0]]
    assert first.metadata["sites"] == f"{AWS},{AZURE},{GCP}"
    assert len(found.raw) == len(set(found.raw))


def test_windows_side_by_side_hold_every_record_once(sites):
    whole = set(Collected(sites).objects)
    moments = sorted(one.modified_at for one in Collected(sites).objects.values())
    middle = moments[len(moments) // 2]
    early = Collected(sites, end=middle)
    late = Collected(sites, start=middle)
    assert set(early.objects) | set(late.objects) == whole
    assert not set(early.objects) & set(late.objects)
    assert early.told == late.told == (State.COMPLETE, set())


def test_a_site_that_does_not_answer_makes_unknown_what_only_it_has(sites):
    found = Collected({**sites, AWS: Refusing(sites[AWS])})  # type: ignore[dict-item]
    assert found.told == (State.UNKNOWN, {"site-refused"})
    assert len(found.raw) > 10


class Refusing:
    """A store whose permission was taken away."""

    def __init__(self, inner: ObjectStore) -> None:
        self.name = inner.name

    def __getattr__(self, method: str) -> Any:
        def refused(*_: Any, **__: Any) -> Any:
            raise PermissionRefused(f"the credentials may not {method}", where=self.name)

        return refused


def test_a_permission_that_is_narrowed_while_reading_is_unknown(sites):
    class Narrowed:
        def __init__(self, inner: ObjectStore) -> None:
            self.inner, self.name, self.left = inner, inner.name, 3

        def list(self, *arguments: Any, **more: Any) -> Any:
            return self.inner.list(*arguments, **more)

        def get(self, key: str, **more: Any) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise PermissionRefused("the credentials may not read", where=key)
            return self.inner.get(key, **more)

    found = Collected({AWS: Narrowed(sites[AWS]), GCP: sites[GCP], AZURE: sites[AZURE]})  # type: ignore[dict-item]
    state, codes = found.told
    assert (state, "site-refused" in codes) == (State.UNKNOWN, True)
    assert sum(finding.code == "site-refused" for finding in found.coverage.findings) == 1


def test_a_commit_record_that_is_gone_everywhere_is_a_gap_and_one_site_is_enough(sites):
    model = commits(sites, "volatility-model")
    assert len(model) >= 2
    remove(sites, model[0], GCP)
    assert Collected(sites).told == (State.COMPLETE, set())
    remove(sites, model[0], AWS, AZURE)
    found = Collected(sites)
    assert found.told == (State.GAP, {"commit-parent-missing"})
    assert {finding.where for finding in found.findings} <= set(model[1:])


def test_an_epoch_that_left_no_record_is_a_gap(sites):
    register = RankedRegister(sites, holder="host/1/test")
    register.advance(GROUP, expected_epoch=2, active_site=AWS, plan_id="quiet", reason="nothing was written of it")
    assert Collected(sites).told == (State.COMPLETE, set())  # the newest may be under way
    register.advance(GROUP, expected_epoch=3, active_site=GCP, plan_id="next", reason="and the next")
    found = Collected(sites)
    assert found.told == (State.GAP, {"epoch-missing"})
    assert "epochs 3 " in found.findings[0].detail
    assert json.loads(found.documents[f"authority/{GROUP}/{AWS}.json"].data)["value"]["epoch"] == 4


def test_a_changed_record_is_damaged_and_differs_from_its_copy(sites):
    key = commits(sites, "market-data")[0]
    changed = sites[GCP].get(key).replace(b'"epoch":1', b'"epoch":9')
    sites[GCP].put(key, changed)
    found = Collected(sites)
    assert found.told == (State.GAP, {"copies-differ", "record-damaged"})
    assert changed in found.raw


@pytest.mark.parametrize("file", ["report.html", "journal.json", "evidence.dsse.json"])
def test_drill_evidence_is_verified_when_it_is_read(sites, file):
    key = next(one for one in keys(sites, "evidence/", ending=file))
    whole = Collected(sites)
    assert {key} <= set(whole.documents)
    for store in sites.values():
        if any(info.key == key for info in store.list(key)):
            store.put(key, store.get(key) + b" ")
    state, codes = Collected(sites).told
    assert (state, "evidence-invalid" in codes) == (State.GAP, True)


def test_a_changed_copy_of_evidence_at_one_site_is_found(sites):
    key = next(one for one in keys(sites, "evidence/", ending="report.html"))
    sites[GCP].put(key, b"another report")
    found = Collected(sites)
    assert found.told == (State.GAP, {"evidence-invalid"})
    folder = key.rpartition("/")[0]
    assert found.findings[0].where == f"{folder} at {GCP}"
    assert found.documents[f"{folder}/at-{GCP}/report.html"].data == b"another report"


def test_a_changed_copy_of_a_step_is_no_second_writer(sites):
    key = next(one for one in keys(sites, "plans/") if "/000002/" in one)
    sites[GCP].put(key, sites[GCP].get(key).replace(b'"status":"done"', b'"status":"Done"'))
    assert Collected(sites).told == (State.GAP, {"copies-differ"})


@pytest.mark.parametrize(
    "key", ["evidence/../journal.json", "authority/../../etc", "evidence/a b%2f..\\c/journal.json"]
)
def test_no_name_in_a_bucket_leaves_the_folder_of_documents(key):
    class Naughty:
        """A bucket whose listing has names that ours never have."""

        def __init__(self, inner: ObjectStore) -> None:
            self.inner, self.name = inner, inner.name

        def list(self, prefix: str = "", **_: Any) -> Any:
            for info in self.inner.list("stand-in"):
                if key.startswith(prefix):
                    yield replace(info, key=key)

        def get(self, _key: str, **_more: Any) -> bytes:
            return b"{}"

    inner = memory_store(AWS)
    inner.put("stand-in", b"{}")
    sites = {AWS: Naughty(inner), GCP: memory_store(GCP), AZURE: memory_store(AZURE)}
    for name in Collected(sites).documents:  # type: ignore[arg-type]
        assert re.fullmatch(r"[A-Za-z0-9._=/-]+", name), name
        assert not any(part.startswith(".") for part in name.split("/")), name


def test_a_vault_entry_that_is_gone_is_a_gap_also_when_it_is_the_newest(sites):
    for folder in ("log", "log-copies"):
        remove(sites, f"vault/main/{folder}/000000000003.json", AZURE)
    newest = Collected(sites)
    assert newest.told == (State.GAP, {"vault-log"})
    assert "which" in newest.findings[0].detail
    assert "witnessed" in newest.findings[0].detail
    for folder in ("log", "log-copies"):
        remove(sites, f"vault/main/{folder}/000000000001.json", AZURE)
    assert Collected(sites).told == (State.GAP, {"vault-log"})


# -- decisions -------------------------------------------------------------------------------------------------------


def decision(writer: str, seq: int, previous: str, *, allowed: bool = True) -> bytes:
    """A line as docs/formats/decision.md has it."""
    return json.dumps(
        {
            "format": "holdfast.decision/1",
            "id": f"{writer}-{seq:08}",
            "at": "2026-11-29T10:00:00.000000Z",
            "writer": writer,
            "seq": seq,
            "previous": previous,
            "action": "copy",
            "principal": {"service": "replication", "group": GROUP},
            "resource": {"kind": "dataset", "name": "market-data", "class": "eu", "group": GROUP, "tier": 1},
            "source": None,
            "target": {"site": GCP, "cloud": "gcp", "region": "europe-west1", "jurisdiction": "EU"},
            "purpose": "replication",
            "encrypted": False,
            "allowed": allowed,
            "policy": "residency",
            "policy_sha256": "0" * 64,
            "determining": ["p1"],
            "why": "the class may lie in the EU" if allowed else "nothing permits it",
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()


def decide(writer: str, objects: list[int], *, denied: int = 0) -> dict[str, bytes]:
    """A writer's objects with so many lines each."""
    found, seq, previous = {}, 0, "0" * 64
    for count in objects:
        first, lines = seq + 1, []
        for _ in range(count):
            seq += 1
            lines.append(decision(writer, seq, previous, allowed=seq != denied))
            previous = hashlib.sha256(lines[-1]).hexdigest()
        found[f"decisions/2026/11/29/10/{writer}-{first:08}.jsonl"] = b"\n".join(lines) + b"\n"
    return found


def with_decisions(objects: Mapping[str, bytes], **more: Any) -> Collected:
    sites = {site: memory_store(site) for site in (AWS, GCP, AZURE)}
    for key, data in objects.items():
        sites[AWS].put(key, data)
        sites[GCP].put(key, data)
    return Collected(sites, **more)


def test_decisions_are_events_allowed_or_denied_and_their_sequence_proves_them_whole():
    found = with_decisions({**decide("host-a", [3, 2], denied=4), **decide("host-b", [1])})
    assert found.told == (State.COMPLETE, set())
    assert len(found.raw) == 6
    for event in found.events:
        assert_valid(event)
        assert (event["class_uid"], event["dst_endpoint"]["svc_name"]) == (6003, GCP)
    assert Counter(event["status_code"] for event in found.events) == {"allowed": 5, "denied": 1}
    assert [event["metadata"]["sequence"] for event in found.events if event["status_id"] == 2] == [4]


def test_decisions_read_by_the_column_and_one_by_one_are_the_same_events(monkeypatch):
    lines = b"".join(decide("host-a", [4], denied=2).values()).splitlines()
    commit = (Path(__file__).parents[3] / "golden" / "snapshot" / "commit-record.json").read_bytes()
    records = pa.array([lines[0], commit, lines[1], b"nonsense", *lines[2:]], pa.large_binary())
    by_column = normalise(records).to_pylist()
    assert [row["class_uid"] for row in by_column] == [6003, 6005, 6003, 0, 6003, 6003]
    monkeypatch.setattr("holdfast.engine.audit.sources.holdfast_decisions.normalise", lambda _raw: None)
    assert [as_event(row) for row in normalise(records).to_pylist()] == [as_event(row) for row in by_column]


def test_rows_do_not_move_between_broken_decisions():
    one, two, three = b"".join(decide("host-a", [3]).values()).splitlines()
    half = three[:-1] + b',"x":'
    found = normalise(pa.array([one + two, half, b'{"format":"holdfast.decision/1"}}'], pa.large_binary())).to_pylist()
    assert [row["class_uid"] for row in found] == [0, 0, 0]


def test_one_decision_that_is_not_whole_spoils_no_other():
    lines = b"".join(decide("host-a", [3]).values()).splitlines()
    lines[1] = lines[1].replace(b'"seq":2', b'"seq":"two"')
    lines[2] = lines[2].replace(b'"allowed":true,', b"")
    found = normalise(pa.array(lines, pa.large_binary())).to_pylist()
    assert [row["class_uid"] for row in found] == [6003, 0, 0]


@settings(max_examples=150)
@given(st.data())
def test_no_record_however_strange_takes_the_others_with_it(data: st.DataObject):
    folder = Path(__file__).parents[3] / "golden"
    golden = data.draw(st.sampled_from(sorted(folder.glob("*/*.json"))))
    good = (folder / "snapshot" / "commit-record.json").read_bytes()
    body = json.loads(golden.read_bytes())
    name = data.draw(st.sampled_from(sorted(body)))
    body[name] = data.draw(
        st.one_of(
            st.none(),
            st.integers(),
            st.floats(),
            st.booleans(),
            st.sampled_from(["\ud800", "", "9999-99-99", [], {}, [[]], {"a": 1}, "0001-01-01T00:00:00+23:59"]),
            st.text(),
        )
    )
    rows = normalise(pa.array([good, json.dumps(body).encode(), good], pa.large_binary())).to_pylist()
    assert [row["class_uid"] for row in rows][::2] == [6005, 6005]
    for row in rows:
        assert_valid(as_event(row))


def test_an_object_of_decisions_that_is_gone_is_a_hole():
    objects = decide("host-a", [2, 2, 2])
    first, middle, last = sorted(objects)
    for gone in (first, middle):
        found = with_decisions({key: data for key, data in objects.items() if key != gone})
        assert found.told == (State.GAP, {"decision-sequence"}), gone
        left = {key: data for key, data in objects.items() if key != gone}
        assert with_decisions(left, later=timedelta(minutes=2)).told == (State.LATE, {"decision-sequence"})
        assert with_decisions(left, left_out=["elsewhere"]).told == (State.UNKNOWN, {"decision-sequence"})
    assert with_decisions({key: data for key, data in objects.items() if key != last}).told[0] is State.COMPLETE


def test_decisions_of_the_policy_engine_itself_are_read_as_it_ships_them(tmp_path):
    runtime = runtime_of(
        with_policy(tmp_path, 'permit (principal, action, resource) when { context.target.jurisdiction == "EU" };\n'),
        tmp_path / "state",
        clock=FakeClock(datetime.now(UTC) + timedelta(hours=3)),
    )
    topology = runtime.topology
    for _ in range(2):
        for site in ("site-b", "site-c"):
            with suppress(ResidencyRefused):
                check_hop("prices", residency_for(topology, "prices"), site, topology.sites, source="site-a")
        runtime.clock.advance(7200)
        for log in list(decision_log._LIVE):
            log.ship(everything=True)
    source = open_holdfast(runtime, "own", HoldfastSource(kind="holdfast"))
    window = Interval(datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(minutes=1))
    events = [as_event(row) for batch in source.read(window) for row in source.normalise(batch.raw).to_pylist()]
    for event in events:
        assert_valid(event)
    assert [event["status_code"] for event in events] == ["allowed", "denied"] * 2
    assert source.completeness(window).state is State.COMPLETE


def test_a_line_that_is_gone_doubled_moved_or_changed_breaks_the_chain():
    objects = decide("host-a", [3, 2])
    first, second = sorted(objects)
    lines = objects[first].splitlines(keepends=True)
    for changed in (
        lines[0] + lines[2],
        lines[0] + lines[1] + lines[1] + lines[2],
        lines[1] + lines[0] + lines[2],
        objects[first].replace(b'"tier":1', b'"tier":2', 1),
    ):
        state, codes = with_decisions({**objects, first: changed}).told
        assert (state, "decision-chain" in codes or "decision-sequence" in codes) == (State.GAP, True), changed
    torn = with_decisions({**objects, second: objects[second][:-1]})
    assert torn.told[0] is State.GAP


def test_what_is_no_record_of_ours_becomes_a_base_event_and_is_not_dropped():
    sites = {site: memory_store(site) for site in (AWS, GCP, AZURE)}
    sites[AWS].put("tombstones/market-data/0123.json", b"not JSON")
    found = Collected(sites)
    assert [event["class_uid"] for event in found.events] == [0]
    assert found.told == (State.GAP, {"record-damaged"})


def test_the_blobs_of_a_run_are_stepped_over(sites):
    from holdfast.engine.audit.sources.holdfast_copies import walked
    from holdfast.engine.audit.sources.holdfast_kinds import ROOTS

    store = memory_store("many")
    for run_name in ("a", "b"):
        for number in range(50):
            store.put(f"runs/{run_name}/blobs/{number:064x}", b"x")
        store.put(f"runs/{run_name}/epochs/000002.json", b"{}")
        store.put(f"runs/{run_name}/attempts/000001.000001.json", b"{}")
    assert [info.key for info in walked(store, "runs/", ROOTS["runs/"])] == [
        f"runs/{run_name}/{rest}"
        for run_name in ("a", "b")
        for rest in ("attempts/000001.000001.json", "epochs/000002.json")
    ]
